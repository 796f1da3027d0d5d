"""Logs: constant sentences with facts beside them, one JSON object per line (or coloured for a person).

Our own lines come from structlog; what libraries say through the standard `logging` goes the same way, from
`warning` up. Facts are short; pass identifiers and numbers, never whole objects or secrets.
"""

import logging
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(
    *, log_format: str = "json", level: str = "info", stream: TextIO | None = None, **facts: str
) -> None:
    """Sets up logging for the process. `facts` (service, replica) go with every line."""
    stream = stream if stream is not None else sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with(facts),
        _event_first,
    ]
    if log_format == "console":
        renderer: list[Any] = [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    else:
        renderer = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=max(_LEVELS[level], logging.WARNING), force=True)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `source=name`. Cheap; may be called before `configure`."""
    return cast(FilteringBoundLogger, structlog.get_logger(source=name))


def _with(facts: dict[str, str]) -> Any:
    def add(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        return {**facts, **event}

    return add


def _event_first(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Puts what people look for first at the start of the line."""
    first = {key: event[key] for key in ("timestamp", "level", "event") if key in event}
    return first | event

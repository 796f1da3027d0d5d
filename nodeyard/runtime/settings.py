"""Settings from environment variables into one frozen struct per service, checked before anything starts.

A service subclasses `ServiceSettings`; a field `launch_ttl` is read from `NODEYARD_LAUNCH_TTL` unless
`msgspec.field(name="AWS_REGION")` names another variable. The field's type says how it is read: `Seconds` are
Go-style durations, `Listen` and `Addresses` are host:port, `Secret` and `RedisUrl` are never printed whole.
A variable that can't be understood stops the start with its name (`SettingsError`).
"""

import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from nodeyard.api.duration import parse_duration, render_duration


class SettingsError(Exception):
    """An environment variable that can't be understood; the message names it, its value and what is wanted."""


def variable(field: str) -> str:
    """The environment variable of a field that names none: `launch_ttl` is NODEYARD_LAUNCH_TTL."""
    return f"NODEYARD_{field.upper()}"


_KIND: Final = "nodeyard"
Seconds = Annotated[float, Meta(extra={_KIND: "duration"})]
"""A Go-style duration ("300ms", "1s", "2h45m"), in seconds."""
Listen = Annotated[str, Meta(extra={_KIND: "listen"})]
"""host:port to listen at; port 0 takes a free one."""
Addresses = Annotated[tuple[str, ...], Meta(extra={_KIND: "addresses"})]
"""Comma-separated host:port, tried in order."""
Secret = Annotated[str, Meta(extra={_KIND: "secret"})]
RedisUrl = Annotated[str, Meta(extra={_KIND: "redis"})]
"""redis:// or rediss:// with the password in it; printed without."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename=variable):
    """Base of everything that `load` fills."""


def own_name() -> str:
    """Host name and process id: who we are in leases and in the journal."""
    return f"{socket.gethostname()}-{os.getpid()}"


class ServiceSettings(Settings, frozen=True, kw_only=True):
    """What every service reads. Source: docs/architecture.md, "Settings"."""

    cluster_name: str = "nodeyard"
    replica: str = msgspec.field(default_factory=own_name)
    grpc_listen: Listen = "127.0.0.1:0"
    http_listen: Listen = "127.0.0.1:0"
    endpoints_file: str = ""
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


S = TypeVar("S", bound=Settings)


def load(cls: type[S], environ: Mapping[str, str]) -> S:
    """Reads the settings of `cls` out of `environ`. An empty variable counts as unset.

    Raises SettingsError naming every variable that can't be understood or is missing.
    """
    hints = get_type_hints(cls, include_extras=True)
    values: dict[str, object] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(cls):
        text = environ.get(field.encode_name, "").strip()
        if not text:
            if field.required:
                problems.append(f"{field.encode_name} is not set")
            continue
        try:
            values[field.name] = _read(hints[field.name], text)
        except ValueError as error:
            shown = "its value" if _kind(hints[field.name]) in ("secret", "redis") else repr(text)
            problems.append(f"{field.encode_name}: {shown} can't be understood: {error}")
    if problems:
        raise SettingsError("; ".join(problems))
    return cls(**values)


def shown(settings: Settings) -> dict[str, str]:
    """Variable -> value as it can be printed: secrets hidden, durations Go-style."""
    hints = get_type_hints(type(settings), include_extras=True)
    out: dict[str, str] = {}
    for field in msgspec.structs.fields(type(settings)):
        out[field.encode_name] = _render(hints[field.name], getattr(settings, field.name))
    return out


def without_password(url: str) -> str:
    """The URL with its password replaced by asterisks."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def split_address(text: str) -> tuple[str, int]:
    """host and port of "host:port" or "[::1]:port". Raises ValueError."""
    host, separator, port = text.strip().rpartition(":")
    host = host.strip("[]")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port")
    return host, int(port)


def _kind(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        for meta in get_args(hint)[1:]:
            if isinstance(meta, Meta) and meta.extra and _KIND in meta.extra:
                return str(meta.extra[_KIND])
    return ""


def _read(hint: Any, text: str) -> object:
    if reader := _READERS.get(_kind(hint)):
        return reader(text)
    if get_origin(hint) is tuple:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return _convert(parts, hint)
    return _convert(text, hint)


def _convert(value: object, hint: Any) -> object:
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _addresses(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise ValueError("no address given")
    for part in parts:
        _listen(part)
    return parts


def _seconds(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < 0:
        raise ValueError("it must not be negative")
    return seconds


def _listen(text: str) -> str:
    split_address(text)
    return text.strip()


def _redis_url(text: str) -> str:
    if not re.match(r"(redis|rediss|unix)://", text):
        raise ValueError("a URL that starts with redis://, rediss:// or unix:// is wanted")
    return text


_READERS: Final[dict[str, Callable[[str], object]]] = {
    "duration": _seconds,
    "listen": _listen,
    "addresses": _addresses,
    "secret": str,
    "redis": _redis_url,
}


def _render(hint: Any, value: Any) -> str:
    kind = _kind(hint)
    if kind == "secret":
        return "***" if value else ""
    if kind == "redis":
        return without_password(value)
    if kind == "duration":
        return render_duration(value)
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)

"""From bytes, or a manifest's dictionary, to a raw slice; and the small things all conversions share.

Owns the one error of conversion, worded with the field's path, and times. Nulls in manifests read as absent.
"""

from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from nodeyard.api import objects
from nodeyard.api.node import Condition

Source = bytes | bytearray | memoryview | msgspec.Raw | Mapping[str, Any]
"""An object as JSON, or as the dictionary that a manifest was read into."""
T = TypeVar("T")


class ConversionError(ValueError):
    """An object that can't be read; the message names the field and what is wrong with it."""


def read(source: object, kind: type[T]) -> T:
    """The raw slice of `source`, a Source or such a slice already. Raises ConversionError."""
    if isinstance(source, kind):
        return source
    try:
        if isinstance(source, Mapping):
            return msgspec.convert(_without_nulls(source), kind)
        decoder: msgspec.json.Decoder[T] = _decoder(cast(Hashable, kind))
        return decoder.decode(cast(bytes, source))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConversionError(explain(error)) from error


def identity_of(source: object) -> objects.Identity:
    """Kind, name and the rest of the metadata, however broken the object is otherwise. Raises ConversionError."""
    if isinstance(source, objects.Raw):
        source = msgspec.to_builtins(source)
    identity = read(source, objects.Identity)
    if not identity.metadata.name:
        raise ConversionError("metadata.name: is missing")
    return identity


@cache
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cast(type[Any], kind))


def explain(error: Exception) -> str:
    """The decoder's complaint as `<field>: <what>`."""
    what, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").removeprefix(".")
    return f"{path}: {what}" if path else what


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(inner) for inner in value if inner is not None]
    return value


def seconds_of(time: datetime | None) -> float:
    """Seconds since the epoch (UTC), 0.0 where there is no time."""
    if time is None:
        return 0.0
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()


def render_time(seconds: float) -> str | None:
    """RFC 3339 to the second, as Kubernetes writes times; None for 0.0."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


def conditions_of(raw: tuple[objects.RawCondition, ...]) -> tuple[Condition, ...]:
    """Status conditions as values."""
    return tuple(
        Condition(
            one.type,
            one.status,
            one.reason or "",
            one.message or "",
            seconds_of(one.last_transition_time),
            one.observed_generation or 0,
        )
        for one in raw
    )

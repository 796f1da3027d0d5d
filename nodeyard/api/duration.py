"""Durations as Go writes them ("300ms", "1h30m", "720h"), in seconds.

NodePools, NodeClaims and our own settings carry them. "Never", where a field allows it, is the caller's business.
Source: Go standard library, `time.ParseDuration`; Kubernetes `metav1.Duration`.
"""

import re
from typing import Final

_UNIT_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


class DurationError(ValueError):
    """A text that is not a duration."""


def parse_duration(text: str) -> float:
    """Seconds that `text` means. Raises DurationError naming the text."""
    body = text.strip()
    sign = -1.0 if body.startswith("-") else 1.0
    body = body[1:] if body[:1] in ("+", "-") else body
    if body == "0":
        return 0.0
    seconds, at = 0.0, 0
    while at < len(body):
        part = _PART.match(body, at)
        if part is None:
            break
        seconds += float(part[1]) * _UNIT_S[part[2]]
        at = part.end()
    if not body or at != len(body):
        raise DurationError(f'{text!r} is not a duration like "30s", "1h30m" or "300ms"')
    return sign * seconds


def render_duration(seconds: float) -> str:
    """The shortest spelling in hours, minutes and seconds ("720h", "1h30m", "0s"); below a millisecond it is rounded,
    and milliseconds appear only where there is a fraction of a second.
    """
    sign = "-" if seconds < 0 else ""
    milliseconds = round(abs(seconds) * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, rest = divmod(rest, 1000)
    parts = ((hours, "h"), (minutes, "m"), (whole, "s"), (rest, "ms"))
    text = "".join(f"{amount}{unit}" for amount, unit in parts if amount)
    return sign + text if text else "0s"

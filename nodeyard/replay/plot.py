"""Results as one SVG: cost per hour against the bound, evictions and pods that wait, each policy in its colour.

A few lines of SVG are enough for that and need no library. Numbers are rounded to a tenth of a pixel.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from nodeyard.replay.result import Hour, Result

_WIDTH: Final = 960
_HEIGHT: Final = 190
_LEFT: Final = 62
_RIGHT: Final = 14
_TOP: Final = 26
_GAP: Final = 34
_COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf", "#7f7f7f")
_BOUND_COLOUR: Final = "#000000"
_HOURS_PER_TICK: Final = (1, 2, 6, 12, 24, 48, 168)
Series = tuple[str, str, list[float]]
"""Name, colour, one value per hour."""


def svg(results: Sequence[Result]) -> str:
    """The plot. With no result, an empty picture."""
    panels: list[tuple[str, list[Series]]] = [
        ("cost, USD per hour", [*_series(results, lambda h: h.cost), *_bound(results)]),
        ("nodes", _series(results, lambda h: float(h.nodes))),
        (
            "pods evicted or interrupted, per hour",
            _series(results, lambda h: float(h.evictions + h.interruptions)),
        ),
        ("pods without a place at the hour's end", _series(results, lambda h: float(h.pending))),
    ]
    parts = [_legend(results)]
    for number, (title, series) in enumerate(panels):
        parts.append(_panel(title, series, 24 + number * (_HEIGHT + _GAP)))
    height = 24 + len(panels) * (_HEIGHT + _GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="11">\n<rect width="{_WIDTH}" height="{height}" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _series(results: Sequence[Result], value: Callable[[Hour], float]) -> list[Series]:
    return [(r.policy.name, _colour(i), [value(h) for h in r.hours]) for i, r in enumerate(results)]


def _bound(results: Sequence[Result]) -> list[Series]:
    found = [h.bound for h in results[0].hours] if results else []
    return [("bound", _BOUND_COLOUR, found)] if any(found) else []


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _legend(results: Sequence[Result]) -> str:
    names = [(r.policy.name, _colour(i)) for i, r in enumerate(results)]
    if _bound(results):
        names.append(("bound", _BOUND_COLOUR))
    parts, x = [], float(_LEFT)
    for name, colour in names:
        parts.append(f'<rect x="{x:.1f}" y="8" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 19:.1f}" y="14">{escape(name)}</text>')
        x += 40 + 6.5 * len(name)
    return "\n".join(parts)


def _panel(title: str, series: Sequence[Series], y: int) -> str:
    hours = max((len(values) for _, _, values in series), default=0)
    most = max((max(values, default=0.0) for _, _, values in series), default=0.0) or 1.0
    top = _rounded_up(most)
    bottom, wide, high = y + _HEIGHT, _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP
    parts = [f'<text x="{_LEFT}" y="{y + 16}" font-weight="bold">{escape(title)}</text>']
    for step in range(5):
        level = bottom - high * step / 4
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{top * step / 4:g}</text>')
    every = next((t for t in _HOURS_PER_TICK if hours / t <= 14), 168)
    for hour in range(0, hours + 1, every):
        x = _LEFT + wide * hour / max(hours, 1)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{hour} h</text>')
    for _, colour, values in series:
        points = " ".join(
            f"{_LEFT + wide * (i + 0.5) / max(hours, 1):.1f},{bottom - high * v / top:.1f}"
            for i, v in enumerate(values)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
    return "\n".join(parts)


def _rounded_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8, 10 times a power of ten."""
    power = 1.0
    while value > power * 10:
        power *= 10
    while value <= power:
        power /= 10
    return next(m * power for m in (2, 4, 5, 8, 10) if value <= m * power)

"""Durations: written and read they stay what they are, and parts add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeyard.api.duration import DurationError, parse_duration, render_duration

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@given(st.integers(-(10**9), 10**9))
def test_a_rendered_duration_reads_as_itself(milliseconds: int) -> None:
    assert parse_duration(render_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(UNITS))), min_size=1, max_size=5))
def test_parts_add_up_in_any_order(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{amount}{unit}" for amount, unit in parts)
    assert parse_duration(text) == pytest.approx(sum(amount * UNITS[unit] for amount, unit in parts))


@given(st.text(max_size=8))
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    refused = ""
    try:
        parse_duration(text)
    except DurationError as error:
        refused = str(error)
    assert refused == "" or repr(text) in refused


@pytest.mark.parametrize("text", ["", "-", "5", "1d", "1 h", "h1", "1h30", "Never", "1.h.", "--1s", "1e3s"])
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(DurationError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("720h", 2592000),
        ("1h30m", 5400),
        ("300ms", 0.3),
        (".5s", 0.5),
        ("1.5h", 5400),
        ("-2m", -120),
    ],
)
def test_what_go_accepts_is_accepted(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


def test_the_shortest_spelling_is_written() -> None:
    assert [render_duration(s) for s in (0, 2592000, 5400, 0.3, 61)] == [
        "0s",
        "720h",
        "1h30m",
        "300ms",
        "1m1s",
    ]

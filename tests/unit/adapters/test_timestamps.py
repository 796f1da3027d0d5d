"""Timestamps are read as botocore reads them, whatever their format."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.utils import parse_timestamp
from hypothesis import given
from hypothesis import strategies as st

from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.ec2.timestamps import read_timestamp

FORMATS = (
    "2026-11-28T01:02:03Z", "2026-11-28T01:02:03.000Z", "2026-11-28T01:02:03.004Z", "2026-11-28T01:02:03.004005Z",
    "2026-11-28T01:02:03.4Z", "2026-11-28T01:02:03.0040056Z", "2026-11-28T01:02:03", "2026-11-28T01:02:03+02:00",
    "2026-11-28 01:02:03Z", "2026-11-28", "20261128T010203Z", "2026-02-29T00:00:00Z", "2028-02-29T00:00:00Z",
    "2026-11-28T24:00:00Z", "2026-11-28T01:02:60Z", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z", "Sat, 28 Nov 2026 01:02:03 GMT", "1795827723", "1795827723.5", 1795827723, 1795827723.25,
    "-1", "", "yesterday", "2026-11-28T01:02:03Zulu", "2026-11-28T01:02:03Z\n", None,
)  # fmt: skip


def outcome(read: Callable[[Any], datetime], value: Any) -> tuple[Any, ...]:
    """The instant and its offset, or the kind of error and its words."""
    try:
        found = read(value)
    except (RuntimeError, TypeError, ValueError) as error:
        return type(error), str(error)
    return found, found.utcoffset()


@pytest.mark.parametrize("value", FORMATS)
def test_every_format_comes_out_as_botocores_parser_reads_it(value: Any) -> None:
    assert outcome(read_timestamp, value) == outcome(parse_timestamp, value)


@given(st.datetimes(timezones=st.just(UTC)), st.sampled_from(["seconds", "milliseconds", "microseconds"]))
def test_what_ec2_writes_comes_out_as_botocores_parser_reads_it(moment: datetime, precision: str) -> None:
    text = moment.isoformat(timespec=precision).replace("+00:00", "Z")
    assert outcome(read_timestamp, text) == outcome(parse_timestamp, text)


def test_the_sessions_clients_read_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    session = Ec2Session()
    factory = session._client("ec2")._endpoint._response_parser_factory
    assert factory.create_parser("ec2")._timestamp_parser is read_timestamp
    session.close()

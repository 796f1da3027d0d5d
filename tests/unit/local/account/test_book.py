from __future__ import annotations

from types import SimpleNamespace

import pytest

from nodeyard.local.account.book import CallLog, Ledger, Rented


def rented(name: str = "i-1", capacity_type: str = "on-demand") -> Rented:
    ec2 = SimpleNamespace(state="running", ec2_backend=SimpleNamespace(tags={name: {"a": "b"}}))
    return Rented(name, "m5.large", "a", capacity_type, ec2, launched_at=0.0, visible_at=0.0)


def ledger() -> Ledger:
    return Ledger(lambda _type, _zone, kind, at: 3.6 if kind == "on-demand" else 0.36 * (1 + at))


def test_an_instance_costs_from_running_to_shutting_down():
    book, entry = ledger(), rented()
    book.add(entry)
    assert book.statement(100.0)["total_usd"] == 0
    book.start_billing(entry, 100.0)
    assert book.statement(200.0)["total_usd"] == pytest.approx(0.1)
    assert book.statement(200.0)["rate_usd_per_hour"] == 3.6
    book.stop_billing(entry, 300.0)
    after = book.statement(10_000.0)
    assert after["total_usd"] == pytest.approx(0.2)
    assert after["rate_usd_per_hour"] == 0
    assert after["running"] == 0


def test_spot_is_billed_at_the_price_of_each_stretch():
    book, entry = ledger(), rented(capacity_type="spot")
    book.add(entry)
    book.start_billing(entry, 0.0)
    book.accrue(1.0)
    book.accrue(2.0)
    assert entry.cost_usd == pytest.approx((0.36 + 0.72) / 3600)


def test_forgetting_an_ended_instance_keeps_its_money():
    book, entry = ledger(), rented()
    book.add(entry)
    book.start_billing(entry, 0.0)
    book.stop_billing(entry, 1000.0)
    book.forget([entry])
    assert book.all() == []
    assert book.statement(2000.0)["total_usd"] == pytest.approx(1.0)


def test_tags_are_those_of_the_moment():
    assert rented().tags() == {"a": "b"}


def test_the_call_log_counts_and_shows_the_newest():
    log = CallLog()
    for action, error in (("A", None), ("B", "X"), ("A", None)):
        log.add(at=0.0, seconds=0.0, service="ec2", action=action, status=200, error=error)
    shown = log.shown("A", after=1)
    assert shown["counts"] == {"A": 2, "B": 1}
    assert shown["errors"] == {"B:X": 1}
    assert [call["number"] for call in shown["calls"]] == [3]
    log.clear()
    assert log.shown()["counts"] == {}

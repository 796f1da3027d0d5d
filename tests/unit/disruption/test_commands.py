"""Commands as the objects tell them: resumed, undone, or found stale."""

from typing import Any

import msgspec
import pytest

from nodeyard.api.node import Node, NodeClaim
from nodeyard.disruption.commands import (
    DISRUPTED_TAINT,
    MARK,
    Mark,
    Verdict,
    concerned,
    patience_s,
    progress,
    running,
    stale,
)
from nodeyard.disruption.model import Reason
from tests.support.disruption import NOW, Builder


def marked(
    build: Builder, name: str, *, replacements: int = 1, at: float = NOW, **fields: Any
) -> tuple[Node, NodeClaim]:
    mark = msgspec.json.encode(Mark("cmd", Reason.UNDERUTILIZED, replacements, at)).decode()
    return build.node(name, taints=(DISRUPTED_TAINT,), annotations={MARK: mark}, **fields)


def replacement(build: Builder, *, initialized: bool, **fields: Any) -> None:
    build.node("new", initialized=initialized, claim={"annotations": {MARK: "cmd"}, **fields})


def verdict(build: Builder, now: float = NOW) -> Verdict:
    (command,) = running(build.snapshot)
    return progress(command, build.snapshot, now, 1)[0]


def test_old_nodes_go_only_once_every_replacement_is_initialized() -> None:
    build = Builder()
    marked(build, "old")
    replacement(build, initialized=False)
    assert verdict(build) is Verdict.WAIT
    replacement(build, initialized=True)
    assert verdict(build) is Verdict.READY
    assert concerned(build.snapshot, running(build.snapshot)) == {"old", "new"}


def test_a_replacement_that_vanished_or_is_being_deleted_loses_the_command() -> None:
    build = Builder()
    marked(build, "old")
    assert verdict(build) is Verdict.LOST
    replacement(build, initialized=True, deleted_at=NOW)
    assert verdict(build) is Verdict.LOST


def test_a_command_that_takes_too_long_is_late() -> None:
    build = Builder()
    marked(build, "old")
    replacement(build, initialized=False)
    assert verdict(build, NOW + 600) is Verdict.WAIT
    assert verdict(build, NOW + 601) is Verdict.LATE


@pytest.mark.parametrize(("commands", "seconds"), [(1, 600.0), (10_000, 800.0), (100_000, 3600.0)])
def test_patience_grows_with_the_commands_under_way(commands: int, seconds: float) -> None:
    assert patience_s(commands) == seconds


def test_a_deletion_cut_short_before_it_deleted_is_lost_and_not_resumed_blindly() -> None:
    build = Builder()
    marked(build, "old", replacements=0)
    assert verdict(build) is Verdict.LOST


def test_after_a_restart_the_rest_of_a_half_finished_command_is_found() -> None:
    build = Builder()
    marked(build, "one")
    marked(build, "two", claim={"deleted_at": NOW})
    replacement(build, initialized=True)
    (command,) = running(build.snapshot)
    assert command.nodes == ("one",)
    assert verdict(build) is Verdict.READY


def test_an_undone_commands_replacement_means_nothing_any_more() -> None:
    build = Builder()
    build.node("old")
    replacement(build, initialized=True)
    assert running(build.snapshot) == ()


def test_taints_marks_and_conditions_that_no_command_stands_behind_are_stale() -> None:
    build = Builder()
    build.node("tainted", taints=(DISRUPTED_TAINT,))
    build.node("scribbled", annotations={MARK: "{"}, taints=(DISRUPTED_TAINT,))
    build.node("fine")
    build.node("going", taints=(DISRUPTED_TAINT,), claim={"deleted_at": NOW})
    marked(build, "old")
    replacement(build, initialized=False)
    assert stale(build.snapshot, running(build.snapshot), frozenset()) == ("scribbled", "tainted")
    assert stale(build.snapshot, running(build.snapshot), frozenset({"tainted"})) == ("scribbled",)

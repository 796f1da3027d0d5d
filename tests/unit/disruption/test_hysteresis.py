"""Hysteresis: what a move must be worth, and that it is not made back and forth."""

from typing import Any

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.pool import Steadiness
from nodeyard.disruption.commands import MARK
from nodeyard.disruption.hysteresis import doubling, pool_backoff
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Block, Command, Fate, Move, Options, Reason, Rule
from nodeyard.disruption.validation import validate
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, TYPES, Builder, catalogue, clock, first_fit

HOUR = 3600.0
NOTHING_WANTED = Steadiness()


def one_too_large(steadiness: Steadiness = NOTHING_WANTED, pods: int = 1, made_by: str = "") -> Builder:
    """An m5.4xlarge (0.80) whose pods fit on an m5.large; spot costs as much as on-demand. `made_by`: a command."""
    build = Builder()
    pool = build.pool()
    wants = msgspec.structs.replace(pool.disruption, steadiness=steadiness)
    build.put(Kind.POOL, "default", msgspec.structs.replace(pool, disruption=wants))
    build.node("a", "m5.4xlarge", claim={"annotations": {MARK: made_by} if made_by else {}})
    for i in range(pods):
        build.pod(f"p{i}", "a")
    return build


def looked(build: Builder, *moves: Move, **fields: Any) -> Command | Rule | None:
    """The command, or what keeps node a."""
    values = {"catalogues": {"default": catalogue(spot=1.0)}, "moves": moves} | fields
    outcome = decide(build.view(**values), first_fit, clock)
    if outcome.command is not None:
        return outcome.command
    return next(p.blocks[0].rule for p in outcome.proposals if p.node == "a")


def move(left: str, came: str, ago_s: float, fate: Fate = Fate.DONE, **fields: Any) -> Move:
    values = {"reason": Reason.UNDERUTILIZED, "pool": "default", "id": f"{left}-{came}-{ago_s}"} | fields
    at = NOW - ago_s
    return Move(left=(left,), came=(came,), at=at, fate=fate, ended_at=at, **values)


def types_of(command: Command | Rule | None) -> set[str]:
    assert isinstance(command, Command)
    (new,) = command.replacements
    return {new.instance_type, *(r.instance_type for r in new.alternatives)}


# --- worth ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("steadiness", "kept"),
    [
        (Steadiness(min_saving_usd_per_hour=0.69), None),
        (Steadiness(min_saving_usd_per_hour=0.71), Rule.MIN_SAVING),
        (Steadiness(min_saving_share=0.85), None),
        (Steadiness(min_saving_share=0.90), Rule.MIN_SAVING),
        (Steadiness(max_payback_s=6.0), None),
        (Steadiness(max_payback_s=5.0), Rule.PAYBACK),
    ],
)
def test_a_move_must_be_worth_what_its_pool_wants(steadiness: Steadiness, kept: Rule | None) -> None:
    """It saves 0.70 of 0.81 USD/h and costs one eviction of 0.001 USD: paid back in 5.14 s."""
    found = looked(one_too_large(steadiness))
    assert found is kept if kept else isinstance(found, Command)


def test_a_move_that_pays_for_its_evictions_too_late_is_not_made_by_default_either() -> None:
    build = one_too_large(pods=3)
    assert isinstance(looked(build, options=Options(eviction_usd=1.0)), Command)
    assert looked(build, options=Options(eviction_usd=5.0)) is Rule.PAYBACK


def test_a_pool_may_accept_any_payback() -> None:
    build = one_too_large(Steadiness(max_payback_s=1e9), pods=3)
    assert isinstance(looked(build, options=Options(eviction_usd=100.0)), Command)


def test_removing_without_a_replacement_is_weighed_too() -> None:
    build = one_too_large(Steadiness(min_saving_usd_per_hour=1.0))
    build.node("b", "m5.4xlarge", annotations={keys.DO_NOT_DISRUPT: "true"})
    assert looked(build) is Rule.MIN_SAVING


def test_empty_nodes_go_however_little_that_saves() -> None:
    build = one_too_large(Steadiness(min_saving_usd_per_hour=50.0), pods=0)
    assert isinstance(looked(build), Command)


# --- back and forth -------------------------------------------------------------------------------------------------
def test_a_node_is_not_exchanged_for_what_it_was_made_in_place_of_within_the_time() -> None:
    build = one_too_large(made_by="back")
    assert "m5.large" in types_of(looked(build))
    back = move("m5.large/spot", "m5.4xlarge/on-demand", 0.5 * HOUR, id="back/default")
    assert "m5.large" not in types_of(looked(build, back))
    sold = (f"{type_}/{kind}" for type_ in TYPES for kind in (keys.ON_DEMAND, keys.SPOT))
    everything = msgspec.structs.replace(back, left=tuple(sold), came=())
    assert looked(build, everything) is Rule.RETURN
    assert isinstance(looked(build, msgspec.structs.replace(everything, at=NOW - 1.1 * HOUR)), Command)


@pytest.mark.parametrize("made_by", ["", "another"])
def test_a_node_that_no_such_move_made_may_go_for_any_type(made_by: str) -> None:
    """One of its type came in place of an m5.large, but not this one."""
    back = move("m5.large/spot", "m5.4xlarge/on-demand", 60.0, id="back/default")
    assert "m5.large" in types_of(looked(one_too_large(made_by=made_by), back))


def test_the_time_may_be_the_pools_own() -> None:
    def bars(steadiness: Steadiness, ago_s: float) -> bool:
        back = move("m5.large/spot", "m5.4xlarge/on-demand", ago_s, id="back/default")
        return "m5.large" not in types_of(looked(one_too_large(steadiness, made_by="back"), back))

    assert bars(Steadiness(no_return_s=10 * HOUR), 9 * HOUR)
    assert not bars(Steadiness(no_return_s=0.0), 60.0)


def test_moves_that_were_undone_do_not_count_as_left() -> None:
    undone = move("m5.large/spot", "m5.4xlarge/on-demand", 60.0, fate=Fate.UNDONE, id="back/default")
    assert "m5.large" in types_of(looked(one_too_large(made_by="back"), undone))


def test_a_move_that_failed_is_tried_again_only_after_a_time_that_doubles() -> None:
    build = one_too_large()

    def tried(*ago_s: float) -> bool:
        failed = [move("m5.4xlarge/on-demand", "m5.large/spot", s, Fate.UNDONE) for s in ago_s]
        return "m5.large" in types_of(looked(build, *failed))

    assert not tried(599.0)
    assert tried(601.0)
    assert not tried(601.0, 3000.0)
    assert tried(1201.0, 3000.0)


def test_a_move_whose_every_offering_failed_is_not_made_and_says_so() -> None:
    build = one_too_large()
    failed = [
        move("m5.4xlarge/on-demand", f"{t}/{kind}", 60.0, Fate.UNDONE)
        for t in ("m5.large", "m5.xlarge", "m5.2xlarge", "m5.4xlarge")
        for kind in (keys.ON_DEMAND, keys.SPOT)
    ]
    assert looked(build, *failed) is Rule.FAILED_BEFORE


def test_what_time_will_lift_is_looked_at_again_then_and_quiet_until_then() -> None:
    build = one_too_large()
    names = [f"{t}/{kind}" for t in TYPES for kind in (keys.ON_DEMAND, keys.SPOT)]
    failed = [move("m5.4xlarge/on-demand", name, 60.0, Fate.UNDONE) for name in names]
    failed[3] = move("m5.4xlarge/on-demand", names[3], 200.0, Fate.UNDONE)
    view = build.view(catalogues={"default": catalogue(spot=1.0)}, moves=tuple(failed))
    outcome = decide(view, first_fit, clock)
    assert outcome.quiet
    assert outcome.recheck_at == NOW + 400.0


def test_a_node_that_had_to_be_bought_again_right_after_one_like_it_went_stays_for_a_while() -> None:
    build = one_too_large()
    claim = build.snapshot.claims["a-c"]
    gone = move("m5.4xlarge/on-demand", "", 1000.0)
    gone = msgspec.structs.replace(gone, came=())
    build.put(Kind.NODE_CLAIM, "a-c", msgspec.structs.replace(claim, created_at=NOW - 900.0))
    assert looked(build, gone) is Rule.RETURN
    build.put(Kind.NODE_CLAIM, "a-c", msgspec.structs.replace(claim, created_at=NOW - 600.0))
    assert isinstance(looked(build, gone), Command), "bought later, for other pods"


def test_the_second_look_remembers_too() -> None:
    build = one_too_large()
    command = looked(build)
    assert isinstance(command, Command)
    moves = tuple(
        move("m5.4xlarge/on-demand", f"{t}/{kind}", 60.0, Fate.UNDONE)
        for t in ("m5.large", "m5.xlarge", "m5.2xlarge", "m5.4xlarge")
        for kind in (keys.ON_DEMAND, keys.SPOT)
    )
    view = build.view(catalogues={"default": catalogue(spot=1.0)}, moves=moves)
    again = validate(command, view, first_fit, clock)
    assert isinstance(again, Block)


# --- pools whose replacements fail -------------------------------------------------------------------------------------
def test_a_pool_waits_twice_as_long_after_every_failure_and_not_after_a_success() -> None:
    def failed(ago_s: float) -> Move:
        return move("x", "y", ago_s, Fate.UNDONE, reason=Reason.DRIFTED)

    def waits(*moves: Move) -> bool:
        return pool_backoff(moves, "default", Reason.DRIFTED, NOW) is not None

    assert waits(failed(59))
    assert not waits(failed(61))
    assert waits(failed(61), failed(600))
    assert not waits(failed(121), failed(600))
    assert not waits(move("x", "y", 1, reason=Reason.DRIFTED), failed(2), failed(3))
    assert not waits(move("x", "y", 1, Fate.UNDONE, reason=Reason.EXPIRED))
    assert not waits(move("x", "y", 1, Fate.UNDONE, reason=Reason.DRIFTED, pool="other"))


def test_waiting_is_bounded() -> None:
    assert doubling(0, 60.0, 3600.0) == 0.0
    assert doubling(3, 60.0, 3600.0) == 240.0
    assert doubling(10_000, 60.0, 3600.0) == 3600.0

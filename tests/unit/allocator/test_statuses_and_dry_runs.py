"""Pool statuses, node classes on their way out, and what a dry run is given."""

import json
from typing import Any

import msgspec
import pytest

from nodeyard.adapters.kubernetes.pool_status import CLASS_FINALIZER
from nodeyard.api.node import Condition, Node, NodeClaim
from nodeyard.api.nodeclass import NodeClass, ReservationTerm
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import Throttled
from nodeyard.cloudprovider.reservations import CapacityReservation
from nodeyard.provisioning.claims import LAUNCH_RECORD, encode_record, launch_record_of
from nodeyard.provisioning.launches import NotReady
from nodeyard.provisioning.model import Options
from nodeyard.runtime.metrics import new_registry
from nodeyard.state.cluster import Change, Kind, snapshot_of
from nodeyard.state.laying import laid_over, objects_of
from nodeyard.state.manifests import changes_from
from services.allocator.classes import Classes
from services.allocator.metrics import AllocatorMetrics
from services.allocator.pools import Pools, usage
from services.allocator.servicer import options_of
from tests.support.allocator import Quiet, Replica, World


class Written(Quiet):
    """Keeps the statuses that were written."""

    def __init__(self) -> None:
        super().__init__()
        self.pools: dict[str, tuple[dict[str, int], dict[str, Condition]]] = {}
        self.classes: list[NodeClass] = []
        self.released: list[str] = []

    async def write_pool(self, key: str, resources: Any, conditions: Any) -> bool:
        self.pools[key] = (resources, {c.type: c for c in conditions})
        return True

    async def write_class(self, found: NodeClass) -> bool:
        self.classes.append(found)
        return True

    async def release_class(self, node_class: NodeClass) -> bool:
        self.released.append(node_class.key)
        return True


@pytest.fixture
def world() -> World:
    made = World()
    made.quiet = Written()
    return made


def pools_of(world: World, replica: Replica) -> Pools:
    return Pools(
        cluster=replica.stream, classes=replica.classes, statuses=world.quiet, leader=world.leader,
        measures=AllocatorMetrics(new_registry(process=False)), clock=world.clock, stopped=world.why_stopped,
    )  # fmt: skip


def written(world: World) -> Written:
    assert isinstance(world.quiet, Written)
    return world.quiet


def test_usage_counts_claims_by_their_nodes_real_capacity_and_adopted_nodes_too() -> None:
    labels = {"karpenter.sh/nodepool": "web"}
    snapshot = snapshot_of(
        [
            Change(
                Kind.NODE_CLAIM, "a", NodeClaim("a", labels=labels, provider_id="1", capacity={"cpu": 9000})
            ),
            Change(Kind.NODE_CLAIM, "b", NodeClaim("b", labels=labels, capacity={"cpu": 2000})),
            Change(Kind.NODE, "n", Node("n", labels=labels, provider_id="1", capacity={"cpu": 4000})),
            Change(Kind.NODE, "old", Node("old", labels=labels, provider_id="2", capacity={"cpu": 1000})),
            Change(Kind.NODE, "foreign", Node("foreign", capacity={"cpu": 8000})),
        ]
    )
    assert usage(snapshot) == {"web": {"cpu": 7000, "nodes": 3}}


async def test_a_pools_status_tells_what_it_has_and_that_it_is_ready(world: World) -> None:
    world.pending_pods(2)
    replica = world.replica()
    await replica.round()
    await pools_of(world, replica).refresh()
    resources, conditions = written(world).pools["default"]
    assert resources["nodes"] == 1
    assert resources["cpu"] > 0
    assert conditions["Ready"].status == "True"


async def test_a_pool_that_can_not_be_understood_says_why(world: World) -> None:
    broken = msgspec.structs.replace(world.pool, problems=("spec.limits.cpu: 'x' is not a quantity",))
    replica = world.replica()
    world.api.put(Kind.POOL, "default", broken)
    await replica.classes.refresh()
    await pools_of(world, replica).refresh()
    _, conditions = written(world).pools["default"]
    assert conditions["ValidationSucceeded"].status == "False"
    assert "spec.limits.cpu" in conditions["Ready"].message


async def test_what_a_pool_meant_in_older_terms_is_told_on_it(world: World) -> None:
    pool = msgspec.structs.replace(
        world.pool, warnings=("spec.provider.amiFamily: AL2 is at its end of life",)
    )
    replica = world.replica()
    world.api.put(Kind.POOL, "default", pool)
    await replica.classes.refresh()
    await pools_of(world, replica).refresh()
    _, conditions = written(world).pools["default"]
    told = conditions["ValidationSucceeded"]
    assert (told.status, told.message) == ("True", "spec.provider.amiFamily: AL2 is at its end of life")
    assert conditions["Ready"].message == ""


async def test_a_pool_whose_class_is_missing_says_so(world: World) -> None:
    replica = world.replica()
    world.api.put(Kind.NODE_CLASS, "default", None)
    await replica.classes.refresh()
    await pools_of(world, replica).refresh()
    _, conditions = written(world).pools["default"]
    assert (conditions["NodeClassReady"].status, conditions["NodeClassReady"].reason) == (
        "False",
        "NodeClassNotFound",
    )


async def test_a_status_that_says_all_already_is_not_written_again(world: World) -> None:
    replica = world.replica()
    await replica.classes.refresh()
    pools = pools_of(world, replica)
    await pools.refresh()
    resources, conditions = written(world).pools.pop("default")
    shown = msgspec.structs.replace(world.pool, resources=resources, conditions=tuple(conditions.values()))
    world.api.put(Kind.POOL, "default", shown)
    await pools.refresh()
    assert not written(world).pools


async def test_a_class_outlives_its_claims_and_launches_nothing_new(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    going = NodeClass("default", uid="class", generation=1, deleting=True, finalizers=(CLASS_FINALIZER,))
    world.api.put(Kind.NODE_CLASS, "default", going)
    await replica.classes.refresh()
    assert not written(world).released
    waits = ("EC2NodeClass", "default", "WaitingOnNodeClaimTermination")
    assert world.quiet.events.count(waits) == 1
    await world.clock.advance(599)
    await replica.classes.refresh()
    assert world.quiet.events.count(waits) == 1
    await world.clock.advance(2)
    await replica.classes.refresh()
    assert world.quiet.events.count(waits) == 2
    found = replica.classes.find("default")
    assert isinstance(found, NotReady)
    assert found.reason == "NodeClassTerminating"
    for name in list(world.api.claims):
        world.api.put(Kind.NODE_CLAIM, name, None)
    await replica.classes.refresh()
    assert written(world).released == ["default"]


async def test_a_class_lists_the_reservations_that_its_terms_select_now(world: World) -> None:
    chosen = (ReservationTerm(tags={"team": "a"}),)
    replica = world.replica()
    wanted = NodeClass("default", uid="class", generation=2, capacity_reservation_terms=chosen)
    world.api.put(Kind.NODE_CLASS, "default", wanted)
    one = CapacityReservation("cr-1", "m5.large", "eu-west-1a", 3, 2, tags={"team": "a"})
    for reserved in ((one, CapacityReservation("cr-2", "m5.large", "eu-west-1a")), ()):
        world.cloud.reserved = reserved
        await replica.classes.refresh()
        shown = written(world).classes[-1].capacity_reservations
        assert [(r.id, r.zone, r.state) for r in shown] == [("cr-1", "eu-west-1a", "active")][: len(reserved)]


async def test_a_class_that_is_made_or_changed_knows_reservations_that_are_younger_than_the_last_count(
    world: World,
) -> None:
    replica = world.replica()
    one, two = (CapacityReservation(f"cr-{n}", "m5.large", "eu-west-1a", 1, 1, match="open") for n in (1, 2))

    async def listed(generation: int, now: tuple[CapacityReservation, ...]) -> list[str]:
        world.cloud.uncounted = now
        terms = (ReservationTerm(instance_match_criteria="open"),)
        wanted = NodeClass("default", uid="u", generation=generation, capacity_reservation_terms=terms)
        world.api.put(Kind.NODE_CLASS, "default", wanted)
        await replica.classes.refresh()
        found = replica.classes.find("default")
        assert isinstance(found, NodeClass)
        return [r.id for r in found.capacity_reservations]

    assert await listed(1, (one,)) == ["cr-1"]
    assert await listed(1, (one, two)) == ["cr-1"], "the next count comes in its turn"
    assert await listed(2, (one, two)) == ["cr-1", "cr-2"]


@pytest.mark.parametrize(
    ("reserved", "status"),
    [
        (None, "Unknown"),
        ((), "False"),
        ((CapacityReservation("cr-1", "m5.large", "eu-west-1a", 3, 2, tags={"team": "a"}),), "True"),
    ],
)
async def test_a_class_that_selects_reservations_says_whether_there_are_any_and_launches_without(
    world: World, reserved: tuple[CapacityReservation, ...] | None, status: str
) -> None:
    replica = world.replica()
    terms = (ReservationTerm(tags={"team": "a"}),)
    world.cloud.reserved = reserved
    for key, wanted in (("default", terms), ("without", ())):
        of = NodeClass(key, uid=key, generation=2, capacity_reservation_terms=wanted)
        world.api.put(Kind.NODE_CLASS, key, of)
    await replica.classes.refresh()
    shown = {c.key: {k.type: k for k in c.conditions} for c in written(world).classes}
    condition = shown["default"]["CapacityReservationsReady"]
    assert (condition.status, condition.observed_generation) == (status, 2)
    assert condition.since > 0
    assert "CapacityReservationsReady" not in shown["without"]
    assert set(replica.classes.ready()) == {"default", "without"}


async def test_templates_that_neither_a_pool_nor_an_unlaunched_claim_needs_are_removed(world: World) -> None:
    world.pending_pods(1)
    world.cloud.failures = [Throttled("slow down")] * 9
    replica = world.replica()
    await replica.round()
    (claim,) = world.api.claims.values()
    record = launch_record_of(claim)
    assert record is not None
    needed = set(world.account.templates)
    old = msgspec.structs.replace(
        record, choices=(msgspec.structs.replace(record.choices[0], template="t-old"),)
    )
    await world.api.annotate(claim, {LAUNCH_RECORD: encode_record(old)})
    world.account.templates |= {"t-old": Boot(cluster="nodeyard"), "t-unused": Boot(cluster="nodeyard")}
    await world.clock.advance(601)
    await replica.classes.refresh()
    assert set(world.account.templates) == {*needed, "t-old"}


async def test_a_class_not_looked_up_yet_is_waited_for(world: World) -> None:
    replica = world.replica()
    found = replica.classes.find("default")
    assert isinstance(found, NotReady)
    assert found.reason == Classes.RESOLVING
    assert not replica.classes.settled
    await replica.classes.refresh()
    assert replica.classes.settled


# --- dry runs -----------------------------------------------------------------------------------------------------------
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "x", "namespace": "default"},
    "spec": {"containers": [{"name": "m", "resources": {"requests": {"cpu": "1"}}}]},
}


def test_objects_of_a_dry_run_lie_over_the_live_cluster_and_leave_it_alone() -> None:
    live = snapshot_of([Change(Kind.NODE, "n", Node("n"))])
    placed = {
        **POD,
        "metadata": {"name": "y", "namespace": "default"},
        "spec": {**POD["spec"], "nodeName": "n"},
    }  # type: ignore[dict-item]
    seen = laid_over(live, changes_from(objects_of(json.dumps([POD, placed]).encode())))
    assert set(seen.pods) == {"default/x", "default/y"}
    assert seen.pods_on["n"] == frozenset({"default/y"})
    assert not live.pods
    assert not live.pods_on


def test_lists_are_unpacked() -> None:
    assert objects_of(json.dumps([{"kind": "List", "items": [POD]}, POD]).encode()) == [POD, POD]
    assert objects_of(b"") == []


@pytest.mark.parametrize("text", [b"{", b"{}", b'["x"]'])
def test_what_is_no_list_of_objects_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="objects"):
        objects_of(text)


def test_options_of_a_request_replace_ours_one_by_one() -> None:
    ours = Options(node_charge_usd_per_hour=0.5)
    read = options_of(b'{"preference_policy": "Ignore", "deadline_s": 1}', ours)
    assert (read.preference_policy, read.deadline_s, read.node_charge_usd_per_hour) == ("Ignore", 1, 0.5)
    assert options_of(b"", ours) is ours


@pytest.mark.parametrize(
    ("text", "words"),
    [(b'{"no_such": 1}', "no_such"), (b'{"deadline_s": "x"}', "deadline_s"), (b"{", "JSON")],
)
def test_options_that_can_not_be_read_are_named(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        options_of(text, Options())

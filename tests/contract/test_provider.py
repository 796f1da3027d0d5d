"""What allocator, reallocator and pricing rely on in a cloud, held by EC2 and by a cloud of KWOK nodes alike.

Another provider fits where it passes these. What is EC2's own is in the tests beside this one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.kwok.objects import Objects
from nodeyard.api import labels as keys
from nodeyard.api.selectors import Taint
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import IdempotencyMismatch, NotFound
from nodeyard.cloudprovider.market import market_of
from nodeyard.cloudprovider.refusals import Shut
from nodeyard.cloudprovider.resolve import Resolver as CatalogueResolver
from nodeyard.disruption.collection import instance_id
from nodeyard.local.account.server import AccountServer
from nodeyard.local.stand import Stand
from nodeyard.provisioning.claims import LaunchRecord, TemplateChoice
from nodeyard.provisioning.launches import missing_in
from tests.support.account import REGION, DialBoard, account, reach
from tests.support.cluster import condition, eventually
from tests.support.providers import CLASS, Ec2, Kwok, Provider, batch, launched, other_class

__all__ = ["account"]

BOOT = Boot(
    cluster="nodeyard", endpoint="https://api", labels={"team": "a"},
    taints=(Taint(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE),),
)  # fmt: skip
NO_INSTANCE = "i-0123456789abcdef0"
_numbers = itertools.count(1)


@pytest.fixture
async def ec2(account: AccountServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ec2]:
    reach(account, monkeypatch)
    session, dials = Ec2Session(attempts=1), DialBoard(account.url)
    yield Ec2(session, dials)
    session.close()
    dials.delete()


@pytest.fixture
async def kwok(control_plane: Stand, namespace: str) -> AsyncIterator[Kwok]:
    objects = await Objects.connect(str(control_plane.admin_kubeconfig), namespace=namespace)
    run, clusters = next(_numbers), set[str]()

    def unique(cluster_uid: str) -> str:
        clusters.add(f"{cluster_uid}-{run}")
        return f"{cluster_uid}-{run}"

    made = Kwok(objects, unique)
    yield made
    for cluster_uid in ("uid", "theirs"):
        machines = made.machines(cluster_uid)
        await machines.terminate([instance.id for instance in await machines.list_ours()])
    await objects.close()


@pytest.fixture(params=["ec2", pytest.param("kwok", marks=pytest.mark.cluster)])
def provider(request: pytest.FixtureRequest) -> Provider:
    found: Provider = request.getfixturevalue(request.param)
    return found


async def launchable(
    provider: Provider, *types: str, spot: bool = False, zones: str = "abc", cluster_uid: str = "uid"
) -> LaunchRecord:
    found = await provider.classes().resolve(CLASS)
    image = next(i for i in found.images if any("amd64" in r.values for r in i.requirements))
    name = await provider.templates(cluster_uid).ensure(found, image, BOOT)
    rows = tuple(
        (kind, s.zone, s.id)
        for kind in types
        for s in sorted(found.subnets, key=lambda s: s.zone)
        if s.zone[-1] in zones
    )
    tags = {keys.CLUSTER_UID_TAG: cluster_uid, keys.NODEPOOL_TAG: "general"}
    capacity_type = keys.SPOT if spot else keys.ON_DEMAND
    return LaunchRecord(capacity_type, (TemplateChoice(name, image.id, rows),), tags)


# --- pricing ----------------------------------------------------------------------------------------------------------
async def test_types_and_prices_make_a_catalogue_that_a_class_can_buy_from(provider: Provider) -> None:
    now, market = time.time(), provider.market()
    table = await market.types()
    assert {zone for described in table.types for zone in described.zones} <= {z.name for z in table.zones}
    joined = market_of(table, await market.on_demand(now), await market.spot(now), Shut(), now=now)
    resolved = await provider.classes().resolve(CLASS)
    catalogue = CatalogueResolver().resolve(joined, resolved, now=now)
    offers = [offer for kind in catalogue.types for offer in kind.offerings if offer.available]
    assert {offer.capacity_type for offer in offers} >= {keys.SPOT, keys.ON_DEMAND}
    assert {offer.zone for offer in offers} == {subnet.zone for subnet in resolved.subnets}
    assert all(offer.price > 0 for offer in offers)
    assert all(kind.allocatable["cpu"] > 0 for kind in catalogue.types)


# --- node classes and templates ---------------------------------------------------------------------------------------
async def test_a_class_is_resolved_to_all_that_launching_needs(provider: Provider) -> None:
    found = await provider.classes().resolve(CLASS)
    assert missing_in(found) is None
    conditions = {c.type: (c.status, c.observed_generation) for c in found.conditions}
    assert conditions["Ready"] == ("True", CLASS.generation)
    assert {v for i in found.images for r in i.requirements if r.key == keys.ARCH for v in r.values} == {
        "amd64",
        "arm64",
    }


async def test_the_same_content_is_one_template_for_every_replica(provider: Provider) -> None:
    found = await provider.classes().resolve(other_class("shared"))
    first, second = provider.templates(), provider.templates()
    name = await first.ensure(found, found.images[0], BOOT)
    assert await second.ensure(found, found.images[0], BOOT) == name
    other = msgspec.structs.replace(BOOT, labels={"team": "b"})
    assert await first.ensure(found, found.images[0], other) != name
    assert await second.delete_of("shared") == 2
    assert await first.delete_of("shared") == 0
    first.forget([name])
    assert await first.ensure(found, found.images[0], BOOT) == name


async def test_old_templates_that_nothing_needs_are_removed(provider: Provider) -> None:
    found = await provider.classes().resolve(other_class("pruned"))
    made = provider.templates()
    boots = [msgspec.structs.replace(BOOT, labels={"team": team}) for team in ("keep", "drop")]
    keep, _ = [await made.ensure(found, found.images[0], boot) for boot in boots]
    soon, later = time.time() + 60.0, time.time() + 3700.0
    assert await made.prune({keep}, {"pruned"}, soon) == 0
    assert await made.prune({keep}, {"another"}, later) == 0
    assert await made.prune({keep}, {"pruned"}, later) == 1


# --- launches ---------------------------------------------------------------------------------------------------------
async def test_repeating_a_launch_gives_the_same_instances_from_any_replica(provider: Provider) -> None:
    record = await launchable(provider, "m5.large")
    first = await launched(provider.fleet(), record, "same-1", "same-2", "same-3")
    assert len({made.instance_id for made in first.made}) == 3
    again = await launched(provider.fleet(), record, "same-1", "same-2", "same-3")
    assert {m.instance_id for m in again.made} == {m.instance_id for m in first.made}
    fleet = provider.fleet()
    assert len(await fleet.find(batch(fleet, record, "same-1", "same-2", "same-3"))) == 3
    for made in first.made:
        assert (made.instance_type, made.capacity_type) == ("m5.large", keys.ON_DEMAND)
        assert instance_id(made.provider_id) == made.instance_id


async def test_another_attempt_or_other_claims_are_another_launch(provider: Provider) -> None:
    fleet, record = provider.fleet(), await launchable(provider, "m5.large")
    again = msgspec.structs.replace(record, attempt=1)
    priced = msgspec.structs.replace(record, prices={"m5.large/eu-west-1a": 0.1})
    ids = [batch(fleet, r, *names).id for r, names in (
        (record, ("a",)), (again, ("a",)), (record, ("b",)), (record, ("a", "b")), (priced, ("a",)),
    )]  # fmt: skip
    assert len(set(ids)) == 4
    assert ids[0] == ids[4] == batch(provider.fleet(), record, "a").id
    assert all(len(one) <= 64 and one.isascii() for one in ids)


async def test_a_single_claims_instance_is_its_claims_from_the_first_moment(provider: Provider) -> None:
    fleet, record = provider.fleet(), await launchable(provider, "m5.large")
    (made,) = (await launched(fleet, record, "alone")).made
    (found,) = await fleet.find(batch(fleet, record, "alone"))
    assert (found.made.instance_id, found.claim_uid, found.alive) == (made.instance_id, "alone-uid", True)
    assert made.instance_id not in await fleet.unnamed()


async def test_instances_of_a_batch_are_nobodys_until_they_are_named(provider: Provider) -> None:
    fleet, record = provider.fleet(), await launchable(provider, "m5.large")
    together = batch(fleet, record, "name-1", "name-2")
    ids = sorted(made.instance_id for made in (await fleet.launch(record, together)).made)
    assert {i: b for i, b in (await fleet.unnamed()).items() if i in ids} == dict.fromkeys(ids, together.id)
    for number, one in enumerate(ids, 1):
        await fleet.name(one, f"name-{number}", f"name-{number}-uid", named=False)
    assert {f.claim_uid for f in await fleet.find(together)} == {"name-1-uid", "name-2-uid"}
    assert not set(ids) & set(await fleet.unnamed())
    shown = await provider.machines().describe(ids)
    assert [shown[one].claim for one in ids] == ["name-1", "name-2"]


async def test_an_ended_instance_does_not_come_back_when_its_launch_is_repeated(provider: Provider) -> None:
    fleet, machines = provider.fleet(), provider.machines()
    record = await launchable(provider, "m5.large")
    first = await launched(fleet, record, "end-1", "end-2")
    gone, kept = sorted(made.instance_id for made in first.made)
    await machines.terminate([gone])
    again = await launched(provider.fleet(), record, "end-1", "end-2")
    assert {made.instance_id for made in again.made} == {gone, kept}
    alive = {f.made.instance_id for f in await fleet.find(batch(fleet, record, "end-1", "end-2")) if f.alive}
    assert alive == {kept}


async def test_what_is_full_is_told_and_another_offering_taken(provider: Provider) -> None:
    provider.leave("m5.large", f"{REGION}a", 0)
    provider.leave("m5.large", f"{REGION}b", 0)
    (made,) = (await launched(provider.fleet(), await launchable(provider, "m5.large", spot=True), "x")).made
    assert (made.zone, made.capacity_type) == (f"{REGION}c", keys.SPOT)


async def test_half_of_what_was_asked_for_comes_with_the_refusals_of_the_rest(provider: Provider) -> None:
    for zone, left in (("a", 2), ("b", 0), ("c", 0)):
        provider.leave("m5.xlarge", f"{REGION}{zone}", left)
    record = await launchable(provider, "m5.xlarge")
    answer = await launched(provider.fleet(), record, *(f"half-{n}" for n in range(5)))
    assert len(answer.made) == 2
    assert {r.instance_type for r in answer.refusals} == {"m5.xlarge"}
    assert answer.error is None


async def test_no_capacity_at_all_is_a_refusal_of_every_offering(provider: Provider) -> None:
    for zone in "abc":
        provider.leave("m5.xlarge", f"{REGION}{zone}", 0)
    refused = await launched(provider.fleet(), await launchable(provider, "m5.xlarge"), "none")
    assert (refused.made, refused.error) == ((), None)
    assert {(r.instance_type, r.zone, r.capacity_type) for r in refused.refusals} == {
        ("m5.xlarge", f"{REGION}{z}", keys.ON_DEMAND) for z in "abc"
    }
    assert all(r.code for r in refused.refusals)


async def test_a_request_that_would_be_worded_otherwise_is_not_sent(provider: Provider) -> None:
    fleet, machines = provider.fleet(), provider.machines()
    theirs = batch(fleet, await launchable(provider, "m5.xlarge"), "worded")
    before = {i.id for i in await machines.list_ours()}
    with pytest.raises(IdempotencyMismatch):
        await fleet.launch(await launchable(provider, "m5.large"), theirs)
    assert {i.id for i in await machines.list_ours()} == before


async def test_a_lost_template_is_a_missing_object(provider: Provider) -> None:
    record = await launchable(provider, "m5.large")
    choice = msgspec.structs.replace(record.choices[0], template="no-such-template")
    with pytest.raises(NotFound):
        await launched(provider.fleet(), msgspec.structs.replace(record, choices=(choice,)), "lost")


# --- instances --------------------------------------------------------------------------------------------------------
async def test_only_a_clusters_own_instances_are_listed_with_what_is_known_of_them(
    provider: Provider,
) -> None:
    started = time.time()
    (ours,) = (await launched(provider.fleet(), await launchable(provider, "m5.large"), "mine")).made
    foreign = await launchable(provider, "m5.large", cluster_uid="theirs")
    (theirs,) = (await launched(provider.fleet("theirs"), foreign, "not-mine")).made
    machines = provider.machines()
    found = {i.id: i for i in await machines.list_ours()}
    assert theirs.instance_id not in found
    one = found[ours.instance_id]
    assert (one.claim, one.claim_uid, one.pool) == ("mine", "mine-uid", "general")
    assert (one.zone, one.instance_type, one.capacity_type) == (ours.zone, "m5.large", keys.ON_DEMAND)
    assert one.cluster_uid == machines.cluster_uid
    assert one.alive
    assert started - 5.0 < one.launched_at < time.time() + 5.0
    shown = await machines.describe([theirs.instance_id, NO_INSTANCE])
    assert set(shown) == {theirs.instance_id}
    assert shown[theirs.instance_id].cluster_uid not in ("", machines.cluster_uid)


async def test_terminating_skips_what_is_gone_and_ends_the_others(provider: Provider) -> None:
    answer = await launched(provider.fleet(), await launchable(provider, "m5.large"), "stop-1", "stop-2")
    one, two = (made.instance_id for made in answer.made)
    machines = provider.machines()
    await machines.terminate([one, NO_INSTANCE, two])
    assert not any(i.alive for i in (await machines.describe([one, two])).values())
    await machines.terminate([one])
    await machines.terminate([NO_INSTANCE])
    assert not {one, two} & {i.id for i in await machines.list_ours() if i.alive}


# --- KWOK's own -------------------------------------------------------------------------------------------------------
@pytest.mark.cluster
async def test_a_kwok_instance_becomes_a_ready_node_as_it_was_told_at_boot(kwok: Kwok, kube: Any) -> None:
    (made,) = (await launched(kwok.fleet(), await launchable(kwok, "m5.large"), "ready")).made
    path = f"/api/v1/nodes/{made.instance_id.removeprefix('i-')}"
    eventually(lambda: condition(kube.get(path), "Ready").get("status") == "True", within_s=60)
    node = kube.get(path)
    assert node["spec"]["providerID"] == made.provider_id
    assert node["metadata"]["labels"]["team"] == "a"
    assert node["metadata"]["labels"][keys.INSTANCE_TYPE] == "m5.large"
    assert keys.TAINT_UNREGISTERED in {taint["key"] for taint in node["spec"]["taints"]}

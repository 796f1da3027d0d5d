"""What a claim may be launched as, on a small market of real types."""

from typing import Any

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.networking import NetworkInterface
from nodeyard.api.node import NodeClaim
from nodeyard.api.nodeclass import Image, NodeClass, SecurityGroup
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.capacity import EFA
from nodeyard.cloudprovider.commitments import Marginal
from nodeyard.cloudprovider.market import FEED, Market, market_of
from nodeyard.cloudprovider.model import Catalogue, InstanceType
from nodeyard.cloudprovider.refusals import Refusal, Shut
from nodeyard.cloudprovider.resolve import resolve
from nodeyard.provisioning.claims import encode_offerings
from nodeyard.provisioning.launch_labels import boot_labels, resolved_labels
from nodeyard.provisioning.launches import (
    Choice,
    Launched,
    NothingToLaunch,
    NotReady,
    choose,
    little_choice,
    with_efa,
)
from nodeyard.provisioning.model import OfferingRef
from nodeyard.provisioning.unplanned import ORDER, offerings_for
from tests.support.catalogue import node_class, on_demand_sheet, small_market, spot_sheet, table_of

AMD = Image(
    "ami-amd",
    "",
    (
        Requirement(keys.ARCH, "In", ("amd64",)),
        Requirement("karpenter.k8s.aws/instance-gpu-count", "DoesNotExist"),
    ),
)
ARM = Image("ami-arm", "", (Requirement(keys.ARCH, "In", ("arm64",)),))
CLASS = node_class(security_groups=(SecurityGroup("sg"),), images=(AMD, ARM), resolved_profile="p")
CATALOGUE = resolve(small_market(), CLASS, now=0.0)


def claim(*requirements: Requirement, offers: tuple[OfferingRef, ...] = (), **fields: Any) -> NodeClaim:
    annotations = {keys.LAUNCH_OFFERINGS: encode_offerings(offers)} if offers else {}
    return NodeClaim("c", requirements=requirements, annotations=annotations, **fields)


def types(claim: NodeClaim, catalogue: Catalogue = CATALOGUE) -> set[tuple[str, str]]:
    return {(o.instance_type, o.capacity_type) for o in offerings_for(claim, catalogue)}


def test_a_free_claim_takes_spot_and_no_exotic_types() -> None:
    found = types(claim(requests={"cpu": 500}))
    assert {capacity for _, capacity in found} == {"spot"}
    assert "g4dn.xlarge" not in {kind for kind, _ in found}


def test_an_exotic_type_serves_where_nothing_else_does() -> None:
    assert types(claim(requests={"cpu": 500, "nvidia.com/gpu": 1})) == {("g4dn.xlarge", "spot")}


def test_requirements_and_labels_are_kept() -> None:
    asked = claim(
        Requirement(keys.CAPACITY_TYPE, "In", ("on-demand",)),
        Requirement(keys.ZONE, "In", ("eu-west-1b",)),
        Requirement(keys.ARCH, "In", ("arm64",)),
    )
    found = offerings_for(asked, CATALOGUE)
    assert {(o.zone, o.capacity_type) for o in found} == {("eu-west-1b", "on-demand")}
    assert {o.instance_type for o in found} == {"c7g.xlarge", "r6g.large"}


def test_the_pools_order_of_capacity_types_decides() -> None:
    found = offerings_for(claim(requests={"cpu": 500}), CATALOGUE, (keys.ON_DEMAND, keys.SPOT))
    assert {o.capacity_type for o in found} == {"on-demand"}


def test_what_was_refused_is_not_offered() -> None:
    shut = resolve(small_market(refusals=[Refusal(capacity_type="spot")]), CLASS, now=0.0)
    assert {capacity for _, capacity in types(claim(requests={"cpu": 500}), shut)} == {"on-demand"}


def test_spot_dearer_than_the_cheapest_on_demand_is_dropped() -> None:
    cheap = resolve(small_market(prices={"m5.large": 0.05}), CLASS, now=0.0)
    found = offerings_for(claim(Requirement(keys.ARCH, "In", ("amd64",))), cheap)
    assert {o.instance_type for o in found} == {"m5.large"}


def test_a_claim_that_wants_a_variety_keeps_exotic_and_dear_types() -> None:
    cheap = resolve(small_market(prices={"m5.large": 0.05}), CLASS, now=0.0)
    varied = claim(Requirement("karpenter.k8s.aws/instance-family", "Exists", (), 3))
    kinds = {o.instance_type for o in offerings_for(varied, cheap)}
    assert {"m5.large", "m5.xlarge", "g4dn.xlarge"} <= kinds
    assert {o.capacity_type for o in offerings_for(varied, cheap)} == {"spot"}


@pytest.mark.parametrize(
    ("order", "capacity_types", "shut", "warned"),
    [
        (ORDER, ("spot", "on-demand"), True, True),
        (ORDER, ("spot", "on-demand"), False, False),
        (ORDER, ("on-demand",), True, False),
        ((keys.ON_DEMAND, keys.SPOT), ("spot", "on-demand"), True, False),
    ],
)
def test_a_claim_that_falls_back_to_on_demand_with_few_types_is_warned_about(
    order: tuple[str, ...], capacity_types: tuple[str, ...], shut: bool, warned: bool
) -> None:
    refusals = [Refusal(capacity_type="spot")] if shut else []
    catalogue = resolve(small_market(refusals=refusals), CLASS, now=0.0)
    asked = claim(Requirement(keys.CAPACITY_TYPE, "In", capacity_types), requests={"cpu": 500})
    chosen = choose(asked, CLASS, catalogue, order=order)
    assert isinstance(chosen, Choice)
    assert bool(little_choice(asked, chosen, order)) == warned


def test_five_types_are_choice_enough() -> None:
    names = ("m5.large", "m5.xlarge", "m5.2xlarge", "c5.large", "c5.xlarge", "r5.large")
    market = small_market(table_of(*names), [Refusal(capacity_type="spot")])
    asked = claim(requests={"cpu": 500})
    chosen = choose(asked, CLASS, resolve(market, CLASS, now=0.0))
    assert isinstance(chosen, Choice)
    assert little_choice(asked, chosen) == ""


def test_prices_that_are_not_the_clouds_own_come_with_their_order() -> None:
    def chosen(capacity_type: str, market: Market) -> bool:
        asked = claim(Requirement(keys.CAPACITY_TYPE, "In", (capacity_type,)), requests={"cpu": 500})
        found = choose(asked, CLASS, resolve(market, CLASS, now=0.0))
        assert isinstance(found, Choice)
        return found.prioritized

    table = table_of()
    on_demand, spot = on_demand_sheet(table), spot_sheet(table)
    committed = {("m5.large", "eu-west-1a"): Marginal(1e-8, 1e-8)}
    market = market_of(table, on_demand, spot, Shut(), now=0.0, margins=committed)
    assert chosen("on-demand", market)
    assert not chosen("spot", market)
    fed = [msgspec.structs.replace(sheet, source=FEED) for sheet in (on_demand, spot)]
    market = market_of(table, *fed, Shut(), now=0.0)
    assert chosen("on-demand", market)
    assert chosen("spot", market)
    assert not chosen("on-demand", small_market())


def test_a_launch_groups_planned_offers_by_image_and_picks_subnets() -> None:
    offers = tuple(
        OfferingRef(kind, zone, "spot", price)
        for kind, zone, price in (
            ("m5.large", "eu-west-1a", 0.04),
            ("r6g.large", "eu-west-1b", 0.05),
            ("m5.large", "eu-west-1b", 0.06),
        )
    )
    chosen = choose(claim(offers=offers), CLASS, CATALOGUE)
    assert isinstance(chosen, Choice)
    assert [(image.id, rows) for image, rows in chosen.groups] == [
        (
            "ami-amd",
            (
                ("m5.large", "eu-west-1a", "subnet-eu-west-1a"),
                ("m5.large", "eu-west-1b", "subnet-eu-west-1b"),
            ),
        ),
        ("ami-arm", (("r6g.large", "eu-west-1b", "subnet-eu-west-1b"),)),
    ]
    assert chosen.prices["m5.large/eu-west-1a"] == 0.04


def test_only_offers_of_the_first_ones_capacity_type_are_launched() -> None:
    offers = (
        OfferingRef("m5.large", "eu-west-1a", "on-demand", 0.04),
        OfferingRef("m5.large", "eu-west-1a", "spot", 0.05),
    )
    chosen = choose(claim(offers=offers), CLASS, CATALOGUE)
    assert isinstance(chosen, Choice)
    assert chosen.capacity_type == "on-demand"
    assert sum(len(rows) for _, rows in chosen.groups) == 1


def test_a_full_subnet_shuts_its_zone_where_it_is_the_only_one() -> None:
    offers = (OfferingRef("m5.large", "eu-west-1a", "spot", 0.04),)
    chosen = choose(claim(offers=offers), CLASS, CATALOGUE, best_subnet=lambda among: None)
    assert isinstance(chosen, NothingToLaunch)
    assert chosen.refusals == (Refusal(code="InsufficientFreeAddressesInSubnet", subnet="subnet-eu-west-1a"),)


def test_a_launch_expects_the_pods_of_the_smallest_node_in_each_subnet() -> None:
    offers = (
        OfferingRef("m5.large", "eu-west-1a", "spot", 0.04),
        OfferingRef("m5.xlarge", "eu-west-1a", "spot", 0.05),
        OfferingRef("m5.xlarge", "eu-west-1b", "spot", 0.06),
    )
    chosen = choose(claim(offers=offers), CLASS, CATALOGUE)
    assert isinstance(chosen, Choice)
    assert chosen.addresses == {"subnet-eu-west-1a": 29, "subnet-eu-west-1b": 58}


def test_a_claim_that_asks_for_efa_gets_as_many_devices_as_each_type_has() -> None:
    kinds = [
        InstanceType("a", capacity={EFA: 2}),
        InstanceType("b", capacity={EFA: 1}),
        InstanceType("c", capacity={EFA: 2}),
    ]
    rows = [(kind.name, "eu-west-1a", "subnet") for kind in kinds]
    asking = claim(requests={EFA: 1})
    groups = with_efa(asking, CLASS, Catalogue(kinds), rows)
    shown = [
        (
            [(i.network_card_index, i.device_index, i.interface_type) for i in made_by.network_interfaces],
            [r[0] for r in part],
        )
        for made_by, part in groups
    ]
    assert shown == [([(0, 0, "efa"), (1, 1, "efa")], ["a", "c"]), ([(0, 0, "efa")], ["b"])]
    named = msgspec.structs.replace(CLASS, network_interfaces=(NetworkInterface(),))
    assert with_efa(asking, named, Catalogue(kinds), rows) == [(named, tuple(rows))]
    assert with_efa(claim(), CLASS, Catalogue(kinds), rows) == [(CLASS, tuple(rows))]


def test_a_type_that_no_image_boots_is_named() -> None:
    only_arm = msgspec.structs.replace(CLASS, images=(ARM,))
    chosen = choose(claim(offers=(OfferingRef("m5.large", "eu-west-1a", "spot", 0.04),)), only_arm, CATALOGUE)
    assert isinstance(chosen, NothingToLaunch)
    assert "m5.large" in chosen.message


def test_nothing_in_the_catalogue_fits() -> None:
    assert isinstance(choose(claim(requests={"cpu": 10**9}), CLASS, CATALOGUE), NothingToLaunch)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"subnets": ()}, "SubnetsNotFound"),
        ({"security_groups": ()}, "SecurityGroupsNotFound"),
        ({"images": ()}, "AMIsNotFound"),
        ({"resolved_profile": ""}, "InstanceProfileNotFound"),
        ({"deleting": True}, "NodeClassTerminating"),
        ({"problems": ("spec.role: bad",)}, "ValidationFailed"),
    ],
)
def test_an_incomplete_class_says_what_it_lacks(fields: dict[str, Any], reason: str) -> None:
    lacking: NodeClass = msgspec.structs.replace(CLASS, **fields)
    chosen = choose(claim(requests={"cpu": 500}), lacking, CATALOGUE)
    assert isinstance(chosen, NotReady)
    assert chosen.reason == reason


def test_labels_of_a_launch_tell_what_was_launched() -> None:
    made = Launched("i-1", "m5.large", "eu-west-1b", "spot", "ami")
    labels = resolved_labels(made, CATALOGUE.by_name["m5.large"], "eu-west-1")
    assert labels[keys.INSTANCE_TYPE] == "m5.large"
    assert labels[keys.ZONE_ID] == "euw1-az2"
    assert labels[keys.ARCH] == "amd64"
    assert labels["karpenter.k8s.aws/instance-family"] == "m5"
    assert made.provider_id == "aws:///eu-west-1b/i-1"


def test_boot_labels_are_the_same_before_and_after_a_launch() -> None:
    made = Launched("i-1", "m5.large", "eu-west-1b", "spot", "ami")
    before = claim(labels={"team": "a", keys.NODEPOOL: "web"})
    after = claim(
        labels={**resolved_labels(made, CATALOGUE.by_name["m5.large"], "eu-west-1"), **before.labels}
    )
    kept = {k: v for k, v in boot_labels(after, "spot").items() if not k.startswith("karpenter.k8s.aws/")}
    assert (
        kept == boot_labels(before, "spot") == {"team": "a", keys.NODEPOOL: "web", keys.CAPACITY_TYPE: "spot"}
    )

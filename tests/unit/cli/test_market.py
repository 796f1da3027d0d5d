"""Where `nodeyard plan` buys: each node class sees the market in its own way."""

from __future__ import annotations

import pytest

from nodeyard.cli.files import InputError
from nodeyard.cli.market import catalogues, catalogues_of, simulated
from nodeyard.state.manifests import snapshot_from
from tests.support.catalogue import small_market
from tests.support.manifests import pool

CLASS = {
    "apiVersion": "karpenter.k8s.aws/v1",
    "kind": "EC2NodeClass",
    "metadata": {"name": "default"},
    "spec": {"amiSelectorTerms": [{"alias": "al2023@latest"}], "role": "r",
             "subnetSelectorTerms": [{"tags": {"a": "b"}}], "securityGroupSelectorTerms": [{"tags": {"a": "b"}}],
             "kubelet": {"maxPods": 17}},
    "status": {"subnets": [{"id": "subnet-1", "zone": "eu-west-1b", "zoneID": "euw1-az2"}]},
}  # fmt: skip


def test_a_class_that_is_not_in_the_input_is_offered_every_zone() -> None:
    found = catalogues_of(small_market(), snapshot_from([pool()]), 0.0)["default"]
    assert {o.zone for t in found.types for o in t.offerings} == {"eu-west-1a", "eu-west-1b", "eu-west-1c"}


def test_a_class_sees_its_subnets_zones_and_its_kubelets_settings() -> None:
    found = catalogues_of(small_market(), snapshot_from([pool(), CLASS]), 0.0)["default"]
    assert {o.zone for t in found.types for o in t.offerings} == {"eu-west-1b"}
    assert {t.allocatable["pods"] for t in found.types} == {17}


def test_the_simulated_account_sells_more_than_a_thousand_types_on_spot_and_on_demand() -> None:
    market = simulated("eu-west-1")
    assert len(market.table.types) > 1000
    rows = {market.table.rows[i][2] for i, row in enumerate(market.rows) if row.available}
    assert rows == {"on-demand", "spot"}
    assert market.revision == simulated("eu-west-1").revision


def test_an_unknown_region_and_two_sources_at_once_are_refused() -> None:
    with pytest.raises(InputError, match="--region mars-1"):
        simulated("mars-1")
    with pytest.raises(InputError, match="give one of them"):
        catalogues(snapshot_from([pool()]), file="a", pricing="b", region="", now=0.0)

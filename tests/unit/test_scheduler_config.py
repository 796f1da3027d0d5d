"""The cluster's default spread comes from the scheduler's configuration, and nonsense in it is named by field."""

from typing import Any

import pytest

from nodeyard.api.reading import ConversionError
from nodeyard.api.scheduler_config import default_spread_of

Json = dict[str, Any]
ZONES: Json = {
    "maxSkew": 2,
    "topologyKey": "topology.kubernetes.io/zone",
    "whenUnsatisfiable": "ScheduleAnyway",
}


def configuration(*constraints: Json, defaulting: str = "List", scheduler: str = "default-scheduler") -> Json:
    args = {"defaultConstraints": list(constraints), "defaultingType": defaulting}
    plugins = [{"name": "NodeAffinity", "args": {}}, {"name": "PodTopologySpread", "args": args}]
    profile = {"schedulerName": scheduler, "pluginConfig": plugins}
    return {"kind": "KubeSchedulerConfiguration", "profiles": [profile]}


def test_default_constraints_of_the_profile_are_read() -> None:
    (found,) = default_spread_of(configuration(ZONES))
    assert (found.max_skew, found.topology_key, found.when_unsatisfiable) == tuple(ZONES.values())
    assert default_spread_of(configuration(ZONES, scheduler="other")) == ()
    assert default_spread_of(configuration(ZONES, scheduler="other"), "other") == (found,)


def test_no_profile_or_plugin_means_no_default() -> None:
    assert default_spread_of({"kind": "KubeSchedulerConfiguration"}) == ()
    assert default_spread_of({"kind": "KubeSchedulerConfiguration", "profiles": [{}]}) == ()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "ConfigMap"}, "kind: 'ConfigMap' is not KubeSchedulerConfiguration"),
        (configuration({**ZONES, "labelSelector": {}}), r"pluginConfig\[1\].args.defaultConstraints\[0\].labelSelector: must not be set"),
        (configuration({**ZONES, "matchLabelKeys": ["a"]}), r"matchLabelKeys: must not be set"),
        (configuration({**ZONES, "maxSkew": 0}), "maxSkew: 0 is not above 0"),
        (configuration({**ZONES, "maxSkew": "two"}), r"profiles\[0\].pluginConfig\[1\].args.defaultConstraints"),
        (configuration({**ZONES, "whenUnsatisfiable": "Never"}), "whenUnsatisfiable: 'Never' is neither"),
        (configuration(ZONES, defaulting="System"), "defaultingType: must be List"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named_by_its_field(wrong: Json, says: str) -> None:
    with pytest.raises(ConversionError, match=says):
        default_spread_of(wrong)

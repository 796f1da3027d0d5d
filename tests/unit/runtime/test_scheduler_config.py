"""Services are told the cluster's default spread by a file or by the document itself, or do not start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeyard.runtime.lifecycle import StartError
from nodeyard.runtime.scheduler_config import default_spread_told


def configuration(**constraint: Any) -> dict[str, Any]:
    given = {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", **constraint}
    args = {"defaultingType": "List", "defaultConstraints": [given]}
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "profiles": [{"pluginConfig": [{"name": "PodTopologySpread", "args": args}]}],
    }


def test_a_file_and_the_document_itself_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.yaml"
    path.write_text(yaml.safe_dump(configuration()))
    told = default_spread_told(str(path))
    assert [(c.topology_key, c.max_skew, c.when_unsatisfiable) for c in told] == [
        ("zone", 2, "ScheduleAnyway")
    ]
    assert default_spread_told(json.dumps(configuration())) == told
    assert default_spread_told("") == ()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("/absent/scheduler.yaml", "/absent/scheduler.yaml: No such file"),
        ("{", "NODEYARD_SCHEDULER_CONFIG: "),
        (json.dumps({"kind": "Pod"}), "kind: 'Pod' is not KubeSchedulerConfiguration"),
        (json.dumps(configuration(maxSkew=0)), "maxSkew: 0 is not above 0"),
    ],
)
def test_what_makes_no_sense_keeps_the_service_from_starting(setting: str, says: str) -> None:
    with pytest.raises(StartError, match=says):
        default_spread_told(setting)

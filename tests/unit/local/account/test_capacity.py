from __future__ import annotations

import pytest
from moto.ec2.models.instance_types import INSTANCE_TYPES

from nodeyard.local.account.machines.capacity import Resources, amount, max_pods, measure, shown
from nodeyard.local.account.machines.userdata import Boot, BootError

MIB = 1024**2


def measured(name: str, boot: Boot | None = None, missing: float = 0.0, disk_gib: int = 20) -> Resources:
    return measure(INSTANCE_TYPES[name], boot or Boot(), disk_gib=disk_gib, memory_missing_fraction=missing)


def test_pods_follow_the_network_interfaces():
    assert max_pods(INSTANCE_TYPES["m5.large"], Boot()) == 29
    assert max_pods(INSTANCE_TYPES["t3.micro"], Boot()) == 4
    assert max_pods(INSTANCE_TYPES["m5.24xlarge"], Boot()) == 737


def test_pods_follow_what_the_kubelet_was_told():
    assert max_pods(INSTANCE_TYPES["m5.large"], Boot(max_pods=110)) == 110
    assert max_pods(INSTANCE_TYPES["m5.large"], Boot(max_pods=110, pods_per_core=10)) == 20


def test_memory_is_less_than_nominal_by_the_dial():
    full, real = measured("m5.large"), measured("m5.large", missing=0.07)
    assert full.capacity["memory"] == 8192 * MIB
    assert real.capacity["memory"] == pytest.approx(8192 * MIB * 0.93, rel=1e-5)


def test_the_kubelet_reserves_by_pods_and_cores():
    found = measured("m5.large")
    assert found.capacity["memory"] - found.allocatable["memory"] == (11 * 29 + 255 + 100) * MIB
    assert found.allocatable["cpu"] == 1930
    assert measured("m5.4xlarge").allocatable["cpu"] == 15_890


def test_own_reservations_and_thresholds_replace_the_defaults():
    boot = Boot(
        kube_reserved={"cpu": "200m", "memory": "1Gi"},
        system_reserved={"memory": "100Mi"},
        eviction_hard={"memory.available": "5%"},
    )
    found = measured("m5.large", boot)
    assert found.allocatable["cpu"] == 1800
    assert found.capacity["memory"] - found.allocatable["memory"] == pytest.approx(
        1024 * MIB + 100 * MIB + 0.05 * 8192 * MIB, rel=1e-6
    )


def test_disk_is_the_root_volume_or_the_local_disks_in_raid():
    assert measured("m5.large", disk_gib=50).capacity["ephemeral-storage"] == 50 * 1024**3
    assert measured("m5d.large", Boot(raid0=True)).capacity["ephemeral-storage"] == 75 * 10**9


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("g4dn.12xlarge", {"nvidia.com/gpu": 4}),
        ("inf2.24xlarge", {"aws.amazon.com/neuron": 6, "aws.amazon.com/neuroncore": 12}),
        ("m5.large", {}),
    ],
)
def test_devices_are_found_by_the_types_description(name: str, devices: dict[str, int]):
    found = measured(name).devices
    assert {key: value for key, value in found.items() if key != "vpc.amazonaws.com/efa"} == devices


def test_every_type_can_be_measured():
    for name, found in INSTANCE_TYPES.items():
        resources = measure(found, Boot(), disk_gib=20, memory_missing_fraction=0.065)
        assert resources.capacity["pods"] > 0, name
        assert all(resources.allocatable[key] <= resources.capacity[key] for key in resources.capacity), name


def test_quantities_round_up():
    assert amount("cpu", "0.1") == 100
    assert amount("cpu", "1m") == 1
    assert amount("memory", "1Ki") == 1024
    assert amount("memory", "0.5") == 1
    with pytest.raises(BootError, match="many"):
        amount("memory", "many")


def test_amounts_are_shown_as_a_node_shows_them():
    assert shown({"cpu": 1930, "memory": 2048, "pods": 29}) == {"cpu": "1930m", "memory": "2Ki", "pods": "29"}
    assert shown({"cpu": 2000}) == {"cpu": "2"}

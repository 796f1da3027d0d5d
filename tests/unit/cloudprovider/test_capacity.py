"""Capacity and allocatable against hand-picked facts of real types, and the settings that change them.

The expected figures are Karpenter's published ones for AL2023 (instance type reference), read by hand.
"""

from __future__ import annotations

import pytest

from nodeyard.api.nodeclass import BlockDevice, BlockDeviceMapping, Kubelet, NodeClass
from nodeyard.api.quantity import Resources, parse, render_all
from nodeyard.cloudprovider.capacity import (
    allocatable_of,
    capacity_of,
    interface_limited_pods,
    problems_of,
    reservations_of,
)
from tests.support.catalogue import described

GIB = 2**30
MIB = 2**20

# type: (memory capacity, pods, pod-eni, cpu allocatable, memory allocatable)
AL2023 = {
    "t3.nano": ("473Mi", 4, 0, "1930m", "74Mi"),
    "t2.micro": ("947Mi", 4, 0, "940m", "548Mi"),
    "m5d.large": ("7577Mi", 29, 9, "1930m", "6903Mi"),
    "m7i-flex.large": ("7577Mi", 29, 3, "1930m", "6903Mi"),
    "a1.2xlarge": ("15096Mi", 58, 38, "7910m", "14103Mi"),
    "a1.4xlarge": ("30251Mi", 234, 54, "15890m", "27322Mi"),
    "g5.xlarge": ("15155Mi", 58, 4, "3920m", "14162Mi"),
    "inf2.xlarge": ("15155Mi", 58, 18, "3920m", "14162Mi"),
    "c7gn.metal": ("121182Mi", 737, 107, "63770m", "112720Mi"),
    "g4dn.metal": ("363724Mi", 737, 107, "95690m", "355262Mi"),
    "i3en.metal": ("727449Mi", 737, 107, "95690m", "718987Mi"),
    "p4d.24xlarge": ("1091174Mi", 737, 62, "95690m", "1082712Mi"),
    "inf1.24xlarge": ("181862Mi", 321, 111, "95690m", "177976Mi"),
}


def worked_out(name: str, node_class: NodeClass | None = None) -> tuple[Resources, Resources]:
    settings = reservations_of(node_class or NodeClass("default"))
    capacity = capacity_of(described(name), settings)
    return capacity, allocatable_of(described(name), settings, capacity)


@pytest.mark.parametrize("name", AL2023)
def test_a_real_type_has_the_published_figures_under_al2023(name: str) -> None:
    capacity, allocatable = worked_out(name)
    seen, left = render_all(capacity), render_all(allocatable)
    memory, pods, pod_eni, cpu, memory_left = AL2023[name]
    assert parse("memory", seen["memory"]) == parse("memory", memory)
    assert parse("memory", left["memory"]) == parse("memory", memory_left)
    assert (int(seen["pods"]), int(seen.get("vpc.amazonaws.com/pod-eni", 0)), left["cpu"]) == (
        pods,
        pod_eni,
        cpu,
    )
    assert (seen["ephemeral-storage"], left["ephemeral-storage"]) == ("20Gi", "17Gi")


@pytest.mark.parametrize(
    ("name", "resources"),
    [
        ("g5.xlarge", {"nvidia.com/gpu": 1}),
        ("g4dn.metal", {"nvidia.com/gpu": 8, "vpc.amazonaws.com/efa": 1}),
        ("p4d.24xlarge", {"nvidia.com/gpu": 8, "vpc.amazonaws.com/efa": 4}),
        ("inf2.xlarge", {"aws.amazon.com/neuron": 1, "aws.amazon.com/neuroncore": 2}),
        ("inf1.24xlarge", {"aws.amazon.com/neuron": 16, "aws.amazon.com/neuroncore": 64}),
        ("trn1.32xlarge", {"aws.amazon.com/neuron": 16, "aws.amazon.com/neuroncore": 32}),
    ],
)
def test_devices_are_counted_and_wholly_allocatable(name: str, resources: Resources) -> None:
    capacity, allocatable = worked_out(name)
    for resource, count in resources.items():
        assert capacity[resource] == allocatable[resource] == count


def test_a_fraction_of_a_gpu_does_not_pass_for_a_gpu() -> None:
    assert "nvidia.com/gpu" not in worked_out("g6f.large")[0]


def test_other_makers_chips_are_not_neuron_devices() -> None:
    assert "aws.amazon.com/neuron" not in worked_out("dl2q.24xlarge")[0]


def test_max_pods_bounds_pods_but_al2023_still_reserves_for_what_interfaces_allow() -> None:
    few = NodeClass("default", kubelet=Kubelet(max_pods=10))
    capacity, allocatable = worked_out("a1.4xlarge", few)
    assert capacity["pods"] == 10
    assert allocatable["memory"] == worked_out("a1.4xlarge")[1]["memory"]


def test_bottlerocket_reserves_for_the_pods_that_are_allowed() -> None:
    few = NodeClass("default", ami_family="Bottlerocket", kubelet=Kubelet(max_pods=10))
    capacity, allocatable = worked_out("a1.4xlarge", few)
    assert allocatable["memory"] == capacity["memory"] - (11 * 10 + 255 + 100) * MIB


def test_pods_per_core_lowers_but_never_raises() -> None:
    assert worked_out("m5.large", NodeClass("x", kubelet=Kubelet(pods_per_core=4)))[0]["pods"] == 8
    assert worked_out("m5.large", NodeClass("x", kubelet=Kubelet(pods_per_core=40)))[0]["pods"] == 29
    both = Kubelet(pods_per_core=4, max_pods=100)
    assert worked_out("m5.large", NodeClass("x", kubelet=both))[0]["pods"] == 8


def test_bottlerocket_does_not_know_pods_per_core() -> None:
    asked = NodeClass("x", ami_family="Bottlerocket", kubelet=Kubelet(pods_per_core=4))
    assert worked_out("m5.large", asked)[0]["pods"] == 29


def test_windows_has_its_own_pod_limit_disk_and_addresses() -> None:
    capacity, _ = worked_out("m5.large", NodeClass("x", ami_family="Windows2022"))
    assert capacity["pods"] == 110
    assert capacity["ephemeral-storage"] == 50 * GIB
    assert capacity["vpc.amazonaws.com/PrivateIPv4Address"] == 9


def test_kube_reserved_replaces_and_system_reserved_adds() -> None:
    kubelet = Kubelet(kube_reserved={"cpu": "500m"}, system_reserved={"cpu": "100m", "memory": "1Gi"})
    _, allocatable = worked_out("m5.large", NodeClass("x", kubelet=kubelet))
    _, plain = worked_out("m5.large")
    assert allocatable["cpu"] == 2000 - 500 - 100
    assert allocatable["memory"] == plain["memory"] - GIB


@pytest.mark.parametrize(
    ("signal", "kept"), [("200Mi", 200 * MIB), ("5%", None), ("100%", 0), ("0%", 0), ("0", 0)]
)
def test_eviction_keeps_memory_free_by_quantity_or_share(signal: str, kept: int | None) -> None:
    hard = NodeClass("x", kubelet=Kubelet(eviction_hard={"memory.available": signal}))
    capacity, allocatable = worked_out("m5.large", hard)
    if kept is None:
        kept = -(-capacity["memory"] * 5 // 100)
    assert allocatable["memory"] == capacity["memory"] - (11 * 29 + 255) * MIB - kept


def test_huge_pages_are_taken_from_what_pods_get_of_the_memory() -> None:
    settings = reservations_of(NodeClass("any"))
    capacity, allocatable = worked_out("m5.large")
    paged = allocatable_of(described("m5.large"), settings, capacity | {"hugepages-2Mi": 2 * 2**30})
    assert allocatable["memory"] - paged["memory"] == paged["hugepages-2Mi"] == 2 * 2**30


def test_soft_eviction_changes_nothing() -> None:
    soft = NodeClass("x", kubelet=Kubelet(eviction_soft={"memory.available": "2Gi"}))
    assert worked_out("m5.large", soft) == worked_out("m5.large")


def test_pods_storage_is_the_family_s_own_device() -> None:
    def mapped(family: str, device: str, *, root: bool = False) -> int:
        mapping = BlockDeviceMapping(device, root, BlockDevice(volume_size="100Gi"))
        found = NodeClass("x", ami_family=family, block_device_mappings=(mapping,))
        return worked_out("m5.large", found)[0]["ephemeral-storage"] // GIB

    assert mapped("AL2023", "/dev/xvda") == 100
    assert mapped("AL2023", "/dev/xvdb") == 20
    assert mapped("Bottlerocket", "/dev/xvda") == 20
    assert mapped("Bottlerocket", "/dev/xvdb") == 100
    assert mapped("Bottlerocket", "/dev/other", root=True) == 100
    assert mapped("Custom", "/dev/anything") == 100


def test_a_raid_of_instance_store_becomes_the_ephemeral_storage() -> None:
    raid = NodeClass("x", instance_store_policy="RAID0")
    assert worked_out("m5d.large", raid)[0]["ephemeral-storage"] == 75 * 10**9
    assert worked_out("m5.large", raid)[0]["ephemeral-storage"] == 20 * GIB


def test_nothing_left_is_zero_and_not_less() -> None:
    greedy = NodeClass("x", kubelet=Kubelet(kube_reserved={"memory": "1Ti"}))
    assert worked_out("m5.large", greedy)[1]["memory"] == 0


def test_interfaces_held_back_lower_the_pods() -> None:
    assert interface_limited_pods(described("m5.large"), reserved_interfaces=1) == 2 * 9 + 2
    assert interface_limited_pods(described("m5.large"), reserved_interfaces=3) == 0


@pytest.mark.parametrize(
    ("kubelet", "field"),
    [
        (Kubelet(kube_reserved={"cpu": "lots"}), "kubelet.kubeReserved"),
        (Kubelet(system_reserved={"memory": "1GiB"}), "kubelet.systemReserved"),
        (Kubelet(eviction_hard={"memory.available": "five%"}), "kubelet.evictionHard[memory.available]"),
        (Kubelet(eviction_hard={"nodefs.available": "150%"}), "kubelet.evictionHard[nodefs.available]"),
    ],
)
def test_a_setting_that_cannot_be_understood_is_named(kubelet: Kubelet, field: str) -> None:
    problems = problems_of(NodeClass("x", kubelet=kubelet))
    assert len(problems) == 1
    assert field in problems[0]


def test_a_volume_size_that_cannot_be_understood_is_named() -> None:
    mapping = BlockDeviceMapping("/dev/xvda", ebs=BlockDevice(volume_size="big"))
    (problem,) = problems_of(NodeClass("x", block_device_mappings=(mapping,)))
    assert "/dev/xvda" in problem

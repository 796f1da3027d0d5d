"""A v1alpha5 Provisioner means what it meant: its defaults, its preferences, its strictness."""

from typing import Any

import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClassRef
from nodeyard.api.nodeclass import NodeClass, SelectorTerm
from nodeyard.api.pool import WHEN_EMPTY, WHEN_UNDERUTILIZED, Pool
from nodeyard.api.provisioner import pool_of_provisioner
from nodeyard.api.reading import ConversionError
from nodeyard.api.selectors import Requirement, Taint

GETTING_STARTED: dict[str, Any] = {
    "apiVersion": "karpenter.sh/v1alpha5",
    "kind": "Provisioner",
    "metadata": {"name": "default", "uid": "u1", "resourceVersion": "7", "generation": 2},
    "spec": {
        "requirements": [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}],
        "limits": {"resources": {"cpu": 1000}},
        "provider": {"instanceProfile": "KarpenterNodeInstanceProfile-demo"},
        "ttlSecondsAfterEmpty": 30,
    },
}


def provisioner(**spec: Any) -> dict[str, Any]:
    whole = {"provider": {"instanceProfile": "p"}, **spec}
    return {**GETTING_STARTED, "spec": {key: value for key, value in whole.items() if value is not None}}


def converted(**spec: Any) -> tuple[Pool, NodeClass]:
    pool, node_class = pool_of_provisioner(provisioner(**spec), "demo")
    assert node_class is not None
    return pool, node_class


def values_of(pool: Pool, key: str) -> tuple[str, ...]:
    (found,) = [r for r in pool.requirements if r.key == key]
    assert found.operator == "In"
    return found.values


def test_the_getting_started_provisioner_becomes_a_pool_with_the_older_defaults() -> None:
    pool, node_class = pool_of_provisioner(GETTING_STARTED, "demo")
    assert pool.problems == ()
    assert pool.key == "provisioner/default"
    assert (pool.uid, pool.resource_version, pool.generation) == ("u1", "7", 2)
    assert pool.node_class == NodeClassRef("default", "Provisioner", "karpenter.sh")
    assert pool.node_class.key == "provisioner/default"
    assert values_of(pool, keys.CAPACITY_TYPE) == ("spot",)
    assert values_of(pool, keys.ARCH) == ("amd64",)
    assert values_of(pool, keys.OS) == ("linux",)
    assert pool.limits == {"cpu": 1_000_000}
    assert pool.limits_inclusive is False
    assert pool.capacity_type_order == ("on-demand", "spot")
    assert (pool.disruption.policy, pool.disruption.consolidate_after_s) == (WHEN_EMPTY, 30.0)
    assert pool.expire_after_s is None
    assert node_class is not None
    assert node_class.key == "provisioner/default"
    own = (SelectorTerm(tags={"kubernetes.io/cluster/demo": "*"}),)
    assert node_class.subnet_terms == own
    assert node_class.security_group_terms == own
    assert node_class.instance_profile == "KarpenterNodeInstanceProfile-demo"


def test_bytes_and_dictionaries_mean_the_same() -> None:
    import msgspec

    assert pool_of_provisioner(msgspec.json.encode(GETTING_STARTED), "demo") == pool_of_provisioner(
        GETTING_STARTED, "demo"
    )


def test_nothing_said_means_on_demand_amd64_and_nodes_that_stay() -> None:
    pool, _ = converted()
    assert values_of(pool, keys.CAPACITY_TYPE) == ("on-demand",)
    assert values_of(pool, keys.ARCH) == ("amd64",)
    assert pool.disruption.consolidate_after_s is None
    assert pool.expire_after_s is None
    assert pool.limits == {}


def test_a_label_says_the_architecture_as_well_as_a_requirement_does() -> None:
    pool, _ = converted(labels={"kubernetes.io/arch": "arm64", "team": "a"})
    assert values_of(pool, keys.ARCH) == ("arm64",)
    assert pool.labels == {"kubernetes.io/arch": "arm64", "team": "a"}
    assert not [r for r in pool.requirements if r.key == "team"]


def test_deprecated_keys_are_read_as_their_successors() -> None:
    pool, _ = converted(
        requirements=[{"key": "beta.kubernetes.io/arch", "operator": "NotIn", "values": ["amd64"]}],
        labels={"failure-domain.beta.kubernetes.io/zone": "eu-west-1a"},
    )
    assert Requirement(keys.ARCH, "NotIn", ("amd64",)) in pool.requirements
    assert values_of(pool, keys.ZONE) == ("eu-west-1a",)


def test_times_to_live_are_copied_and_zero_is_a_time() -> None:
    pool, _ = converted(ttlSecondsAfterEmpty=0, ttlSecondsUntilExpired=2592000)
    assert pool.disruption.consolidate_after_s == 0.0
    assert pool.expire_after_s == 2592000.0


def test_consolidation_is_on_only_where_it_is_enabled() -> None:
    on, _ = converted(consolidation={"enabled": True})
    off, _ = converted(consolidation={"enabled": False}, ttlSecondsAfterEmpty=5)
    assert (on.disruption.policy, on.disruption.consolidate_after_s) == (WHEN_UNDERUTILIZED, 0.0)
    assert (off.disruption.policy, off.disruption.consolidate_after_s) == (WHEN_EMPTY, 5.0)
    assert off.problems == ()


def test_emptiness_has_no_budget() -> None:
    pool, _ = converted(ttlSecondsAfterEmpty=30)
    assert [b.nodes for b in pool.disruption.budgets] == ["100%"]


def test_the_image_family_is_al2023_with_a_warning_unless_one_is_named() -> None:
    pool, node_class = converted()
    assert node_class.ami_family == "AL2023"
    assert node_class.ami_terms == (SelectorTerm(alias="al2023@latest"),)
    assert any("amiFamily" in warning and "AL2023" in warning for warning in pool.warnings)
    pool, node_class = converted(provider={"instanceProfile": "p", "amiFamily": "Bottlerocket"})
    assert node_class.ami_terms == (SelectorTerm(alias="bottlerocket@latest"),)
    assert pool.warnings == ()


def test_al2_is_kept_where_it_is_named() -> None:
    pool, node_class = converted(provider={"instanceProfile": "p", "amiFamily": "AL2"})
    assert (node_class.ami_family, pool.problems) == ("AL2", ())
    assert pool.warnings


def test_a_launch_template_brings_image_and_groups_and_says_what_it_displaces() -> None:
    pool, node_class = converted(
        provider={
            "instanceProfile": "p",
            "launchTemplate": "mine",
            "securityGroupSelector": {"Name": "x"},
            "amiFamily": "AL2",
        }
    )
    assert node_class.launch_template == "mine"
    assert (node_class.ami_terms, node_class.security_group_terms) == ((), ())
    assert node_class.subnet_terms
    assert pool.problems == ()
    assert sorted(w.split(":")[0] for w in pool.warnings) == [
        "spec.provider.amiFamily",
        "spec.provider.securityGroupSelector",
    ]


def test_a_selector_map_is_one_term_and_ids_are_several() -> None:
    _, node_class = converted(
        provider={
            "instanceProfile": "p",
            "subnetSelector": {"Name": "private-*", "tier": "a"},
            "securityGroupSelector": {"aws-ids": "sg-1, sg-2"},
        }
    )
    assert node_class.subnet_terms == (SelectorTerm(tags={"Name": "private-*", "tier": "a"}),)
    assert node_class.security_group_terms == (SelectorTerm(id="sg-1"), SelectorTerm(id="sg-2"))


def test_a_taint_without_an_effect_is_taken_for_no_schedule_and_said() -> None:
    pool, _ = converted(
        taints=[{"key": "dedicated", "value": "gpu"}], startupTaints=[{"key": "a", "effect": "NoExecute"}]
    )
    assert pool.taints == (Taint("dedicated", "NoSchedule", "gpu"),)
    assert pool.startup_taints == (Taint("a", "NoExecute"),)
    assert pool.problems == ()
    assert any(w.startswith("spec.taints[0]") for w in pool.warnings)


def test_kubelet_settings_are_read_and_the_rest_is_named() -> None:
    pool, node_class = converted(
        kubeletConfiguration={"maxPods": 20, "clusterDNS": ["10.0.1.100"], "containerRuntime": "containerd"}
    )
    assert (node_class.kubelet.max_pods, node_class.kubelet.cluster_dns) == (20, ("10.0.1.100",))
    assert any("containerRuntime" in w for w in pool.warnings)


def test_settings_of_later_versions_are_passed_on() -> None:
    soft = {
        "evictionSoft": {"memory.available": "1Gi"},
        "evictionSoftGracePeriod": {"memory.available": "1m"},
    }
    pool, node_class = converted(
        kubeletConfiguration=soft,
        provider={"instanceProfile": "p", "amiFamily": "Bottlerocket", "context": "c"},
    )
    assert node_class.kubelet.eviction_soft_grace_period == {"memory.available": "1m"}
    assert node_class.context == "c"
    assert pool.warnings == pool.problems == ()


def test_what_was_found_in_the_account_is_read_back_from_the_status() -> None:
    raw = {**provisioner(), "status": {"nodeClass": {"subnets": [{"id": "subnet-1", "zone": "a", "zoneID": "z1"}],
           "securityGroups": [{"id": "sg-1"}], "amis": [{"id": "ami-1"}], "instanceProfile": "p",
           "conditions": [{"type": "Ready", "status": "True"}]}, "resources": {"cpu": "4", "nodes": 2}}}  # fmt: skip
    pool, node_class = pool_of_provisioner(raw)
    assert node_class is not None
    assert [s.zone_id for s in node_class.subnets] == ["z1"]
    assert [g.id for g in node_class.security_groups] == ["sg-1"]
    assert [i.id for i in node_class.images] == ["ami-1"]
    assert node_class.conditions[0].status == "True"
    assert pool.resources == {"cpu": 4000, "nodes": 2}


def test_an_ec2nodeclass_may_be_referred_to() -> None:
    pool, node_class = pool_of_provisioner(
        provisioner(provider=None, providerRef={"name": "shared", "kind": "EC2NodeClass"})
    )
    assert node_class is None
    assert (pool.node_class, pool.problems) == (NodeClassRef("shared"), ())


def test_a_node_template_may_be_referred_to_by_its_name_alone() -> None:
    pool, node_class = pool_of_provisioner(provisioner(provider=None, providerRef={"name": "shared"}))
    assert node_class is None
    assert (pool.node_class.key, pool.problems) == ("awsnodetemplate/shared", ())
    assert pool.node_class.group == "karpenter.k8s.aws"


def test_kubelet_settings_beside_a_reference_are_refused_rather_than_left_out() -> None:
    ref = {"name": "shared"}
    pool, _ = pool_of_provisioner(
        provisioner(provider=None, providerRef=ref, kubeletConfiguration={"maxPods": 20})
    )
    assert any("spec.kubeletConfiguration" in problem for problem in pool.problems)
    pool, _ = pool_of_provisioner(
        provisioner(provider=None, providerRef=ref, kubeletConfiguration={"containerRuntime": "containerd"})
    )
    assert pool.problems == ()
    assert any("containerRuntime" in warning for warning in pool.warnings)


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"provider": None}, "spec.provider"),
        ({"provider": {}}, "spec.provider.instanceProfile"),
        ({"provider": {"instanceProfile": "p", "instanceTypes": ["m5.large"]}}, "instanceTypes"),
        ({"provider": {"instanceProfile": 3}}, "spec.provider.instanceProfile"),
        ({"provider": {"instanceProfile": "p", "kind": "GCP"}}, "spec.provider.kind"),
        ({"provider": {"instanceProfile": "p", "tags": {"Name": "x"}}}, "spec.provider.tags[Name]"),
        ({"provider": {"instanceProfile": "p", "tags": {"a": ""}}}, "spec.provider.tags[a]"),
        ({"provider": {"instanceProfile": "p", "subnetSelector": {"a": ""}}}, "spec.provider.subnetSelector"),
        ({"provider": {"instanceProfile": "p", "amiFamily": "Ubuntu"}}, "spec.provider.amiFamily"),
        ({"provider": None, "providerRef": {"name": "x", "kind": "GCENodeTemplate"}}, "GCENodeTemplate"),
        ({"ttlSecondsAfterEmpty": -1}, "spec.ttlSecondsAfterEmpty"),
        ({"ttlSecondsUntilExpired": -1}, "spec.ttlSecondsUntilExpired"),
        ({"ttlSecondsAfterEmpty": 1, "consolidation": {"enabled": True}}, "consolidation"),
        ({"limits": {"resources": {"cpu": "many"}}}, "spec.limits.resources.cpu"),
        ({"labels": {"kubernetes.io/hostname": "x"}}, "spec.labels[kubernetes.io/hostname]"),
        ({"requirements": [{"key": "a.kubernetes.io/b", "operator": "Exists"}]}, "a.kubernetes.io/b"),
        ({"requirements": [{"key": "karpenter.k8s.aws/instance-cpu", "operator": "Gte", "values": ["4"]}]}, "Gte"),
        ({"taints": [{"key": "a", "effect": "Sometimes"}]}, "spec.taints[0]"),
        ({"kubeletConfiguration": {"kubeReserved": {"cpu": "x"}}}, "kubeReserved"),
        ({"weight": 101}, "spec.weight"),
        ({"requirements": "none"}, "spec.requirements"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_becomes_a_problem_that_names_it(spec: dict[str, Any], names: str) -> None:
    pool, _ = pool_of_provisioner(provisioner(**spec), "demo")
    assert pool.key == "provisioner/default"
    assert any(names in problem for problem in pool.problems), pool.problems


def test_a_provisioner_without_a_name_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"metadata\.name"):
        pool_of_provisioner({"metadata": {}})

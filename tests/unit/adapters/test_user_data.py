"""User data of every family, read back by the simulated machines' own reader, which shares no code with it."""

import pytest

from nodeyard.adapters.ec2.user_data import Boot, UserDataError, kubelet_labels, user_data
from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import Kubelet
from nodeyard.api.selectors import Taint
from nodeyard.local.account.machines import userdata

BOOT = Boot(
    cluster="web", endpoint="https://api:6443", ca_bundle="Q0E=", service_cidr="10.0.0.0/16", cluster_dns=("10.0.0.10",),
    labels={"team": "a", keys.NODEPOOL: "web"},
    taints=(Taint(keys.TAINT_UNREGISTERED, "NoExecute"), Taint("team", "NoSchedule", "a")),
    kubelet=Kubelet(max_pods=42, kube_reserved={"cpu": "100m"}, eviction_hard={"memory.available": "5%"}),
    instance_store_raid0=True,
)  # fmt: skip
SCRIPT = "#!/bin/bash\necho hello\n"
TOML = (
    '[settings.kubernetes]\nmax-pods = 7\n[settings.kubernetes.node-labels]\n"own" = "x"\n[settings.motd]\n'
)
CONFIG = (
    "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  kubelet:\n    config:\n      maxPods: 7\n"
)


@pytest.mark.parametrize(
    ("family", "custom"),
    [
        ("AL2023", ""),
        ("AL2023", SCRIPT),
        ("AL2023", CONFIG),
        ("AL2", ""),
        ("AL2", SCRIPT),
        ("Bottlerocket", ""),
        ("Bottlerocket", TOML),
    ],
)
def test_a_machine_reads_what_we_meant(family: str, custom: str) -> None:
    read = userdata.read(user_data(family, BOOT, custom))
    assert read.cluster == "web"
    assert read.labels.items() >= BOOT.labels.items()
    assert {(t.key, t.value, t.effect) for t in read.taints} == {
        (t.key, t.value, t.effect) for t in BOOT.taints
    }
    assert read.max_pods == 42
    assert read.kube_reserved == {"cpu": "100m"}
    assert read.eviction_hard == {"memory.available": "5%"}


def test_the_users_own_part_is_kept() -> None:
    assert "echo hello" in user_data("AL2023", BOOT, SCRIPT)
    assert userdata.read(user_data("Bottlerocket", BOOT, TOML)).labels["own"] == "x"


def test_a_users_archive_is_taken_apart_and_put_together_again() -> None:
    archive = user_data("AL2023", Boot(cluster="other", labels={"own": "x"}), SCRIPT)
    merged = user_data("AL2023", BOOT, archive)
    read = userdata.read(merged)
    assert read.labels.items() >= {"own": "x", "team": "a"}.items()
    assert read.cluster == "web"
    assert merged.count("echo hello") == 1


def test_custom_user_data_is_passed_on_as_it_is() -> None:
    assert user_data("Custom", BOOT, "anything") == "anything"


@pytest.mark.parametrize(
    ("family", "custom", "words"),
    [
        ("AL2023", "kind: [", "neither"),
        ("AL2023", "some: thing", "NodeConfig"),
        ("AL2023", "MIME-Version: 1.0\n\nplain", "multipart"),
        ("Bottlerocket", "= 1", "TOML"),
        ("Bottlerocket", "settings = 1", "table"),
        ("Windows", "", "amiFamily"),
    ],
)
def test_user_data_that_can_not_be_merged_is_refused_with_the_reason(
    family: str, custom: str, words: str
) -> None:
    with pytest.raises(UserDataError, match=words):
        user_data(family, BOOT, custom)


def test_labels_that_a_kubelet_may_not_give_itself_are_left_for_the_registration() -> None:
    labels = {
        "node-role.kubernetes.io/web": "", "team.k8s.io/x": "1", "node.kubernetes.io/own": "1", keys.ZONE: "a", "team": "a",
        "karpenter.sh/nodepool": "web",
    }  # fmt: skip
    kept = kubelet_labels(labels)
    assert set(kept) == {"node.kubernetes.io/own", keys.ZONE, "team", "karpenter.sh/nodepool"}
    userdata.read(user_data("AL2023", Boot(cluster="web", labels=kept)))

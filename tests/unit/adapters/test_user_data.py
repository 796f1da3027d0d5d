"""User data of every family, read back by the simulated machines' own reader, which shares no code with it."""

import tomllib

import msgspec
import pytest
import yaml

from nodeyard.adapters.ec2.user_data import UserDataError, kubelet_labels, user_data
from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import Kubelet
from nodeyard.api.selectors import Taint
from nodeyard.cloudprovider.boot import Boot
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


# --- kubelet settings -------------------------------------------------------------------------------------------------
SOFT = Kubelet(
    pods_per_core=4,
    eviction_soft={"memory.available": "500Mi"},
    eviction_soft_grace_period={"memory.available": "1m30s"},
    eviction_max_pod_grace_period=60,
    image_gc_high_threshold_percent=85,
    cpu_cfs_quota=False,
    other={"topologyManagerPolicy": "restricted", "containerLogMaxFiles": 3},
)


def test_every_kubelet_setting_reaches_an_agent_that_takes_the_kubelets_own_configuration() -> None:
    text = user_data("AL2023", Boot("web", kubelet=SOFT))
    document = yaml.safe_load(text.split("application/node.eks.aws\n\n")[1].split("\n--//")[0])
    config = document["spec"]["kubelet"]["config"]
    config.pop("registerWithTaints")
    assert config == {
        "podsPerCore": 4, "evictionSoft": {"memory.available": "500Mi"},
        "evictionSoftGracePeriod": {"memory.available": "1m30s"}, "evictionMaxPodGracePeriod": 60,
        "imageGCHighThresholdPercent": 85, "cpuCFSQuota": False, "topologyManagerPolicy": "restricted",
        "containerLogMaxFiles": 3,
    }  # fmt: skip


@pytest.mark.parametrize("family", ["AL2", "Windows2022"])
def test_an_agent_that_takes_flags_gets_flags(family: str) -> None:
    text = user_data(family, Boot("web", kubelet=SOFT))
    for flag in (
        "--pods-per-core=4", "--eviction-soft=memory.available<500Mi", "--cpu-cfs-quota=false",
        "--eviction-soft-grace-period=memory.available=1m30s", "--eviction-max-pod-grace-period=60",
        "--image-gc-high-threshold=85", "--topology-manager-policy=restricted", "--container-log-max-files=3",
    ):  # fmt: skip
        assert flag in text


def test_bottlerocket_gets_its_own_names() -> None:
    kubelet = msgspec.structs.replace(SOFT, pods_per_core=None)
    settings = tomllib.loads(user_data("Bottlerocket", Boot("web", kubelet=kubelet)))["settings"][
        "kubernetes"
    ]
    assert settings["eviction-soft"] == {"memory.available": "500Mi"}
    assert settings["eviction-soft-grace-period"] == {"memory.available": "1m30s"}
    assert settings["eviction-max-pod-grace-period"] == 60
    assert settings["image-gc-high-threshold-percent"] == 85
    assert settings["cpu-cfs-quota-enforced"] is False
    assert settings["topology-manager-policy"] == "restricted"


@pytest.mark.parametrize(
    ("family", "kubelet", "words"),
    [
        ("AL2", Kubelet(other={"someLaterField": 1}), "someLaterField"),
        ("Bottlerocket", SOFT, "podsPerCore"),
        ("Windows2022", Kubelet(other={"someLaterField": 1}), "someLaterField"),
    ],
)
def test_a_setting_that_a_family_has_no_place_for_is_refused_by_name(
    family: str, kubelet: Kubelet, words: str
) -> None:
    with pytest.raises(UserDataError, match=rf"spec\.kubelet\.{words}"):
        user_data(family, Boot("web", kubelet=kubelet))


# --- Windows ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("custom", ["", "Write-Host hello", "<powershell>\nWrite-Host hello\n</powershell>"])
def test_windows_runs_the_users_script_and_then_joins(custom: str) -> None:
    boot = msgspec.structs.replace(BOOT, instance_store_raid0=False)
    lines = user_data("Windows2022", boot, custom).splitlines()
    assert (lines[0], lines[-1]) == ("<powershell>", "</powershell>")
    assert ("Write-Host hello" in lines) == bool(custom)
    join = lines[-2]
    for argument in (
        "-EKSClusterName 'web'", "-APIServerEndpoint 'https://api:6443'", "-Base64ClusterCA 'Q0E='",
        "-DNSClusterIP '10.0.0.10'", "--register-with-taints=karpenter.sh/unregistered=:NoExecute",
    ):  # fmt: skip
        assert argument in join


def test_windows_reads_nothing_into_what_it_is_given() -> None:
    assert "'it''s $env:X'" in user_data("Windows2019", Boot("it's $env:X"))


@pytest.mark.parametrize(
    ("boot", "custom"), [(Boot("web", instance_store_raid0=True), ""), (Boot("web"), "<script>dir</script>")]
)
def test_what_windows_can_not_do_is_refused(boot: Boot, custom: str) -> None:
    with pytest.raises(UserDataError):
        user_data("Windows2025", boot, custom)

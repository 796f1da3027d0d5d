from __future__ import annotations

import pytest

from nodeyard.local.account.machines.userdata import BootError, Taint, read
from tests.support.account import node_config

UNREGISTERED = Taint("karpenter.sh/unregistered", "", "NoExecute")


def test_al2023_reads_flags_and_config_of_a_node_config_in_mime():
    boot = read(
        node_config(
            labels={"karpenter.sh/nodepool": "default", "team": "a"},
            taints="karpenter.sh/unregistered=:NoExecute,gpu=yes:NoSchedule",
            max_pods=58,
        )
    )
    assert boot.cluster == "nodeyard"
    assert boot.labels == {"karpenter.sh/nodepool": "default", "team": "a"}
    assert boot.taints == [UNREGISTERED, Taint("gpu", "yes", "NoSchedule")]
    assert boot.max_pods == 58


def test_al2023_takes_a_bare_node_config_with_taints_reservations_and_raid():
    boot = read(
        """
apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster: {name: other}
  instance: {localStorage: {strategy: RAID0}}
  kubelet:
    config:
      registerWithTaints: [{key: karpenter.sh/unregistered, effect: NoExecute}]
      podsPerCore: 4
      kubeReserved: {memory: 1Gi}
      evictionHard: {memory.available: 5%}
"""
    )
    assert boot.cluster == "other"
    assert boot.taints == [UNREGISTERED]
    assert (boot.pods_per_core, boot.raid0) == (4, True)
    assert boot.kube_reserved == {"memory": "1Gi"}
    assert boot.eviction_hard == {"memory.available": "5%"}


def test_al2_reads_the_call_of_bootstrap_sh_wherever_it_stands():
    boot = read(
        "#!/bin/bash -xe\nexec > >(tee /var/log/user-data.log) 2>&1\n# /etc/eks/bootstrap.sh not this\n"
        "/etc/eks/bootstrap.sh 'main' --apiserver-endpoint 'https://x' --b64-cluster-ca 'QQ==' \\\n"
        "--use-max-pods false --local-disks raid0 \\\n"
        "--kubelet-extra-args '--node-labels=a=b,karpenter.sh/capacity-type=spot "
        "--register-with-taints=karpenter.sh/unregistered:NoExecute --max-pods=29 "
        "--kube-reserved=cpu=100m,memory=1Gi --eviction-hard=memory.available<200Mi'\n"
    )
    assert boot.cluster == "main"
    assert boot.labels == {"a": "b", "karpenter.sh/capacity-type": "spot"}
    assert boot.taints == [UNREGISTERED]
    assert boot.max_pods == 29
    assert boot.raid0
    assert boot.kube_reserved == {"cpu": "100m", "memory": "1Gi"}
    assert boot.eviction_hard == {"memory.available": "200Mi"}


def test_al2_takes_extra_args_with_an_equals_sign():
    boot = read("#!/bin/sh\n/etc/eks/bootstrap.sh main --kubelet-extra-args='--node-labels=a=b'\n")
    assert (boot.cluster, boot.labels) == ("main", {"a": "b"})


def test_bottlerocket_reads_its_settings():
    boot = read(
        """
[settings.kubernetes]
cluster-name = "rock"
max-pods = 110
[settings.kubernetes.node-labels]
"karpenter.sh/nodepool" = "default"
[settings.kubernetes.node-taints]
"karpenter.sh/unregistered" = [":NoExecute"]
dedicated = ["db:NoSchedule", "db:PreferNoSchedule"]
[settings.kubernetes.kube-reserved]
memory = "500Mi"
"""
    )
    assert boot.cluster == "rock"
    assert boot.labels == {"karpenter.sh/nodepool": "default"}
    assert boot.taints == [
        UNREGISTERED,
        Taint("dedicated", "db", "NoSchedule"),
        Taint("dedicated", "db", "PreferNoSchedule"),
    ]
    assert boot.max_pods == 110
    assert boot.kube_reserved == {"memory": "500Mi"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no user data"),
        ("#!/bin/bash\necho hello\n", "no NodeConfig"),
        ("[settings\n", "TOML"),
        ('[settings.motd]\ntext = "x"\n', "no NodeConfig"),
        ("apiVersion: node.eks.aws/v1alpha1\nkind: [\n", "YAML"),
        ("apiVersion: node.eks.aws/v1alpha1\nkind: Other\n", "no NodeConfig"),
        (node_config(taints="karpenter.sh/unregistered:Sometimes"), "Sometimes"),
        (node_config(labels={"node-restriction.kubernetes.io/x": "y"}), "node-restriction"),
        (node_config(labels={"foo.k8s.io/x": "y"}), "foo.k8s.io/x"),
    ],
)
def test_user_data_that_starts_no_kubelet_says_why(text: str, why: str):
    with pytest.raises(BootError, match=why):
        read(text)


def test_the_kubelets_own_labels_are_allowed():
    allowed = {
        "node.kubernetes.io/role": "x",
        "topology.kubernetes.io/zone": "a",
        "karpenter.k8s.aws/ec2nodeclass": "d",
    }
    assert read(node_config(labels=allowed)).labels == allowed

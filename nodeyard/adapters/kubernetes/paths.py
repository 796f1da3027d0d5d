"""Where each object is served. Source: Kubernetes API reference; the CRDs under deploy/chart/crds.

`pods()` and the like are collections (create, list, watch), `pod(namespace, name)` and the like single objects.
"""

from typing import Final

CORE: Final = "/api/v1"
KARPENTER: Final = "/apis/karpenter.sh/v1"
PROVISIONING: Final = "/apis/karpenter.sh/v1alpha5"
KARPENTER_AWS: Final = "/apis/karpenter.k8s.aws/v1"
TEMPLATES: Final = "/apis/karpenter.k8s.aws/v1alpha1"
LEASES: Final = "/apis/coordination.k8s.io/v1"


def pods(namespace: str = "") -> str:
    return f"{CORE}/namespaces/{namespace}/pods" if namespace else f"{CORE}/pods"


def pod(namespace: str, name: str) -> str:
    return f"{pods(namespace)}/{name}"


def pod_binding(namespace: str, name: str) -> str:
    return f"{pod(namespace, name)}/binding"


def deployment(namespace: str, name: str) -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"


def pod_eviction(namespace: str, name: str) -> str:
    return f"{pod(namespace, name)}/eviction"


def nodes() -> str:
    return f"{CORE}/nodes"


def node(name: str) -> str:
    return f"{CORE}/nodes/{name}"


def namespace(name: str) -> str:
    return f"{CORE}/namespaces/{name}"


def events(namespace: str) -> str:
    return f"{CORE}/namespaces/{namespace or 'default'}/events"


def nodeclaims() -> str:
    return f"{KARPENTER}/nodeclaims"


def nodeclaim(name: str) -> str:
    return f"{KARPENTER}/nodeclaims/{name}"


def nodepools() -> str:
    return f"{KARPENTER}/nodepools"


def nodepool(name: str) -> str:
    return f"{KARPENTER}/nodepools/{name}"


def provisioners() -> str:
    return f"{PROVISIONING}/provisioners"


def provisioner(name: str) -> str:
    return f"{PROVISIONING}/provisioners/{name}"


def pool(key: str) -> str:
    """Of the NodePool or Provisioner that a pool's key names."""
    kind, _, name = key.rpartition("/")
    return provisioner(name) if kind == "provisioner" else nodepool(name)


def ec2nodeclasses() -> str:
    return f"{KARPENTER_AWS}/ec2nodeclasses"


def ec2nodeclass(name: str) -> str:
    return f"{KARPENTER_AWS}/ec2nodeclasses/{name}"


def awsnodetemplates() -> str:
    return f"{TEMPLATES}/awsnodetemplates"


def awsnodetemplate(name: str) -> str:
    return f"{TEMPLATES}/awsnodetemplates/{name}"


def node_class(key: str) -> str:
    """Of the object that a node class's key names, but a Provisioner's own."""
    kind, _, name = key.rpartition("/")
    return awsnodetemplate(name) if kind == "awsnodetemplate" else ec2nodeclass(name)


def lease(namespace: str, name: str) -> str:
    return f"{LEASES}/namespaces/{namespace}/leases/{name}"


def leases(namespace: str) -> str:
    return f"{LEASES}/namespaces/{namespace}/leases"


def volume_attachments() -> str:
    return "/apis/storage.k8s.io/v1/volumeattachments"


COLLECTIONS: Final = {
    "Pod": pods(),
    "Node": nodes(),
    "NodeClaim": nodeclaims(),
    "NodePool": nodepools(),
    "EC2NodeClass": ec2nodeclasses(),
    "Provisioner": provisioners(),
    "AWSNodeTemplate": awsnodetemplates(),
    "DaemonSet": "/apis/apps/v1/daemonsets",
    "PodDisruptionBudget": "/apis/policy/v1/poddisruptionbudgets",
    "PersistentVolume": f"{CORE}/persistentvolumes",
    "PersistentVolumeClaim": f"{CORE}/persistentvolumeclaims",
    "StorageClass": "/apis/storage.k8s.io/v1/storageclasses",
    "CSINode": "/apis/storage.k8s.io/v1/csinodes",
    "Namespace": f"{CORE}/namespaces",
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "Service": f"{CORE}/services",
    "ReplicaSet": "/apis/apps/v1/replicasets",
    "ReplicationController": f"{CORE}/replicationcontrollers",
    "StatefulSet": "/apis/apps/v1/statefulsets",
    "VerticalPodAutoscaler": "/apis/autoscaling.k8s.io/v1/verticalpodautoscalers",
}
"""Kind -> all objects of it, for those that are followed."""

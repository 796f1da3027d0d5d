"""The objects of a running cluster that placement depends on, read once, for a plan from the command line.

Lists and never writes. Kinds that the cluster does not have (no custom resources installed, say) count as none.
Workloads are left out: the controllers have already made their pods. Neighbour: `files` reads the same from files.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from nodeyard.cli.files import Found, InputError

Json = dict[str, Any]

LISTED: Final[tuple[tuple[str, str, str], ...]] = (
    ("v1", "Pod", "/api/v1/pods"),
    ("v1", "Node", "/api/v1/nodes"),
    ("v1", "Namespace", "/api/v1/namespaces"),
    ("v1", "PersistentVolume", "/api/v1/persistentvolumes"),
    ("v1", "PersistentVolumeClaim", "/api/v1/persistentvolumeclaims"),
    ("apps/v1", "DaemonSet", "/apis/apps/v1/daemonsets"),
    ("storage.k8s.io/v1", "StorageClass", "/apis/storage.k8s.io/v1/storageclasses"),
    ("storage.k8s.io/v1", "CSINode", "/apis/storage.k8s.io/v1/csinodes"),
    ("scheduling.k8s.io/v1", "PriorityClass", "/apis/scheduling.k8s.io/v1/priorityclasses"),
    ("policy/v1", "PodDisruptionBudget", "/apis/policy/v1/poddisruptionbudgets"),
    ("autoscaling.k8s.io/v1", "VerticalPodAutoscaler", "/apis/autoscaling.k8s.io/v1/verticalpodautoscalers"),
    ("karpenter.sh/v1", "NodePool", "/apis/karpenter.sh/v1/nodepools"),
    ("karpenter.sh/v1", "NodeClaim", "/apis/karpenter.sh/v1/nodeclaims"),
    ("karpenter.sh/v1alpha5", "Provisioner", "/apis/karpenter.sh/v1alpha5/provisioners"),
    ("karpenter.k8s.aws/v1alpha1", "AWSNodeTemplate", "/apis/karpenter.k8s.aws/v1alpha1/awsnodetemplates"),
    ("karpenter.k8s.aws/v1", "EC2NodeClass", "/apis/karpenter.k8s.aws/v1/ec2nodeclasses"),
)
"""(apiVersion, kind, path) of what is read."""
_SPARED: Final = frozenset({"VerticalPodAutoscaler"})
"""Kinds that a plan is of use without: who may not read them, or can't know that they are not installed, is told."""


def kubeconfig_path(given: str | None) -> str | None:
    """The kubeconfig to use: the one given, else $KUBECONFIG, else ~/.kube/config where there is one."""
    usual = Path.home() / ".kube" / "config"
    return given or os.environ.get("KUBECONFIG") or (str(usual) if usual.is_file() else None)


def read_cluster(kubeconfig: str) -> list[Found]:
    """Every object of interest. Raises InputError naming the kubeconfig and the request that failed."""
    try:
        from nodeyard.adapters.kubernetes.client import KubernetesClient
        from nodeyard.adapters.kubernetes.errors import Forbidden, KubernetesError, NotFound
    except ModuleNotFoundError as error:
        raise InputError(
            f"reading a cluster needs the Python package {error.name}: install nodeyard[watcher]"
        ) from error

    async def read() -> list[Found]:
        client = await KubernetesClient.connect(kubeconfig, agent="nodeyard-plan")
        try:
            return [found for kind in LISTED for found in await listed(client, *kind)]
        finally:
            await client.close()

    async def listed(client: KubernetesClient, version: str, kind: str, path: str) -> list[Found]:
        out: list[Found] = []
        try:
            async for page in client.list_pages(path):
                for raw in page.items or ():
                    item: Json = msgspec.json.decode(raw)
                    out.append(Found({"apiVersion": version, "kind": kind, **item}, client.server, live=True))
        except NotFound:
            return []
        except Forbidden as error:
            if kind not in _SPARED:
                raise
            print(f"nodeyard: {error}: taken for none", file=sys.stderr)
            return []
        return out

    try:
        return asyncio.run(read())
    except KubernetesError as error:
        raise InputError(f"{kubeconfig}: {error}") from error

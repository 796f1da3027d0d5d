"""Pods sent to the nodes that were planned for them: nominated for the kube-scheduler, or bound by us.

A nomination is a hint that the kube-scheduler tries first, all its filters in force; a binding is final and checked
by nobody, so whoever asks for one has checked everything. Both carry the pod's UID, so that a pod that was made
again under the same name is left alone. Source: Kubernetes API reference, core/v1 `PodStatus.nominatedNodeName`,
`Binding`; KEP-5278 (nominated node name for an expected placement).
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import Conflict, KubernetesError, NotFound
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.runtime.lifecycle import kill_point

_AT_ONCE: Final = 8
"""Writes in flight. A burst of hundreds fills the buffers of everybody's pod watches (ten events each), and the API
server closes those that are full, the kube-scheduler's too, which then has to list all pods anew before it goes on.
"""


class Placement:
    """Writes Pods for `service`; what fails is reported by pod, never raised."""

    def __init__(self, client: KubernetesClient, service: str = "allocator") -> None:
        self._client = client
        self._service = service
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def nominate(self, pods: Sequence[PodRecord], node: str) -> dict[PodKey, str]:
        """Sets status.nominatedNodeName of the pods, all at once; returns why where it failed. Pods that are gone or
        made anew are no failure.
        """
        kill_point(f"{self._service}.before-nominate-pods")
        said = await asyncio.gather(
            *(self._nominate(pod, node) for pod in pods if pod.nominated_node != node)
        )
        kill_point(f"{self._service}.after-nominate-pods")
        return _failures(said)

    async def bind(self, pods: Iterable[PodRecord], node: str) -> dict[PodKey, str]:
        """Binds the pods to the node, all at once; returns why where it failed."""
        kill_point(f"{self._service}.before-bind-pods")
        said = await asyncio.gather(*(self._bind(pod, node) for pod in pods))
        kill_point(f"{self._service}.after-bind-pods")
        return _failures(said)

    async def _nominate(self, pod: PodRecord, node: str) -> tuple[PodKey, str]:
        body = {"metadata": {"uid": pod.uid}, "status": {"nominatedNodeName": node}}
        async with self._room:
            try:
                await self._client.merge_patch(paths.pod(pod.namespace, pod.name), body, subresource="status")
            except (NotFound, Conflict):
                return pod.key, ""
            except KubernetesError as error:
                return pod.key, str(error)
        return pod.key, ""

    async def _bind(self, pod: PodRecord, node: str) -> tuple[PodKey, str]:
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        async with self._room:
            try:
                await self._client.create(paths.pod_binding(pod.namespace, pod.name), body)
            except KubernetesError as error:
                return pod.key, str(error)
        return pod.key, ""


def _failures(said: Iterable[tuple[PodKey, str]]) -> dict[PodKey, str]:
    return {key: why for key, why in said if why}

"""What the ReplicaSet controller is told of pods that are about to leave: these first, should it scale down meanwhile.

Written on pods without a deletion cost of their own only, and taken off again where the node stays after all. Nothing is
raised, since no command hangs on it. Source: Kubernetes documentation, "ReplicaSet", "Pod deletion cost".
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import Conflict, KubernetesError, NotFound
from nodeyard.api import labels as keys
from nodeyard.api.pod import PodRecord
from nodeyard.disruption.evictability import LEAVING_COST
from nodeyard.runtime.logging import get_logger

_AT_ONCE: Final = 8

log = get_logger("nodeyard.deletion-costs")


class DeletionCosts:
    """Never raises KubernetesError."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def lower(self, pods: Iterable[PodRecord]) -> None:
        """Marks pods of ReplicaSets that say nothing of their own."""
        marked = [
            p for p in pods if p.owner_kind == "ReplicaSet" and p.deletion_cost == 0 and not p.terminating
        ]
        await asyncio.gather(*(self._write(pod, str(LEAVING_COST)) for pod in marked))

    async def restore(self, pods: Iterable[PodRecord]) -> None:
        """Takes the marks off."""
        await asyncio.gather(*(self._write(pod, None) for pod in pods if pod.deletion_cost == LEAVING_COST))

    async def _write(self, pod: PodRecord, value: str | None) -> None:
        body = {"metadata": {"uid": pod.uid, "annotations": {keys.POD_DELETION_COST: value}}}
        async with self._room:
            try:
                await self._client.merge_patch(paths.pod(pod.namespace, pod.name), body)
            except (NotFound, Conflict):
                return
            except KubernetesError as error:
                log.warning("a pod's deletion cost can't be written", pod=pod.key, error=str(error))

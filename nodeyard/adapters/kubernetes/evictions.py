"""Seeing pods off: the eviction API, and deletion where a node's time is up.

Both name the pod's UID, so that a successor of the same name is never touched. What the API server says becomes a
value; nothing is raised, since one pod's trouble must not stop the others.
Source: Kubernetes documentation, "API-initiated Eviction".
"""

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import (
    Conflict,
    KubernetesError,
    NotFound,
    TooManyRequests,
)
from nodeyard.api.pod import PodRecord
from nodeyard.disruption.draining import Answer, Verdict

_SEVERAL_BUDGETS = "more than one PodDisruptionBudget"


class Evictions:
    """Evicts and deletes pods, each by its UID. Never raises KubernetesError."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def evict(self, pod: PodRecord) -> Answer:
        """Asks for an eviction, which PodDisruptionBudgets may refuse."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        try:
            await self._client.create(paths.pod_eviction(pod.namespace, pod.name), body)
        except KubernetesError as error:
            return _answer(error)
        return Answer(Verdict.ACCEPTED, 201)

    async def delete(self, pod: PodRecord, grace_s: int) -> Answer:
        """Deletes outright, with this grace period; budgets have no say."""
        try:
            await self._client.delete(paths.pod(pod.namespace, pod.name), uid=pod.uid, grace_s=grace_s)
        except KubernetesError as error:
            return _answer(error)
        return Answer(Verdict.ACCEPTED)


def _answer(error: KubernetesError) -> Answer:
    if isinstance(error, NotFound | Conflict):
        return Answer(Verdict.GONE, error.status, error.message)
    if isinstance(error, TooManyRequests) or _SEVERAL_BUDGETS in error.message:
        return Answer(Verdict.BLOCKED, error.status, error.message)
    return Answer(Verdict.FAILED, error.status, error.message)

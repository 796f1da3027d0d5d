"""How many replicas a Deployment is to have, read and written by its `scale` alone.

The right to that subresource lets nobody change what the Deployment runs. Source: API reference, autoscaling/v1 `Scale`.
"""

import msgspec

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import NotFound
from nodeyard.disruption.surging import Scale
from nodeyard.runtime.lifecycle import kill_point


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Spec(msgspec.Struct):
    replicas: int = 0


class _Scale(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)


class Scales:
    """Every method raises KubernetesError for what is no absence."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def read(self, deployment: str) -> Scale | None:
        """The Deployment's; None where there is none of that name."""
        try:
            found = msgspec.json.decode(await self._client.get(_path(deployment)), type=_Scale)
        except NotFound:
            return None
        return Scale(deployment, found.spec.replicas, found.metadata.resource_version)

    async def resize(self, scale: Scale, replicas: int) -> None:
        """Asks for that many. Raises Conflict where the Deployment has changed since it was read."""
        namespace, _, name = scale.deployment.partition("/")
        body = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": scale.resource_version},
            "spec": {"replicas": replicas},
        }
        kill_point("reallocator.before-resize")
        await self._client.request("PUT", _path(scale.deployment), body)
        kill_point("reallocator.after-resize")


def _path(deployment: str) -> str:
    namespace, _, name = deployment.partition("/")
    return f"{paths.deployment(namespace, name)}/scale"

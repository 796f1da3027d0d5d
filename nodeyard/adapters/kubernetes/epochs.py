"""Epochs that outlive Redis: the annotation `nodeyard.dev/epoch` of the Lease `nodeyard-<name>`.

Every write carries the resourceVersion it was decided on, so that of two processes that want the same epoch one
gets it. Lease names come from ours by turning slashes into dashes ("planning/all" is `nodeyard-planning-all`).
When an epoch began is read from the server's own record of who wrote the annotation, so nobody's clock but the API
server's counts. Source: Kubernetes API reference, coordination.k8s.io/v1 Lease, meta/v1 ManagedFieldsEntry.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import AlreadyExists, Conflict, KubernetesError, NotFound
from nodeyard.runtime.leadership import StoreUnavailableError

ANNOTATION: Final = "nodeyard.dev/epoch"


class _Managed(msgspec.Struct):
    time: datetime | None = None
    fields: dict[str, Any] | None = msgspec.field(default=None, name="fieldsV1")


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    annotations: dict[str, str] | None = None
    managed_fields: list[_Managed] | None = None


class _Lease(msgspec.Struct):
    metadata: _Meta

    @property
    def epoch(self) -> int:
        text = (self.metadata.annotations or {}).get(ANNOTATION, "0")
        if not text.isdigit():
            raise StoreUnavailableError(f"annotation {ANNOTATION} is {text!r}, not a number")
        return int(text)


_decoder: Final = msgspec.json.Decoder(_Lease)


def lease_name(name: str) -> str:
    """Name of the Kubernetes Lease of our lease `name`."""
    return f"nodeyard-{name.replace('/', '-').lower()}"


class KubernetesEpochs:
    """Epochs kept in one namespace. Every method raises StoreUnavailableError."""

    def __init__(self, client: KubernetesClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def read(self, name: str) -> int:
        """The last epoch of `name` that anybody began; 0 for none."""
        lease = await self._get(name)
        return lease.epoch if lease is not None else 0

    async def began(self, name: str) -> tuple[int, float]:
        """The last epoch and when it began, in seconds since the epoch by the API server's clock; (0, 0.0) for none."""
        lease = await self._get(name)
        if lease is None or lease.epoch == 0:
            return 0, 0.0
        meta = lease.metadata
        written = [
            entry.time for entry in meta.managed_fields or [] if entry.time and _owns_epoch(entry.fields)
        ]
        moment = max(written) if written else meta.creation_timestamp
        return lease.epoch, moment.timestamp() if moment is not None else 0.0

    async def advance(self, name: str, epoch: int, *, holder: str = "") -> bool:
        """Writes a larger epoch; False when it is not larger or somebody else wrote meanwhile."""
        lease = await self._get(name)
        try:
            if lease is None:
                await self._create(name, epoch, holder)
                return True
            if epoch <= lease.epoch:
                return False
            metadata = {
                "resourceVersion": lease.metadata.resource_version,
                "annotations": {ANNOTATION: str(epoch)},
            }
            body = {"metadata": metadata, "spec": _spec(epoch, holder)}
            await self._client.merge_patch(paths.lease(self._namespace, lease_name(name)), body)
        except (Conflict, AlreadyExists, NotFound):
            return False
        except KubernetesError as error:
            raise StoreUnavailableError(f"lease {lease_name(name)}: {error}") from error
        return True

    async def _create(self, name: str, epoch: int, holder: str) -> None:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": lease_name(name), "annotations": {ANNOTATION: str(epoch)}},
            "spec": _spec(epoch, holder),
        }
        try:
            await self._client.create(paths.leases(self._namespace), body)
        except NotFound as error:
            raise StoreUnavailableError(f"namespace {self._namespace}: {error}") from error

    async def _get(self, name: str) -> _Lease | None:
        try:
            body = await self._client.get(paths.lease(self._namespace, lease_name(name)))
            return _decoder.decode(body)
        except NotFound:
            return None
        except (KubernetesError, msgspec.DecodeError) as error:
            raise StoreUnavailableError(f"lease {lease_name(name)}: {error}") from error


def _spec(epoch: int, holder: str) -> dict[str, object]:
    return {"holderIdentity": holder or "nodeyard", "leaseTransitions": min(epoch, 2**31 - 1)}


def _owns_epoch(fields: dict[str, Any] | None) -> bool:
    annotations = (fields or {}).get("f:metadata", {}).get("f:annotations", {})
    return f"f:{ANNOTATION}" in annotations

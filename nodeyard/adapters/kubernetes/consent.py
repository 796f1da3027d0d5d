"""A person's consent to a garbage collection that was held because it would take too much at once.

Given by annotating the Lease `nodeyard-disruption`, which the reallocator reads and writes anyway, with the digest
that the journal named: exactly that garbage may go, and nothing else.
"""

from typing import Final

import msgspec

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import NotFound

ANNOTATION: Final = "nodeyard.dev/collect-approved"
LEASE: Final = "nodeyard-disruption"


class _Meta(msgspec.Struct):
    annotations: dict[str, str] | None = None


class _Lease(msgspec.Struct):
    metadata: _Meta


async def approved_digest(client: KubernetesClient, namespace: str) -> str:
    """The digest approved last, empty for none. Raises KubernetesError."""
    try:
        body = await client.get(paths.lease(namespace, LEASE))
    except NotFound:
        return ""
    return (msgspec.json.decode(body, type=_Lease).metadata.annotations or {}).get(ANNOTATION, "")

"""Whether Karpenter works on this cluster beside us: then we refuse to act, because both would answer the same pods.

Karpenter's replicas elect a leader by the Lease `karpenter-leader-election`, in whatever namespace it is installed.
One that was renewed a short while ago means that it runs. Source: Karpenter documentation, "Settings"
(leader election).
"""

from datetime import datetime
from typing import Final

import msgspec

from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.adapters.kubernetes.paths import LEASES
from nodeyard.runtime.clock import Clock, SystemClock
from nodeyard.runtime.logging import get_logger

RIVAL_LEASE: Final = "karpenter-leader-election"
_SKEW_S: Final = 15.0
"""How far the clocks of two machines may be apart without a live leader looking dead."""
_EVERY_S: Final = 10.0

log = get_logger("nodeyard.adapters.kubernetes.rival")


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    renew_time: datetime | None = None
    lease_duration_seconds: int | None = None


class _Meta(msgspec.Struct):
    name: str
    namespace: str


class _Lease(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


class _LeaseList(msgspec.Struct):
    items: list[_Lease]


_decoder: Final = msgspec.json.Decoder(_LeaseList)


async def karpenter_active(client: KubernetesClient, clock: Clock | None = None) -> str | None:
    """The reason not to act, naming Karpenter's leader and its namespace; None where none is alive.

    Raises KubernetesError when it can't be found out.
    """
    body = await client.get(f"{LEASES}/leases", fieldSelector=f"metadata.name={RIVAL_LEASE}")
    now = (clock or SystemClock()).now()
    for lease in _decoder.decode(body).items:
        spec = lease.spec
        if lease.metadata.name != RIVAL_LEASE or not spec.holder_identity or spec.renew_time is None:
            continue
        age_s = now - spec.renew_time.timestamp()
        if age_s < (spec.lease_duration_seconds or 15) + _SKEW_S:
            return (
                f"Karpenter ({spec.holder_identity}, namespace {lease.metadata.namespace}) is active on this cluster; "
                f"scale it to zero first"
            )
    return None


class Rivals:
    """Whether we may act, looked up every ten seconds; until Karpenter was looked for once, and while it is at work, nothing
    is touched.
    """

    def __init__(self, client: KubernetesClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self.reason: str | None = "not looked for another autoscaler yet"

    @property
    def permitted(self) -> bool:
        """Whether we may act."""
        return self.reason is None

    async def run(self) -> None:
        """Looks for ever; what could not be asked leaves the last answer."""
        while True:
            try:
                found = await karpenter_active(self._client, self._clock)
            except KubernetesError as error:
                log.warning("could not look for another autoscaler", error=str(error))
            else:
                if found is not None and found != self.reason:
                    log.warning("another autoscaler is at work, so this one does nothing", reason=found)
                self.reason = found
            await self._clock.sleep(_EVERY_S)

"""Writes on claims whether they have drifted, and stamps hashes of another version anew.

The condition Drifted tells people, and its time the order in which nodes are renewed; whether a node has drifted is
judged anew at every pass. Runs with the other marks, in the holder of the lease `disruption`. Raises KubernetesError.
"""

from collections.abc import Mapping

from nodeyard.api.node import Condition, NodeClaim
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.drift import DRIFTED, DriftMark, drift_marks
from nodeyard.runtime.clock import Clock
from nodeyard.state.cluster import Change, Kind, Snapshot
from services.reallocator.chronicle import Chronicle
from services.reallocator.ports import Claims, Cluster


class DriftMarks:
    """`write` does one round."""

    def __init__(self, cluster: Cluster, claims: Claims, chronicle: Chronicle, clock: Clock) -> None:
        self._cluster = cluster
        self._claims = claims
        self._chronicle = chronicle
        self._clock = clock

    async def write(self, snapshot: Snapshot, catalogues: Mapping[str, Catalogue]) -> None:
        """Writes what has changed since the last round."""
        for mark in drift_marks(snapshot, catalogues):
            claim = snapshot.claims[mark.claim]
            written = await self._write(claim, mark)
            if written is not None:
                self._cluster.overlay(
                    Change(Kind.NODE_CLAIM, written.name, written, written.resource_version)
                )

    async def _write(self, claim: NodeClaim, mark: DriftMark) -> NodeClaim | None:
        if mark.restamp:
            return await self._claims.annotate(claim, mark.restamp)
        if mark.drift is None:
            return await self._claims.drop_conditions(claim, (DRIFTED,))
        reason, message = mark.drift.reason.value, mark.drift.message
        self._chronicle.on_claim(claim, DRIFTED, message)
        await self._chronicle.decided("proposed", f"nodeclaim/{claim.name}", DRIFTED, message, drift=reason)
        condition = Condition(DRIFTED, "True", reason, message)
        return await self._claims.set_conditions(claim, (condition,), self._clock.now())

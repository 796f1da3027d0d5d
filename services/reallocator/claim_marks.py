"""Writes on claims what they are to disruption: drifted, and whether they may be consolidated by now.

The condition Drifted tells people, and its time the order in which nodes are renewed; Consolidatable only tells. Both
are judged anew at every pass. Hashes of another version are stamped anew. Runs with the other marks, in the holder of
the lease `disruption`. Raises KubernetesError.
"""

from collections.abc import Mapping

from nodeyard.api.node import Condition, NodeClaim
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.drift import DRIFTED, DriftMark, drift_marks
from nodeyard.disruption.idleness import CONSOLIDATABLE, consolidatable_changes
from nodeyard.runtime.clock import Clock
from nodeyard.state.cluster import Change, Kind, Snapshot
from services.reallocator.chronicle import Chronicle
from services.reallocator.ports import Claims, Cluster


class ClaimMarks:
    """Each `write_` does one round of what has changed since the last."""

    def __init__(self, cluster: Cluster, claims: Claims, chronicle: Chronicle, clock: Clock) -> None:
        self._cluster = cluster
        self._claims = claims
        self._chronicle = chronicle
        self._clock = clock

    async def write_drift(self, snapshot: Snapshot, catalogues: Mapping[str, Catalogue]) -> None:
        """Drifted, and hashes."""
        for mark in drift_marks(snapshot, catalogues, self._clock.now()):
            self._show(await self._write(snapshot.claims[mark.claim], mark))

    async def write_consolidatable(self, snapshot: Snapshot, quiet_since: Mapping[str, float]) -> None:
        """Consolidatable. `quiet_since`: node name -> its last pod event."""
        now = self._clock.now()
        for name, holds in consolidatable_changes(snapshot, quiet_since, now).items():
            claim = snapshot.claims[name]
            if holds:
                condition = Condition(CONSOLIDATABLE, "True", CONSOLIDATABLE)
                self._show(await self._claims.set_conditions(claim, (condition,), now))
            else:
                self._show(await self._claims.drop_conditions(claim, (CONSOLIDATABLE,)))

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

    def _show(self, claim: NodeClaim | None) -> None:
        if claim is not None:
            self._cluster.overlay(Change(Kind.NODE_CLAIM, claim.name, claim, claim.resource_version))

"""Pods of others that come while nodes are held: let in where a held node has room for them beside its kept places.

Such a node is opened until the kube-scheduler has put the pod there, and held again; it is not bound by us, since nothing
says that we may. Where no node has room, or the pod is not taken soon, the course ends (`courses`).
"""

import asyncio
from collections import defaultdict
from typing import Final

from nodeyard.api.pod import PodRecord
from nodeyard.provisioning.keeping import guest_rooms, keeping_of
from nodeyard.provisioning.landing import Planner, accepted
from nodeyard.provisioning.pending import pending
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import Snapshot
from services.reallocator.holds import Holds

_LONGEST_S: Final = 5.0
"""How long a guest may take to land before everything is opened for it."""

log = get_logger("services.reallocator.guests")


class Guests:
    def __init__(self, holds: Holds, planner: Planner, clock: Clock) -> None:
        self._holds = holds
        self._planner = planner
        self._clock = clock
        self._since: dict[str, float] = {}
        """Guest's UID -> since when it looks for a place."""
        self.inside: dict[str, frozenset[str]] = {}
        """Claim whose node is open for guests -> their keys."""

    def forget(self) -> None:
        self._since, self.inside = {}, {}

    async def attend(self, snapshot: Snapshot) -> bool:
        """Opens nodes for guests that have come, and holds those again whose guests have landed; False where one can't
        be helped so. Raises KubernetesError, LostLead.
        """
        now = self._clock.now()
        looking = pending(snapshot, now).pods
        uids = [snapshot.pods[key].uid for key in looking]
        self._since = {uid: self._since.get(uid, now) for uid in uids}
        await self._close(snapshot, frozenset(looking), now)
        if any(now - since > _LONGEST_S for since in self._since.values()):
            return False
        awaited = {name: keys & frozenset(looking) for name, keys in self.inside.items()}
        newcomers = [key for key in looking if not any(key in keys for keys in awaited.values())]
        rooms = guest_rooms(snapshot, now, newcomers, awaited)
        if len(rooms) < len(newcomers):
            return False
        by_claim: defaultdict[str, list[PodRecord]] = defaultdict(list)
        for key, name in rooms.items():
            by_claim[name].append(snapshot.pods[key])
        for name, pods in by_claim.items():
            if not await self._open(snapshot, name, pods):
                return False
        return True

    async def _open(self, snapshot: Snapshot, name: str, pods: list[PodRecord]) -> bool:
        claim = snapshot.claims[name]
        node = snapshot.node_of(claim)
        assert node is not None
        fitting = await asyncio.to_thread(
            accepted, snapshot, node, pods,
            now=self._clock.now(), planner=self._planner, clock=self._clock.monotonic,
        )  # fmt: skip
        if len(fitting) < len(pods):
            return False
        self.inside[name] = self.inside.get(name, frozenset()) | {pod.key for pod in pods}
        await self._holds.lift(claim)
        log.info("a held node is open for other pods", node=node.name, pods=len(pods))
        return True

    async def _close(self, snapshot: Snapshot, looking: frozenset[str], now: float) -> None:
        for name, awaited in list(self.inside.items()):
            if awaited & looking:
                continue
            claim = snapshot.claims.get(name)
            keeping = keeping_of(claim, now) if claim is not None else None
            if claim is not None and keeping is not None:
                await self._holds.hold(claim, keeping.until)
            del self.inside[name]

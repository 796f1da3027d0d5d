"""The allocator of a replay: batches pods that wait, plans them with the policy's planner, and launches the plan.

The batch window, what counts as pending and what happens to a plan's parts are the allocator's. What it does over
the wire (records, leases, registration) takes `Timing.machine_s` here and nothing else.
"""

import json
from collections.abc import Callable
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.api.pod import PodKey
from nodeyard.provisioning.claims import planned_pods_of
from nodeyard.provisioning.landing import Planner
from nodeyard.provisioning.model import Options, Placement, Problem
from nodeyard.provisioning.pending import LANDING_S, pending
from nodeyard.replay.policy import Policy
from nodeyard.replay.world import Schedule, World
from nodeyard.state.cluster import Kind

_NOMINATED_S: Final = 20.0
_REQUEUE_S: Final = 300.0
"""A pod that no plan could place is planned again after this long (a live allocator asks every ten seconds)."""


class Allocating:
    """Owned by one replay. Call `noticed` after anything that may have left a pod waiting."""

    def __init__(
        self, world: World, policy: Policy, planner: Planner, options: Options, clock: Callable[[], float],
        schedule: Schedule,
    ) -> None:  # fmt: skip
        self._world = world
        self._policy = policy
        self._planner = planner
        self._options = options
        self._clock = clock
        self._schedule = schedule
        self._seen: set[PodKey] = set()
        self._first_s = self._last_s = 0.0
        self._open = False
        self.nominated: dict[str, float] = {}
        """Node -> until when (trace seconds) pods are counted on to land there."""
        self.plans = 0
        self.unplaced: dict[PodKey, str] = {}
        """Pods that the last plan they were in could not place, and why."""
        world.on_ready.append(self._landed)

    def noticed(self) -> None:
        """Opens the window, or keeps it open, for pods that wait and are not in it yet."""
        new = [key for key in self._world.waiting if key not in self._seen]
        if not new:
            return
        now_s = self._world.now_s
        self._seen.update(new)
        self._last_s = now_s
        if not self._open:
            self._open, self._first_s = True, now_s
            self._schedule(self._closes_s, self._close)

    @property
    def _closes_s(self) -> float:
        return min(self._last_s + self._policy.batch_idle_s, self._first_s + self._policy.batch_max_s)

    def _close(self) -> None:
        if self._world.now_s < self._closes_s:
            self._schedule(self._closes_s, self._close)
            return
        self._open = False
        self._plan()

    def _plan(self) -> None:
        world = self._world
        self._seen &= set(world.waiting)
        if not world.waiting:
            return
        snapshot = world.snapshot()
        need = pending(snapshot, world.wall)
        if not need.all:
            return
        problem = Problem(snapshot, need.all, {"": world.catalogue}, world.wall, without_nodes=need.leaving)
        plan = self._planner(problem, self._options, self._clock)
        self.plans += 1
        world.launch(plan.nodes)
        for placement in plan.existing:
            self._onto_existing(placement)
        self.unplaced = {u.pod: u.message for u in plan.unschedulable}
        if plan.unschedulable:
            self._again(_REQUEUE_S)

    def _onto_existing(self, placement: Placement) -> None:
        """Pods that go to what exists: promised to a claim still starting, else the node is left alone for a while."""
        name = placement.node.removeprefix("nodeclaim/")
        machine = self._world.machines.get(name)
        if machine is not None and machine.ready:
            self.nominated[name] = self._world.now_s + _NOMINATED_S
            return
        claim = self._world.store.get(Kind.NODE_CLAIM, name)
        if not isinstance(claim, NodeClaim):
            return
        planned = list(dict.fromkeys((*planned_pods_of(claim), *placement.pods)))
        annotations = {**claim.annotations, keys.PLANNED_PODS: json.dumps(planned)}
        self._world.put(Kind.NODE_CLAIM, name, msgspec.structs.replace(claim, annotations=annotations))

    def _landed(self, name: str) -> None:
        """What did not land on the node it was planned for is planned again once its promise has run out."""
        after_s = LANDING_S + 1.0
        self._schedule(self._world.now_s + after_s, lambda: self._world.forget_promises(name))
        if self._world.waiting:
            self._again(after_s)

    def _again(self, after_s: float) -> None:
        def due() -> None:
            if self._world.waiting and not self._open:
                self._plan()

        self._schedule(self._world.now_s + after_s, due)

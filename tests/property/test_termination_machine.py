"""Termination under whatever comes: kills, outages, budgets, people, in any order.

A state machine over a small world with two replicas. What must hold at every moment: an instance is never ended
while a pod that the drain owes a farewell is on its node (unless the deadline is past), a claim never goes before its
instance, no protected pod is evicted, no eviction beyond the budget. And once everything is back, every node that
was to go is gone.
"""

import asyncio
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from nodeyard.disruption.draining import drainable
from nodeyard.disruption.termination import deadline_of
from tests.support.clock import FakeClock
from tests.support.disruption_world import World
from tests.support.reallocating import Leases, Replica


class WatchedWorld(World):
    """Notes every breach at the moment it happens."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.breaches: list[str] = []

    async def terminate(self, ids: Any) -> None:
        ids = list(ids)
        snapshot = self.snapshot()
        for node in snapshot.nodes.values():
            if node.provider_id.rpartition("/")[2] not in ids or not node.ready or self.cloud_down:
                continue
            claim = snapshot.claim_of(node)
            deadline = deadline_of(claim)
            now = self.clock.now()
            left = [p for p in snapshot.pods_of_node(node.name) if drainable(p, snapshot.shape(p), now)]
            if left and (deadline is None or now < deadline):
                self.breaches.append(f"{node.name} ended with {len(left)} pods on it")
        await super().terminate(ids)

    async def remove_finalizer(self, claim: Any) -> Any:
        if not self.api_down and self.instances[claim.provider_id.rpartition("/")[2]].alive:
            self.breaches.append(f"{claim.name} is gone before its instance")
        return await super().remove_finalizer(claim)


class Terminations(RuleBasedStateMachine):
    nodes = Bundle("nodes")

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.world = WatchedWorld(self.clock)
        self.world.build.pool()
        self.leases = Leases()
        self.replicas: dict[str, Replica] = {}
        self.protected: set[str] = set()
        self.count = 0
        for name in ("r0", "r1"):
            self._start(name)

    def _start(self, name: str) -> None:
        self.replicas[name] = Replica(self.world, self.clock, name=name, leases=self.leases)

    @rule(target=nodes, grace=st.sampled_from([None, None, 30.0, 90.0]), pods=st.integers(0, 3))
    def node_comes(self, grace: float | None, pods: int) -> str:
        self.count += 1
        name = f"n{self.count}"
        self.world.node(name, claim={"termination_grace_period_s": grace})
        for i in range(pods):
            self.world.build.pod(f"{name}-p{i}", name, grace_period_s=float(5 * i))
        return name

    @rule(node=nodes)
    def pod_is_protected(self, node: str) -> None:
        for pod in self.world.snapshot().pods_of_node(node):
            if not pod.terminating:
                self.world.build.pod(pod.name, node, do_not_disrupt="true", grace_period_s=pod.grace_period_s)
                self.protected.add(pod.name)
                return

    @rule(node=nodes, object_=st.sampled_from(["claim", "node"]))
    def person_deletes(self, node: str, object_: str) -> None:
        if object_ == "claim":
            self.world.delete_claim(f"{node}-c")
        else:
            self.world.delete_node(node)

    @rule(allowed=st.sampled_from([None, 0, 1, 2]))
    def budget_changes(self, allowed: int | None) -> None:
        if allowed is None:
            self.world.budget.clear()
        else:
            self.world.budget["web"] = allowed

    @rule(what=st.sampled_from(["api", "cloud", "redis"]), down=st.booleans())
    def something_goes_or_comes_back(self, what: str, down: bool) -> None:
        if what == "api":
            self.world.api_down = down
        elif what == "cloud":
            self.world.cloud_down = down
        else:
            self.leases.away = down

    @rule(name=st.sampled_from(["r0", "r1"]))
    def replica_is_killed_and_comes_back(self, name: str) -> None:
        self.leases.holders = {k: v for k, v in self.leases.holders.items() if v != name}
        self._start(name)

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self.loop.run_until_complete(self._work(seconds))

    async def _work(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            sweeps = [asyncio.create_task(r.termination.sweep()) for r in self.replicas.values()]
            await self.clock.advance(0.5)
            await asyncio.gather(*sweeps)
            self.world.tick()

    @invariant()
    def nothing_is_broken(self) -> None:
        if hasattr(self, "world"):
            assert self.world.breaches == []
            assert all(left >= 0 for left in self.world.budget.values())
            assert not self.protected & {e.split()[1] for e in self.world.log if e.startswith("evict ")}

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.api_down = self.world.cloud_down = self.leases.away = False
        self.world.budget.clear()
        for key in [p.key for p in self.world.snapshot().pods.values() if p.do_not_disrupt]:
            pod = self.world.snapshot().pods[key]
            self.world.build.pod(
                pod.name, pod.node, grace_period_s=pod.grace_period_s, deleted_at=pod.deleted_at
            )
        self.protected.clear()
        going = {c.name for c in self.world.snapshot().claims.values() if c.deleting}
        going |= {f"{n.name}-c" for n in self.world.snapshot().nodes.values() if n.deleted_at}
        self.loop.run_until_complete(self._work(90))
        left = going & set(self.world.snapshot().claims)
        alive = {i.claim for i in self.world.instances.values() if i.alive}
        self.loop.close()
        assert not left, f"never finished: {left}"
        assert not going & alive
        assert self.world.breaches == []


Terminations.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestTerminations = Terminations.TestCase

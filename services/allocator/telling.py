"""What a planning round tells: its decisions in the journal, and events on the pods concerned."""

from collections.abc import Iterable, Sequence
from typing import Final

from nodeyard.api.decision import Decision
from nodeyard.api.node import NodeClaim
from nodeyard.api.pod import PodKey
from nodeyard.provisioning.model import Plan, PlannedNode, Reason, Unschedulable
from nodeyard.state.cluster import Snapshot
from services.allocator.reporting import Reporter

_MOST_EVENTS: Final = 100
"""Pod events of one kind per round; the journal has them all."""


class Telling:
    """Remembers what refused pods were told, so that the journal has each reason once."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._told: dict[PodKey, tuple[str, str]] = {}

    async def tell(
        self, plan: Plan, snapshot: Snapshot, plan_id: str, created: Sequence[tuple[PlannedNode, NodeClaim]]
    ) -> None:
        """Decisions into the journal, and events on pods: of each kind the first hundred of a round."""
        decisions = [self._planned(node, claim, plan_id) for node, claim in created]
        decisions.append(self._batch(plan, plan_id, len(created)))
        refused = [u for u in plan.unschedulable if u.reason is not Reason.RESERVATION]
        decisions += self._refused(refused, snapshot)
        await self._report.decided_all(decisions)
        told = 0
        destinations = [(p.pods, f"node/{p.node.removeprefix('nodeclaim/')}") for p in plan.existing]
        destinations += [(node.pods, f"nodeclaim/{claim.name}") for node, claim in created]
        for pods, where in destinations:
            for key in pods:
                if told < _MOST_EVENTS and (pod := snapshot.pods.get(key)) is not None:
                    told += 1
                    self._report.pod(pod, "Nominated", f"pod should schedule on {where}")

    def _planned(self, node: PlannedNode, claim: NodeClaim, plan_id: str) -> Decision:
        facts: dict[str, str | int | float | bool] = {
            "planId": plan_id, "pool": node.pool, "instanceType": node.instance_type, "zone": node.zone,
            "capacityType": node.capacity_type, "pricePerHour": node.price_per_hour, "pods": len(node.pods),
            "alternatives": len(node.alternatives),
        }  # fmt: skip
        return self._report.decision("planned", f"nodeclaim/{claim.name}", "Planned", node.why, facts)

    def _batch(self, plan: Plan, plan_id: str, created: int) -> Decision:
        facts: dict[str, str | int | float | bool] = {
            "nodes": created,
            "pods": sum(len(n.pods) for n in plan.nodes),
            "ontoExisting": sum(len(p.pods) for p in plan.existing),
            "refused": len(plan.unschedulable),
            "pricePerHour": plan.cost.price_per_hour,
            "seconds": round(plan.plan_s, 4),
            "complete": plan.complete,
        }
        if plan.cost.gap is not None:
            facts["gap"] = plan.cost.gap
        return self._report.decision("planned", f"plan/{plan_id}", "Batch", "", facts)

    def _refused(self, refused: Sequence[Unschedulable], snapshot: Snapshot) -> Iterable[Decision]:
        """Events for refused pods each round (they are deduplicated), journal entries when the reason is new."""
        now_refused = {u.pod for u in refused}
        self._told = {key: said for key, said in self._told.items() if key in now_refused}
        for count, u in enumerate(refused):
            pod = snapshot.pods.get(u.pod)
            if pod is not None and count < _MOST_EVENTS:
                self._report.pod(
                    pod, "FailedScheduling", f"no node can be made for it: {u.message}", warning=True
                )
            if self._told.get(u.pod) != (u.reason, u.message):
                self._told[u.pod] = (u.reason, u.message)
                yield self._report.decision("refused", f"pod/{u.pod}", str(u.reason), u.message)

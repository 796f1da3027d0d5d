"""What one exchange of nodes may do on its own, from the cluster as it stands at that moment.

Rent of everything that runs, budgets of pools, policies, PodDisruptionBudgets, spot for spot. Neighbours: `consolidation`
plays such exchanges where the cheapest nodes can't be reached in one go, `search` finds them, `unfolding` holds its own
steps to the same.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from nodeyard.api import labels as keys
from nodeyard.api.pod import PodKey
from nodeyard.api.pool import PoolKey
from nodeyard.disruption.arrangement import Arrangement
from nodeyard.disruption.evictability import PodGuard
from nodeyard.disruption.model import Reason, View
from nodeyard.disruption.unfolding import Pace
from nodeyard.provisioning.model import Plan


class Player(Protocol):
    """What a permission asks of the play that it is for."""

    view: View
    pods: PodGuard
    pace: Pace

    def may_go(self, key: PoolKey, pods: Sequence[PodKey]) -> bool:
        """Whether the pool's policy lets a node go that holds these pods."""


class Permission:
    """What one step may do: rent, budgets of pools and pods, spot for spot."""

    def __init__(self, play: Player) -> None:
        self.play, self.pace = play, play.pace
        self.ceiling = play.pace.ceiling

    def most(self, now: Arrangement, pool: PoolKey) -> int | None:
        """How many nodes of the pool may go at once, beside those that are on their way out or not ready."""
        mine = [p for p in now.places.values() if p.pool == pool]
        most = self.pace.allowed(pool, Reason.UNDERUTILIZED, len(mine))
        return None if most is None else max(0, most - sum(p.busy for p in mine))

    def allows(self, now: Arrangement, gone: Sequence[str], made: Plan) -> bool:
        """Whether an exchange keeps within the ceiling and the budgets."""
        if made.nodes and now.rent + made.cost.price_per_hour > self.ceiling + 1e-9:
            return False
        spot = any(n.capacity_type == keys.SPOT for n in made.nodes)
        only_spot = all(now.places[n].capacity_type == keys.SPOT for n in gone)
        if not all(self.play.may_go(now.places[n].pool, now.held[n]) for n in gone):
            return False
        if spot and only_spot and not self.pace.spot_to_spot:
            return False
        return self._within_budgets(now, gone) and self._within_pdbs(now, gone)

    def _within_budgets(self, now: Arrangement, gone: Sequence[str]) -> bool:
        nodes = Counter(p.pool for p in now.places.values())
        many = Counter(now.places[n].pool for n in gone)
        many.update(p.pool for p in now.places.values() if p.busy and p.pool in many)
        reasons = {(now.places[n].pool, Reason.UNDERUTILIZED if now.held[n] else Reason.EMPTY) for n in gone}
        for pool, reason in reasons:
            most = self.pace.allowed(pool, reason, nodes[pool])
            if most is not None and many[pool] > most:
                return False
        return True

    def _within_pdbs(self, now: Arrangement, gone: Sequence[str]) -> bool:
        """One node may hold more of a budget's pods than may go at once: its drain takes turns."""
        evicted: Counter[str] = Counter()
        room: dict[str, int] = {}
        for key in (key for name in gone for key in now.held[name]):
            for pdb in self.play.pods.pdbs_of(self.play.view.snapshot.pods[key]):
                evicted[pdb.key] += 1
                room[pdb.key] = pdb.disruptions_allowed
        return len(gone) == 1 or all(count <= room[key] for key, count in evicted.items())

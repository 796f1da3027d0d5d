"""From a cluster as it is to the one it should be, in steps that are each valid on their own.

A step makes nodes, then takes others away; their pods go to nodes that stand at that moment. Pods of a shape are
interchangeable, so the target only says how many of each shape a node still takes (`wants`), and every step fills the
nodes that are up before it makes more. A step keeps within the pools' budgets and limits (new nodes beside old ones) and
the PodDisruptionBudgets, makes no term between pods worse, and keeps the rent of everything that runs below a ceiling: a
tenth above the start, and higher only where the target can't be reached below it. Where nothing can be made without
that, pods are parked on nodes that go later. What can't be reached so is left as it is.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.pod import PodKey, ShapeId
from nodeyard.api.pool import PoolKey
from nodeyard.disruption.arrangement import Arrangement, Place, exceeds, used_of_limited
from nodeyard.disruption.evictability import PodGuard
from nodeyard.disruption.making import Making
from nodeyard.disruption.model import Reason
from nodeyard.disruption.neighbours import Excess, TopologyGuard
from nodeyard.disruption.taking import takes
from nodeyard.provisioning.labelled import Bools

RISE: Final = 0.10
"""How far the rent may rise above its start while nodes are exchanged."""
_SAMPLE, _LEAST_SAMPLE, _SAMPLED = 16, 4, 1_600
"""Nodes looked at for each that goes: most, least, and over all that wait."""
_PARKINGS: Final = 12
_MOST_PARKED: Final = 12
_PARKING_NODES: Final = 250
"""Larger clusters have headroom for a node or two, and asking where pods could be parked takes long there."""
_EPSILON: Final = 1e-9
Wants = dict[str, Counter[ShapeId]]
Park = Callable[[Arrangement, str, Collection[str]], dict[PodKey, str] | None]
"""Where one node's pods find room among standing nodes that are not closed; None where they don't."""


class Step(msgspec.Struct, frozen=True):
    """Nodes made, then nodes taken away. `moves`: evicted (or homeless) pod -> the node it goes to.
    `saves_per_hour`: rent and charges; below zero where a step only makes room for the next.
    """

    remove: tuple[str, ...]
    add: tuple[str, ...]
    evictions: int
    saves_per_hour: float
    reason: str
    moves: Mapping[PodKey, str]


class Pace(msgspec.Struct, frozen=True):
    """How fast: `allowed` says how many nodes of a pool may go at once for a reason, given how many it has (None: any
    number); `ceiling` is the most rent that may be paid at any moment.
    """

    allowed: Callable[[PoolKey, Reason, int], int | None]
    ceiling: float
    spot_to_spot: bool = True


class _Batch:
    """A step in the making, on top of a copy of what each node still takes."""

    def __init__(self, wants: Wants, up: Counter[ShapeId], made: Bools) -> None:
        self.wants = {n: Counter(c) for n, c in wants.items()}
        self.up = Counter(up)
        """How many of each shape the nodes that are up, those of this step included, still take."""
        self.made = made
        """Nodes of the target that are made by then, as `Making` numbers them."""
        self.gone: list[str] = []
        self.add: list[str] = []
        self.added: set[str] = set()
        self.moves: dict[PodKey, str] = {}
        self.left: Counter[PoolKey] = Counter()
        self.evicted: Counter[str] = Counter()
        self.alone = False
        """Its node holds more pods of a PodDisruptionBudget than may go at once."""
        self.rent = 0.0


class Unfolding:
    """Plays one target out. `now` changes with every step."""

    def __init__(
        self,
        start: Arrangement,
        target: Arrangement,
        guard: TopologyGuard,
        pods: PodGuard,
        pace: Pace,
        park: Park,
    ) -> None:
        self.now, self.guard, self.pods, self.pace, self.park = start.copy(), guard, pods, pace, park
        self.records = start.base.pods
        held = (key for pods in (*start.held.values(), *target.held.values()) for key in pods)
        self.shape_of = {key: start.base.successor(self.records[key]) for key in held}
        """What a pod counts with wherever it goes; pods are told apart by it."""
        self.wants, self.to_make = _wants(start, target, self.shape_of)
        self.to_remove = {n for n in start.places if n not in target.places and n not in self.wants}
        self.takers: defaultdict[ShapeId, list[str]] = defaultdict(list)
        """Every node that takes pods of a shape, those there are first."""
        for name in sorted(self.wants, key=lambda n: n in self.to_make):
            for shape in self.wants[name]:
                self.takers[shape].append(name)
        self.making = Making(self.wants, self.to_make, guard)
        self.made = self.making.among(())
        self._cells: dict[str, tuple[str, ...]] = {}
        self.steps: list[Step] = []
        self.parked = 0
        self._count()

    def _count(self) -> None:
        self.nodes = Counter(p.pool for p in self.now.places.values())
        self.busy = Counter(p.pool for p in self.now.places.values() if p.busy)
        self.up: Counter[ShapeId] = Counter()
        for name, wants in self.wants.items():
            if name in self.now.places:
                self.up.update(wants)
        self.used = used_of_limited(self.now)

    def run(self, homeless: Iterable[PodKey]) -> tuple[list[Step], Arrangement]:
        """All steps that can be taken, and what they lead to."""
        homeless = self._house(homeless)
        while self.to_remove:
            batch = self._batch()
            if batch is None or not batch.gone:
                batch = self._parked()
            if batch is None:
                break
            self._take(batch)
            homeless = self._house(homeless)
        return self.steps, self.now

    def _parked(self) -> _Batch | None:
        """One node whose pods find room on nodes that go later, to make headroom."""
        if self.parked >= _MOST_PARKED or len(self.now.places) > _PARKING_NODES:
            return None
        self.parked += 1
        before = self.guard.excess(self.now)
        for name in self._order()[:_PARKINGS]:
            batch = _Batch(self.wants, self.up, self.made)
            if not self._may_go(batch, name, [], self.now.rent):
                continue
            closed = self.now.places.keys() - self.to_remove
            moves = self.park(self.now, name, closed)
            if moves is None:
                continue
            batch.gone, batch.moves = [name], moves
            if self._bears(batch, before):
                return batch
        return None

    # --- one step ---------------------------------------------------------------------------------------------------
    def _house(self, homeless: Iterable[PodKey]) -> tuple[PodKey, ...]:
        """Pods without a node first; whatever they need is made at once. Back come those that would break a term between
        pods as things stand: they wait until some node has gone.
        """
        waiting = tuple(homeless)
        if not waiting:
            return ()
        before = self.guard.excess(self.now)
        batch = self._housed(waiting, before)
        if batch is None:
            free = tuple(key for key in waiting if self.records[key].shape not in self.guard.bound)
            batch = self._housed(free, before)
        if batch is None:
            return waiting
        self._take(batch, "Pending")
        more = sum(self.now.places[n].price for n in batch.add)
        self.pace = msgspec.structs.replace(self.pace, ceiling=self.pace.ceiling + more)
        return tuple(key for key in waiting if key not in batch.moves)

    def _housed(self, waiting: Iterable[PodKey], before: Excess) -> _Batch | None:
        """These pods where the target wants them; None where that is nowhere, or makes a term worse."""
        batch = _Batch(self.wants, self.up, self.made)
        by_shape: defaultdict[ShapeId, list[PodKey]] = defaultdict(list)
        for key in waiting:
            by_shape[self.records[key].shape].append(key)
        placed = bool(by_shape) and self._placed(batch, by_shape)
        return batch if placed and self._bears(batch, before) else None

    def _batch(self) -> _Batch | None:
        """The next step: nodes whose pods need the least made for them, as many as may go together."""
        before = self.guard.excess(self.now)
        found = self._batch_within(before, strictly=True)
        return found if found is not None or not before else self._batch_within(before, strictly=False)

    def _batch_within(self, before: Excess, *, strictly: bool) -> _Batch | None:
        """`strictly`: no pod may come to where it stands against a term of its own, also where the cluster began so."""
        refused: set[str] = set()
        while True:
            batch = self._grown(refused)
            if batch is None:
                return None
            sound = self._sound(batch, before, strictly=strictly)
            if sound is not None:
                return sound
            refused.add(batch.gone[0])

    def _grown(self, refused: Collection[str]) -> _Batch | None:
        batch = _Batch(self.wants, self.up, self.made)
        rent = self.now.rent
        waiting = [n for n in self._order() if n not in refused]
        some = min(_SAMPLE, max(_LEAST_SAMPLE, _SAMPLED // (1 + len(waiting))))
        while waiting:
            best: tuple[float, str, list[str]] | None = None
            for name in waiting[:some]:
                made = self._made_for(batch, name)
                if made is None or not self._may_go(batch, name, made, rent):
                    continue
                score = sum(self._target(n).cost for n in made) - self.now.places[name].cost
                if best is None or score < best[0] - _EPSILON:
                    best = (score, name, made)
                    if not made:
                        break
            if best is None:
                break
            self._go(batch, best[1])
            waiting.remove(best[1])
        return batch if batch.gone else None

    def _order(self) -> list[str]:
        """Nodes to take away, dearest per pod first."""
        held, places = self.now.held, self.now.places
        return sorted(self.to_remove, key=lambda n: (-places[n].cost / (1 + len(held.get(n, ()))), n))

    def _target(self, name: str) -> Place:
        return self.to_make[name]

    def _made_for(self, batch: _Batch, name: str) -> list[str] | None:
        """What would have to be made for the node's pods; None where the target has no place for them. Pods that terms
        over zones look at stay in theirs as long as the target has room there.
        """
        held = Counter(self.shape_of[key] for key in self.now.held.get(name, ()))
        cell = self.guard.cell(self.now.places[name].node)
        made: list[str] = []
        for within in (cell, None) if held.keys() & self.guard.involved else (None,):
            rest = self._unmet(batch, held, made, within)
            while rest:
                best = self._best_to_make(batch, rest, made, within)
                if not best:
                    break
                made.append(best)
                rest -= batch.wants[best]
            if not rest:
                return made
        return None

    def _unmet(
        self, batch: _Batch, held: Counter[ShapeId], made: list[str], cell: tuple[str, ...] | None
    ) -> Counter[ShapeId]:
        """What nodes that are up and those to be made don't take; of pods that are tied to a cell, those in it."""
        if cell is None:
            taken = Counter({s: batch.up[s] + sum(batch.wants[node][s] for node in made) for s in held})
            return held - taken
        near: Counter[ShapeId] = Counter()
        for shape in held:
            if shape not in self.guard.involved:
                near[shape] = batch.up[shape]
                continue
            for node in self.takers.get(shape, ()):
                if (node in self.now.places or node in batch.added) and self._cell(node) == cell:
                    near[shape] += batch.wants[node][shape]
        return held - near

    def _best_to_make(
        self, batch: _Batch, rest: Counter[ShapeId], made: list[str], cell: tuple[str, ...] | None
    ) -> str:
        """The node that takes most of the rest for its cost; empty where none takes any."""

        def allowed(name: str) -> bool:
            beside = [self.to_make[n] for n in (*batch.add, *made, name)] if self.used else []
            return not exceeds(self.now.base, self.used, beside)

        closed = batch.made | self.making.among(made) if made else batch.made
        return self.making.best(rest, closed, cell, allowed)

    def _may_go(self, batch: _Batch, name: str, made: list[str], rent: float) -> bool:
        place = self.now.places[name]
        reason = Reason.UNDERUTILIZED if self.now.held.get(name) else Reason.EMPTY
        most = self.pace.allowed(place.pool, reason, self.nodes[place.pool])
        if most is not None and batch.left[place.pool] + self.busy[place.pool] >= most:
            return False
        if (
            made
            and rent + batch.rent + sum(self._target(n).price for n in made) > self.pace.ceiling + _EPSILON
        ):
            return False
        if not self.pace.spot_to_spot and not self._exchanged_fairly(batch, place, made):
            return False
        return self._pdbs_allow(batch, name)

    def _exchanged_fairly(self, batch: _Batch, place: Place, made: list[str]) -> bool:
        """Spot is not exchanged for spot alone."""
        made = [*batch.add, *made]
        gone = [*(self.now.places[n] for n in batch.gone), place]
        spot = any(self._target(n).capacity_type == keys.SPOT for n in made)
        return not spot or any(p.capacity_type != keys.SPOT for p in gone)

    def _pdbs_allow(self, batch: _Batch, name: str) -> bool:
        """No budget gives more at once than it has, unless one node holds more: it goes alone, and its drain takes turns."""
        if batch.alone:
            return False
        wanted: Counter[str] = Counter()
        allowed: dict[str, int] = {}
        for key in self.now.held.get(name, ()):
            for pdb in self.pods.pdbs_of(self.records[key]):
                wanted[pdb.key] += 1
                allowed[pdb.key] = pdb.disruptions_allowed
        over = any(batch.evicted[key] + many > allowed[key] for key, many in wanted.items())
        return not over or not batch.gone

    def _go(self, batch: _Batch, name: str) -> None:
        """Put a node and the moves of its pods into the batch."""
        place = self.now.places[name]
        by_shape: defaultdict[ShapeId, list[PodKey]] = defaultdict(list)
        for key in self.now.held.get(name, ()):
            by_shape[self.shape_of[key]].append(key)
            for pdb in self.pods.pdbs_of(self.records[key]):
                batch.evicted[pdb.key] += 1
                batch.alone |= batch.evicted[pdb.key] > pdb.disruptions_allowed
        made = self._made_for(batch, name) or []
        self._up(batch, made)
        batch.rent += sum(self._target(n).price for n in made)
        batch.gone.append(name)
        batch.left[place.pool] += 1
        self._deal(batch, by_shape, self.guard.cell(place.node))

    def _placed(self, batch: _Batch, waiting: Mapping[ShapeId, list[PodKey]]) -> bool:
        """Deal homeless pods, making no more nodes than they need."""
        rest = Counter({shape: len(pods) for shape, pods in waiting.items()}) - batch.up
        while rest:
            best = self._best_to_make(batch, rest, [], None)
            if not best:
                break
            self._up(batch, [best])
            rest -= batch.wants[best]
        self._deal(batch, waiting, None)
        return bool(batch.moves)

    def _up(self, batch: _Batch, made: list[str]) -> None:
        batch.add += made
        batch.added.update(made)
        batch.made = batch.made | self.making.among(made)
        for node in made:
            batch.up.update(batch.wants[node])

    def _deal(
        self, batch: _Batch, by_shape: Mapping[ShapeId, list[PodKey]], cell: tuple[str, ...] | None
    ) -> None:
        """Each pod to a node that is up and wants its shape; in its own cell as long as that can be."""
        for shape, pods in by_shape.items():
            rest = list(pods)
            up = [n for n in self.takers.get(shape, ()) if n in self.now.places or n in batch.added]
            if cell is not None and len(up) > 1:
                up.sort(key=lambda n: self._cell(n) != cell)
            for node in up:
                many = min(len(rest), batch.wants[node][shape])
                batch.wants[node][shape] -= many
                batch.up[shape] -= many
                batch.moves.update(dict.fromkeys(rest[:many], node))
                rest = rest[many:]
                if not rest:
                    break

    def _cell(self, name: str) -> tuple[str, ...]:
        """The domains of a node that is up or to be made."""
        found = self._cells.get(name)
        if found is None:
            node = (self.now.places.get(name) or self.to_make[name]).node
            found = self._cells[name] = self.guard.cell(node)
        return found

    def _sound(self, batch: _Batch, before: Excess, *, strictly: bool) -> _Batch | None:
        """The batch, or the longest half, quarter, ... of it, that makes no term worse."""
        names = list(batch.gone)
        while names:
            if len(names) < len(batch.gone):
                batch = _Batch(self.wants, self.up, self.made)
                for name in names:
                    self._go(batch, name)
            if not self.guard.terms or self._keeps_terms(batch, before, strictly=strictly):
                return batch
            if len(names) == 1:
                return None
            names = names[: len(names) // 2]
        return None

    def _bears(self, batch: _Batch, before: Excess) -> bool:
        """Whether the batch makes no term worse, and its pods may come to where they go."""
        now = self._after(batch)
        return not self.guard.worse(before, self.guard.excess(now)) and not self.guard.parted(
            now, batch.moves
        )

    def _keeps_terms(self, batch: _Batch, before: Excess, *, strictly: bool) -> bool:
        now = self._after(batch)
        after = self.guard.excess(now)
        if self.guard.worse(before, after) or self.guard.parted(now, batch.moves):
            return False
        return not strictly or not self.guard.strains(
            after, {key: now.places[node].node for key, node in batch.moves.items()}
        )

    def _after(self, batch: _Batch) -> Arrangement:
        after = self.now.copy()
        moves: defaultdict[str, list[PodKey]] = defaultdict(list)
        for key, node in batch.moves.items():
            moves[node].append(key)
        after.replace(batch.gone, [self.to_make[n] for n in batch.add], moves)
        return after

    def _take(self, batch: _Batch, reason: str = "") -> None:
        before = self.now.cost
        evictions = sum(len(self.now.held.get(n, ())) for n in batch.gone)
        reason = reason or (Reason.UNDERUTILIZED if evictions else Reason.EMPTY)
        self.now = self._after(batch)
        self.made = batch.made
        self.wants = batch.wants
        self.to_remove -= set(batch.gone)
        self._count()
        self.steps.append(
            Step(
                tuple(batch.gone),
                tuple(batch.add),
                evictions,
                before - self.now.cost,
                str(reason),
                batch.moves,
            )
        )


def _wants(
    start: Arrangement, target: Arrangement, shape: Mapping[PodKey, ShapeId]
) -> tuple[Wants, dict[str, Place]]:
    """What each node of the target still takes, and the nodes to make. A node to make that could as well be one that
    runs, because that one's pods are all among those it wants, is that one.
    """
    wants: Wants = {}
    for name in target.places:
        mine = Counter(shape[key] for key in target.held.get(name, ()))
        here = Counter(shape[key] for key in start.held.get(name, ())) if name in start.places else Counter()
        wants[name] = +(mine - here)
    to_make = {n: p for n, p in target.places.items() if n not in start.places}
    gone: defaultdict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for name in sorted(start.places.keys() - target.places.keys()):
        gone[start.places[name].offering].append(name)
    held = {n: Counter(shape[k] for k in start.held.get(n, ())) for same in gone.values() for n in same}
    for name in list(to_make):
        for like in gone.get(to_make[name].offering, ()):
            here = held[like]
            if here <= wants[name] and takes(start.base, start.places[like].node, wants[name]):
                wants[like] = +(wants.pop(name) - here)
                del to_make[name]
                gone[start.places[like].offering].remove(like)
                break
    return wants, to_make

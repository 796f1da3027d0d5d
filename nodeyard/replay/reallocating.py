"""The reallocator of a replay: passes, the wait, the second look, and commands carried to their end.

`decide`, `validate` and `expired` decide as they do in the service; its third look right before the first write would
see what the second saw, for no time passes in between. A pass runs when something changed and no sooner than the
policy says; a node that has become empty is looked at within seconds. One command begins at a time; its old nodes go
when its replacements are ready, and it is undone when one of them is lost.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.expiry import expired
from nodeyard.disruption.hysteresis import REMEMBERED_S, command_of_move
from nodeyard.disruption.methods import URGENT, WITHOUT_COURSES, decide, together
from nodeyard.disruption.model import Command, Fate, Move, Options, Outcome, Planner, Reason, Rule, View
from nodeyard.disruption.moves import begun
from nodeyard.disruption.validation import validate
from nodeyard.disruption.vicinity import Answers
from nodeyard.replay.baseline import remove_empty
from nodeyard.replay.policy import Kind, Policy
from nodeyard.replay.world import EPOCH, Schedule, World

EVICTIONS: Final = "evictions"
_SOON_S: Final = 1.0
_EMPTY_LOOK_S: Final = 10.0
_EXPIRY_S: Final = 600.0
_LITTLE: Final = 0.003
"""A command that saves less of what the cluster costs is the last for a while."""
_WHOLE: Final = tuple(method for method in WITHOUT_COURSES if method is not together)
"""A replay has no time for plans that are searched for, which is what `together` adds."""


def worth_another_look(outcome: Outcome) -> bool:
    """Whether what a pass found lets expect more of the next one, as soon as it is done."""
    command = outcome.command
    if command is None:
        return False
    return command.reason is not Reason.UNDERUTILIZED or command.saves_per_hour > _LITTLE * sum(
        outcome.cost.values()
    )


class _UnderWay:
    """A command that has begun: old nodes wait for `missing` replacements."""

    def __init__(self, command: Command, replacements: list[str]) -> None:
        self.command = command
        self.replacements = replacements
        self.missing = set(replacements)


class Reallocating:
    """Owned by one replay. Call `changed` after anything that a pass could see."""

    def __init__(
        self, world: World, policy: Policy, planner: Planner, options: Options,
        nominated: Mapping[str, float], clock: Callable[[], float], schedule: Schedule,
    ) -> None:  # fmt: skip
        self._world = world
        self._policy = policy
        self._planner = planner
        self._options = options
        self._nominated = nominated
        self._clock = clock
        self._schedule = schedule
        self._under_way: list[_UnderWay] = []
        self._next_s = policy.pass_every_s
        self._wakes_s: float | None = None
        self._deciding = False
        self._dirty = False
        self.passes = 0
        self.moves: list[tuple[float, Command]] = []
        """When each command began."""
        self._burdens, self._answers = Burdens(), Answers()
        self._memory: dict[str, Move] = {}
        world.on_ready.append(self._arrived)
        world.on_gone.append(self._lost)
        if any(pool.expire_after_s is not None for pool in world.snapshot().pools.values()):
            schedule(_EXPIRY_S, self._expire)

    # --- when to look -------------------------------------------------------------------------------------------------
    def changed(self) -> None:
        """The cluster or a price is not what the last pass saw."""
        self._dirty = True
        now_s = self._world.now_s
        if self._world.emptied:
            window = self._policy.consolidate_after_s
            if self._policy.kind is Kind.BASELINE:
                window = self._policy.empty_after_s
            self._wake(now_s + max(_EMPTY_LOOK_S, window + _SOON_S))
        elif self._policy.kind is Kind.NODEYARD:
            self._wake(max(self._next_s, now_s + _SOON_S))

    def _wake(self, at_s: float) -> None:
        if self._deciding or (self._wakes_s is not None and self._wakes_s <= at_s):
            return
        self._wakes_s = at_s

        def due() -> None:
            if self._wakes_s == at_s:
                self._wakes_s = None
                self._look()

        self._schedule(at_s, due)

    def _look(self) -> None:
        if self._deciding or not self._dirty:
            return
        self.passes += 1
        self._dirty = False
        self._world.emptied.clear()
        if self._policy.kind is Kind.BASELINE:
            self._remove_empty()
            return
        now_s = self._world.now_s
        whole = now_s >= self._next_s
        outcome = decide(
            self._view(), self._planner, self._clock,
            burdens=self._burdens, answers=self._answers, methods=_WHOLE if whole else URGENT,
        )  # fmt: skip
        self._note(outcome, whole=whole)
        if outcome.command is not None:
            self._deciding = True
            command = outcome.command
            self._schedule(now_s + self._policy.validation_wait_s, lambda: self._validated(command))

    def _note(self, outcome: Outcome, *, whole: bool) -> None:
        """When to look again, all else unchanged."""
        now_s = self._world.now_s
        if whole and not worth_another_look(outcome):
            self._next_s = now_s + self._policy.pass_every_s
        if whole and outcome.recheck_at is not None:
            self._again_s(max(outcome.recheck_at - EPOCH, self._next_s))
        held = [p for p in outcome.proposals if p.reason is Reason.EMPTY and p.blocks]
        if held and not all(b.rule is Rule.NEVER for p in held for b in p.blocks):
            self._again_s(now_s + max(_EMPTY_LOOK_S, self._policy.validation_wait_s))
        elif not (whole and outcome.quiet):
            self._again_s(self._next_s)

    def _again_s(self, at_s: float) -> None:
        self._dirty = True
        self._wake(at_s)

    def _view(self) -> View:
        """All that `decide` reads."""
        world = self._world
        busy = {c.node for u in self._under_way for c in u.command.candidates}
        busy |= {name for u in self._under_way for name in u.replacements}
        return View(
            snapshot=world.snapshot(),
            catalogues={"": world.catalogue},
            now=world.wall,
            nominated=frozenset(n for n, until in self._nominated.items() if until > world.now_s),
            in_command=frozenset(busy),
            quiet_since=dict(world.last_pod_event),
            options=self._options,
            moves=tuple(self._memory.values()),
        )

    # --- commands -----------------------------------------------------------------------------------------------------
    def _validated(self, command: Command) -> None:
        self._deciding = False
        self._dirty = True
        again = validate(command, self._view(), self._planner, self._clock, burdens=self._burdens)
        if isinstance(again, Command):
            self._begin(again)
        self._wake(max(self._next_s, self._world.now_s + _SOON_S))

    def _begin(self, command: Command) -> None:
        self.moves.append((self._world.now_s, command))
        self._remember(command)
        for node in command.nodes:
            self._world.taint(node, command.id)
        replacements = self._world.launch(command.replacements, replacing=command)
        under_way = _UnderWay(command, replacements)
        self._under_way.append(under_way)
        if not replacements:
            self._finish(under_way)

    def _finish(self, under_way: _UnderWay) -> None:
        self._under_way.remove(under_way)
        self._ended(under_way.command, Fate.DONE)
        for node in under_way.command.nodes:
            self._world.remove(node, EVICTIONS)

    def _remember(self, command: Command) -> None:
        now = self._world.wall
        kept = {id_: m for id_, m in self._memory.items() if now - m.at < REMEMBERED_S}
        self._memory = kept | {move.id: move for move in begun(command, now)}

    def _ended(self, command: Command, fate: Fate) -> None:
        now = self._world.wall
        for id_, move in self._memory.items():
            if command_of_move(move) == command.id:
                self._memory[id_] = msgspec.structs.replace(move, fate=fate, ended_at=now)

    def _arrived(self, name: str) -> None:
        for under_way in list(self._under_way):
            under_way.missing.discard(name)
            if name in under_way.replacements and not under_way.missing:
                self._finish(under_way)

    def _lost(self, name: str) -> None:
        """A replacement that goes before it is ready undoes its command; an old node that goes is no loss."""
        for under_way in list(self._under_way):
            if name not in under_way.missing:
                continue
            self._under_way.remove(under_way)
            self._ended(under_way.command, Fate.UNDONE)
            for node in under_way.command.nodes:
                self._world.untaint(node)

    def _remove_empty(self) -> None:
        world = self._world
        since = world.last_pod_event
        command = remove_empty(
            world.snapshot(), world.wall, lambda name: since.get(name, 0.0), self._policy.empty_after_s
        )
        if command is not None:
            self._begin(command)

    def _expire(self) -> None:
        for claim in expired(self._world.snapshot(), self._world.wall):
            self._world.counts["expired"] += 1
            self._world.remove(claim.name, EVICTIONS)
        self._schedule(self._world.now_s + _EXPIRY_S, self._expire)

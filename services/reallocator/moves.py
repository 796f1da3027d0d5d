"""The reallocator's memory of moves: told when commands begin and end, asked before every pass.

Never holds a command up: what can't be kept while Redis is away is kept here and taken there at the next chance, and
counts meanwhile. Neighbours: `execution` (tells), `controller` (asks), `nodeyard.disruption.hysteresis` (what it is for).
"""

from collections.abc import Sequence

from nodeyard.disruption.commands import Running
from nodeyard.disruption.model import Command, Fate, Move
from nodeyard.disruption.moves import begun, ended
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import Snapshot
from services.reallocator.ports import MoveStore

log = get_logger("services.reallocator.moves")


class MoveMemory:
    """What was done of late."""

    def __init__(self, store: MoveStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._unsaved: dict[str, Move] = {}
        self._last: tuple[Move, ...] | None = None

    async def recall(self) -> tuple[Move, ...]:
        """The moves remembered. Raises StoreUnavailableError."""
        await self._save()
        self._last = await self._store.recent(self._clock.now())
        return self._last

    async def begun(self, command: Command) -> None:
        """A command was begun; one without replacements is done by that."""
        await self._note(begun(command, self._clock.now()))

    async def ended(self, command: Running, snapshot: Snapshot, fate: Fate) -> None:
        """A command with replacements is at its end."""
        known = await self._known()
        await self._note(ended(command, snapshot, fate, self._clock.now(), known))

    async def _known(self) -> tuple[Move, ...]:
        """What is remembered, asked for once where another replica began."""
        if self._last is None:
            try:
                await self.recall()
            except StoreUnavailableError as error:
                log.warning("earlier moves are not known now", error=str(error))
        return self._last or ()

    async def _note(self, moves: Sequence[Move]) -> None:
        known = {move.id: move for move in await self._known()} | {move.id: move for move in moves}
        self._last = tuple(known.values())
        self._unsaved |= {move.id: move for move in moves}
        try:
            await self._save()
        except StoreUnavailableError as error:
            log.warning("moves are remembered here only", moves=len(self._unsaved), error=str(error))

    async def _save(self) -> None:
        if self._unsaved:
            await self._store.record(tuple(self._unsaved.values()))
            self._unsaved.clear()

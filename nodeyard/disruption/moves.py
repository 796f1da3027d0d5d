"""What a command was, in the words that hysteresis remembers: which offerings were left, which came instead.

A move is named after its command, so that whoever ends it finds what was planned, and is told from the objects where
nothing is remembered. Emptiness is not remembered: it exchanges nothing. Neighbours: `hysteresis` (what memory
forbids), `adapters/redis/moves` (where it is kept).
"""

from collections.abc import Iterable, Mapping

from nodeyard.api import labels as keys
from nodeyard.disruption.commands import Running
from nodeyard.disruption.hysteresis import offering_of
from nodeyard.disruption.model import Command, Fate, Move, Reason
from nodeyard.state.cluster import Snapshot


def begun(command: Command, now: float) -> tuple[Move, ...]:
    """The command's moves, one for each pool that gives nodes; one without replacements is done at once."""
    if command.reason is Reason.EMPTY:
        return ()
    came = tuple(sorted(f"{n.instance_type}/{n.capacity_type}" for n in command.replacements))
    fate = Fate.STARTED if command.replacements else Fate.DONE
    moves = []
    for pool in sorted({c.pool for c in command.candidates}):
        left = tuple(sorted(offering_of(c) for c in command.candidates if c.pool == pool))
        ended = 0.0 if fate is Fate.STARTED else now
        moves.append(Move(f"{command.id}/{pool}", pool, command.reason, left, came, now, fate, ended))
    return tuple(moves)


def ended(
    command: Running, snapshot: Snapshot, fate: Fate, now: float, remembered: Iterable[Move]
) -> tuple[Move, ...]:
    """The same moves at their end: with what was launched, or, where that is gone, with what was planned."""
    if command.mark.reason is Reason.EMPTY:
        return ()
    planned = {move.id: move for move in remembered}
    came = _offerings(snapshot.claims[name].labels for name in command.replacements)
    moves = []
    nodes = [snapshot.nodes[name] for name in command.nodes]
    for pool in sorted({node.pool for node in nodes}):
        id_ = f"{command.mark.id}/{pool}"
        left = _offerings(node.labels for node in nodes if node.pool == pool)
        before = planned.get(id_)
        came_here = came or (before.came if before is not None else ())
        moves.append(Move(id_, pool, command.mark.reason, left, came_here, command.mark.at, fate, now))
    return tuple(moves)


def _offerings(labels: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """Of nodes or claims; those that were never launched have none."""
    pairs = [(each.get(keys.INSTANCE_TYPE, ""), each.get(keys.CAPACITY_TYPE, "")) for each in labels]
    return tuple(sorted(f"{type_}/{kind}" for type_, kind in pairs if type_))

"""What was found out about single nodes, kept for as long as everything that it hangs on is the very same.

Values are immutable and a change puts new ones in their place, so identity tells what has changed at the price of a look.
Neighbours: `burdens`, `candidates`, `renewal` and `resident` keep what they find here.
"""

from collections.abc import Callable, Collection
from operator import is_
from typing import Any, Final, Generic, TypeVar

import msgspec

from nodeyard.api.pool import Pool

T = TypeVar("T")
_STATUS: Final[dict[str, Any]] = {"resource_version": "", "resources": {}, "conditions": ()}
"""What a pool's status says: it changes with every node."""


class Remembered(Generic[T]):
    """One thing per node. Not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[object, ...], tuple[object, ...], T]] = {}

    def of(self, name: str, same: tuple[object, ...], equal: tuple[object, ...], make: Callable[[], T]) -> T:
        """What is known of the node, made anew where one of `same` is another object or one of `equal` another value."""
        known = self._known.get(name)
        if known is not None and all(map(is_, known[0], same)) and known[1] == equal:
            return known[2]
        made = make()
        self._known[name] = same, equal, made
        return made

    def keep_only(self, names: Collection[str]) -> None:
        """Forgets all nodes but these."""
        if len(self._known) > len(names):
            self._known = {name: known for name, known in self._known.items() if name in names}


def without_status(pool: Pool) -> Pool:
    """The pool as a person wrote it."""
    return msgspec.structs.replace(pool, **_STATUS)

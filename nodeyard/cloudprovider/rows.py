"""What is said of every offering, as an immutable column of rows that knows its digest block by block.

A change of a few rows among ten thousand costs a few blocks: what did not change is neither read nor hashed again, at
the service or at its subscribers. Neighbour: `market` (which offerings the rows are of).
"""

import struct
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final, Self

import msgspec

_BLOCK: Final = 128
"""Rows in a block."""
_PACKED: Final = struct.Struct("<d?ddd").pack


class Row(msgspec.Struct, frozen=True, gc=False):
    """What is said of one offering. `price` is USD per hour, 0 when unknown; `priced_at` Unix seconds."""

    price: float
    available: bool
    source: str
    priced_at: float
    risk: float = 0.0
    """USD per hour to add when plans are compared, for the odds that buying it fails."""
    list_price: float = 0.0
    """USD per hour without commitments and discounts; 0: the price."""
    release: float = 0.0
    """USD per hour that giving one up saves; 0: the price."""

    @property
    def said(self) -> tuple[object, ...]:
        """Everything but the time."""
        return (self.price, self.available, self.source, self.risk, self.list_price, self.release)


class Rows(tuple[Row, ...]):
    """Rows in their table's order. Equal but for the times: equal `digests`."""

    _known: tuple[bytes, ...] | None = None

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Of each block: what its rows say, their times left out."""
        if self._known is None:
            self._known = tuple(self._digest(block) for block in range(self._blocks()))
        return self._known

    def replaced(self, changes: Mapping[int, Row]) -> Self:
        """The rows with some of them changed, by index."""
        if not changes:
            return self
        rows = list(self)
        for index, row in changes.items():
            rows[index] = row
        out = type(self)(rows)
        if self._known is not None:
            digests = list(self._known)
            for block in {index // _BLOCK for index in changes}:
                digests[block] = out._digest(block)
            out._known = tuple(digests)
        return out

    def changed_since(self, older: "Rows") -> list[int]:
        """Indices of rows that say something else than in `older`, which is as long."""
        return [
            index
            for block, (ours, theirs) in enumerate(zip(self.digests, older.digests, strict=True))
            if ours != theirs
            for index in range(block * _BLOCK, min(len(self), (block + 1) * _BLOCK))
            if self[index].said != older[index].said
        ]

    def _blocks(self) -> int:
        return -(-len(self) // _BLOCK)

    def _digest(self, block: int) -> bytes:
        rows = self[block * _BLOCK : (block + 1) * _BLOCK]
        said = b"".join(
            _PACKED(r.price, r.available, r.risk, r.list_price, r.release) + r.source.encode() + b"\0"
            for r in rows
        )
        return blake2b(said, digest_size=8).digest()

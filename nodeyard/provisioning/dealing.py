"""Nodes being filled together: lots are dealt to them evenly, or to the fullest that still have room.

Keeps what is free, and the per-node counts that are no resource. Neighbour: `packing` opens the nodes and deals.
"""

import numpy as np

from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.lots import Bin, Lots, Shop

SLIVER = 1e-6
"""Keeps an exhausted resource from blocking pods that ask for none of it."""
MANY = 1e9


class Nodes:
    """Nodes of these columns being filled together. `free`: [resource, node]."""

    def __init__(self, lots: Lots, shop: Shop, columns: Ints) -> None:
        self.lots = lots
        self.columns = columns
        self.terms = len(lots.ceiling)
        self.free = np.ascontiguousarray(shop.room[columns].T)
        self.matched = np.zeros((len(columns), self.terms), np.int64)
        self.carried: Bools = np.zeros((len(columns), self.terms), np.bool_)
        self.placed: list[tuple[int, Ints, Ints]] = []
        self.held: dict[int, Ints] = {}
        self._asked: dict[int, list[tuple[int, float]]] = {}

    def _asks(self, lot: int) -> list[tuple[int, float]]:
        """(resource, amount) of what a pod of the lot asks for."""
        found = self._asked.get(lot)
        if found is None:
            found = [(r, many) for r, many in enumerate(self.lots.request[lot].tolist()) if many > 0]
            self._asked[lot] = found
        return found

    def deal(self, lot: int, wanted: int, weight: Floats, here: Ints, *, fullest: bool = False) -> int:
        """Place up to `wanted` pods on the nodes `here`; returns how many were. Emptiest nodes first and evenly, or
        the fullest that fit.
        """
        most = self._room(lot, here)
        able = np.nonzero(most >= 1)[0]
        if not len(able):
            return 0
        room, where = most[able].astype(np.int64), here[able]
        wanted = min(wanted, int(room.sum()))
        slack = weight @ self.free[:, where]
        if fullest:
            order = np.argsort(slack, kind="stable")
            ahead = np.cumsum(room[order]) - room[order]
            given = np.zeros(len(room), np.int64)
            given[order] = np.clip(wanted - ahead, 0, room[order])
        else:
            given = _evenly(room, wanted, slack)
        used = np.nonzero(given)[0]
        where, amounts = where[used], given[used]
        self._put(lot, where, amounts)
        return wanted

    def take(self, lot: int, wanted: int, places: Ints) -> int:
        """Place up to `wanted` pods where there are `places` for them, which go down; returns how many were."""
        here = np.nonzero(places)[0]
        room = np.clip(self._room(lot, here), 0, places[here]).astype(np.int64)
        given = np.clip(wanted - (np.cumsum(room) - room), 0, room)
        used = np.nonzero(given)[0]
        where, amounts = here[used], given[used]
        places[where] -= amounts
        self._put(lot, where, amounts)
        return int(amounts.sum())

    def _room(self, lot: int, here: Ints) -> Floats:
        """How many pods of the lot each node can take."""
        room = np.full(len(here), self.lots.most[lot])
        for resource, amount in self._asks(lot):
            np.minimum(room, (self.free[resource].take(here) + SLIVER) / amount, out=room)
        np.floor(room, out=room)
        held = self.held.get(lot)
        if held is not None:
            room -= held[here]
        return self._capped(lot, room, here) if self.terms else room

    def _put(self, lot: int, where: Ints, amounts: Ints) -> None:
        for resource, amount in self._asks(lot):
            self.free[resource][where] -= amounts * amount
        if self.terms:
            self.matched[where] += amounts[:, None] * self.lots.matches[lot]
            self.carried[where] |= self.lots.carries[lot]
        if self.lots.most[lot] < MANY:
            self.held.setdefault(lot, np.zeros(len(self.columns), np.int64))[where] += amounts
        self.placed.append((lot, where, amounts))

    def _capped(self, lot: int, room: Floats, here: Ints) -> Floats:
        lots = self.lots
        anti = lots.ceiling == 0
        carries, matches = lots.carries[lot], lots.matches[lot]
        matched, carried = self.matched[here], self.carried[here]
        blocked = (matched[:, carries & anti] > 0).any(axis=1) | carried[:, matches & anti].any(axis=1)
        room = np.where(blocked, 0.0, room)
        spread = matches & ~anti
        if spread.any():
            room = np.minimum(room, (lots.ceiling[spread] - matched[:, spread]).min(axis=1))
        return room

    def bins(self) -> list[Bin]:
        """What each node holds, without those that hold nothing."""
        if not self.placed:
            return []
        lot = np.repeat([p[0] for p in self.placed], [len(p[1]) for p in self.placed])
        node = np.concatenate([p[1] for p in self.placed])
        key, place = np.unique(node * self.lots.count + lot, return_inverse=True)
        many = np.bincount(place.reshape(-1), np.concatenate([p[2] for p in self.placed])).astype(np.int64)
        node, lot = np.divmod(key, self.lots.count)
        first = np.nonzero(np.diff(node, prepend=-1))[0]
        parts = zip(np.split(lot, first[1:]), np.split(many, first[1:]), strict=True)
        columns = self.columns[node[first]].tolist()
        return [Bin(column, lots, counts) for column, (lots, counts) in zip(columns, parts, strict=True)]


def _evenly(room: Ints, wanted: int, slack: Floats) -> Ints:
    """Split `wanted` over nodes as evenly as their room allows, the remainder to those with most slack."""
    given = np.zeros(len(room), np.int64)
    left = wanted
    while left > 0:
        able = np.nonzero(room > given)[0]
        base = left // len(able)
        if base == 0:
            pick = able[np.argpartition(-slack[able], left - 1)[:left]]
            given[pick] += 1
            break
        add = np.minimum(room[able] - given[able], base)
        given[able] += add
        left -= int(add.sum())
    return given

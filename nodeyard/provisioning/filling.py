"""Many greedy fillings of empty nodes at once: one numpy pass per lot over every try and column.

Each try has its own order of lots, large and apt ones first, shaken more than the one before. Neighbour: `packing`
takes the least wasteful.
"""

import numpy as np

from nodeyard.provisioning.dealing import MANY, SLIVER
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.lots import Lots, Shop


class Filler:
    """Fills nodes of a shop with lots. `fits`: [lot, column]; `scale`: per resource; `rng`: what shakes the orders."""

    def __init__(self, lots: Lots, shop: Shop, fits: Bools, scale: Floats, rng: np.random.Generator) -> None:
        self.lots, self.shop, self.fits, self.scale, self.rng = lots, shop, fits, scale, rng
        self.request = lots.request
        self.divisor = np.where(lots.request > 0, lots.request, 1e-30)
        self.terms = len(lots.ceiling)

    def fillings(
        self, active: Ints, left: Ints, columns: Ints, value: Floats, fair: Floats, tries: int
    ) -> Ints:
        """[try, column, lot]: pods that each filling holds. `value`: what a pod of each lot is worth; `fair`: what a column
        costs with its use of limits.
        """
        request, room = self.request[active], self.shop.room[columns]
        n_lot, n_col = len(active), len(columns)
        orders = self._orders(active, columns, value, fair, tries)  # [rank, try, column] -> lot
        counts = np.zeros(tries * n_col * n_lot, np.int64)
        most = np.minimum(self.lots.most[active], left)
        able = np.where(self.fits[np.ix_(active, columns)].T, most[None, :], 0.0).reshape(
            -1
        )  # [column and lot]
        place = np.arange(n_col)[None, :] * n_lot
        filling = np.arange(tries)[:, None] * n_col * n_lot + place
        needed = np.nonzero((request > 0).any(axis=0) | (room < 0).any(axis=0))[0]
        asked = [np.ascontiguousarray(request[:, r]) for r in needed]
        divisor = [np.ascontiguousarray(self.divisor[active, r]) for r in needed]
        free = [np.repeat(room[None, :, r], tries, axis=0) for r in needed]  # per resource: [try, column]
        matched = np.zeros((tries, n_col, self.terms))
        carried = np.zeros((tries, n_col, self.terms), np.bool_)
        for rank in range(n_lot):
            lot = orders[rank]
            amount = able.take(place + lot)
            for resource, there in enumerate(free):
                np.minimum(amount, (there + SLIVER) / divisor[resource].take(lot), out=amount)
            np.floor(amount, out=amount)
            if self.terms:
                amount = self._term_cap(amount, active[lot], matched, carried)
            np.maximum(amount, 0.0, out=amount)
            for resource, there in enumerate(free):
                there -= amount * asked[resource].take(lot)
            counts[filling + lot] = amount
            if self.terms:
                some = amount > 0
                matched += amount[:, :, None] * self.lots.matches[active[lot]]
                carried |= some[:, :, None] & self.lots.carries[active[lot]]
        return counts.reshape(tries, n_col, n_lot)

    def _term_cap(self, amount: Floats, lot: Ints, matched: Floats, carried: Bools) -> Floats:
        ceiling = self.lots.ceiling
        anti = ceiling == 0
        mine, theirs = self.lots.matches[lot], self.lots.carries[lot]
        blocked = (theirs & anti & (matched > 0)).any(axis=2) | (mine & anti & carried).any(axis=2)
        amount = np.where(blocked, 0.0, amount)
        if not anti.all():
            room = np.where(mine & ~anti, ceiling - matched, MANY).min(axis=2)
            amount = np.minimum(amount, np.maximum(room, 0.0))
        return amount

    def _orders(self, active: Ints, columns: Ints, value: Floats, fair: Floats, tries: int) -> Ints:
        """Large lots first, and those first that a column suits; each try shaken more than the one before."""
        request = self.request[active] / self.scale
        room = self.shop.room[columns] / self.scale
        share = (request[None, :, :] / np.maximum(room, 1e-12)[:, None, :]).max(axis=2)  # [column, lot]
        worth = value[active][None, :] / np.maximum(share * fair[columns][:, None], 1e-12)
        size = np.log(np.maximum(share, 1e-12))
        apt = np.log(np.maximum(np.minimum(worth, 4.0), 1e-6))
        shake = np.linspace(0.0, 1.5, tries)[:, None, None]
        lean = np.resize(np.array([1.0, 3.0, 0.3, 6.0]), tries)[:, None, None]
        noise = self.rng.standard_normal((tries, 1, len(active)))
        key = size[None] + lean * apt[None] + shake * noise
        orders: Ints = np.ascontiguousarray(np.moveaxis(np.argsort(-key, axis=2, kind="stable"), 2, 0))
        return orders

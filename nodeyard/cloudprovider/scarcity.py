"""What the cloud refused, how often in a row, and what that says about asking again.

A pool (capacity type × type × zone), a subnet or a whole capacity type that is refused is out for three minutes; each
time it is refused again after it was let back, twice as long as before, up to an hour. Refusals that arrive while it
is out are the same news and lengthen nothing but the time. For every quiet hour one refusal is forgotten. What is let
back is offered with the odds of another refusal, which halve every quarter of an hour, so that plans weigh them as
money. Not immutable: one owner keeps it; time is an argument. Neighbours: `refusals` (what a refusal means),
services/pricing (where it is kept and shared).
"""

from collections.abc import Iterable
from typing import Final

from nodeyard.api.labels import RESERVED, SPOT
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.refusals import REFUSAL_TTL_S, Refusal, Shut

LONGEST_S: Final = 3600.0
"""However often a pool is refused, it is tried again after this."""
QUIET_S: Final = 3600.0
"""After each such time since it was let back, one refusal is forgotten."""
ODDS_STEP_S: Final = 900.0
"""The odds of another refusal halve after each such time."""
_ODDS_STEPS: Final = 5
_SCARCER: Final = 0.2
"""What a replacement for a refused offering costs more at least, as a share of its price."""
_SAME_S: Final = 0.5
"""Clocks and roundings apart by less than this tell of the same refusal."""
INTERRUPTED: Final = "SpotInstanceInterruption"
"""The code under which the loss of a spot instance counts as a refusal."""

TAKEN_BACK: Final = "CapacityReservationInstanceInterruption"
"""The code under which a reservation that takes an instance back counts as full."""

Key = tuple[str, str, str, str, str, str]
Pool = tuple[str, str, str]
"""Capacity type, instance type, zone."""


class Standing(Value, frozen=True):
    """What is remembered of one refused pool, subnet or capacity type. Times are Unix seconds."""

    refusal: Refusal
    """The last one."""
    strikes: int
    """Refusals in a row, forgotten ones not counted."""
    at: float
    """When it was last refused."""
    until: float
    """When it is let back."""

    def strikes_left(self, now: float) -> int:
        """Strikes less one for each quiet hour since it was let back."""
        return max(0, self.strikes - int(max(0.0, now - self.until) // QUIET_S))

    @property
    def forgotten_at(self) -> float:
        return self.until + self.strikes * QUIET_S

    def odds(self, now: float) -> float:
        """The probability that asking at `now` is refused; 1 while it is out."""
        if now < self.until:
            return 1.0
        steps = int((now - self.until) // ODDS_STEP_S)
        return 0.0 if steps > _ODDS_STEPS else (self.strikes + 1) / (self.strikes + 2) * 0.5**steps

    def next_change(self, now: float) -> float:
        """When `odds` changes next; infinity when it never does."""
        if now < self.until:
            return self.until
        steps = int((now - self.until) // ODDS_STEP_S)
        return float("inf") if steps > _ODDS_STEPS else self.until + (steps + 1) * ODDS_STEP_S


class ScarcityMemory:
    """Standings by what they are about. `first_s`: how long a first refusal keeps a pool out."""

    def __init__(self, first_s: float = REFUSAL_TTL_S) -> None:
        self._first_s = first_s
        self._standings: dict[Key, Standing] = {}

    def refuse(self, refusals: Iterable[Refusal], now: float) -> list[Standing]:
        """Notes refusals of this moment; the standings that follow."""
        out = []
        for refusal in refusals:
            known = self._standings.get(refusal.key)
            strikes, until = 1, 0.0
            if known is not None:
                until = known.until
                strikes = known.strikes if now < known.until else known.strikes_left(now) + 1
            lasts_s = max(self._first_s, min(LONGEST_S, self._first_s * 2.0 ** min(strikes - 1, 30)))
            if refusal.reservation:  # it is counted again before long
                lasts_s = refusal.ttl_s
            standing = Standing(refusal, strikes, now, max(until, now + lasts_s))
            self._standings[refusal.key] = standing
            out.append(standing)
        return out

    def merge(self, standings: Iterable[Standing]) -> bool:
        """Takes over what others know better: the later refusal counts. True when something was news."""
        news = False
        for theirs in standings:
            ours = self._standings.get(theirs.refusal.key)
            later = ours is not None and theirs.at > ours.at + _SAME_S
            if (
                ours is None
                or later
                or (theirs.at > ours.at - _SAME_S and theirs.until > ours.until + _SAME_S)
            ):
                self._standings[theirs.refusal.key] = theirs
                news = True
        return news

    def forget(self, now: float) -> None:
        """Drops what has no strike left by `now`."""
        gone = [k for k, s in self._standings.items() if s.forgotten_at <= now]
        for key in gone:
            del self._standings[key]

    def next_change(self, now: float) -> float | None:
        """When what is said about offerings changes next; None when it does not."""
        found = min((s.next_change(now) for s in self._standings.values()), default=float("inf"))
        return found if found < float("inf") else None

    def standings(self) -> list[Standing]:
        """Everything remembered, in a fixed order."""
        return [self._standings[key] for key in sorted(self._standings)]

    def shut(self, now: float, besides: Iterable[Refusal] = ()) -> Shut:
        """What is out at `now`, with what is out for other reasons."""
        return Shut((*(s.refusal for s in self._standings.values() if now < s.until), *besides))

    def odds(self, now: float) -> dict[Pool, float]:
        """The odds of a refusal for each pool that is let back but not yet trusted."""
        out: dict[Pool, float] = {}
        for (capacity_type, instance_type, zone, *place), standing in self._standings.items():
            if now < standing.until or any(place) or not (capacity_type and instance_type and zone):
                continue
            odds = standing.odds(now)
            if odds > 0:
                out[capacity_type, instance_type, zone] = odds
        return out


def interrupted(instance_type: str, zone: str) -> Refusal:
    """The loss of a spot instance, as news about its pool."""
    return Refusal(instance_type, zone, SPOT, INTERRUPTED)


def taken_back(instance_type: str, zone: str, reservation: str) -> Refusal:
    """An instance that its reservation takes back, as news about the reservation."""
    return Refusal(instance_type, zone, RESERVED, TAKEN_BACK, reservation=reservation)


def risk_of(odds: float, price: float, on_demand: float) -> float:
    """USD per hour that the odds of a refusal add to a price: what the next best costs more, times the odds.

    The next best to a spot pool is the type on demand (`on_demand`, 0 if unknown); in any case something a fifth
    dearer.
    """
    return round(odds * max(on_demand - price, _SCARCER * price), 6)

"""Free addresses of subnets: what EC2 last said, less what launches under way will probably take.

EC2's count lags behind a burst of launches, so each one holds as many addresses as the smallest node it may become has
pods, in every subnet that it may land in. After the fleet's reply only the subnet it landed in stays held, and that
until EC2 has been asked again. Refuses nothing: the fullest subnet is still tried while EC2 has not said that it is
full. Not immutable: one owner keeps it; time is an argument (seconds, any steady clock).
Source: EC2 API reference, DescribeSubnets (AvailableIpAddressCount); Karpenter documentation, "NodeClasses" (subnets).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from nodeyard.api.selectors import Value

KNOWN_S: Final = 300.0
"""How long a count of EC2's is believed, and the longest that a launch without an answer holds addresses."""
FULL_S: Final = 180.0
"""How long a subnet without free addresses is left alone."""
_WORTH_MOVING: Final = 1.25
"""Launches stay with a subnet until another has so much more left, so that claims alike make the same request."""


class _Hold(Value, frozen=True):
    at: float
    addresses: dict[str, int]
    settled: bool = False


class Addresses:
    """The book of one replica, over all its node classes."""

    def __init__(self) -> None:
        self._free: dict[str, tuple[int, float]] = {}
        self._holds: dict[str, _Hold] = {}
        self._full: dict[str, float] = {}
        self._last: dict[tuple[str, ...], str] = {}

    def described(self, free: Mapping[str, int], asked_at: float) -> None:
        """EC2's counts by subnet id. What launches answered before `asked_at` took is in them."""
        self._free.update({subnet: (count, asked_at) for subnet, count in free.items()})
        for launch, hold in list(self._holds.items()):
            counted = hold.settled and hold.at <= asked_at and hold.addresses.keys() <= free.keys()
            if counted or asked_at - hold.at >= KNOWN_S:  # another replica may have launched it, or nobody
                del self._holds[launch]
        self._last = {among: kept for among, kept in self._last.items() if not free.keys() & set(among)}

    def hold(self, launch: str, expected: Mapping[str, int], now: float) -> None:
        """The launch may take so many addresses of each of these subnets."""
        self._holds[launch] = _Hold(now, dict(expected))

    def settle(self, launch: str, subnet: str, now: float) -> None:
        """The launch landed in `subnet` ("": nowhere): what it held of the others is given back."""
        hold = self._holds.pop(launch, None)
        if hold is not None and subnet in hold.addresses:
            self._holds[launch] = _Hold(now, {subnet: hold.addresses[subnet]}, True)

    def full(self, subnet: str, now: float) -> None:
        """EC2 found no free address in it."""
        self._full[subnet] = now + FULL_S

    def is_full(self, subnet: str, now: float) -> bool:
        """Whether EC2 said so within the last three minutes."""
        return self._full.get(subnet, 0.0) > now

    def left(self, subnet: str, now: float) -> int:
        """Addresses that will be free once all launches under way have theirs; below zero when there are too few."""
        count, asked_at = self._free.get(subnet, (0, 0.0))
        held = sum(h.addresses.get(subnet, 0) for h in self._holds.values() if now - h.at < KNOWN_S)
        return (count if now - asked_at < KNOWN_S else 0) - held

    def best(self, among: Sequence[str], now: float) -> str | None:
        """The subnet with the most left, the first of equals; None where all are full."""
        open_ = [subnet for subnet in among if not self.is_full(subnet, now)]
        if not open_:
            return None
        left = {subnet: self.left(subnet, now) for subnet in open_}
        best = max(open_, key=lambda subnet: left[subnet])
        last = self._last.get(tuple(among), "")
        if last in left and left[last] > 0 and left[best] <= left[last] * _WORTH_MOVING:
            best = last
        self._last[tuple(among)] = best
        return best

"""What the nodes cost: a line for every stretch of time that a machine ran at one price.

Lines never reach over an hour of the trace, so that hours add up; the rent is the sum of hours × price over the lines
and nothing else. Money is USD, times are seconds since the trace began.
"""

import msgspec
import numpy as np

from nodeyard.provisioning.labelled import Floats

_HOUR_S = 3600.0


class Line(msgspec.Struct, frozen=True, gc=False):
    """One machine from `from_s` to `to_s` at a price."""

    machine: str
    capacity_type: str
    from_s: float
    to_s: float
    price_usd_per_hour: float

    @property
    def hours(self) -> float:
        return (self.to_s - self.from_s) / _HOUR_S

    @property
    def usd(self) -> float:
        return self.hours * self.price_usd_per_hour


class Bill:
    """Open accounts and written lines. `settle` at every hour and before every change of price."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._open: dict[str, tuple[str, float, float]] = {}

    @property
    def running(self) -> int:
        """Machines that are paid for now."""
        return len(self._open)

    @property
    def usd_per_hour(self) -> float:
        """Their rent now."""
        return sum(price for _, _, price in self._open.values())

    def start(self, machine: str, capacity_type: str, now_s: float, price: float) -> None:
        self._open[machine] = (capacity_type, now_s, price)

    def stop(self, machine: str, now_s: float) -> None:
        capacity_type, since, price = self._open.pop(machine)
        self._write(machine, capacity_type, since, now_s, price)

    def reprice(self, machine: str, now_s: float, price: float) -> None:
        """From now on the machine costs `price`."""
        capacity_type, since, old = self._open[machine]
        if price != old:
            self._write(machine, capacity_type, since, now_s, old)
            self._open[machine] = (capacity_type, now_s, price)

    def settle(self, now_s: float) -> None:
        """Writes everything up to now."""
        for machine, (capacity_type, since, price) in list(self._open.items()):
            self._write(machine, capacity_type, since, now_s, price)
            self._open[machine] = (capacity_type, now_s, price)

    def _write(self, machine: str, capacity_type: str, since: float, now_s: float, price: float) -> None:
        if now_s > since:
            self.lines.append(Line(machine, capacity_type, since, now_s, price))


def by_hour(lines: list[Line], hours: int, charge_usd_per_hour: float) -> tuple[Floats, Floats]:
    """(rent, node charge) in USD for each hour of the trace."""
    if not lines:
        return np.zeros(hours), np.zeros(hours)
    at = np.array([min(int(line.from_s // _HOUR_S), hours - 1) for line in lines], np.int64)
    rent: Floats = np.bincount(at, [line.usd for line in lines], hours).astype(np.float64)
    time: Floats = np.bincount(at, [line.hours for line in lines], hours).astype(np.float64)
    return rent, time * charge_usd_per_hour

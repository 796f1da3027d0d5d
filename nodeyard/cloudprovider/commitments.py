"""What is paid for already: Savings Plans, Reserved Instances and discounts, and what one more instance then costs.

A bill is worked out as AWS does: zonal Reserved Instances, regional ones (size-flexible within a family, smallest
instances first), EC2 Instance Savings Plans, Compute Savings Plans (where they save most first), and the rest on
demand with the organisation's discount. Commitments are paid whether used or not, so the price of one more instance
is what it adds to the rest: nothing until they are used up in the hour, then the discounted price, and what one less
saves is as little. Usage is taken as instances that run for the whole hour. Sources: AWS Savings Plans user guide,
"Understanding how Savings Plans apply to your usage"; EC2 user guide, "How Reserved Instances are applied".
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

import msgspec

from nodeyard.api.selectors import Value

NEARLY_FREE: Final = 1e-7
"""What is covered costs this share of its list price, so that it stays a price and keeps its place in the order."""
_MOST: Final = 1e9
_SIZES: Final = {"nano": 0.25, "micro": 0.5, "small": 1.0, "medium": 2.0, "large": 4.0, "xlarge": 8.0}
_NOT_FLEXIBLE: Final = frozenset({"g", "gr", "p", "inf", "trn", "dl", "f", "vt", "hpc", "u"})
"""Categories whose Reserved Instances count for their own size only."""

Usage = Mapping[tuple[str, str], float]
"""(instance type, zone) -> instances running on demand."""


class CommitmentsError(Exception):
    """Commitments that can't be understood; the message says where and why."""


class SavingsPlan(Value, frozen=True):
    """`kind` "ec2-instance" is for one family of this region. Rates are USD per hour of a type under the plan."""

    kind: Literal["compute", "ec2-instance"]
    usd_per_hour: float
    """The commitment."""
    id: str = ""
    family: str = ""
    discount_percent: float | None = None
    """Off the list price, for types without a rate of their own."""
    rates: dict[str, float] = {}
    used_elsewhere_usd_per_hour: float = 0.0
    """What other accounts and regions of the organisation use of it."""
    ends_at: float | None = None
    """Unix seconds."""


class ReservedInstance(Value, frozen=True):
    """`zone` empty: regional."""

    instance_type: str
    count: float
    id: str = ""
    zone: str = ""
    ends_at: float | None = None


class Commitments(Value, frozen=True):
    """Everything that has been committed to, and the discount on the rest."""

    savings_plans: tuple[SavingsPlan, ...] = ()
    reserved_instances: tuple[ReservedInstance, ...] = ()
    discount_percent: float = 0.0
    """The organisation's, off every on-demand price."""

    def at(self, now: float) -> "Commitments":
        """What still runs at `now` (Unix seconds)."""
        return Commitments(
            tuple(p for p in self.savings_plans if p.ends_at is None or p.ends_at > now),
            tuple(r for r in self.reserved_instances if r.ends_at is None or r.ends_at > now),
            self.discount_percent,
        )


class Marginal(Value, frozen=True):
    """USD per hour that one more instance of an offering costs, and that one less saves."""

    price: float
    release: float


def read_commitments(raw: bytes) -> Commitments:
    """The commitments in a JSON document with the fields above. Raises CommitmentsError."""
    try:
        found = msgspec.json.decode(raw, type=Commitments)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CommitmentsError(str(error)) from None
    for where, value, most in _amounts(found):
        if not 0 <= value <= most:
            raise CommitmentsError(f"{where}: {value:g} is out of range")
    for index, plan in enumerate(found.savings_plans):
        if plan.discount_percent is None and not plan.rates:
            raise CommitmentsError(f"savingsPlans[{index}]: neither rates nor discountPercent")
        if plan.kind == "ec2-instance" and not plan.family:
            raise CommitmentsError(f"savingsPlans[{index}].family: is wanted for kind ec2-instance")
    return found


def _amounts(found: Commitments) -> Iterator[tuple[str, float, float]]:
    """(where, value, the largest that makes sense) of every number."""
    yield "discountPercent", found.discount_percent, 100.0
    for index, plan in enumerate(found.savings_plans):
        where = f"savingsPlans[{index}]"
        yield f"{where}.usdPerHour", plan.usd_per_hour, _MOST
        yield f"{where}.usedElsewhereUsdPerHour", plan.used_elsewhere_usd_per_hour, _MOST
        yield f"{where}.discountPercent", plan.discount_percent or 0.0, 100.0
        for name, rate in plan.rates.items():
            yield f"{where}.rates[{name}]", rate, _MOST
    for index, reserved in enumerate(found.reserved_instances):
        yield f"reservedInstances[{index}].count", reserved.count, _MOST


class Billing:
    """Bills under one set of commitments and list prices (USD per hour by type, all above zero)."""

    def __init__(self, commitments: Commitments, listed: Mapping[str, float]) -> None:
        self._commitments = commitments
        self._listed = listed
        self._rest = 1.0 - commitments.discount_percent / 100.0
        # EC2 Instance Savings Plans go before Compute ones, as AWS applies them.
        self._plans = sorted(commitments.savings_plans, key=lambda plan: plan.kind == "compute")
        self._rates: list[dict[str, float | None]] = [{} for _ in self._plans]

    def bill(self, usage: Usage) -> float:
        """USD per hour beyond what is committed."""
        return sum(
            hours * self._listed[name] * self._rest
            for name, hours in self._after_plans(self._after_reserved(usage)).items()
        )

    def marginal(self, usage: Usage, offerings: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Marginal]:
        """The marginal price of each (type, zone) that has a list price, with `usage` running."""
        running = {key: count for key, count in usage.items() if count > 0 and key[0] in self._listed}
        now = self.bill(running)
        zonal = {(r.instance_type, r.zone) for r in self._commitments.reserved_instances if r.zone}
        same: dict[tuple[str, str], float] = {}
        out: dict[tuple[str, str], Marginal] = {}
        for name, zone in offerings:
            listed = self._listed.get(name)
            if listed is None:
                continue
            # Zones differ only where a zonal reservation has a say.
            key = (name, zone if (name, zone) in zonal else "")
            if key not in same:
                same[key] = self._step(running, (name, zone), 1.0, now)
            price = same[key]
            count = min(1.0, running.get((name, zone), 0.0))
            release = -self._step(running, (name, zone), -count, now) / count if count else price
            least = listed * NEARLY_FREE
            out[name, zone] = Marginal(max(price, least), max(release, least))
        return out

    def _step(self, running: Usage, where: tuple[str, str], more: float, now: float) -> float:
        return self.bill({**running, where: running.get(where, 0.0) + more}) - now

    def _after_reserved(self, usage: Usage) -> dict[str, float]:
        """Hours by type that no Reserved Instance covers."""
        left = dict(usage)
        units: dict[str, float] = {}
        exact: dict[str, float] = {}
        for reserved in self._commitments.reserved_instances:
            name = reserved.instance_type
            if reserved.zone:
                key = (name, reserved.zone)
                left[key] = max(0.0, left.get(key, 0.0) - reserved.count)
            elif size := normalized_size(name):
                family = name.partition(".")[0]
                units[family] = units.get(family, 0.0) + reserved.count * size
            else:
                exact[name] = exact.get(name, 0.0) + reserved.count
        hours: dict[str, float] = {}
        for (name, _), count in left.items():
            hours[name] = hours.get(name, 0.0) + count
        for name, count in exact.items():
            hours[name] = max(0.0, hours.get(name, 0.0) - count)
        for family, free in units.items():
            _cover_family(hours, family, free)
        return hours

    def _after_plans(self, hours: dict[str, float]) -> dict[str, float]:
        """Hours by type that no Savings Plan covers either."""
        for number, plan in enumerate(self._plans):
            left = max(0.0, plan.usd_per_hour - plan.used_elsewhere_usd_per_hour)
            eligible = [
                (rate / self._listed[name], rate, name)
                for name, count in hours.items()
                if count > 0 and (rate := self._rate(number, plan, name)) is not None
            ]
            for _, rate, name in sorted(eligible):
                covered = min(hours[name], left / rate if rate > 0 else hours[name])
                hours[name] -= covered
                left -= covered * rate
                if left <= 0:
                    break
        return hours

    def _rate(self, number: int, plan: SavingsPlan, name: str) -> float | None:
        known = self._rates[number]
        if name not in known:
            known[name] = self._rate_of(plan, name)
        return known[name]

    def _rate_of(self, plan: SavingsPlan, name: str) -> float | None:
        if plan.kind == "ec2-instance" and name.partition(".")[0] != plan.family:
            return None
        if name in plan.rates:
            return plan.rates[name]
        if plan.discount_percent is None:
            return None
        return self._listed[name] * (1.0 - plan.discount_percent / 100.0)


def normalized_size(instance_type: str) -> float | None:
    """EC2's normalization factor; None for a type whose Reserved Instances count for its own size only."""
    family, _, size = instance_type.partition(".")
    if family[: _first_digit(family)].partition("-")[0] in _NOT_FLEXIBLE:
        return None
    if size in _SIZES:
        return _SIZES[size]
    times = size.removesuffix("xlarge")
    return 8.0 * int(times) if size.endswith("xlarge") and times.isdigit() else None


def _first_digit(text: str) -> int:
    return next((index for index, char in enumerate(text) if char.isdigit()), len(text))


def _cover_family(hours: dict[str, float], family: str, units: float) -> None:
    """Spends normalized units on the family's instances, smallest first."""
    members = [
        (size, name)
        for name in hours
        if name.partition(".")[0] == family and (size := normalized_size(name)) is not None
    ]
    for size, name in sorted(members):
        covered = min(hours[name], units / size)
        hours[name] -= covered
        units -= covered * size

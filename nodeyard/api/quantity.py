"""Kubernetes quantities as integers: cpu in millicores, every other resource in its base unit, rounded up.

That is how kube-scheduler counts (MilliValue for cpu, Value for the rest), so sums here agree with its sums.
Source: kubernetes.io "Resource units in Kubernetes"; apimachinery `resource.Quantity`.
"""

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

Resources = dict[str, int]
"""Resource name -> amount: cpu in millicores, the rest in bytes or counts."""

CPU: Final = "cpu"
MEMORY: Final = "memory"
PODS: Final = "pods"
EPHEMERAL_STORAGE: Final = "ephemeral-storage"

_SUFFIX: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}


class QuantityError(ValueError):
    """A text that is not a Kubernetes quantity."""


@lru_cache(maxsize=16384)
def parse(resource: str, text: str) -> int:
    """The amount `text` (e.g. "1500m", "2Gi", "1e3") of `resource` as an integer in our unit.

    Raises QuantityError naming the resource and the text.
    """
    text = text.strip()
    number = text.rstrip("numkKMGTPEi")
    suffix = text[len(number) :]
    try:
        value = Decimal(number) * _SUFFIX[suffix]
    except (InvalidOperation, KeyError):
        raise QuantityError(f"{resource}: {text!r} is not a quantity") from None
    if not value.is_finite():
        raise QuantityError(f"{resource}: {text!r} is not a quantity")
    if resource == CPU:
        value *= 1000
    return int(value.to_integral_value(rounding=ROUND_CEILING))


def parse_all(quantities: Mapping[str, str | int | float]) -> Resources:
    """Every quantity of a resource list; numbers that YAML left unquoted are accepted."""
    return {name: parse(name, str(text)) for name, text in quantities.items()}


def render(resource: str, amount: int) -> str:
    """The shortest exact Kubernetes spelling of `amount`."""
    if resource == CPU:
        return str(amount // 1000) if amount % 1000 == 0 else f"{amount}m"
    if resource in (MEMORY, EPHEMERAL_STORAGE) or resource.startswith("hugepages-"):
        for suffix, unit in (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
            if amount and amount % unit == 0:
                return f"{amount // unit}{suffix}"
    return str(amount)


def render_all(resources: Mapping[str, int]) -> dict[str, str]:
    """A resource list as Kubernetes writes it."""
    return {name: render(name, amount) for name, amount in resources.items()}


def total(parts: Iterable[Mapping[str, int]]) -> Resources:
    """The sum, resource by resource."""
    out: Resources = {}
    for part in parts:
        for name, amount in part.items():
            out[name] = out.get(name, 0) + amount
    return out


def largest(first: Mapping[str, int], second: Mapping[str, int]) -> Resources:
    """The larger amount, resource by resource."""
    out = dict(first)
    for name, amount in second.items():
        if amount > out.get(name, 0):
            out[name] = amount
    return out


def fits(requests: Mapping[str, int], room: Mapping[str, int]) -> bool:
    """Whether every positive request finds room; a resource that is not offered has none."""
    return all(amount <= room.get(name, 0) for name, amount in requests.items() if amount > 0)

"""The catalogue as JSON Lines, one instance type a line: what `nodeyard catalog export` writes and `plan` reads.

`{"name", "requirements": {label: [values]}, "capacity": {resource: quantity}, "allocatable": {...},
"offerings": [{"zone", "zoneId", "capacityType", "price", "available", "reserved"}]}`; prices in USD per
hour, `reserved` ({"id", "kind", "interruptible", "left"}) only where the capacity type is. Zone, zone id and
capacity type stand in the requirements too, for readers without an eye for offerings; read back, they come from the
offerings alone. A line that can't be understood stops the reading with its number and field.
"""

import math
from collections.abc import Iterable, Iterator

import msgspec

from nodeyard.api.labels import CAPACITY_TYPE, INSTANCE_TYPE, ZONE, ZONE_ID
from nodeyard.api.quantity import QuantityError, Resources, parse, render_all
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering, Reserved


class CatalogueError(ValueError):
    """A line that is not an instance type. `line` counts from 1; `field` is a path such as `offerings[2].price`."""

    def __init__(self, line: int, field: str, message: str) -> None:
        super().__init__(f"line {line}: {f'{field}: ' if field else ''}{message}")
        self.line = line
        self.field = field
        self.message = message


class _Offer(Value, frozen=True):
    zone: str
    capacity_type: str
    price: float
    zone_id: str = ""
    available: bool = True
    source: str = ""
    price_age_s: float | None = None
    reserved: Reserved | None = None


class _Entry(Value, frozen=True):
    name: str
    capacity: dict[str, str | int | float]
    allocatable: dict[str, str | int | float]
    requirements: dict[str, tuple[str, ...]] = {}
    offerings: tuple[_Offer, ...] = ()


def read_catalogue(lines: Iterable[str | bytes], revision: str = "") -> Catalogue:
    """The catalogue in `lines`; blank ones are skipped. Raises CatalogueError."""
    types: dict[str, InstanceType] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _type_of(line, number)
        if found.name in types:
            raise CatalogueError(number, "name", f"{found.name!r} stands in the catalogue twice")
        types[found.name] = found
    return Catalogue(types.values(), revision)


def catalogue_lines(catalogue: Catalogue) -> Iterator[str]:
    """One line per type, without line ends, in the catalogue's order."""
    encoder = msgspec.json.Encoder(order="sorted")
    for found in catalogue.types:
        yield encoder.encode(_entry_of(found)).decode()


def _entry_of(found: InstanceType) -> dict[str, object]:
    offered = [o for o in found.offerings if o.available]
    requirements = dict(found.requirements)
    for key, values in (
        (ZONE, {o.zone for o in offered}),
        (ZONE_ID, {o.zone_id for o in offered if o.zone_id}),
        (CAPACITY_TYPE, {o.capacity_type for o in offered}),
    ):
        if values:
            requirements[key] = tuple(sorted(values))
    return {
        "name": found.name,
        "requirements": requirements,
        "capacity": render_all(found.capacity),
        "allocatable": render_all(found.allocatable),
        "offerings": [
            {
                "zone": o.zone,
                "zoneId": o.zone_id,
                "capacityType": o.capacity_type,
                "price": o.price,
                "available": o.available,
                **({"source": o.source} if o.source else {}),
                **({"priceAgeS": round(o.price_age_s, 1)} if o.price_age_s is not None else {}),
                **({"reserved": msgspec.to_builtins(o.reserved)} if o.reserved is not None else {}),
            }
            for o in found.offerings
        ],
    }


_DECODER = msgspec.json.Decoder(_Entry)


def _type_of(line: str | bytes, number: int) -> InstanceType:
    try:
        entry = _DECODER.decode(line)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        raise CatalogueError(number, where.rstrip("`").lstrip("."), message) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CatalogueError(number, "", f"not JSON: {error}") from None
    if not entry.name:
        raise CatalogueError(number, "name", "is empty")
    for index, offer in enumerate(entry.offerings):
        if not math.isfinite(offer.price) or offer.price < 0:
            raise CatalogueError(number, f"offerings[{index}].price", f"{offer.price} is not a price")
    by_offering = (ZONE, ZONE_ID, CAPACITY_TYPE)
    requirements = {key: values for key, values in entry.requirements.items() if key not in by_offering}
    requirements.setdefault(INSTANCE_TYPE, (entry.name,))
    return InstanceType(
        entry.name,
        requirements,
        _quantities(entry.capacity, "capacity", number),
        _quantities(entry.allocatable, "allocatable", number),
        tuple(
            Offering(
                o.zone,
                o.capacity_type,
                o.price,
                o.available,
                o.zone_id,
                o.source,
                o.price_age_s,
                reserved=o.reserved,
            )
            for o in entry.offerings
        ),
    )


def _quantities(texts: dict[str, str | int | float], field: str, number: int) -> Resources:
    out: Resources = {}
    for name, text in texts.items():
        try:
            out[name] = parse(name, str(text))
        except QuantityError as error:
            raise CatalogueError(number, f"{field}[{name}]", str(error)) from None
        if out[name] < 0:
            raise CatalogueError(number, f"{field}[{name}]", f"{text!r} is negative")
    return out

"""Which pools a change of prices touches: whose nodes may be worth something else now than at the last look.

A pool is touched where the price of a node's own offering is another, or where something that it may buy has become
cheaper, or can be had again, at a price that leaves the pool's least saving of what its nodes cost together. All else
(offerings of others, rises of what nobody has, refusals) opens no saving that was not there before, so a look that
found nothing needs no repetition. Neighbours: the reallocator's pass, which asks; `hysteresis` (what a move must save).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from nodeyard.api import labels as keys
from nodeyard.api.pool import Pool, PoolKey
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.scheduling.requirements import LabelStates, RequirementError, canonical_key, states_of
from nodeyard.state.cluster import Snapshot

Catalogues = Mapping[str, Catalogue]
"""By node class key."""
Bought = tuple[InstanceType, Offering]
_Own = tuple[Offering | None, Offering | None]
"""A node's offering as it was and as it is."""


def repriced(snapshot: Snapshot, before: Catalogues, after: Catalogues) -> frozenset[PoolKey]:
    """The pools that have to be looked at again because prices moved from `before` to `after`."""
    fallen: dict[str, tuple[Bought, ...]] = {}
    touched = set()
    for key, owned in _offerings_of_nodes(snapshot, before, after).items():
        pool = snapshot.pools.get(key)
        if pool is None:
            continue
        if any(_worth(was) != _worth(now) for was, now in owned):
            touched.add(key)
            continue
        of = pool.node_class.key
        if of not in fallen:
            fallen[of] = tuple(_fallen(before.get(of), after.get(of)))
        if _opens_a_saving(pool, owned, fallen[of]):
            touched.add(key)
    return frozenset(touched)


def _offerings_of_nodes(
    snapshot: Snapshot, before: Catalogues, after: Catalogues
) -> Mapping[PoolKey, Sequence[_Own]]:
    found: defaultdict[PoolKey, list[_Own]] = defaultdict(list)
    for node in snapshot.nodes.values():
        claim = snapshot.claim_of(node)
        key = (claim.pool if claim is not None else "") or node.pool
        if not key:
            continue
        of = claim.node_class.key if claim is not None else ""
        where = (keys.INSTANCE_TYPE, keys.ZONE, keys.CAPACITY_TYPE, keys.RESERVATION_ID)
        own = [node.labels.get(key, "") for key in where]
        was, now = (
            catalogue.offering(*own) if catalogue is not None else None
            for catalogue in (before.get(of), after.get(of))
        )  # fmt: skip
        found[key].append((was, now))
    return found


def _worth(offering: Offering | None) -> tuple[float, float | None] | None:
    return (offering.price, offering.release) if offering is not None else None


def _fallen(before: Catalogue | None, after: Catalogue | None) -> Iterator[Bought]:
    """What costs less than it did, or could not be had."""
    if after is None or before is after:
        return
    for kind in after.types:
        old = before.by_name.get(kind.name) if before is not None else None
        known = {_place(o): o for o in old.offerings} if old is not None else {}
        for offering in kind.offerings:
            was = known.get(_place(offering))
            if offering.available and (
                was is None or not was.available or _expected(offering) < _expected(was)
            ):
                yield kind, offering


def _place(offering: Offering) -> tuple[str, str, str]:
    """Which offering of its type it is."""
    reservation = offering.reserved.id if offering.reserved is not None else ""
    return offering.zone, offering.capacity_type, reservation


def _expected(offering: Offering) -> float:
    """USD per hour that plans compare by."""
    return offering.price + offering.risk


def _opens_a_saving(pool: Pool, owned: Sequence[_Own], fallen: Sequence[Bought]) -> bool:
    wants = pool.disruption.steadiness
    cost = sum(now.price for _, now in owned if now is not None)
    most = cost - max(wants.min_saving_usd_per_hour, wants.min_saving_share * cost)
    states = _states_of(pool)
    return any(o.price < most and _allowed(states, kind, o) for kind, o in fallen)


def _states_of(pool: Pool) -> Mapping[str, LabelStates]:
    found = {}
    for requirement in pool.requirements:
        try:
            found[canonical_key(requirement.key)] = states_of(requirement)
        except RequirementError:
            continue
    return found


def _allowed(states: Mapping[str, LabelStates], kind: InstanceType, offering: Offering) -> bool:
    """Whether the pool may buy it, as far as the offering and its type tell."""
    own = {
        keys.ZONE: offering.zone,
        keys.CAPACITY_TYPE: offering.capacity_type,
        keys.INSTANCE_TYPE: kind.name,
    }
    for key, allowed in states.items():
        values = (own[key],) if key in own else kind.requirements.get(key, ())
        if values and not any(allowed.allows(value) for value in values):
            return False
    return True

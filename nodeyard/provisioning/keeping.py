"""Places kept on nodes for pods that will come back under other names, known by their owner and their shape.

Whoever empties nodes says on the claims of the nodes that stay how many pods of each owner and shape those are to hold,
and until when that counts. What a node holds already takes its place, so nothing is rewritten as pods land. Until then a
taint of ours keeps everybody else off, and the allocator leaves the pods alone. Neighbours: `pending` (who looks for a
place), `landing` (what may be bound).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.pod import PodKey, PodRecord, ShapeId
from nodeyard.api.quantity import Resources, fits, total
from nodeyard.api.selectors import Value
from nodeyard.state.cluster import Snapshot

Kind = tuple[str, ShapeId]
"""What makes pods interchangeable: their owner's UID, and their shape."""


class Kept(Value, frozen=True):
    """How many pods of one owner and shape a node is to hold, those that are there included."""

    owner: str
    shape: ShapeId
    pods: int


class Keeping(Value, frozen=True):
    """What one node is to hold. `until`: seconds since the epoch; nothing of it counts after that."""

    until: float
    places: tuple[Kept, ...] = ()


class Homes(msgspec.Struct, frozen=True):
    """`of`: unbound pod -> the claim whose node has its place. `left`: places that no pod stands before yet."""

    of: Mapping[PodKey, str]
    left: Counter[Kind]


def kind_of(pod: PodRecord) -> Kind:
    return pod.owner_uid, pod.shape


def kept_of(pods: Iterable[PodRecord]) -> tuple[Kept, ...]:
    """The places that these pods take."""
    counted = Counter(kind_of(pod) for pod in pods)
    return tuple(Kept(owner, shape, many) for (owner, shape), many in sorted(counted.items()))


def encoded(keeping: Keeping) -> str:
    """As the annotation KEPT_PLACES holds it."""
    return msgspec.json.encode(keeping).decode()


def keeping_of(claim: NodeClaim, now: float) -> Keeping | None:
    """What the claim's node is to hold, where that still counts."""
    text = claim.annotations.get(keys.KEPT_PLACES, "")
    found = _read(text) if text and not claim.deleting else None
    return found if found is not None and found.until > now else None


@lru_cache(maxsize=1024)
def _read(text: str) -> Keeping | None:
    try:
        return msgspec.json.decode(text, type=Keeping)
    except msgspec.MsgspecError:
        return None


def open_places(snapshot: Snapshot, now: float) -> dict[str, Counter[Kind]]:
    """Claim -> the places on its node that nobody has taken."""
    found = {}
    for name in sorted(snapshot.claims):
        claim = snapshot.claims[name]
        keeping = keeping_of(claim, now)
        if keeping is not None:
            wanted = Counter({(k.owner, k.shape): k.pods for k in keeping.places})
            found[name] = wanted - present(snapshot, snapshot.node_of(claim))
    return found


def present(snapshot: Snapshot, node: Node | None) -> Counter[Kind]:
    """The pods that a node holds and that stay there as far as anybody knows."""
    if node is None:
        return Counter()
    pods = snapshot.pods_of_node(node.name)
    return Counter(kind_of(p) for p in pods if not (p.finished or p.terminating or p.daemon))


def homes(snapshot: Snapshot, now: float) -> Homes:
    """Which unbound pods have a place kept for them, and what is left for pods that have yet to come back."""
    places = open_places(snapshot, now)
    if not places:
        return Homes({}, Counter())
    by_kind: defaultdict[Kind, list[str]] = defaultdict(list)
    for name, left in places.items():
        for kind, many in left.items():
            by_kind[kind] += [name] * many
    of: dict[PodKey, str] = {}
    for key in sorted(snapshot.pods):
        pod = snapshot.pods[key]
        if _looks_for_a_place(pod) and (free := by_kind.get(kind_of(pod))):
            of[key] = free.pop(0)
    return Homes(of, Counter({kind: len(names) for kind, names in by_kind.items() if names}))


def load_with_places(snapshot: Snapshot, node: Node, places: Mapping[Kind, int]) -> Resources:
    """What is asked for on a node by its pods and by those that are still to come; nothing by a kind that is no more."""
    pods = [p for p in snapshot.pods_of_node(node.name) if not p.finished]
    shapes = [snapshot.shapes.get(shape) for (_, shape), many in places.items() for _ in range(many)]
    return total(
        [*(snapshot.shape(p).requests for p in pods), *(s.requests for s in shapes if s is not None)]
    )


def guest_rooms(
    snapshot: Snapshot, now: float, guests: Iterable[PodKey], awaited: Mapping[str, Iterable[PodKey]] = {}
) -> dict[PodKey, str]:
    """Guest -> the claim whose node has room for it beside all places kept there; those that no node has room for are
    left out. Resources only. `awaited`: by claim, unbound pods that are about to land on its node.
    """
    loads: dict[str, Resources] = {}
    rooms: dict[str, Resources] = {}
    for name, places in open_places(snapshot, now).items():
        node = snapshot.node_of(snapshot.claims[name])
        if node is not None and node.ready:
            coming = [snapshot.shape(snapshot.pods[key]).requests for key in awaited.get(name, ())]
            loads[name] = total([load_with_places(snapshot, node, places), *coming])
            rooms[name] = node.allocatable
    found: dict[PodKey, str] = {}
    for key in guests:
        asked = snapshot.shape(snapshot.pods[key]).requests
        for name, load in loads.items():
            more = total([load, asked])
            if fits(more, rooms[name]):
                found[key], loads[name] = name, more
                break
    return found


def _looks_for_a_place(pod: PodRecord) -> bool:
    return bool(pod.owner_uid) and not (pod.node or pod.finished or pod.terminating or pod.daemon)

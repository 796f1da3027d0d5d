"""What-if questions and their answers as JSON: the same for the command line, gRPC and HTTP.

A question names its `action` and what it is about; `asked` answers it of a view and changes nothing. What can't be
answered is an UnusableQuestion that names what is wrong. Neighbours: `whatif` and `reaction`, which find the answers,
`consolidation`, which plays a consolidation to its end. Forms are documented in docs/whatif.md.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from nodeyard.api.selectors import Value
from nodeyard.disruption import whatif
from nodeyard.disruption.completing import completed
from nodeyard.disruption.consolidation import Play, Settings
from nodeyard.disruption.judgement import Clock
from nodeyard.disruption.model import Planner, View
from nodeyard.disruption.reaction import Price, Reaction, at_prices, react, with_pool
from nodeyard.disruption.report import played_json
from nodeyard.disruption.whatif import UnusableQuestion
from nodeyard.provisioning.model import Options, Plan
from nodeyard.provisioning.report import plan_json
from nodeyard.state.cluster import Change, Kind
from nodeyard.state.laying import flattened, laid_over
from nodeyard.state.manifests import ManifestError, changes_from, subject_of

Json = dict[str, Any]
T = TypeVar("T")
PATIENCE_S = 20.0
MOST_PATIENCE_S = 120.0


class _Question(Value, frozen=True, tag_field="action", forbid_unknown_fields=True):
    """What all questions have in common: the action names the kind, and a field that it does not know is an error."""


class Remove(_Question, frozen=True, tag="remove"):
    """These nodes gone."""

    nodes: tuple[str, ...]


class Replace(_Question, frozen=True, tag="replace"):
    """These nodes gone, their pods on new ones only."""

    nodes: tuple[str, ...]


class DrainZone(_Question, frozen=True, tag="drain-zone"):
    """Nothing of ours in this zone."""

    zone: str


class Add(_Question, frozen=True, tag="add"):
    """These Nodes, pods and workloads beside what there is."""

    objects: tuple[Json, ...]


class AtPrices(_Question, frozen=True, tag="price"):
    """Offerings at these prices."""

    prices: tuple[Price, ...]
    deadline_seconds: float = PATIENCE_S


class ChangedPool(_Question, frozen=True, tag="pool"):
    """NodePools (or Provisioners) as they would be."""

    objects: tuple[Json, ...]
    deadline_seconds: float = PATIENCE_S


class Consolidate(_Question, frozen=True, tag="consolidate"):
    """A consolidation played to its end."""

    disruption_price: float = Settings().disruption_usd
    spot_to_spot: bool = Settings().spot_to_spot
    deadline_seconds: float = PATIENCE_S


Question = Remove | Replace | DrainZone | Add | AtPrices | ChangedPool | Consolidate
_DECODER: msgspec.json.Decoder[Question] = msgspec.json.Decoder(Question)


def question_of(text: bytes) -> Question:
    """The question in a JSON object. Raises UnusableQuestion."""
    try:
        question: Question = _DECODER.decode(text)
    except msgspec.DecodeError as error:
        raise UnusableQuestion(f"the question can't be read: {error}") from None
    return question


def asked(view: View, question: Question, planner: Planner, clock: Clock) -> Json:
    """The answer. Raises UnusableQuestion."""
    match question:
        case Remove(nodes):
            return whatif.answer_json(whatif.without_nodes(view, _some(nodes, "nodes"), planner))
        case Replace(nodes):
            return whatif.answer_json(whatif.replaced(view, _some(nodes, "nodes"), planner))
        case DrainZone(zone):
            if zone not in (known := whatif.zones(view)):
                raise UnusableQuestion(f"no zone {zone!r}; there are {', '.join(sorted(known)) or 'none'}")
            return whatif.answer_json(whatif.drained_zone(view, zone, planner))
        case Add(objects):
            return whatif.answer_json(_added(view, objects, planner))
        case AtPrices(prices, deadline):
            sold = at_prices(view.catalogues, _some(prices, "prices"))
            changed = msgspec.structs.replace(view, catalogues=sold)
            return reaction_json(react("price", view, changed, planner, clock, _patience(deadline)))
        case ChangedPool(objects, deadline):
            changed = _with_pools(view, objects)
            return reaction_json(react("pool", view, changed, planner, clock, _patience(deadline)))
        case Consolidate(disruption_price, spot_to_spot, deadline):
            options = Options(node_charge_usd_per_hour=view.options.node_charge_usd_per_hour)
            settings = Settings(disruption_price, spot_to_spot, _patience(deadline))
            return {"action": "consolidate", **played_json(Play(view, options, settings, clock).run())}


def unplaced(answer: Json) -> bool:
    """Whether some pods would have no place."""
    return bool(answer["unschedulable"])


def reaction_json(reaction: Reaction) -> Json:
    """The documented form."""
    after = reaction.after[1]
    return {
        "action": reaction.action,
        "before": _cost(reaction.before),
        "unchanged": _cost(reaction.unchanged),
        "after": _cost(reaction.after),
        "savesPerHour": reaction.unchanged[1] - after,
        "steps": [
            {
                "reason": step.reason,
                "remove": list(step.remove),
                "launch": plan_json(Plan(nodes=step.launch))["nodes"],
                "moves": [{"pod": pod, "from": old, "to": new} for pod, old, new in step.moves],
                "savesPerHour": step.saves_per_hour,
                "drain": whatif.drain_json(step.drain),
                "singletons": list(step.singletons),
            }
            for step in reaction.steps
        ],
        "blocks": [
            {"node": node, "rule": block.rule.value, "message": block.message}
            for node, block in reaction.kept
        ],
        "unschedulable": plan_json(Plan(unschedulable=reaction.unschedulable))["unschedulable"],
        "drifted": list(reaction.drifted),
        "complete": reaction.complete,
    }


def _cost(money: tuple[float, float]) -> Json:
    return {"pricePerHour": money[0], "objectivePerHour": money[1]}


def _some(given: tuple[T, ...], field: str) -> tuple[T, ...]:
    if not given:
        raise UnusableQuestion(f"{field}: at least one is wanted")
    return given


def _patience(seconds: float) -> float:
    if not 0.0 < seconds <= MOST_PATIENCE_S:
        raise UnusableQuestion(
            f"deadlineSeconds: {seconds:g} is not between 0 and {MOST_PATIENCE_S:g} seconds"
        )
    return seconds


def _read(objects: Sequence[Json], kinds: frozenset[str], what: str) -> list[Change]:
    """The changes that these objects mean, all of `kinds`."""
    flat = flattened(objects)
    if not flat:
        raise UnusableQuestion(f"objects: at least one is wanted ({what})")
    wrong = next((o for o in flat if o.get("kind") not in kinds), None)
    if wrong is not None:
        raise UnusableQuestion(f"objects: {subject_of(wrong)}: only {what} can be handed in")
    try:
        return changes_from(flat)
    except ManifestError as error:
        raise UnusableQuestion(f"objects: {error}") from error


_ADDED = frozenset({"Node", "Pod", "Deployment", "ReplicaSet", "StatefulSet", "Job", "CronJob"})
_POOLS = frozenset({"NodePool", "Provisioner"})


def _added(view: View, objects: Sequence[Json], planner: Planner) -> whatif.Answer:
    changes = _read(objects, _ADDED, "Nodes, Pods and workloads")
    for change in changes:
        if change.kind in (Kind.POD, Kind.NODE) and change.key in getattr(view.snapshot, change.kind.value):
            raise UnusableQuestion(f"objects: {change.kind.value} {change.key}: there is one of this name")
    nodes = {c.key for c in changes if c.kind is Kind.NODE}
    snapshot = completed(laid_over(view.snapshot, changes), view.catalogues, only=nodes)
    for name in sorted(nodes):
        if not snapshot.nodes[name].allocatable:
            message = "status.allocatable is missing, and its pool and instance type don't tell it"
            raise UnusableQuestion(f"objects: Node {name}: {message}")
    pods = [c.key for c in changes if c.kind is Kind.POD and _wants_a_place(c)]
    fuller = msgspec.structs.replace(view, snapshot=snapshot)
    return whatif.with_added(view, fuller, pods, planner)


def _wants_a_place(change: Change) -> bool:
    pod = change.value
    return pod is not None and not (pod.node or pod.finished or pod.daemon or pod.terminating)


def _with_pools(view: View, objects: Sequence[Json]) -> View:
    changes = _read(objects, _POOLS, "NodePools and Provisioners")
    snapshot = view.snapshot
    for change in changes:
        if change.kind is not Kind.POOL or change.value is None:
            continue
        pool = change.value
        if pool.problems:
            raise UnusableQuestion(f"objects: NodePool {pool.key}: {pool.problems[0]}")
        snapshot = with_pool(snapshot, pool)
    return msgspec.structs.replace(view, snapshot=snapshot)

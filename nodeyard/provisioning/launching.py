"""Planned nodes written down: names, labels, requirements, alternatives, and which pods go where by name.

The last step of a plan, and the first that names pods. Neighbours: `choices` found the alternatives, `model` has the
values that others read.
"""

from collections.abc import Mapping

import numpy as np

from nodeyard.api import labels as keys
from nodeyard.api.pod import PodKey
from nodeyard.api.selectors import Requirement
from nodeyard.provisioning.choices import CHOICE_KEYS, Choice, type_values
from nodeyard.provisioning.labelled import Floats, Ints
from nodeyard.provisioning.model import OfferingRef, Placement, PlannedNode
from nodeyard.provisioning.setting import Draft, Setting
from nodeyard.scheduling.requirements import canonical_key


class Writer:
    """Hands out pods to nodes and writes both down."""

    def __init__(self, setting: Setting, draft: Draft) -> None:
        self.setting, self.draft = setting, draft
        self.columns = setting.columns
        self._next: dict[int, int] = {}
        self._refs: dict[int, OfferingRef] = {}
        self._labels: dict[int, dict[str, str]] = {}
        self._written: dict[bytes, tuple[Requirement, ...]] = {}
        self._others: dict[bytes, tuple[OfferingRef, ...]] = {}
        self._next_best: dict[tuple[bytes, bytes], tuple[tuple[OfferingRef, ...], str]] = {}
        self._daemons: dict[int, Floats] = {}
        self._zones = self.columns.labelled.column(keys.ZONE)
        self._capacity_types = self.columns.labelled.column(keys.CAPACITY_TYPE)
        for number in draft.left:
            setting.classes.classes[number].pods.sort(key=self._age)

    def _age(self, key: PodKey) -> tuple[float, str]:
        """Where not all of a class are placed, the older ones are; of equally old ones those of the lesser UID."""
        pod = self.setting.problem.snapshot.pods[key]
        return pod.created_at, pod.uid

    def pods_of(self, node: int) -> tuple[PodKey, ...]:
        """The next pods of each class that the node holds; each pod is handed out once."""
        out: list[PodKey] = []
        for number, many in self.draft.state.contents[node].items():
            start = self._next.get(number, 0)
            out += self.setting.classes.classes[number].pods[start : start + many]
            self._next[number] = start + many
        return tuple(out)

    def left_over(self, number: int) -> list[PodKey]:
        return self.setting.classes.classes[number].pods[self._next.get(number, 0) :]

    def existing(self) -> tuple[Placement, ...]:
        hosts = self.setting.hosts.hosts
        contents = self.draft.state.contents
        return tuple(Placement(hosts[i].name, self.pods_of(i)) for i in range(len(hosts)) if contents[i])

    def node(self, choice: Choice, name: str) -> PlannedNode:
        columns = self.columns
        first = int(choice.columns[0])
        pool = columns.pool_of(first)
        offering = self.ref(first)
        written = choice.columns.tobytes()
        alternatives = self._others.get(written)
        if alternatives is None:
            alternatives = self._others[written] = tuple(self.ref(c) for c in choice.columns[1:].tolist())
        said = self._next_best.get((written, choice.beyond.tobytes()))
        if said is None:
            runners = self._runners_up(choice)
            said = (runners, _why(offering, len(alternatives), runners))
            self._next_best[written, choice.beyond.tobytes()] = said
        runners, why = said
        requests = self._requests(choice, first)
        return PlannedNode(
            name=name,
            pool=pool.key,
            instance_type=offering.instance_type,
            zone=offering.zone,
            capacity_type=offering.capacity_type,
            price_per_hour=offering.price_per_hour,
            pods=self.pods_of(choice.node),
            labels=self._labels_of(first),
            taints=pool.taints,
            requirements=self._requirements(choice),
            requests=requests,
            alternatives=alternatives,
            node_charge_per_hour=float(columns.charge[first]),
            why=why,
            runners_up=runners,
            min_values_relaxed=choice.relaxed,
            price_source=self.columns.offering_of(first).source,
            reservation=offering.reservation,
        )

    def _labels_of(self, column: int) -> dict[str, str]:
        found = self._labels.get(column)
        if found is None:
            found = self._labels[column] = self.columns.labels_of(column)
        return found

    def ref(self, column: int) -> OfferingRef:
        found = self._refs.get(column)
        if found is None:
            found = self._refs[column] = OfferingRef(
                self.columns.type_of(column).name,
                self._zones[1][int(self._zones[0][column])] or "",
                self._capacity_types[1][int(self._capacity_types[0][column])] or "",
                float(self.columns.price[column]),
                self.columns.reservation_ids[int(self.columns.reservation[column])] or "",
            )
        return found

    def _runners_up(self, choice: Choice) -> tuple[OfferingRef, ...]:
        first = self.ref(int(choice.columns[0]))
        best: dict[str, OfferingRef] = {}
        for column in (*choice.columns[1:].tolist(), *choice.beyond.tolist()):
            ref = self.ref(int(column))
            if ref.instance_type != first.instance_type:
                best.setdefault(ref.instance_type, ref)
            if len(best) == 3:
                break
        return tuple(best.values())

    def _requests(self, choice: Choice, first: int) -> dict[str, int]:
        daemons = self._daemons.get(first)
        if daemons is None:
            daemons = self._daemons[first] = (
                self.columns.room_before_daemons[first] - self.columns.room[first]
            )
        total = (choice.load + daemons).tolist()
        return {r: int(many) for r, many in zip(self.columns.resources, total, strict=True) if many > 0}

    def _requirements(self, choice: Choice) -> tuple[Requirement, ...]:
        """The pool's own, with type, zone and capacity type narrowed to the choices and open labels settled."""
        known = self._written.get(choice.columns.tobytes())
        if known is not None:
            return known
        first = int(choice.columns[0])
        variant = self.columns.variants[int(self.columns.variant[first])]
        pinned = self._pinned(choice.columns)
        least: dict[str, int | None] = {}
        out: list[Requirement] = []
        for requirement in variant.pool.requirements:
            key = canonical_key(requirement.key)
            if key == keys.RESERVATION_ID and pinned:
                continue
            if key in CHOICE_KEYS:
                least[key] = requirement.min_values or least.get(key)
            elif key not in variant.labels:
                out.append(requirement)
        for key in CHOICE_KEYS:
            values = type_values(self.setting, choice.columns, key)
            out.append(Requirement(key, "In", tuple(values), least.get(key)))
        if pinned:
            out.append(Requirement(keys.RESERVATION_ID, "In", (pinned,)))
        skip = {keys.NODEPOOL, keys.PROVISIONER}
        out += [Requirement(k, "In", (v,)) for k, v in sorted(variant.labels.items()) if k not in skip]
        self._written[choice.columns.tobytes()] = tuple(out)
        return tuple(out)

    def _pinned(self, choices: Ints) -> str:
        """The reservation that all choices are in; empty where some are in none."""
        refs = {
            self.columns.reservation_ids[c] for c in np.unique(self.columns.reservation[choices]).tolist()
        }
        return (refs.pop() or "") if len(refs) == 1 else ""


def _why(first: OfferingRef, alternatives: int, runners: tuple[OfferingRef, ...]) -> str:
    text = f"cheapest that holds its pods, at {first.price_per_hour:.4f} USD/h"
    if runners:
        text += "; next: " + ", ".join(f"{r.instance_type} at {r.price_per_hour:.4f}" for r in runners)
    return text + (
        f"; {alternatives} alternatives" if alternatives else "; no alternative within the tolerance of price"
    )


def dearest(choices: list[Choice], prices: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    """Rent if every node falls to its dearest choice."""
    return float(sum(prices[c.columns].max() for c in choices))


def names(pools: list[str]) -> list[str]:
    """A name per node: its pool's, numbered."""
    seen: Mapping[str, int] = {}
    out: list[str] = []
    counts: dict[str, int] = dict(seen)
    for pool in pools:
        number = counts.get(pool, 0)
        counts[pool] = number + 1
        out.append(f"{pool.replace('/', '-')}-{number}")
    return out

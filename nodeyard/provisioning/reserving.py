"""Capacity reservations while a plan is made: what is left of each, who holds it, and which pods wait for it.

A reservation's count is EC2's last one, less the instances that were launched into it since. Of that, every claim that
is not launched yet holds one in each reservation it may be launched into. A plan takes no more than what is left then.
In strict plans no node is made for pods that could all use a reservation of which places are left, though promised to
claims under way or to this very plan: they wait, and get dearer capacity once the reservation is shown full.
Neighbours: `limits` (the rows), `choices` (a node keeps to its reservation), `planner` (who asks).
Source: Karpenter documentation, "NodePools", on reserved capacity.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from nodeyard.api import labels as keys
from nodeyard.api.node import LAUNCHED, NodeClaim
from nodeyard.api.pod import PodKey
from nodeyard.cloudprovider.model import Reserved
from nodeyard.provisioning.choices import Choice, Chooser
from nodeyard.provisioning.claims import reservations_of
from nodeyard.provisioning.columns import table_of
from nodeyard.provisioning.labelled import Bools
from nodeyard.provisioning.model import Problem
from nodeyard.provisioning.setting import Draft, Setting

_LAG_S = 5.0
"""How much later EC2's counts may know of an instance than its launch; times on claims are whole seconds besides."""


@dataclass(slots=True, frozen=True)
class Stock:
    """By reservation id: `left` instances as far as is known, of which `held` are promised."""

    left: Mapping[str, int]
    held: Mapping[str, int]

    def free(self) -> dict[str, int]:
        """What a plan may use."""
        return {id_: max(0, many - self.held.get(id_, 0)) for id_, many in self.left.items()}


def stock_of(problem: Problem) -> Stock:
    """What is left of the reservations that the problem's catalogues offer."""
    offered: dict[str, Reserved] = {}
    for catalogue in problem.catalogues.values():
        for one in table_of(catalogue).reservations.values():
            known = offered.get(one.id)
            if known is None or one.left < known.left:
                offered[one.id] = one
    if not offered:
        return Stock({}, {})
    left = {id_: one.left for id_, one in offered.items()}
    held: dict[str, int] = {}
    for claim in problem.snapshot.claims.values():
        if not claim.provider_id:
            for id_ in reservations_of(claim):
                held[id_] = held.get(id_, 0) + 1
        elif (id_ := claim.labels.get(keys.RESERVATION_ID, "")) in left and _uncounted(claim, offered[id_]):
            left[id_] -= 1
    return Stock({id_: max(0, many) for id_, many in left.items()}, held)


def _uncounted(claim: NodeClaim, reserved: Reserved) -> bool:
    """Whether EC2's count may be from before the claim's launch."""
    launched = claim.condition(LAUNCHED)
    return launched is not None and launched.since + _LAG_S >= reserved.counted_at


def kept_waiting(setting: Setting, draft: Draft, choices: Iterable[Choice]) -> dict[PodKey, str]:
    """Pod -> why it waits: pods of new nodes outside the reservations of which each pod suits one whose places are only
    promised. A node that somebody needs who suits none is made all the same, with all its pods.
    """
    columns, promised = setting.columns, _promised(setting, draft)
    if not promised:
        return {}
    chooser = Chooser(setting, draft)
    inside = np.isin(columns.reservation, [columns.reservation_ids.index(id_) for id_ in promised])
    many: dict[int, tuple[int, str]] = {}
    for choice in choices:
        first = int(choice.columns[0])
        if columns.reservation_ids[int(columns.reservation[first])] is not None:
            continue
        contents = draft.state.contents[choice.node]
        suits = {number: _suiting(setting, draft, chooser, number, first, inside) for number in contents}
        if all(suits.values()):
            for number, pods in contents.items():
                many[number] = (many.get(number, (0, ""))[0] + pods, suits[number])
    return {
        pod: f"the last places of capacity reservation {id_} are promised; it is planned again when they are taken or free"
        for number, (pods, id_) in many.items()
        for pod in setting.classes.classes[number].pods[-pods:]
    }


def _suiting(
    setting: Setting, draft: Draft, chooser: Chooser, number: int, column: int, inside: Bools
) -> str:
    """A reservation among the columns `inside` that a pod of the class could be in, in the domains of its node's
    `column` as far as they matter; empty where there is none.
    """
    columns, one = setting.columns, setting.classes.classes[number]
    usable = inside & setting.rules.on_columns(one) & (columns.room >= one.request).all(axis=1)
    for key in chooser.locked(one):
        domain = draft.state.column_domain[key]
        usable &= domain == domain[column]
    if not usable.any():
        return ""
    return columns.reservation_ids[int(columns.reservation[np.argmax(usable)])] or ""


def _promised(setting: Setting, draft: Draft) -> list[str]:
    """Reservations of which something is left, though nothing that is not promised by now."""
    left = stock_of(setting.problem).left
    return [
        id_
        for pool, id_ in draft.limits.names
        if not pool and left.get(id_, 0) > 0 and draft.limits.free_in(id_) < 1.0
    ]

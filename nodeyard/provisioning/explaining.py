"""Why pods were left out: per pool, which step ended it, how many types each step excluded, the nearest miss, a hint.

Works on classes, so that ten thousand pods refused for one reason cost one explanation. Neighbours: `planner` asks
once a plan is settled; `model.Reason` is the closed set it answers with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from nodeyard.api import labels as keys
from nodeyard.api import quantity
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Requirement
from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.labelled import Bools
from nodeyard.provisioning.model import Reason, Refusal
from nodeyard.provisioning.setting import Draft, Setting
from nodeyard.scheduling.taints import untolerated
from nodeyard.scheduling.topology import TermKind

_ORDER = (
    Reason.TAINTS, Reason.REQUIREMENTS, Reason.VOLUMES, Reason.OFFERINGS, Reason.RESOURCES, Reason.HOST_PORTS,
    Reason.MIN_VALUES, Reason.POD_ANTI_AFFINITY, Reason.POD_AFFINITY, Reason.TOPOLOGY, Reason.LIMITS,
)  # fmt: skip
_FOUND_BY_SEARCH = frozenset(
    {Reason.LIMITS, Reason.MIN_VALUES, Reason.TOPOLOGY, Reason.POD_AFFINITY, Reason.POD_ANTI_AFFINITY}
)
"""Reasons that say what other pods and nodes leave: where the search was cut short, they may be none."""
_LATE = "the deadline passed before a place was found"
_MILLION_CORES = 1_000_000 * 1000


@dataclass(slots=True)
class Skipped:
    """A pool that was not looked at, and why."""

    pool: Pool
    reason: Reason
    message: str


class Explainer:
    def __init__(self, setting: Setting, draft: Draft, skipped: Sequence[Skipped], late: bool) -> None:
        self.setting, self.draft, self.skipped, self.late = setting, draft, skipped, late

    def of(self, one: PodClass) -> tuple[Reason, str, tuple[Refusal, ...]]:
        """(reason, sentence, details per pool) for pods of the class that found no place."""
        if not self.setting.problem.allow_new_nodes:
            reason, message = self._topology(one) or (Reason.RESOURCES, "no existing node has room for it")
            return reason, message, ()
        details = [Refusal(s.pool.key, str(s.reason), s.message) for s in self.skipped]
        ranked: list[tuple[int, Refusal]] = []
        for key in dict.fromkeys(v.pool.key for v in self.setting.columns.variants):
            refusal = self._refusal(one, key)
            details.append(refusal)
            ranked.append((_ORDER.index(Reason(refusal.reason)) if refusal.reason in _ORDER else -1, refusal))
        if not details:
            return Reason.NO_POOL, "there is no pool that could take it", ()
        if not ranked:
            return Reason(details[0].reason), details[0].message, tuple(details)
        furthest = max(ranked, key=lambda r: r[0])[1]
        reason = Reason(furthest.reason)
        if self.late and reason in _FOUND_BY_SEARCH:
            return Reason.DEADLINE, _LATE, tuple(details)
        parts = [furthest.message, furthest.nearest, furthest.hint]
        return reason, "; ".join(p for p in parts if p), tuple(details)

    # --- one pool -----------------------------------------------------------------------------------------------------
    def _refusal(self, one: PodClass, pool_key: str) -> Refusal:
        columns = self.setting.columns
        mine = np.array([v.pool.key == pool_key for v in columns.variants], np.bool_)[columns.variant]
        pool = next(v.pool for v in columns.variants if v.pool.key == pool_key)
        if taint := untolerated(one.rule.tolerations, pool.taints):
            text = (
                f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"
            )
            return Refusal(pool_key, str(Reason.TAINTS), f"does not tolerate taint {text} of pool {pool_key}")
        if not mine.any():
            return Refusal(
                pool_key, str(Reason.OFFERINGS), f"pool {pool_key} admits nothing that can be had now"
            )
        excluded: dict[str, int] = {}
        left = mine
        for name, mask, reason in self._steps(one):
            kept = left & mask
            gone = self._types(left) - self._types(kept)
            if gone:
                excluded[name] = gone
            if not kept.any():
                return self._ended(one, pool, pool_key, reason, name, left, mine, excluded)
            left = kept
        return self._beyond_rules(one, pool_key, left, excluded)

    def _steps(self, one: PodClass) -> list[tuple[str, Bools, Reason]]:
        columns = self.setting.columns
        steps: list[tuple[str, Bools, Reason]] = []
        for key, value in one.rule.selector:
            mask = columns.labelled.matching(Requirement(key, "In", (value,)))
            steps.append((f"{key}={value}", mask, Reason.REQUIREMENTS))
        if one.rule.required is not None:
            mask = np.zeros(columns.count, np.bool_)
            for term in one.rule.required.node_selector_terms:
                mask |= columns.labelled.term(term)
            steps.append(("nodeAffinity", mask, Reason.REQUIREMENTS))
        if one.rule.reach:
            steps.append(("volumes", columns.labelled.admitted(one.rule), Reason.VOLUMES))
        for j, resource in enumerate(columns.resources):
            if one.request[j] > 0:
                steps.append((resource, columns.room[:, j] >= one.request[j], Reason.RESOURCES))
        if one.ports:
            steps.append(("hostPorts", self.setting.rules.on_columns(one), Reason.HOST_PORTS))
        return steps

    def _ended(
        self, one: PodClass, pool: Pool, pool_key: str, reason: Reason, name: str, left: Bools, mine: Bools,
        excluded: dict[str, int],
    ) -> Refusal:  # fmt: skip
        hint = ""
        if reason is Reason.RESOURCES:
            message = f"no type of pool {pool_key} has enough {name}"
            nearest = self._nearest(one, name, left)
            j = self.setting.columns.resources.index(name)
            if name == quantity.CPU and one.request[j] >= _MILLION_CORES:
                hint = 'the cpu request looks like a typo: "m" (milli) meant where "M" (million) is written?'
            if name == quantity.MEMORY and 0 < one.request[j] < 1000:
                hint = 'the memory request looks like a typo: "M" meant where "m" is written?'
        else:
            message = f"pool {pool_key} has no node with {name}" if reason is Reason.REQUIREMENTS else (
                f"its volumes can't be reached from any node of pool {pool_key}"
                if reason is Reason.VOLUMES
                else f"daemons hold its host ports on every node of pool {pool_key}"
            )  # fmt: skip
            nearest = self._values(name.partition("=")[0], left) if "=" in name else ""
            hint = self._typo(one, mine)
        return Refusal(pool_key, str(reason), message, excluded, nearest, hint)

    def _nearest(self, one: PodClass, resource: str, left: Bools) -> str:
        columns = self.setting.columns
        j = columns.resources.index(resource)
        where = np.nonzero(left)[0]
        best = int(where[np.argmax(columns.room[where, j])])
        have = max(int(columns.room[best, j]), 0)
        return (
            f"needs {_friendly(resource, int(one.request[j]))}; "
            f"largest allowed is {_friendly(resource, have)}: {columns.type_of(best).name}"
        )

    def _values(self, key: str, left: Bools) -> str:
        codes, values = self.setting.columns.labelled.column(key)
        have = sorted({v for c in np.unique(codes[left]) if (v := values[int(c)]) is not None})
        if not have:
            return f"no node there has the label {key}"
        return f"{key} can be {', '.join(have[:6])}" + (" …" if len(have) > 6 else "")

    def _typo(self, one: PodClass, mine: Bools) -> str:
        """A label key or value that nearly is one that exists."""
        columns = self.setting.columns
        known: set[str] = set()
        for variant in columns.variants:
            known |= variant.table.keys | set(variant.labels) | set(variant.table.offer_label)
        for expression in one.rule.expressions:
            if expression.operator not in ("In", "Exists"):
                continue
            if expression.key == keys.HOSTNAME:  # no typo: what is wanted is one node by its name
                continue
            if expression.key not in known:
                close = get_close_matches(expression.key, known, 1, 0.8)
                if close:
                    return f"label key {expression.key!r}: did you mean {close[0]!r}?"
                continue
            codes, values = columns.labelled.column(expression.key)
            have = [v for c in np.unique(codes[mine]) if (v := values[int(c)]) is not None]
            for value in expression.values:
                close = get_close_matches(value, have, 1, 0.8)
                if value not in have and close:
                    return f"{expression.key} {value!r}: did you mean {close[0]!r}?"
        return ""

    def _types(self, mask: Bools) -> int:
        columns = self.setting.columns
        return len(np.unique(columns.variant[mask] * 100_000 + columns.type[mask]))

    # --- what is not the node's own ------------------------------------------------------------------------------------
    def _beyond_rules(self, one: PodClass, pool_key: str, left: Bools, excluded: dict[str, int]) -> Refusal:
        affordable = self.draft.limits.affordable()
        if not (left & affordable).any():
            names = [
                f"{r} ({_friendly(r, int(max(self.draft.limits.left[i], 0)))} left)"
                for i, (p, r) in enumerate(self.draft.limits.names)
                if p == pool_key and (self.draft.limits.use[left, i] > self.draft.limits.left[i]).any()
            ]
            if not names:
                message = "the capacity reservations that it may use are full or promised"
                return Refusal(pool_key, str(Reason.OFFERINGS), message, excluded)
            message = f"limits of pool {pool_key} leave no room: {', '.join(names)}"
            return Refusal(pool_key, str(Reason.LIMITS), message, excluded)
        found = self._topology(one) or self._otherwise(pool_key)
        return Refusal(pool_key, str(found[0]), found[1], excluded)

    def _otherwise(self, pool_key: str) -> tuple[Reason, str]:
        """What is left to blame where a node by itself could hold the pod."""
        pool = next(v.pool for v in self.setting.columns.variants if v.pool.key == pool_key)
        if self.late:
            return Reason.DEADLINE, _LATE
        if any(r.min_values for r in pool.requirements):
            return (
                Reason.MIN_VALUES,
                f"too few kinds of nodes of pool {pool_key} can hold it for its minValues",
            )
        return Reason.LIMITS, f"limits of pool {pool_key} leave no room beside what is planned already"

    def _topology(self, one: PodClass) -> tuple[Reason, str] | None:
        """The first term over other pods that allows no domain."""
        state = self.draft.state
        carried = one.carried
        terms = state.classes.terms
        for kind, reason in (
            (TermKind.ANTI_AFFINITY, Reason.POD_ANTI_AFFINITY),
            (TermKind.AFFINITY, Reason.POD_AFFINITY),
            (TermKind.SPREAD, Reason.TOPOLOGY),
        ):
            for number in carried:
                if terms[number].kind is kind:
                    return reason, f"its {kind} over {terms[number].key} leaves no node for it"
        for number in one.matched:
            if terms[number].kind is TermKind.ANTI_AFFINITY:
                return (
                    Reason.POD_ANTI_AFFINITY,
                    f"other pods' anti-affinity over {terms[number].key} keeps it out everywhere",
                )
        return None


def _friendly(resource: str, amount: int) -> str:
    if resource in (quantity.MEMORY, quantity.EPHEMERAL_STORAGE):
        gib = amount / 2**30
        return f"{gib:.0f} GiB {resource}" if gib >= 1000 else f"{gib:.4g} GiB {resource}"
    if resource == quantity.CPU:
        return f"{amount / 1000:.15g} {resource}"
    return f"{amount} {resource}"

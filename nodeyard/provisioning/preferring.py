"""What preferences are worth, and what a draft leaves unkept of them.

Every soft term has a weight; a pod for which it is not kept costs weight times the exchange rate per hour, added when
drafts are compared and never to the rent. Neighbours: `attempt` makes drafts with some preferences honoured, `planner`
keeps the draft that is cheapest all in all.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.columns import Columns
from nodeyard.provisioning.hosts import Hosts
from nodeyard.provisioning.labelled import Bools, NodeRule
from nodeyard.provisioning.model import PreferencePolicy
from nodeyard.provisioning.setting import NONE, Draft, Honour, Setting
from nodeyard.scheduling.taints import SOFT, untolerated
from nodeyard.scheduling.topology import TermKind

FULL = 100
"""The heaviest weight there is; also what a soft taint and ScheduleAnyway, which have none of their own, count."""


def minding_of(classes: Sequence[PodClass], columns: Columns, hosts: Hosts) -> frozenset[int]:
    """Classes that would rather not land among the soft taints of some pool or node."""
    taints = {t for v in columns.variants for t in v.pool.taints} | {t for s in hosts.taint_sets for t in s}
    soft = [t for t in taints if t.effect in SOFT]
    if not soft:
        return frozenset()
    return frozenset(c.number for c in classes if untolerated(c.rule.tolerations, soft, SOFT))


def has_preferences(setting: Setting) -> bool:
    return bool(setting.minding) or any(c.soft or c.preferred for c in setting.classes.classes)


def programmes(setting: Setting) -> list[Sequence[Honour]]:
    """The stages of each attempt worth making under the policy, most indulgent first."""
    if not has_preferences(setting):
        return [(NONE,)]
    if setting.options.preference_policy is PreferencePolicy.RESPECT:
        return [_relaxing(setting)]
    kinds = _kinds(setting)
    out: list[Sequence[Honour]] = [(NONE,), (_honouring(kinds), NONE)]
    if len(kinds) > 1:
        out += [(_honouring([kind]), NONE) for kind in kinds]
    return out


def _honouring(kinds: Sequence[str]) -> Honour:
    return Honour(
        FULL * ("affinity" in kinds), FULL * ("anti_affinity" in kinds),
        "spread" in kinds, "node" in kinds, "taints" in kinds,
    )  # fmt: skip


def _relaxing(setting: Setting) -> Sequence[Honour]:
    """Everything first; then ever less in Karpenter's order: pod affinity and anti-affinity, the heaviest terms first,
    node affinity, spread, soft taints.
    """
    out = [_honouring(("affinity", "anti_affinity", "spread", "node", "taints"))]
    for weight in _weights(setting, TermKind.AFFINITY):
        out.append(replace(out[-1], affinity=weight - 1))
    for weight in _weights(setting, TermKind.ANTI_AFFINITY):
        out.append(replace(out[-1], anti_affinity=weight - 1))
    out.append(replace(out[-1], node=False))
    out.append(replace(out[-1], spread=False))
    return [*out, NONE] if setting.minding else out


def _weights(setting: Setting, kind: TermKind) -> list[int]:
    """Those of all soft terms of the kind, the heaviest first."""
    terms = setting.classes.terms
    numbers = {n for c in setting.classes.classes for n in c.soft if terms[n].kind is kind}
    return sorted({terms[n].weight for n in numbers}, reverse=True)


def _kinds(setting: Setting) -> list[str]:
    names = {
        TermKind.SPREAD: "spread",
        TermKind.AFFINITY: "affinity",
        TermKind.ANTI_AFFINITY: "anti_affinity",
    }
    found = {names[setting.classes.terms[n].kind] for c in setting.classes.classes for n in c.soft}
    if any(c.preferred for c in setting.classes.classes):
        found.add("node")
    if setting.minding:
        found.add("taints")
    return sorted(found)


def unkept(setting: Setting, draft: Draft) -> float:
    """USD per hour that the preferences a draft does not keep are worth."""
    weight = 0.0
    for one in setting.classes.classes:
        if one.soft or one.preferred or one.number in setting.minding:
            weight += _unkept_of(setting, draft, one)
    return weight * setting.options.preference_usd_per_weight_hour


def _unkept_of(setting: Setting, draft: Draft, one: PodClass) -> float:
    state = draft.state
    nodes = np.array([i for i, held in enumerate(state.contents) if one.number in held], np.int64)
    if not len(nodes):
        return 0.0
    counts = np.array([state.contents[i][one.number] for i in nodes.tolist()], np.int64)
    hosts, columns = setting.hosts, setting.columns
    is_host = nodes < hosts.count
    on_hosts, on_columns = nodes[is_host], state.column[nodes[~is_host]]

    def missed(weight: int, there: Bools, here: Bools) -> float:
        """What pods weigh that are elsewhere than on these hosts and columns."""
        kept = np.zeros(len(nodes), np.bool_)
        kept[is_host], kept[~is_host] = there[on_hosts], here[on_columns]
        return weight * float(counts[~kept].sum())

    total = 0.0
    for preference in one.preferred:
        term = preference.preference
        total += missed(preference.weight, hosts.labelled.term(term), columns.labelled.term(term))
    if one.number in setting.minding:
        gentle = NodeRule(tolerations=one.rule.tolerations, gentle=True)
        total += missed(FULL, hosts.tolerated(gentle), columns.tolerated(gentle))
    for number in one.soft:
        total += _unkept_term(draft, one, number, nodes, counts)
    return total


def _unkept_term(
    draft: Draft, one: PodClass, number: int, nodes: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    counts: "np.ndarray[tuple[int], np.dtype[np.int64]]",
) -> float:  # fmt: skip
    state = draft.state
    term = state.classes.terms[number]
    itself = number in one.matched
    if number in state.at:
        here = state.matched[nodes, state.at[number]]
        low = 0
    else:
        domain = state.by_domain[number]
        here = domain.matched[state.domain[term.key][nodes]]
        low = domain.lowest()
    if term.kind is TermKind.ANTI_AFFINITY:
        broken = here > int(itself)
    elif term.kind is TermKind.AFFINITY:
        broken = here <= int(itself) if int(state_total(draft, number)) > 1 or not itself else here < 0
    else:
        over = np.maximum(here - low - term.max_skew, 0) / np.maximum(here, 1)
        return float(term.weight * (counts * over).sum())
    return float(term.weight * counts[broken].sum())


def state_total(draft: Draft, number: int) -> int:
    """Pods in all that a term's group counts."""
    state = draft.state
    if number in state.at:
        return int(state.matched[: state.count, state.at[number]].sum())
    return int(state.by_domain[number].matched.sum())

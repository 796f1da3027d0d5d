"""What preferences are worth, and what a draft leaves unkept of them.

Every soft term has a weight; a pod for which it is not kept costs weight times the exchange rate per hour, added when
drafts are compared and never to the rent. Neighbours: `attempt` makes drafts with some preferences honoured, `planner`
keeps the draft that is cheapest all in all.
"""

from collections.abc import Sequence

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.model import PreferencePolicy
from nodeyard.provisioning.setting import ALL, NONE, Draft, Honour, Setting
from nodeyard.scheduling.topology import TermKind


def has_preferences(setting: Setting) -> bool:
    return any(c.soft or c.preferred for c in setting.classes.classes)


def programmes(setting: Setting) -> list[Sequence[Honour]]:
    """The stages of each attempt worth making under the policy, most indulgent first."""
    if not has_preferences(setting):
        return [(NONE,)]
    if setting.options.preference_policy is PreferencePolicy.RESPECT:
        return [_relaxing()]
    kinds = _kinds(setting)
    out: list[Sequence[Honour]] = [(NONE,), (Honour(**dict.fromkeys(kinds, True)), NONE)]
    if len(kinds) > 1:
        out += [(Honour(**{kind: True}), NONE) for kind in kinds]
    return out


def _relaxing() -> Sequence[Honour]:
    """Everything first; then without pod affinity, anti-affinity, node affinity and spread, in this order."""
    return (
        ALL,
        Honour(anti_affinity=True, spread=True, node=True),
        Honour(spread=True, node=True),
        Honour(spread=True),
        NONE,
    )


def _kinds(setting: Setting) -> list[str]:
    names = {
        TermKind.SPREAD: "spread",
        TermKind.AFFINITY: "affinity",
        TermKind.ANTI_AFFINITY: "anti_affinity",
    }
    found = {names[setting.classes.terms[n].kind] for c in setting.classes.classes for n in c.soft}
    if any(c.preferred for c in setting.classes.classes):
        found.add("node")
    return sorted(found)


def unkept(setting: Setting, draft: Draft) -> float:
    """USD per hour that the preferences a draft does not keep are worth."""
    weight = 0.0
    for one in setting.classes.classes:
        if one.soft or one.preferred:
            weight += _unkept_of(setting, draft, one)
    return weight * setting.options.preference_usd_per_weight_hour


def _unkept_of(setting: Setting, draft: Draft, one: PodClass) -> float:
    state = draft.state
    nodes = np.array([i for i, held in enumerate(state.contents) if one.number in held], np.int64)
    if not len(nodes):
        return 0.0
    counts = np.array([state.contents[i][one.number] for i in nodes.tolist()], np.int64)
    hosts = setting.hosts.count
    total = 0.0
    for preference in one.preferred:
        kept = np.zeros(len(nodes), np.bool_)
        is_host = nodes < hosts
        if is_host.any():
            kept[is_host] = setting.hosts.labelled.term(preference.preference)[nodes[is_host]]
        if (~is_host).any():
            kept[~is_host] = setting.columns.labelled.term(preference.preference)[
                state.column[nodes[~is_host]]
            ]
        total += preference.weight * float(counts[~kept].sum())
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

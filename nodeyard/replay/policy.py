"""A policy: everything about how decisions are made that a replay can vary, and the ones that come by name.

The names are for comparing; the fields are the product's own settings (batch window, consolidation, budgets, waits)
plus how often the reallocator looks, which a live cluster does on every change and a replay can't afford.
Source of the defaults: docs/replay.md.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from nodeyard.api.pool import BALANCED, WHEN_EMPTY, WHEN_UNDERUTILIZED, Budget, Disruption, Pool, Steadiness
from nodeyard.api.selectors import Value
from nodeyard.disruption.model import Reason


class Kind(enum.StrEnum):
    NODEYARD = "nodeyard"
    BASELINE = "baseline"
    """Largest-fit for pending pods; a node is removed once it has been empty for `empty_after_s`."""


class Policy(Value, frozen=True):
    """Times in seconds."""

    name: str
    kind: Kind = Kind.NODEYARD
    batch_idle_s: float = 1.0
    batch_max_s: float = 10.0
    consolidation: str = WHEN_UNDERUTILIZED
    consolidate_after_s: float = 0.0
    budget: str = "10%"
    """Most nodes of a pool that may be disrupted at once."""
    empty_budget: str = "100%"
    """The same for empty nodes, which disturb nobody."""
    pass_every_s: float = 600.0
    """Least time between two passes that found nothing to do; empty nodes are looked at sooner."""
    validation_wait_s: float = 15.0
    spot_to_spot: bool = False
    node_charge_usd_per_hour: float = 0.01
    empty_after_s: float = 30.0
    min_saving_usd_per_hour: float = 0.0
    min_saving_share: float = 0.0
    """Least that a move must save, of what the nodes that go cost."""
    packed: bool = False
    """The kube-scheduler fills the fullest node first (MostAllocated) instead of the emptiest."""


POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        p.name: p
        for p in (
            Policy("nodeyard"),
            Policy("when-empty", consolidation=WHEN_EMPTY),
            Policy("balanced", consolidation=BALANCED),
            Policy("eager", pass_every_s=300.0, budget="30%"),
            Policy("patient", consolidate_after_s=600.0, pass_every_s=3600.0),
            Policy("spot-to-spot", spot_to_spot=True),
            Policy("packed", packed=True),
            Policy("baseline", kind=Kind.BASELINE),
        )
    }
)


class PolicyError(ValueError):
    """A policy that does not exist or a setting that makes no sense."""


def policy_of(text: str) -> Policy:
    """The policy called `NAME` or `NAME:field=value,...`. Raises PolicyError."""
    name, _, rest = text.partition(":")
    if name not in POLICIES:
        raise PolicyError(f"policy {name!r}: there is none; known: {', '.join(POLICIES)}")
    if not rest:
        return POLICIES[name]
    values: dict[str, Any] = msgspec.to_builtins(POLICIES[name])
    for part in rest.split(","):
        field, _, value = part.partition("=")
        wire = msgspec.structs.fields(Policy)
        known = {f.name: f.encode_name for f in wire if f.name not in ("name", "kind")}
        if field not in known:
            raise PolicyError(f"policy {text!r}: no setting {field!r}; known: {', '.join(known)}")
        values[known[field]] = value
    try:
        made = msgspec.convert({**values, "name": text}, Policy, strict=False)
    except msgspec.ValidationError as error:
        raise PolicyError(f"policy {text!r}: {error}") from error
    return _sensible(made)


def _sensible(policy: Policy) -> Policy:
    for field in msgspec.structs.fields(Policy):
        value = getattr(policy, field.name)
        if isinstance(value, float) and not 0 <= value < float("inf"):
            raise PolicyError(f"policy {policy.name!r}: {field.name} is {value:g}")
    if policy.pass_every_s < 1:
        raise PolicyError(f"policy {policy.name!r}: pass_every_s is less than a second")
    if policy.consolidation not in (WHEN_EMPTY, WHEN_UNDERUTILIZED, BALANCED):
        raise PolicyError(
            f"policy {policy.name!r}: consolidation {policy.consolidation!r} is not a policy of pools"
        )
    return policy


def _budgets(policy: Policy) -> tuple[Budget, ...]:
    others = tuple(reason.value for reason in Reason if reason is not Reason.EMPTY)
    return (
        Budget(policy.budget, reasons=others),
        Budget(policy.empty_budget, reasons=(Reason.EMPTY.value,)),
    )


def applied(policy: Policy, pool: Pool) -> Pool:
    """The pool as the policy wants it disrupted."""
    disruption = Disruption(
        policy.consolidation, policy.consolidate_after_s, _budgets(policy),
        steadiness=Steadiness(policy.min_saving_usd_per_hour, policy.min_saving_share),
    )  # fmt: skip
    return msgspec.structs.replace(pool, disruption=disruption)

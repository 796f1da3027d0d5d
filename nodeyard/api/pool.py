"""What users allow: the one model that a NodePool (karpenter.sh/v1) and a Provisioner (karpenter.sh/v1alpha5) become.

Pools are keyed `<name>` or `provisioner/<name>`; nothing downstream asks which kind it was, except through the
fields that differ: `capacity_type_order` and `key`. A pool that can't be understood carries its `problems` and is
never planned into; other pools go on.
"""

from typing import Final

from nodeyard.api import labels as keys
from nodeyard.api.node import Condition, NodeClassRef
from nodeyard.api.quantity import Resources
from nodeyard.api.selectors import Requirement, Taint, Value

PoolKey = str
WHEN_EMPTY: Final = "WhenEmpty"
WHEN_UNDERUTILIZED: Final = "WhenEmptyOrUnderutilized"
BALANCED: Final = "Balanced"


class Budget(Value, frozen=True):
    """How many nodes may be disrupted at once: `nodes` is a count or a percentage ("10%"); with `schedule` (cron, UTC)
    and `duration_s` it holds only in those windows. Empty `reasons` means all.
    """

    nodes: str = "10%"
    schedule: str = ""
    duration_s: float | None = None
    reasons: tuple[str, ...] = ()


class Disruption(Value, frozen=True):
    policy: str = WHEN_UNDERUTILIZED
    consolidate_after_s: float | None = 0.0
    """Seconds since the last pod event; None: never."""
    budgets: tuple[Budget, ...] = (Budget(),)


class Pool(Value, frozen=True):
    key: PoolKey
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deleting: bool = False
    weight: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    """The template's annotations, copied to claims and nodes."""
    requirements: tuple[Requirement, ...] = ()
    taints: tuple[Taint, ...] = ()
    startup_taints: tuple[Taint, ...] = ()
    node_class: NodeClassRef = NodeClassRef("")
    expire_after_s: float | None = None
    termination_grace_period_s: float | None = None
    disruption: Disruption = Disruption()
    limits: Resources = {}
    """Resource -> most that the pool's nodes may have in all; `nodes` counts nodes. Absent: unlimited."""
    limits_inclusive: bool = True
    """True: usage may reach the limit (NodePool). False: usage at the limit refuses the next launch (Provisioner)."""
    replicas: int | None = None
    """Set: a static pool, never used for pending pods."""
    capacity_type_order: tuple[str, ...] = (keys.RESERVED, keys.SPOT, keys.ON_DEMAND)
    """Which capacity type is launched where several are allowed; Provisioners prefer on-demand."""
    node_charge_usd_per_hour: float | None = None
    min_values_policy: str = "Strict"
    hash: str = ""
    """Digest of the template fields whose change drifts nodes."""
    conditions: tuple[Condition, ...] = ()
    resources: Resources = {}
    problems: tuple[str, ...] = ()
    """Why it can't be used: each names the field and what is wrong. Empty: usable."""
    warnings: tuple[str, ...] = ()
    """What was understood, but perhaps not as meant, or was left out: shown, and no reason not to use the pool."""

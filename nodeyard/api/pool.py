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
    """How many nodes may be disrupted at once: `nodes` is a count or a percentage ("10%"); with `schedule` (cron) and
    `duration_s` it holds only in those windows, with `start` or `end` (RFC 3339) only from or until then. Empty
    `reasons` means all, an empty `time_zone` (IANA) UTC. Texts that can't be read allow nothing.
    """

    nodes: str = "10%"
    schedule: str = ""
    duration_s: float | None = None
    reasons: tuple[str, ...] = ()
    time_zone: str = ""
    start: str = ""
    end: str = ""


class Steadiness(Value, frozen=True):
    """What a move must be worth to a pool before it is made for money. Absent limits are the product's."""

    min_saving_usd_per_hour: float = 0.0
    min_saving_share: float = 0.0
    """Of what the nodes that go cost."""
    max_payback_s: float | None = None
    """Longest time in which the saving makes up for the disruption."""
    no_return_s: float | None = None
    """How long a type that was left is not gone back to."""


class Renewal(Value, frozen=True):
    """How a pool's nodes are made anew when they drift or expire."""

    waves: bool = True
    """Drift replaces 1, 2, 4... nodes at a time, each wave only after the one before is healthy."""
    wave_pause_s: float = 0.0
    graceful_expiry: bool = False
    """Expired nodes wait for budgets and replacements; False: they are deleted at once."""
    expiry_jitter: float = 0.0
    """Share of its age by which a node may expire earlier or later."""
    expiry_cap_s: float | None = None
    """How long after its age a node that waits gracefully is deleted at once; None: never."""


class Disruption(Value, frozen=True):
    policy: str = WHEN_UNDERUTILIZED
    consolidate_after_s: float | None = 0.0
    """Seconds since the last pod event; None: never."""
    budgets: tuple[Budget, ...] = (Budget(),)
    allow_windows: tuple[Budget, ...] = ()
    """Where any is for a reason, nodes are disrupted for it only while one of them is open; `nodes` means nothing."""
    steadiness: Steadiness = Steadiness()
    renewal: Renewal = Renewal()


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

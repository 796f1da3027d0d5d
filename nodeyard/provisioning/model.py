"""What a planning problem and its answer consist of.

A Problem is a snapshot, the pods to place and the catalogues to buy from; Options are the settings; a Plan says
which pods go to nodes that exist, which new nodes to make for the rest, who was left out and why, what it costs, and
how near that is to the least possible. All money is USD per hour.
"""

import enum
from collections.abc import Mapping

import msgspec

from nodeyard.api.pod import PodKey
from nodeyard.api.pool import PoolKey
from nodeyard.api.quantity import Resources
from nodeyard.api.selectors import Requirement, Taint, Value
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.state.cluster import Snapshot


class PreferencePolicy(enum.StrEnum):
    PRICED = "Priced"
    """A soft term is kept where keeping it costs less than it is worth."""
    RESPECT = "Respect"
    """Karpenter's default: soft terms are hard until they can't be kept."""
    IGNORE = "Ignore"


class Options(msgspec.Struct, frozen=True):
    """Settings of a plan. Defaults are the product's."""

    node_charge_usd_per_hour: float = 0.01
    preference_policy: PreferencePolicy = PreferencePolicy.PRICED
    preference_usd_per_weight_hour: float = 0.0001
    """What one unit of weight (1..100) of a kept soft term is worth per pod and hour."""
    price_tolerance: float = 0.10
    max_alternatives: int = 60
    """Beside the first choice; 60 offerings with it at most."""
    max_share_per_node: float | None = None
    """Most of one workload's replicas that one node may take (0..1]; None: no cap."""
    deadline_s: float = 10.0
    search_s: float | None = None
    """Most seconds of work spent on looking for something better once there is a plan; None: 0.6 of the deadline. They are
    counted by what is done, so that a busy machine plans as an idle one does, as long as the deadline is not reached.
    """
    mixing_s: float = 0.0
    """Seconds of work, counted alike, for packing the whole plan anew as one mix of fillings: pays for many nodes."""
    bound: bool = True
    """Compute the lower bound too."""
    default_spread: tuple[object, ...] = ()
    """Cluster default topology spread constraints (api.selectors.TopologySpreadConstraint), from the scheduler's config."""
    min_values_policy: str = "Strict"
    feature_gates: frozenset[str] = frozenset()
    strict_reservations: bool = True
    """Pods that could use a capacity reservation whose last places are only promised wait until these are taken or free
    again, unless they share a node with one that can't; False: they get another node at once.
    """


class Problem(msgspec.Struct, frozen=True):
    """`pods` are the keys to place, all in `snapshot.pods`. `catalogues` is by node class key; the key "" serves every
    class that has none of its own. `without_nodes` are treated as gone: their pods count only if listed in `pods`.
    `uninitialized_targets`: False keeps pods off nodes not yet initialized (for simulations of disruption).
    """

    snapshot: Snapshot
    pods: tuple[PodKey, ...]
    catalogues: Mapping[str, Catalogue]
    now: float
    """Seconds since the epoch."""
    without_nodes: frozenset[str] = frozenset()
    without_claims: frozenset[str] = frozenset()
    uninitialized_targets: bool = True
    closed_nodes: frozenset[str] = frozenset()
    """Existing nodes that stay with their pods but take no new ones."""
    allow_new_nodes: bool = True
    least_types: int = 0
    """How many instance types each new node may be made as, where there are so many, however much dearer they are."""
    thorough: bool = True
    """False: the first good plan will do. Whoever gives the planner its options makes less search of that."""

    def catalogue_of(self, node_class: str) -> Catalogue | None:
        return self.catalogues.get(node_class, self.catalogues.get(""))


class OfferingRef(Value, frozen=True):
    """One way to make a planned node."""

    instance_type: str
    zone: str
    capacity_type: str
    price_per_hour: float
    reservation: str = ""
    """Id of the capacity reservation that it is in."""


class PlannedNode(Value, frozen=True):
    """A node to make: its first choice, and the alternatives (cheapest first, the first choice not repeated) that hold
    the same pods.
    """

    name: str
    """Unique in the plan; not the Kubernetes name."""
    pool: PoolKey
    instance_type: str
    zone: str
    capacity_type: str
    price_per_hour: float
    pods: tuple[PodKey, ...]
    labels: dict[str, str] = {}
    """Labels the node will have, custom ones stamped included (hostname excluded)."""
    taints: tuple[Taint, ...] = ()
    requirements: tuple[Requirement, ...] = ()
    """For the NodeClaim: what any of the choices must satisfy; types, zone and capacity type as In-lists."""
    requests: Resources = {}
    """What its pods and daemons ask for together."""
    alternatives: tuple[OfferingRef, ...] = ()
    node_charge_per_hour: float = 0.0
    why: str = ""
    runners_up: tuple[OfferingRef, ...] = ()
    """The next-best types that hold the same pods, with what they would have cost."""
    min_values_relaxed: bool = False
    price_source: str = ""
    """Where the price came from, if the catalogue tells."""
    reservation: str = ""
    """Id of the capacity reservation that the first choice is in; all choices are then in this one."""


class Reason(enum.StrEnum):
    """Why a pod was not placed: a closed set, documented in docs/planner-details.md."""

    NO_POOL = "NoPool"
    POOL_NOT_READY = "PoolNotReady"
    TAINTS = "UntoleratedTaints"
    REQUIREMENTS = "IncompatibleRequirements"
    RESOURCES = "InsufficientResources"
    OFFERINGS = "NoOffering"
    LIMITS = "LimitsExceeded"
    MIN_VALUES = "MinValuesUnmet"
    TOPOLOGY = "TopologyUnsatisfiable"
    POD_AFFINITY = "PodAffinityUnsatisfiable"
    POD_ANTI_AFFINITY = "PodAntiAffinityUnsatisfiable"
    HOST_PORTS = "HostPortConflict"
    VOLUMES = "VolumeUnreachable"
    VOLUME_INVALID = "VolumeClaimInvalid"
    UNSUPPORTED = "Unsupported"
    INVALID = "InvalidPod"
    DEADLINE = "DeadlineExceeded"
    RESERVATION = "ReservationPromised"
    """No refusal: what the pod could use of a capacity reservation is promised, and it is planned again soon."""


class Refusal(Value, frozen=True):
    """Why one pool could not take a pod: the step that ended it, how many types each step excluded, the nearest miss."""

    pool: PoolKey
    reason: str
    message: str
    excluded: dict[str, int] = {}
    nearest: str = ""
    hint: str = ""


class Unschedulable(Value, frozen=True):
    pod: PodKey
    reason: Reason
    message: str
    details: tuple[Refusal, ...] = ()


class Placement(Value, frozen=True):
    """Pods that go to a node that exists (`node`) or to a claim still without one (`nodeclaim/<name>`)."""

    node: str
    pods: tuple[PodKey, ...]


class Cost(Value, frozen=True):
    """Of the new nodes. `risk_per_hour`: what offerings that were refused of late are expected to cost beyond their
    price; it counts when plans are compared, but nobody pays it. `lower_bound` holds for objective and risk of any
    plan that places the same pods under the hard constraints; None where it was not asked for. `dearest_per_hour`:
    rent if every node falls to its dearest choice.
    """

    price_per_hour: float = 0.0
    node_charge_per_hour: float = 0.0
    objective_per_hour: float = 0.0
    preferences_per_hour: float = 0.0
    risk_per_hour: float = 0.0
    dearest_per_hour: float = 0.0
    lower_bound: float | None = None
    gap: float | None = None
    bound_ignores: tuple[str, ...] = ()


class Plan(Value, frozen=True):
    nodes: tuple[PlannedNode, ...] = ()
    existing: tuple[Placement, ...] = ()
    unschedulable: tuple[Unschedulable, ...] = ()
    cost: Cost = Cost()
    complete: bool = True
    """False: the deadline cut it short; what is here is valid."""
    plan_s: float = 0.0
    bound_s: float = 0.0

"""The words of disruption: why a node may go, what stops it, what is proposed, what is being carried out.

Everything is a value that travels as JSON (the admin API shows proposals as they are here). Money is USD per hour,
times are seconds since the epoch. Sets of reasons are closed, so that they fit metric labels.
Source: Karpenter documentation, "Disruption".
"""

import enum
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from nodeyard.api.pod import PodKey
from nodeyard.api.pool import PoolKey
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.keeping import Kept
from nodeyard.provisioning.model import Placement, Plan, PlannedNode, Problem
from nodeyard.state.cluster import Snapshot

Planner = Callable[[Problem], Plan]
"""The planner with its options and clock already given."""


class Reason(enum.StrEnum):
    """Why a node is disrupted; the spelling budgets and conditions use."""

    EMPTY = "Empty"
    DRIFTED = "Drifted"
    UNDERUTILIZED = "Underutilized"
    EXPIRED = "Expired"


class Rule(enum.StrEnum):
    """The first rule that keeps a node as it is: a closed set."""

    NO_CLAIM = "NoNodeClaim"
    NO_POOL = "NoPool"
    STATIC_POOL = "StaticPool"
    NOT_INITIALIZED = "NotInitialized"
    DELETING = "Deleting"
    IN_COMMAND = "InCommand"
    NOMINATED = "Nominated"
    NODE_DO_NOT_DISRUPT = "NodeDoNotDisrupt"
    POD_DO_NOT_DISRUPT = "PodDoNotDisrupt"
    PDB = "PodDisruptionBudget"
    DRAIN = "DrainTooLong"
    SEVERAL_PDBS = "SeveralPodDisruptionBudgets"
    LOCAL_VOLUME = "LocalVolume"
    POLICY = "ConsolidationPolicy"
    NEVER = "ConsolidateAfterNever"
    CONSOLIDATE_AFTER = "ConsolidateAfter"
    BUDGET = "Budget"
    NO_PRICE = "NoPrice"
    PENDING_PODS = "PendingPods"
    UNPLACED = "PodsUnplaced"
    SEVERAL_NODES = "NeedsSeveralNodes"
    NOT_CHEAPER = "NotCheaper"
    SPOT_TO_SPOT = "SpotToSpot"
    DEADLINE = "Deadline"
    CHANGED = "Changed"
    WAVE = "Wave"
    BACKOFF = "PoolBackoff"
    MIN_SAVING = "MinimumSaving"
    PAYBACK = "Payback"
    RETURN = "BackAndForth"
    FAILED_BEFORE = "FailedBefore"


class Block(Value, frozen=True):
    """One rule that stops a disruption, in a sentence, with its numbers."""

    rule: Rule
    message: str
    facts: dict[str, str | int | float | bool] = {}


class Candidate(Value, frozen=True):
    """A node of ours as disruption sees it. `pods` are those that would have to move; `blocks` holds whatever the
    reason. `price_per_hour` is today's price of its offering, None where unknown.
    """

    node: str
    claim: str
    claim_uid: str = ""
    provider_id: str = ""
    pool: PoolKey = ""
    node_class: str = ""
    instance_type: str = ""
    zone: str = ""
    capacity_type: str = ""
    price_per_hour: float | None = None
    node_charge_per_hour: float = 0.0
    pods: tuple[PodKey, ...] = ()
    eviction_cost: float = 0.0
    quiet_since: float = 0.0
    """When the last pod came or went, or when it was initialized."""
    blocks: tuple[Block, ...] = ()

    @property
    def empty(self) -> bool:
        """No pod whose eviction costs anything."""
        return self.eviction_cost <= 0.0

    @property
    def savings_ratio(self) -> float:
        """What candidates are tried by, dearest per unit of disruption first."""
        return (self.price_per_hour or 0.0) / (1.0 + self.eviction_cost)


class DrainEstimate(Value, frozen=True):
    """How long a drain takes at most by what is known before it begins, in seconds; None: nothing known ends it."""

    seconds: float | None = 0.0
    cut_short: bool = False
    """The termination grace period ends it: some pods get less than their grace period, or lose their protection."""
    held_by: tuple[str, ...] = ()
    """What is in its way, in sentences."""


class Action(enum.StrEnum):
    DELETE = "Delete"
    REPLACE = "Replace"
    KEEP = "Keep"


class Proposal(Value, frozen=True):
    """What would become of one node now, and everything that stops it (nothing: it is being carried out)."""

    node: str
    claim: str
    pool: PoolKey
    action: Action
    reason: Reason | None = None
    instance_type: str = ""
    zone: str = ""
    capacity_type: str = ""
    price_per_hour: float | None = None
    saves_per_hour: float = 0.0
    """Rent and node charge, at today's prices and at the replacement's first choice."""
    replacement: PlannedNode | None = None
    moves: tuple[Placement, ...] = ()
    """Where its pods would go; those on the replacement are in it."""
    evictions: int = 0
    eviction_cost: float = 0.0
    drain: DrainEstimate = DrainEstimate()
    singletons: tuple[PodKey, ...] = ()
    """Pods that are their workload's only one; their new place is up before they are evicted."""
    blocks: tuple[Block, ...] = ()
    at: float = 0.0


class Command(Value, frozen=True):
    """Nodes to take away together and the nodes to make first. `id` is unique in the cluster."""

    id: str
    reason: Reason
    candidates: tuple[Candidate, ...]
    replacements: tuple[PlannedNode, ...] = ()
    saves_per_hour: float = 0.0
    decided_at: float = 0.0
    keeps: tuple[tuple[Kept, ...], ...] = ()
    """Per replacement, the pods that its node is to hold in the end; () where no place is kept."""

    @property
    def action(self) -> Action:
        return Action.REPLACE if self.replacements else Action.DELETE

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(c.node for c in self.candidates)


class Course(Value, frozen=True):
    """Commands that lead to cheaper nodes together, to be carried out one after the other. `kept`: node that stays ->
    the pods it is to hold in the end, places for them being kept from the first command on. `id`: its first command's.
    """

    id: str
    commands: tuple[Command, ...]
    kept: dict[str, tuple[Kept, ...]] = {}
    saves_per_hour: float = 0.0

    @property
    def leaving(self) -> frozenset[str]:
        """Nodes that its commands take away."""
        return frozenset(node for command in self.commands for node in command.nodes)

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes it is about: those that go and those that take pods."""
        return self.leaving | self.kept.keys()


class Distance(Value, frozen=True):
    """What all nodes cost (rent and node charges), and the least that any nodes for the same pods could, as things stand:
    nodes that nothing may touch at that moment cost what they cost. USD per hour.
    """

    cost_per_hour: float
    least_per_hour: float

    @property
    def gap(self) -> float:
        """By how much of the least the cluster costs more; 0 where nothing costs anything."""
        return self.cost_per_hour / self.least_per_hour - 1.0 if self.least_per_hour > 0 else 0.0


class Fate(enum.StrEnum):
    """What became of a move."""

    STARTED = "Started"
    DONE = "Done"
    UNDONE = "Undone"


class Move(Value, frozen=True):
    """A command remembered: `left` and `came` are offerings as `<type>/<capacity type>`, those that came as launched,
    or as planned while nothing has been. `id` is the command's.
    """

    id: str
    pool: PoolKey
    reason: Reason
    left: tuple[str, ...]
    came: tuple[str, ...]
    at: float
    fate: Fate = Fate.STARTED
    ended_at: float = 0.0


class Options(msgspec.Struct, frozen=True):
    """Settings of the disruption room; the defaults are the product's."""

    node_charge_usd_per_hour: float = 0.01
    spot_to_spot: bool = False
    spot_to_spot_types: int = 15
    """A spot node is replaced by spot only where this many cheaper types are allowed."""
    deadline_s: float = 180.0
    """For one pass over all nodes; what was found by then is used."""
    eviction_usd: float = 0.001
    """What one unit of eviction cost is taken to cost, once; a saving must pay it back."""
    max_payback_s: float = 8 * 3600.0
    """Longest time it may take to; a pool may say otherwise."""
    no_return_s: float = 3600.0
    """How long an instance type that was left is not gone back to; a pool may say otherwise."""
    surge: bool = False
    """Whether a pod that asks for it gets another replica before it is evicted."""
    default_spread: tuple[object, ...] = ()
    """The planner's: topology spread that the kube-scheduler gives pods that say nothing of their own."""


class View(msgspec.Struct, frozen=True):
    """All that one pass reads. `catalogues` is by node class key; `quiet_since` by node name, as tracked by PodEvents;
    `in_command` are nodes of commands under way or just begun.
    """

    snapshot: Snapshot
    catalogues: Mapping[str, Catalogue]
    now: float
    nominated: frozenset[str] = frozenset()
    in_command: frozenset[str] = frozenset()
    quiet_since: Mapping[str, float] = {}
    options: Options = Options()
    moves: tuple[Move, ...] = ()
    """What was done of late, in any order."""
    overdue: frozenset[PoolKey] = frozenset()
    """Pools that the pass before had no time for: they begin."""


class Outcome(msgspec.Struct, frozen=True):
    """What a pass found. `quiet`: nothing can change until the cluster or the prices do, or `recheck_at` comes."""

    proposals: tuple[Proposal, ...] = ()
    command: Command | None = None
    course: Course | None = None
    no_course: Block | None = None
    """Why there is none, where one was looked for."""
    distance: Distance | None = None
    """Where a course was searched for: how far the cluster stood from the cheapest it could be."""
    quiet: bool = True
    recheck_at: float | None = None
    complete: bool = True
    allowed: Mapping[PoolKey, Mapping[Reason, int]] = {}
    """How many nodes of each pool the budgets let go before this pass."""
    judged: Mapping[str, tuple[Proposal, ...]] = {}
    """By method, what it made of the nodes that it is for."""
    cost: Mapping[PoolKey, float] = {}
    """Rent and node charges of each pool's nodes, as far as prices are known."""
    rent: Mapping[PoolKey, float] = {}
    overdue: frozenset[PoolKey] = frozenset()
    """Pools that there was no time for; the next view's."""

    def stopped(self, method: str) -> Mapping[Rule, int]:
        """How many nodes each rule was the first to keep."""
        return Counter(p.blocks[0].rule for p in self.judged.get(method, ()) if p.blocks)

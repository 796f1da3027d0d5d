"""The proposals as they stand: the last judgement of every node, kept between passes.

Says in the journal and as an event when what a method proposes for a node, or what stops it, becomes something else;
the same thing twice is said once. Neighbours: `controller` (passes), `servicer` (who asks).
"""

from nodeyard.api.pool import BALANCED
from nodeyard.disruption.candidates import EVENTUAL
from nodeyard.disruption.model import Command, Distance, DrainEstimate, Outcome, Proposal, Reason, Rule
from nodeyard.disruption.outlook import Outlook
from nodeyard.state.cluster import Snapshot
from services.reallocator.chronicle import Chronicle, Fact

_BLOCKED = frozenset(
    {
        Rule.POD_DO_NOT_DISRUPT, Rule.PDB, Rule.SEVERAL_PDBS, Rule.LOCAL_VOLUME, Rule.NODE_DO_NOT_DISRUPT,
        Rule.NO_CLAIM, Rule.WAVE, Rule.BACKOFF, Rule.DRAIN,
    }
)  # fmt: skip
_NOT_WORTH_IT = frozenset(
    {
        Rule.NOT_CHEAPER, Rule.UNPLACED, Rule.SEVERAL_NODES, Rule.MIN_SAVING, Rule.PAYBACK, Rule.RETURN,
        Rule.FAILED_BEFORE, Rule.NO_PRICE, Rule.SPOT_TO_SPOT, Rule.POLICY, Rule.NEVER,
    }
)  # fmt: skip
"""What else stops a node passes by itself, or is somebody's own doing (it is new, being deleted, in a command)."""


class Proposals:
    """By node name."""

    def __init__(self, chronicle: Chronicle) -> None:
        self._chronicle = chronicle
        self._by_node: dict[str, Proposal] = {}
        self._said: dict[tuple[str, str], str] = {}
        self._at = 0.0
        self._distance: Distance | None = None
        """What was said last of how far the cluster stands from the cheapest."""

    @property
    def all(self) -> tuple[Proposal, ...]:
        """All of them, by node."""
        return tuple(self._by_node[node] for node in sorted(self._by_node))

    def older_than(self, now: float, seconds: float) -> bool:
        """Whether the last look is longer ago than that."""
        return now - self._at > seconds

    def homes_of_singletons(self, command: Command) -> frozenset[str]:
        """Nodes that run and are to take a pod that is its workload's only one, as far as the last look told."""
        going = [p for node in command.nodes if (p := self._by_node.get(node)) is not None]
        alone = frozenset(pod for p in going for pod in p.singletons)
        return frozenset(move.node for p in going for move in p.moves if alone & frozenset(move.pods))

    def show(self, outcome: Outcome, snapshot: Snapshot) -> None:
        """Takes a look in without a word."""
        fresh = {p.node: p for p in outcome.proposals}
        self._by_node = {n: p for n, p in (self._by_node | fresh).items() if n in snapshot.nodes}
        self._at = max((p.at for p in outcome.proposals), default=self._at)

    async def take(self, outcome: Outcome, snapshot: Snapshot) -> None:
        """Takes a pass in and says what is new."""
        self.show(outcome, snapshot)
        if outcome.distance is not None and outcome.distance != self._distance:
            self._distance = outcome.distance
            await self._chronicle.measured(outcome.distance)
        self._said = {key: said for key, said in self._said.items() if key[1] in self._by_node}
        for method, proposals in outcome.judged.items():
            for proposal in proposals:
                said, key = signature(proposal), (method, proposal.node)
                if self._said.get(key) != said:
                    self._said[key] = said
                    await self._say(method, proposal, snapshot)

    async def _say(self, method: str, proposal: Proposal, snapshot: Snapshot) -> None:
        self._tell(proposal, snapshot)
        if not proposal.blocks:
            new = proposal.replacement
            await self._chronicle.decided(
                "proposed", f"node/{proposal.node}", proposal.reason or "Keep",
                f"{proposal.action.value.lower()}" + (f" by {new.instance_type} in {new.zone}" if new else ""),
                quiet=True, saves_per_hour=round(proposal.saves_per_hour, 6), evictions=proposal.evictions,
                price_per_hour=proposal.price_per_hour or 0.0, method=method,
                singletons=len(proposal.singletons), **facts_of(proposal.drain),
            )  # fmt: skip
            return
        first = proposal.blocks[0]
        await self._chronicle.decided(
            "blocked", f"node/{proposal.node}", first.rule.value, first.message, quiet=True,
            **(first.facts | {"method": method}),
        )  # fmt: skip

    def _tell(self, proposal: Proposal, snapshot: Snapshot) -> None:
        """As an event, what stops a node (on the pool where its budgets do), and how a Balanced pool weighed it."""
        node, pool = snapshot.nodes.get(proposal.node), snapshot.pools.get(proposal.pool)
        if node is None or pool is None:
            return
        if not proposal.blocks:
            if pool.disruption.policy == BALANCED and proposal.reason is Reason.UNDERUTILIZED:
                message = f"saving {proposal.saves_per_hour:.4f} USD/h is worth what it moves (Balanced)"
                self._chronicle.on_node(node, "ConsolidationApproved", message)
            return
        first = proposal.blocks[0]
        if first.rule is Rule.BUDGET:
            self._chronicle.on_pool(pool, "DisruptionBlocked", first.message)
        elif "savedShare" in first.facts:
            self._chronicle.on_node(node, "ConsolidationRejected", first.message)
        elif first.rule in _NOT_WORTH_IT and proposal.reason not in EVENTUAL:
            self._chronicle.on_node(node, "Unconsolidatable", first.message)
        elif first.rule in _BLOCKED | _NOT_WORTH_IT:
            self._chronicle.on_node(node, "DisruptionBlocked", first.message)


def signature(proposal: Proposal) -> str:
    """What makes a proposal another one: what would be done, or the first rule that stops it."""
    if proposal.blocks:
        return f"blocked {proposal.blocks[0].rule}"
    new = proposal.replacement
    return f"{proposal.action} {new.instance_type if new else ''}"


def drain_facts(snapshot: Snapshot, command: Command, now: float) -> dict[str, Fact]:
    """For the journal: how long the drain of a command's nodes takes, as told before it begins, and who is alone."""
    outlook = Outlook(snapshot, now)
    alone = outlook.singletons(pod for c in command.candidates for pod in c.pods)
    return {"singletons": len(alone)} | facts_of(outlook.drain(command.nodes))


def facts_of(drain: DrainEstimate) -> dict[str, Fact]:
    """An estimate for the journal: seconds at most, or that nothing known ends it, and what is in the way."""
    facts: dict[str, Fact] = {"drain_s": "unknown" if drain.seconds is None else round(drain.seconds, 1)}
    if drain.held_by:
        facts["drain_held_by"] = "; ".join(drain.held_by[:3])
    return facts | ({"drain_cut_short": True} if drain.cut_short else {})

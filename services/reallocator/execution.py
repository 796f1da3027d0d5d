"""Carries out commands: taint and mark, make the replacements, wait until they are Initialized, delete the old.

Nothing is remembered here but the nodes of a command that is being begun this moment; everything else is read back
from the objects at each turn, so a command survives its replica. A command that lost a replacement, took too long or
was cut short before it made any is undone: untainted, unmarked. Runs in the holder of the lease `disruption`, asked
again before every write. Kill points: reallocator.before-/after- disrupt-node, restore-node, and those of NodeClaims.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api import labels as keys
from nodeyard.api.node import Condition, NodeClaim
from nodeyard.disruption.commands import (
    DISRUPTION_REASON,
    MARK,
    Running,
    Verdict,
    concerned,
    mark_of,
    marked,
    progress,
    reasons,
    running,
    stale,
)
from nodeyard.disruption.model import Action, Candidate, Command, Fate, Reason
from nodeyard.provisioning.claims import DISRUPTION_GROUP, claim_names, claim_of
from nodeyard.provisioning.keeping import Keeping, Kept, encoded
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.runtime.lifecycle import kill_point
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import Change, Kind, Snapshot
from services.reallocator.chronicle import Chronicle
from services.reallocator.metrics import ReallocatorMetrics
from services.reallocator.moves import MoveMemory
from services.reallocator.ports import Claims, Cluster, DeletionCosts, Lead, Nodes, Nominating

NOMINATION_S: Final = 20.0
_CLOSING_TRIES: Final = 4
_CLOSING_PAUSE_S: Final = 0.25
KEEP_S: Final = 60.0
"""How long places are kept for pods that come back, if nobody says so again."""

log = get_logger("services.reallocator.execution")


class LostLead(Exception):
    """The lease `disruption` is not surely ours any more."""


class Execution:
    """`begin` a validated command, `advance` all that are under way."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        claims: Claims,
        nodes: Nodes,
        nominations: Nominating,
        moves: MoveMemory,
        lead: Lead,
        chronicle: Chronicle,
        clock: Clock,
        measures: ReallocatorMetrics,
        costs: DeletionCosts | None = None,
    ) -> None:
        """`costs`: None where nothing is written on pods."""
        self._cluster = cluster
        self._claims = claims
        self._nodes = nodes
        self._nominations = nominations
        self._moves = moves
        self._lead = lead
        self._chronicle = chronicle
        self._clock = clock
        self._measures = measures
        self._costs = costs
        self._starting: set[str] = set()
        self._ended: dict[str, float] = {}

    def busy(self, snapshot: Snapshot) -> frozenset[str]:
        """Nodes that commands are about, those being begun included."""
        return concerned(snapshot, running(snapshot)) | frozenset(self._starting)

    async def begin(self, command: Command) -> bool:
        """Carries the command as far as its replacements' creation (or its nodes' deletion); False if undone."""
        self._starting |= set(command.nodes)
        try:
            return await self._begin(command)
        except (KubernetesError, LostLead) as error:
            log.warning("command can't be begun and is undone", command=command.id, error=str(error))
            await self._give_up(command)
            return False
        finally:
            self._starting -= set(command.nodes)

    async def close(self, command: Command) -> bool:
        """Closes the nodes of a command that is to begin later to new pods; False where one has moved on."""
        self._starting |= set(command.nodes)
        mark = msgspec.json.encode(mark_of(command, self._clock.now())).decode()
        left = list(command.candidates)
        for _ in range(_CLOSING_TRIES):
            taken = await asyncio.gather(*(self._take(c, command, mark) for c in left))
            left = [c for c, ok in zip(left, taken, strict=True) if not ok]
            if not left:
                await self._tell_owners(command)
                return True
            await self._clock.sleep(_CLOSING_PAUSE_S)
        return False

    async def open(self, commands: Iterable[Command]) -> None:
        """Leaves nodes that were closed for commands that won't begin as they were, unless another has taken them since.
        Raises KubernetesError, LostLead.
        """
        snapshot = self._cluster.snapshot()
        closed = [(command.id, name) for command in commands for name in command.nodes]
        self._starting -= {name for _, name in closed}
        for id_, name in closed:
            node = snapshot.nodes.get(name)
            mark = marked(node) if node is not None else None
            if mark is not None and mark.id == id_:
                await self._restore(snapshot, name, "Undone", "the command before it led elsewhere")

    def made_by(self, command: Command) -> list[str]:
        """Names of the claims of the command's replacements, in order."""
        return claim_names(command.id, command.replacements)

    async def _begin(self, command: Command) -> bool:
        mark = msgspec.json.encode(mark_of(command, self._clock.now())).decode()
        taken = await asyncio.gather(*(self._take(c, command, mark) for c in command.candidates))
        going = [c for c, ok in zip(command.candidates, taken, strict=True) if ok]
        if not going or (command.replacements and len(going) < len(command.candidates)):
            await self._give_up(command)
            return False
        if command.replacements:
            await self._replace(command)
            await self._tell_owners(command)
            await self._moves.begun(command)
            return True
        for candidate in going:
            self._lead_epoch()
            await self._end(candidate.claim, candidate.claim_uid, command.reason)
        await self._moves.begun(msgspec.structs.replace(command, candidates=tuple(going)))
        self._measures.saved(
            command.reason, sum((c.price_per_hour or 0.0) + c.node_charge_per_hour for c in going)
        )
        return True

    async def _take(self, candidate: Candidate, command: Command, mark: str) -> bool:
        """Taints and marks one node; False where it has moved on since it was judged."""
        self._lead_epoch()
        snapshot = self._cluster.snapshot()
        node = snapshot.nodes.get(candidate.node)
        claim = snapshot.claims.get(candidate.claim)
        if node is None or claim is None or claim.uid != candidate.claim_uid or claim.deleting:
            return False
        kill_point("reallocator.before-disrupt-node")
        changed = await self._nodes.disrupt(node, mark)
        kill_point("reallocator.after-disrupt-node")
        if changed is None:
            return False
        self._cluster.overlay(Change(Kind.NODE, changed.name, changed, changed.resource_version))
        self._chronicle.on_node(changed, "DisruptionLaunching", f"disrupted because it is {command.reason}")
        condition = Condition(DISRUPTION_REASON, "True", command.reason.value, f"command {command.id}")
        marked = await self._claims.set_conditions(claim, (condition,), self._clock.now())
        self._show(marked)
        return marked is not None

    async def _replace(self, command: Command) -> None:
        snapshot = self._cluster.snapshot()
        names = self.made_by(command)
        keeps = command.keeps or ((),) * len(names)
        replaces = msgspec.json.encode(list(command.nodes)).decode()
        for name, node, kept in zip(names, command.replacements, keeps, strict=True):
            pool = snapshot.pools.get(node.pool)
            if pool is None:
                raise LostLead(f"pool {node.pool} is gone")
            claim = claim_of(
                node,
                pool,
                name=name,
                plan_id=f"{command.id}-{name}",
                group=DISRUPTION_GROUP,
                epoch=self._lead_epoch(),
                annotations={
                    MARK: command.id,
                    keys.REPLACES: replaces,
                    keys.DISRUPTION_REASON: command.reason.value,
                    **self._keeping(kept),
                },
                pods=(),
            )
            created = await self._claims.create(claim, pool)
            self._show(created)
            await self._chronicle.decided(
                "disrupting", f"nodeclaim/{created.name}", "Replacement",
                f"made to replace {', '.join(command.nodes)}",
                command=command.id, instance_type=node.instance_type, zone=node.zone,
                capacity_type=node.capacity_type, price_per_hour=node.price_per_hour,
            )  # fmt: skip

    async def _tell_owners(self, command: Command) -> None:
        """While replacements come, a workload that shrinks gives up its pods on the nodes that go."""
        if self._costs is not None:
            snapshot = self._cluster.snapshot()
            await self._costs.lower(pod for name in command.nodes for pod in snapshot.pods_of_node(name))

    def _keeping(self, kept: tuple[Kept, ...]) -> dict[str, str]:
        """The annotation of a claim whose node keeps places from its first moment on."""
        until = self._clock.now() + KEEP_S
        return {keys.KEPT_PLACES: encoded(Keeping(until, kept))} if kept else {}

    async def advance(self) -> None:
        """Every command under way one turn further, and what no command stands behind cleaned up."""
        snapshot = self._cluster.snapshot()
        under_way = running(snapshot)
        for reason, count in ({r.value: 0 for r in Reason} | reasons(under_way)).items():
            self._measures.in_flight.labels(reason).set(count)
        for command in under_way:
            if self._starting.isdisjoint(command.nodes):
                await self._turn(command, snapshot, len(under_way))
        for name in stale(snapshot, under_way, frozenset(self._starting)):
            await self._restore(snapshot, name, "Stale", "no command stands behind its taint")

    async def _turn(self, command: Running, snapshot: Snapshot, commands: int) -> None:
        verdict, why = progress(command, snapshot, self._clock.now(), commands)
        if verdict is Verdict.WAIT:
            for name in command.replacements:
                message = f"{', '.join(command.nodes)} wait until it is initialized"
                self._chronicle.on_claim(snapshot.claims[name], "DisruptionWaitingReadiness", message)
            return
        if verdict is Verdict.READY:
            await self._nominate_replacements(command, snapshot)
            if not any(snapshot.claims[name].uid in self._ended for name in command.claims):
                self._measures.saved(command.mark.reason, command.mark.saves)
            for name in command.claims:
                self._lead_epoch()
                await self._end(name, snapshot.claims[name].uid, command.mark.reason)
            await self._moves.ended(command, snapshot, Fate.DONE)
            return
        await self._moves.ended(command, snapshot, Fate.UNDONE)
        action = Action.REPLACE if command.mark.replacements else Action.DELETE
        self._measures.undone(action, command.mark.reason, len(command.nodes))
        for name in command.nodes:
            await self._restore(snapshot, name, verdict.value, why)
        for name in command.replacements:
            self._show(await self._claims.annotate(snapshot.claims[name], {MARK: None}))

    async def _nominate_replacements(self, command: Running, snapshot: Snapshot) -> None:
        """Keeps the new nodes from being taken for empty while the pods are on their way."""
        nodes = [
            node.name
            for name in command.replacements
            if (node := snapshot.node_of(snapshot.claims[name])) is not None
        ]
        try:
            await self._nominations.nominate(nodes, NOMINATION_S)
        except StoreUnavailableError as error:
            raise LostLead(str(error)) from error

    async def _end(self, name: str, uid: str, reason: Reason) -> None:
        """Deletes a claim; its termination is whoever's holds the node's lease."""
        if uid in self._ended:
            return
        await self._claims.delete(name, uid)
        self._note_ended(uid)
        claim = self._cluster.snapshot().claims.get(name)
        pool, capacity_type = (claim.pool, claim.labels.get(keys.CAPACITY_TYPE, "")) if claim else ("", "")
        self._measures.disrupted.labels(reason.value.lower(), pool, capacity_type).inc()
        if claim is not None:
            self._chronicle.on_claim(claim, "DisruptionTerminating", f"deleted because it is {reason.value}")
        await self._chronicle.decided(
            "disrupting", f"nodeclaim/{name}", reason.value, f"deleted because it is {reason.value}", pool=pool
        )  # fmt: skip

    def _note_ended(self, uid: str) -> None:
        now = self._clock.now()
        self._ended = {known: at for known, at in self._ended.items() if now - at < 30.0} | {uid: now}

    async def delete_claims(self, claims: Sequence[NodeClaim], reason: Reason) -> None:
        """Deletes claims outright (expiry)."""
        for claim in claims:
            self._lead_epoch()
            await self._end(claim.name, claim.uid, reason)

    async def _give_up(self, command: Command) -> None:
        """Undoes what was begun, as far as it can be reached now; the rest is found stale at a later turn."""
        snapshot = self._cluster.snapshot()
        self._measures.undone(command.action, command.reason, len(command.nodes))
        for name in command.nodes:
            try:
                await self._restore(snapshot, name, "Undone", "the command could not be begun")
            except (KubernetesError, LostLead) as error:
                log.warning("node can't be restored now", node=name, error=str(error))
        for claim in snapshot.claims.values():
            if claim.annotations.get(MARK) == command.id:
                self._show(await self._claims.annotate(claim, {MARK: None}))

    async def _restore(self, snapshot: Snapshot, name: str, reason: str, why: str) -> None:
        """Makes a node schedulable again and its claim undisturbed."""
        self._lead_epoch()
        node = snapshot.nodes.get(name)
        if node is None:
            return
        kill_point("reallocator.before-restore-node")
        changed = await self._nodes.restore(node)
        kill_point("reallocator.after-restore-node")
        if changed is None:
            return
        self._cluster.overlay(Change(Kind.NODE, changed.name, changed, changed.resource_version))
        if self._costs is not None:
            await self._costs.restore(self._cluster.snapshot().pods_of_node(name))
        claim = snapshot.claim_of(node)
        if claim is not None and claim.condition(DISRUPTION_REASON) is not None:
            self._show(await self._claims.drop_conditions(claim, (DISRUPTION_REASON,)))
        if changed.resource_version != node.resource_version:
            await self._chronicle.decided(
                "disrupting", f"node/{name}", reason, f"left as it was: {why}", undone=True
            )  # fmt: skip

    def _show(self, claim: NodeClaim | None) -> None:
        if claim is not None:
            self._cluster.overlay(Change(Kind.NODE_CLAIM, claim.name, claim, claim.resource_version))

    def _lead_epoch(self) -> int:
        epoch = self._lead.epoch
        if epoch is None:
            raise LostLead("the lease is not surely held")
        return epoch

"""A drift rollout to its end, whatever order things happen in: waves are kept, pods have places, pools don't starve."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, Condition
from nodeyard.disruption.drift import DRIFTED, drift_marks
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Command, Reason
from nodeyard.disruption.validation import validate
from nodeyard.disruption.waves import wave_of
from nodeyard.provisioning.claims import HASH_VERSION
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, Builder, clock, first_fit

POOLS = ("default", "other")


def stamped(hash_: str) -> dict[str, str]:
    return {keys.NODEPOOL_HASH: hash_, keys.NODEPOOL_HASH_VERSION: HASH_VERSION}


class Rollout:
    """Two pools whose template changes while commands begin and replacements come up one by one."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        self.build = Builder()
        self.build.shape("big", 1400)
        self.under_way: list[tuple[Command, tuple[str, ...]]] = []
        self.made = 0
        for pool, size in zip(POOLS, sizes, strict=True):
            self.build.pool(pool, after=None, hash="new")
            for i in range(size):
                name = f"{pool}-{i}"
                self.build.node(name, "m5.large", pool=pool, claim={"annotations": stamped("old")})
                self.build.pod(f"p-{name}", name, shape="big")
        for mark in drift_marks(self.build.snapshot, {}, NOW):
            claim = self.build.snapshot.claims[mark.claim]
            said = Condition(DRIFTED, "True", "NodePoolDrifted", "", self.build.now)
            drifted = msgspec.structs.replace(claim, conditions=(*claim.conditions, said))
            self.build.put(Kind.NODE_CLAIM, claim.name, drifted)

    @property
    def left(self) -> int:
        return sum(c.is_true(DRIFTED) for c in self.build.snapshot.claims.values())

    @property
    def waiting(self) -> set[str]:
        """Pools with drifted nodes."""
        return {c.pool for c in self.build.snapshot.claims.values() if c.is_true(DRIFTED)}

    @property
    def moving(self) -> set[str]:
        """Pools with commands under way."""
        return {self.build.snapshot.nodes[c.nodes[0]].pool for c, _ in self.under_way}

    def begin(self) -> bool:
        """A pass with its second look; whether a command was begun."""
        busy = frozenset(n for command, _ in self.under_way for n in command.nodes)
        view = self.build.view(in_command=busy)
        command = decide(view, first_fit, clock).command
        if command is None:
            return False
        again = validate(command, view, first_fit, clock)
        assert isinstance(again, Command)
        assert again.reason is Reason.DRIFTED
        (old,) = again.nodes
        pool = self.build.snapshot.nodes[old].pool
        names = []
        for _ in again.replacements:
            self.made += 1
            names.append(f"new-{self.made}")
            annotations = stamped("new") | {keys.DISRUPTION_REASON: "Drifted", keys.REPLACES: "[]"}
            claim = {"annotations": annotations, "created_at": self.build.now + 1}
            self.build.node(names[-1], "m5.large", pool=pool, initialized=False, claim=claim)
        self.under_way.append((again, tuple(names)))
        return True

    def finish(self, which: int) -> None:
        """The replacements of one command come up, its pods move there, its node goes."""
        command, names = self.under_way.pop(which % len(self.under_way))
        for name in names:
            node, claim = self.build.snapshot.nodes[name], self.build.snapshot.claims[f"{name}-c"]
            up = node.labels | {keys.INITIALIZED: "true"}
            self.build.put(Kind.NODE, name, msgspec.structs.replace(node, labels=up))
            done = tuple(
                msgspec.structs.replace(c, status="True") if c.type == INITIALIZED else c
                for c in claim.conditions
            )
            self.build.put(Kind.NODE_CLAIM, claim.name, msgspec.structs.replace(claim, conditions=done))
        for node_name in command.nodes:
            pods = self.build.snapshot.pods_of_node(node_name)
            assert len(pods) <= len(names)
            for pod, name in zip(pods, names, strict=False):
                self.build.put(Kind.POD, pod.key, msgspec.structs.replace(pod, node=name))
            self.build.put(Kind.NODE, node_name, None)
            self.build.put(Kind.NODE_CLAIM, f"{node_name}-c", None)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(0, 5)),
    st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60),
)
def test_a_rollout_keeps_its_waves_and_comes_to_its_end(
    sizes: tuple[int, int], events: list[tuple[bool, int]]
) -> None:
    rollout = Rollout(sizes)
    endless = [*events, *((True, 0) for _ in range(400))]
    for begin, which in endless:
        if not rollout.left:
            break
        if not (begin and rollout.begin()) and rollout.under_way:
            rollout.finish(which)
        for pool in POOLS:
            wave = wave_of(rollout.build.snapshot, pool, rollout.build.now, 0.0)
            assert wave.made <= wave.most
        if not rollout.begin():
            assert rollout.waiting <= rollout.moving, "a pool is never kept waiting by another one"
    assert not rollout.left
    assert all(p.node in rollout.build.snapshot.nodes for p in rollout.build.snapshot.pods.values())

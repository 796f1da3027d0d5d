"""Terms between pods, counted over a whole arrangement: what is broken where, so that no step makes anything worse.

`TopologyGuard` knows the hard terms of all shapes in use and answers with how far each is exceeded in each domain.
A step is sound where nothing is exceeded further than before it: what a cluster brought along broken may stay so.
It also knows which pods have terms over zones and the like (`involved`), which may only be moved within them or with
all others in view. Source: Kubernetes API reference, PodAffinityTerm, TopologySpreadConstraint.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import Node
from nodeyard.api.pod import PodKey, PodShape, ShapeId
from nodeyard.api.selectors import PodAffinity
from nodeyard.disruption.arrangement import Arrangement
from nodeyard.provisioning.classes import rule_of
from nodeyard.provisioning.labelled import Labelled, NodeRule, coded
from nodeyard.scheduling.topology import TermKind, TopologyTerm, namespaces_by_label, terms_of
from nodeyard.state.cluster import Snapshot

Excess = Mapping[tuple[int, str], int]
"""(term, domain) -> how many pods stand there against the term; under ~term the same with domains that could have nodes."""


class TopologyGuard:
    """The terms of one snapshot's shapes. `zones`: where nodes could be made, which spread terms count as domains too."""

    def __init__(self, snapshot: Snapshot, zones: Iterable[str] = ()) -> None:
        self._snapshot = snapshot
        self._possible = [Node(f"in {zone}", labels={keys.ZONE: zone}) for zone in sorted(zones)]
        used = {p.shape for p in snapshot.pods.values() if not p.finished} | set(snapshot.successors.values())
        shapes = [snapshot.shapes[i] for i in sorted(used)]
        known = {name: n.labels for name, n in snapshot.namespaces.items()}
        namespaces_of = namespaces_by_label({**{s.namespace: {} for s in shapes}, **known})
        numbers: dict[tuple[TopologyTerm, NodeRule | None], int] = {}
        carried: defaultdict[ShapeId, list[int]] = defaultdict(list)
        for shape in shapes:
            if not _has_terms(shape):
                continue
            for term in terms_of(shape, namespaces_of):
                if not term.soft:
                    rule = _counted_on(term, shape)
                    carried[shape.id].append(numbers.setdefault((term, rule), len(numbers)))
        self.terms = [term for term, _ in numbers]
        self._rules = [rule for _, rule in numbers]
        self._carried = dict(carried)
        self._matched = {
            s.id: [n for n, t in enumerate(self.terms) if t.group.selects(s.namespace, s.labels)] for s in shapes
        } if self.terms else {}  # fmt: skip
        self.keys = tuple(sorted({t.key for t in self.terms if not t.per_host}))
        wide = {n for n, t in enumerate(self.terms) if not t.per_host}
        together = {n for n, t in enumerate(self.terms) if t.per_host and t.kind is TermKind.AFFINITY}
        self.involved = frozenset(s.id for s in shapes if wide & self._terms(s.id))
        """Shapes that a term over domains other than nodes binds or counts."""
        self.bound = frozenset(s.id for s in shapes if self._terms(s.id))
        """Shapes that any term binds or counts."""
        self.gathered = frozenset(s.id for s in shapes if together & self._terms(s.id))
        """Shapes that must share a node with others, or others with them."""
        self._joins = [n for n, t in enumerate(self.terms) if t.kind is TermKind.AFFINITY]
        self._eligible: dict[tuple[int, str], bool] = {}
        self._known: dict[int, set[str]] = {}

    def _terms(self, shape: ShapeId) -> set[int]:
        return {*self._carried.get(shape, ()), *self._matched.get(shape, ())}

    def cell(self, node: Node) -> tuple[str, ...]:
        """The domains a node is in, of every key that some term asks about."""
        return tuple(node.labels.get(key, "") for key in self.keys)

    def excess(self, arrangement: Arrangement) -> Excess:
        """Everything that stands against a term now."""
        if not self.terms:
            return {}
        carried: Counter[tuple[int, str]] = Counter()
        matched: Counter[tuple[int, str]] = Counter()
        for name, place in arrangement.places.items():
            for shape, many in self._shapes_on(arrangement, name).items():
                for number in self._carried.get(shape, ()):
                    if (domain := self._domain(number, place.node)) is not None:
                        carried[number, domain] += many
                for number in self._matched.get(shape, ()):
                    if (domain := self._domain(number, place.node)) is not None and self._counts(
                        number, place.node
                    ):
                        matched[number, domain] += many
        totals: Counter[int] = Counter()
        for (number, _), many in matched.items():
            totals[number] += many
        here, anywhere = self._lowest(arrangement, matched)
        selfish = self._selfish()
        out: dict[tuple[int, str], int] = {}
        for (number, domain), many in carried.items():
            for sign, lowest in ((number, here), (~number, anywhere)):
                over = self._over(
                    number, matched[number, domain], many, totals[number], lowest, number in selfish
                )
                if over > 0:
                    out[sign, domain] = over
        return out

    def worse(self, before: Excess, after: Excess) -> bool:
        """Whether any term is exceeded further than before."""
        return any(many > before.get(at, 0) for at, many in after.items())

    def strains(self, after: Excess, moves: Mapping[PodKey, Node]) -> bool:
        """Whether a pod that moved stands against a term of its own."""
        if not after:
            return False
        shapes = {(self._snapshot.pods[key].shape, node.name): node for key, node in moves.items()}
        return any(
            (sign, domain) in after
            for (shape, _), node in shapes.items()
            for number in self._carried.get(shape, ())
            if (domain := self._domain(number, node)) is not None
            for sign in (number, ~number)
        )

    def parted(self, after: Arrangement, moves: Mapping[PodKey, str]) -> bool:
        """Whether a pod that moved came to a domain without any pod that it has to join, while such pods stay in others:
        kube-scheduler would refuse it there, however many come with it.
        """
        return any(self._parted(number, after, moves) for number in self._joins)

    def _parted(self, number: int, after: Arrangement, moves: Mapping[PodKey, str]) -> bool:
        joining: set[str | None] = set()
        there: Counter[str | None] = Counter()
        """Pods to be joined, per domain: all but those that came to join others."""
        for key, name in moves.items():
            shape = self._snapshot.pods[key].shape
            if number in self._carried.get(shape, ()):
                domain = self._domain(number, after.places[name].node)
                joining.add(domain)
                there[domain] -= number in self._matched[shape]
        if not joining:
            return False
        for name, place in after.places.items():
            for shape, many in self._shapes_on(after, name).items():
                if number in self._matched[shape]:
                    there[self._domain(number, place.node)] += many
        del there[None]
        open_ = +there
        shut = joining - open_.keys()
        return None in joining or (bool(shut) and (bool(open_) or len(shut) > 1))

    def _over(
        self, number: int, matched: int, carried: int, total: int, lowest: Mapping[int, int], selfish: bool
    ) -> int:
        term = self.terms[number]
        if term.kind is TermKind.ANTI_AFFINITY:
            return matched - int(selfish)
        if term.kind is TermKind.AFFINITY:
            alone = selfish and matched == 1 and total > 1
            return carried if matched == 0 or alone else 0
        return matched - lowest.get(number, 0) - term.max_skew

    def _selfish(self) -> set[int]:
        return {n for shape, mine in self._carried.items() for n in mine if n in self._matched.get(shape, ())}

    def _lowest(
        self, arrangement: Arrangement, matched: Counter[tuple[int, str]]
    ) -> tuple[dict[int, int], dict[int, int]]:
        """The least any eligible domain of a spread term has: of those with nodes, as kube-scheduler counts, and of all
        that could have some, as the planner does. Hosts could always be added, so for them it is 0.
        """
        here: dict[int, int] = {}
        anywhere: dict[int, int] = {}
        seen: dict[tuple[str, NodeRule | None], set[str]] = {}
        for number, term in enumerate(self.terms):
            if term.kind is not TermKind.SPREAD or term.per_host:
                continue
            alike = (term.key, self._rules[number])
            if alike not in seen:
                seen[alike] = self._domains(number, (p.node for p in arrangement.places.values()))
            for lowest, domains in ((here, seen[alike]), (anywhere, seen[alike] | self._brought(number))):
                counts = [matched[number, d] for d in domains]
                lowest[number] = min(counts) if len(counts) >= term.min_domains and counts else 0
        return here, anywhere

    def _brought(self, number: int) -> set[str]:
        """The domains of the snapshot's own nodes, one that is empty for a while included, and of those that could be."""
        if number not in self._known:
            nodes = (*self._snapshot.nodes.values(), *self._possible)
            self._known[number] = self._domains(number, nodes)
        return self._known[number]

    def _domains(self, number: int, nodes: Iterable[Node]) -> set[str]:
        key = self.terms[number].key
        return {d for n in nodes if (d := n.labels.get(key)) is not None and self._counts(number, n)}

    def _shapes_on(self, arrangement: Arrangement, name: str) -> Counter[ShapeId]:
        pods = self._snapshot.pods
        found = Counter(pods[key].shape for key in arrangement.held.get(name, ()))
        for key in self._snapshot.pods_on.get(name, ()):
            if pods[key].daemon:
                found[pods[key].shape] += 1
        return found

    def _domain(self, number: int, node: Node) -> str | None:
        key = self.terms[number].key
        return node.labels.get(key, node.name if key == keys.HOSTNAME else None)

    def _counts(self, number: int, node: Node) -> bool:
        """Whether pods on the node count for a spread term: its bearers' own node rule decides."""
        rule = self._rules[number]
        if rule is None:
            return True
        known = self._eligible.get((number, node.name))
        if known is None:
            labelled = Labelled(1, lambda key: coded([node.labels.get(key)]))
            known = self._eligible[number, node.name] = bool(labelled.admitted(rule)[0])
        return known

    def stripped(self, shape: PodShape) -> PodShape:
        """The shape without its terms over domains, for moves that stay within them."""
        return msgspec.structs.replace(
            shape,
            topology_spread_constraints=tuple(
                c for c in shape.topology_spread_constraints if c.topology_key == keys.HOSTNAME
            ),
            pod_affinity=_by_host(shape.pod_affinity),
            pod_anti_affinity=_by_host(shape.pod_anti_affinity),
        )


def _by_host(affinity: PodAffinity | None) -> PodAffinity | None:
    if affinity is None:
        return None
    return msgspec.structs.replace(
        affinity,
        required=tuple(t for t in affinity.required if t.topology_key == keys.HOSTNAME),
        preferred=tuple(t for t in affinity.preferred if t.pod_affinity_term.topology_key == keys.HOSTNAME),
    )


def _has_terms(shape: PodShape) -> bool:
    return bool(shape.topology_spread_constraints or shape.pod_affinity or shape.pod_anti_affinity)


def _counted_on(term: TopologyTerm, shape: PodShape) -> NodeRule | None:
    """The node rule whose nodes a spread term counts; None: all."""
    if term.kind is not TermKind.SPREAD or term.per_host or not term.honor_affinity:
        return None
    rule = rule_of(shape)
    if not rule.selector and rule.required is None:
        return None
    return NodeRule(rule.selector, rule.required, ())

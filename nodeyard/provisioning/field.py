"""The state while pods are placed: hosts and planned nodes side by side, with every count that a constraint reads.

`Field` answers how many pods of a class each node can take now, exactly as kube-scheduler would judge, and keeps the
counts as pods are placed. Per-node terms are counted per node, all others per domain of their key. Neighbours:
`domains` decides which domains classes go to, `packing` proposes new nodes, `mending` places what is left one by one.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nodeyard.api.pod import PodShape
from nodeyard.api.selectors import HostPort
from nodeyard.provisioning.classes import Classes, PodClass, workload_of
from nodeyard.provisioning.columns import Columns
from nodeyard.provisioning.hosts import Hosts, taken_ports
from nodeyard.provisioning.labelled import Bools, Floats, Ints, NodeRule
from nodeyard.provisioning.model import Problem
from nodeyard.scheduling.ports import any_clash
from nodeyard.scheduling.topology import TermKind, TopologyTerm

_PLENTY = 1 << 40


@dataclass(slots=True, frozen=True)
class Seat:
    """Pods of one class on nodes. `nodes`: each as often as it likes; `counts`: how many come to each."""

    one: PodClass
    carried: tuple[int, ...]
    nodes: list[int]
    counts: list[int]


class DomainTerm:
    """Counts of one term over the domains of its key. Index 0 is "no domain" and never counts."""

    def __init__(self, term: TopologyTerm, domains: int) -> None:
        self.term = term
        self.matched: Ints = np.zeros(domains, np.int64)
        self.carried: Ints = np.zeros(domains, np.int64)
        self.eligible: Bools = np.zeros(domains, np.bool_)
        """Spread: domains that enter the minimum."""
        self.host_counts: Bools | None = None
        self.column_counts: Bools | None = None
        """Which hosts and columns count their pods; None: all."""

    def lowest(self) -> int:
        """The count every other is measured against; 0 while there are fewer domains than asked for."""
        counts = self.matched[self.eligible]
        if len(counts) == 0 or len(counts) < self.term.min_domains:
            return 0
        return int(counts.min())

    def copy(self) -> "DomainTerm":
        out = DomainTerm(self.term, 0)
        out.matched, out.carried = self.matched.copy(), self.carried.copy()
        out.eligible = self.eligible
        out.host_counts, out.column_counts = self.host_counts, self.column_counts
        return out


class Rules:
    """Which hosts and columns each distinct node rule admits; worked out once and shared by all attempts."""

    def __init__(self, columns: Columns, hosts: Hosts) -> None:
        self.columns = columns
        self.hosts = hosts
        self._host: dict[NodeRule, Bools] = {}
        self._column: dict[NodeRule, Bools] = {}
        self._ports: dict[tuple[NodeRule, tuple[HostPort, ...]], Bools] = {}

    def on_hosts(self, rule: NodeRule) -> Bools:
        found = self._host.get(rule)
        if found is None:
            found = self._host[rule] = self.hosts.admitted(rule)
        return found

    def on_columns(self, one: PodClass) -> Bools:
        """Columns that admit a class: its rule, and no daemon there holds its host ports."""
        found = self._column.get(one.rule)
        if found is None:
            found = self._column[one.rule] = self.columns.admitted(one.rule)
        if not one.ports:
            return found
        key = (one.rule, one.ports)
        free = self._ports.get(key)
        if free is None:
            free = found.copy()
            for shape, mask in self.columns.daemon_of:
                if any_clash(one.ports, shape.host_ports):
                    free &= ~mask
            self._ports[key] = free
        return free


class Field:
    """All nodes, existing ones first, with room and counts. Planned nodes are added as they are decided."""

    def __init__(
        self,
        problem: Problem,
        classes: Classes,
        columns: Columns,
        hosts: Hosts,
        rules: Rules,
        most_share: float | None = None,
    ) -> None:
        self.most_share = most_share
        self.problem, self.classes, self.columns, self.hosts, self.rules = (
            problem,
            classes,
            columns,
            hosts,
            rules,
        )
        self.count = hosts.count
        size = max(64, hosts.count * 2)
        n_res = len(classes.resources)
        self.room: Floats = np.zeros((size, n_res))
        self.room[: self.count] = hosts.room
        self.column: Ints = np.full(size, -1, np.int64)
        self.contents: list[dict[int, int]] = [{} for _ in range(self.count)]
        self.per_host = [n for n, t in enumerate(classes.terms) if t.per_host]
        self.at = {n: i for i, n in enumerate(self.per_host)}
        self.matched: Ints = np.zeros((size, len(self.per_host)), np.int64)
        self.carried: Ints = np.zeros((size, len(self.per_host)), np.int64)
        self.keys = sorted({t.key for t in classes.terms if not t.per_host})
        self.domain: dict[str, Ints] = {}
        self.column_domain: dict[str, Ints] = {}
        self.domain_names: dict[str, list[str]] = {}
        self.by_domain: dict[int, DomainTerm] = {}
        self.ports: dict[int, list[HostPort]] = {}
        self.attached: dict[int, dict[str, set[str]]] = {}
        self.share: dict[str, tuple[int, Ints]] = {}
        self._share_caps(size)
        self._settle_domains(size)
        self._daemon_counts()
        self._standing()

    # --- setting up -----------------------------------------------------------------------------------------------
    def _settle_domains(self, size: int) -> None:
        for key in self.keys:
            host_codes, host_values = self.hosts.labelled.column(key)
            column_codes, column_values = self.columns.labelled.column(key)
            names: dict[str | None, int] = {None: 0}
            to_host = np.array([names.setdefault(v, len(names)) for v in host_values] or [0], np.int64)
            to_column = np.array([names.setdefault(v, len(names)) for v in column_values] or [0], np.int64)
            self.domain[key] = np.zeros(size, np.int64)
            self.domain[key][: self.count] = to_host[host_codes] if self.count else 0
            self.column_domain[key] = to_column[column_codes] if self.columns.count else np.zeros(0, np.int64)
            self.domain_names[key] = [v or "" for v in names]
        for number, term in enumerate(self.classes.terms):
            if not term.per_host:
                self.by_domain[number] = self._domain_term(number, term)

    def _domain_term(self, number: int, term: TopologyTerm) -> DomainTerm:
        out = DomainTerm(term, len(self.domain_names[term.key]))
        if term.kind is not TermKind.SPREAD:
            return out
        rule = self.classes.counted[number]
        hosts_ok = np.ones(self.count, np.bool_)
        columns_ok = np.ones(self.columns.count, np.bool_)
        if rule is not None:
            hosts_ok = self.hosts.labelled.admitted(rule) & self.hosts.tolerated(rule)
            columns_ok = self.columns.admitted(rule)
            out.host_counts, out.column_counts = hosts_ok, columns_ok
        out.eligible[np.unique(self.domain[term.key][: self.count][hosts_ok])] = True
        if self.problem.allow_new_nodes:
            out.eligible[np.unique(self.column_domain[term.key][columns_ok])] = True
        out.eligible[0] = False
        return out

    def _share_caps(self, size: int) -> None:
        """How many of each workload's pods one node may hold, and holds, where a share is set."""
        share = self.most_share
        if share is None:
            return
        snapshot = self.problem.snapshot
        for workload in {c.workload for c in self.classes.classes if c.workload}:
            replicas = sum(workload_of(p) == workload and not p.finished for p in snapshot.pods.values())
            held = np.zeros(size, np.int64)
            for i, host in enumerate(self.hosts.hosts):
                held[i] = sum(workload_of(p) == workload for p in host.pods)
            self.share[workload] = (max(1, int(share * replicas + 1e-9)), held)

    def share_cap(self, one: PodClass) -> int | None:
        found = self.share.get(one.workload)
        return None if found is None else found[0]

    def _daemon_counts(self) -> None:
        """Per-node counts that a column's daemons bring with them."""
        self.daemon_matched: list[tuple[Bools, Ints]] = []
        if not self.classes.terms:
            return
        for shape, mask in self.columns.daemon_of:
            matches = self.classes.matching([self.classes.tag(shape)])[:, 0][self.per_host].astype(np.int64)
            carries = np.zeros(len(self.per_host), np.int64)
            for number in self.classes.standing_terms.get(shape.id, ()):
                if number in self.at:
                    carries[self.at[number]] += 1
            if matches.any() or carries.any():
                self.daemon_matched.append((mask, np.stack([matches, carries])))

    def _standing(self) -> None:
        """Count the pods that are already there."""
        snapshot = self.problem.snapshot
        if self.classes.terms and len(self.hosts.pod_host):
            shapes = [snapshot.shapes[i] for i in self.hosts.shapes]
            matching = self.classes.matching([self.classes.tag(s) for s in shapes])
            carrying = np.zeros_like(matching)
            for i, shape in enumerate(shapes):
                for number in self.classes.standing_terms.get(shape.id, ()):
                    carrying[number, i] = True
            for number in range(len(self.classes.terms)):
                self._count_standing(number, matching[number], carrying[number])
        if any(c.ports for c in self.classes.classes):
            for i, host in enumerate(self.hosts.hosts):
                if host.open and (taken := taken_ports(self.problem, self.hosts, i)):
                    self.ports[i] = taken
        if any(c.attachments for c in self.classes.classes):
            self._attachments()

    def _count_standing(self, number: int, matching: Bools, carrying: Bools) -> None:
        where, shapes = self.hosts.pod_host, self.hosts.pod_shape
        matched = np.bincount(where[matching[shapes]], minlength=self.count)
        carried = np.bincount(where[carrying[shapes]], minlength=self.count)
        if number in self.at:
            self.matched[: self.count, self.at[number]] += matched
            self.carried[: self.count, self.at[number]] += carried
            return
        state = self.by_domain[number]
        if state.host_counts is not None:
            matched = matched * state.host_counts
        codes = self.domain[state.term.key][: self.count]
        size = len(state.matched)
        state.matched += np.bincount(codes, matched, size).astype(np.int64)
        state.carried += np.bincount(codes, carried, size).astype(np.int64)
        state.matched[0] = state.carried[0] = 0

    def _attachments(self) -> None:
        from nodeyard.scheduling.volumes import VolumeNeeds, volume_needs

        snapshot = self.problem.snapshot
        for i, host in enumerate(self.hosts.hosts):
            if not host.open or not (node := snapshot.csi_nodes.get(host.name)) or not node.limits:
                continue
            held: dict[str, set[str]] = {}
            for pod in host.pods:
                shape = snapshot.shapes[pod.shape]
                for name in shape.volume_claims:
                    needs = volume_needs(
                        shape.namespace, (name,), snapshot.pvcs, snapshot.pvs, snapshot.storage_classes
                    )
                    if isinstance(needs, VolumeNeeds):
                        for driver, volume in needs.attachments:
                            held.setdefault(driver, set()).add(volume)
            self.attached[i] = held

    # --- asking ---------------------------------------------------------------------------------------------------
    def admitted(self, one: PodClass) -> Bools:
        """Nodes that the class's own rule admits."""
        out = np.zeros(self.count, np.bool_)
        h = self.hosts.count
        out[:h] = self.rules.on_hosts(one.rule)
        if self.count > h and self.columns.count:
            out[h:] = self.rules.on_columns(one)[self.column[h : self.count]]
        return out

    def capacity(
        self, one: PodClass, carried: Sequence[int], *, first: int = 0, whatever_room: bool = False
    ) -> Ints:
        """How many pods of the class each node can take now by room and per-node terms; 0 before node `first`.
        `whatever_room`: by per-node terms alone, as if nodes could grow.
        """
        out = np.zeros(self.count, np.int64)
        mask = self.admitted(one)
        mask[:first] = False
        where = np.nonzero(mask)[0]
        if not len(where):
            return out
        needed = one.request > 0
        if whatever_room:
            amount = np.full(len(where), _PLENTY, np.int64)
        else:
            fit = np.floor((self.room[where][:, needed] / one.request[needed]).min(axis=1) + 1e-9)
            amount = np.minimum(np.maximum(fit, 0), _PLENTY).astype(np.int64)
        amount = self._terms_cap(one, carried, where, amount)
        if one.ports:
            amount = np.minimum(amount, 1)
            for i, node in enumerate(where.tolist()):
                if amount[i] and any_clash(one.ports, self.ports.get(node, ())):
                    amount[i] = 0
        if one.workload in self.share:
            cap, held = self.share[one.workload]
            amount = np.minimum(amount, np.maximum(cap - held[where], 0))
        if one.attachments and self.attached:
            amount = self._attach_cap(one, where, amount)
        out[where] = amount
        return out

    def _terms_cap(self, one: PodClass, carried: Sequence[int], where: Ints, amount: Ints) -> Ints:
        mine = set(one.matched)
        for number in carried:
            i = self.at.get(number)
            if i is None:
                continue
            term, matched = self.classes.terms[number], self.matched[where, i]
            itself = number in mine
            if term.kind is TermKind.ANTI_AFFINITY:
                amount = np.where(matched > 0, 0, np.minimum(amount, 1) if itself else amount)
            elif term.kind is TermKind.AFFINITY:
                if itself and not self.matched[: self.count, i].any():
                    continue  # nobody to join yet: the first may go anywhere
                amount = np.where(matched > 0, amount, 0)
            elif itself:
                amount = np.minimum(amount, np.maximum(term.max_skew - matched, 0))
            else:
                amount = np.where(matched <= term.max_skew, amount, 0)
        for number in one.matched:
            i = self.at.get(number)
            if i is not None and self.classes.terms[number].kind is TermKind.ANTI_AFFINITY:
                if not self.classes.terms[number].soft:
                    amount = np.where(self.carried[where, i] > 0, 0, amount)
                if number in carried:
                    amount = np.minimum(amount, 1)
        return amount

    def _attach_cap(self, one: PodClass, where: Ints, amount: Ints) -> Ints:
        out = amount.copy()
        for i, node in enumerate(where.tolist()):
            held = self.attached.get(node)
            if held is None or not out[i]:
                continue
            limits = self.problem.snapshot.csi_nodes[self.hosts.hosts[node].name].limits
            for driver in {d for d, _ in one.attachments}:
                wanted = {v for d, v in one.attachments if d == driver} | held.get(driver, set())
                if driver in limits and len(wanted) > limits[driver]:
                    out[i] = 0
        return out

    def domains_allowed(self, one: PodClass, carried: Iterable[int], number: int, state: DomainTerm) -> Bools:
        """Domains of a term's key that one more pod of the class may join, as far as this term is concerned."""
        term = state.term
        itself = number in one.matched
        if term.kind is TermKind.SPREAD:
            allowed = state.matched + int(itself) - state.lowest() <= term.max_skew
            allowed = allowed & state.eligible
        elif term.kind is TermKind.AFFINITY:
            allowed = state.matched > 0
            if itself and not state.matched.any():
                allowed = np.ones(len(state.matched), np.bool_)
            allowed[0] = False
        else:
            allowed = state.matched == 0
            allowed[0] = True
        return allowed

    def domain_ok(self, one: PodClass, carried: Sequence[int]) -> tuple[Bools, Bools]:
        """(nodes, columns) that the terms over domains allow for one more pod of the class."""
        nodes = np.ones(self.count, np.bool_)
        columns = np.ones(self.columns.count, np.bool_)
        for number, state in self.by_domain.items():
            term = state.term
            allowed: Bools | None = None
            if number in carried:
                allowed = self.domains_allowed(one, carried, number, state)
            if term.kind is TermKind.ANTI_AFFINITY and not term.soft and number in one.matched:
                free = state.carried == 0
                free[0] = True
                allowed = free if allowed is None else allowed & free
            if allowed is not None:
                nodes &= allowed[self.domain[term.key][: self.count]]
                columns &= allowed[self.column_domain[term.key]]
        return nodes, columns

    # --- changing --------------------------------------------------------------------------------------------------
    def add_nodes(self, columns: Ints) -> Ints:
        """New, empty nodes of these columns; returns their numbers."""
        first, many = self.count, len(columns)
        while first + many > len(self.column):
            self._grow()
        here = slice(first, first + many)
        self.column[here] = columns
        self.room[here] = self.columns.room[columns]
        self.contents += [{} for _ in range(many)]
        for key in self.keys:
            self.domain[key][here] = self.column_domain[key][columns]
        for mask, (matches, carries) in self.daemon_matched:
            there = mask[columns]
            self.matched[here][there] += matches
            self.carried[here][there] += carries
        self.count += many
        return np.arange(first, first + many)

    def move(self, node: int, column: int) -> None:
        """Make a planned node of another column, in the same domains, with the pods it holds."""
        self.room[node] += self.columns.room[column] - self.columns.room[int(self.column[node])]
        self.column[node] = column

    def _grow(self) -> None:
        def longer(old: Ints, fill: int = 0) -> Ints:
            out = np.full((len(old) * 2, *old.shape[1:]), fill, old.dtype)
            out[: len(old)] = old
            return out

        self.room = longer(self.room)  # type: ignore[arg-type, assignment]
        self.column = longer(self.column, -1)
        self.matched = longer(self.matched)
        self.carried = longer(self.carried)
        self.domain = {k: longer(v) for k, v in self.domain.items()}
        self.share = {k: (cap, longer(held)) for k, (cap, held) in self.share.items()}

    def place(self, one: PodClass, carried: Sequence[int], nodes: Ints, counts: Ints) -> None:
        """Put `counts` pods of the class on `nodes`."""
        self.room[nodes] -= counts[:, None] * one.request
        self._hold(one, nodes.tolist(), counts.tolist())
        self._count_all(one.matched, carried, nodes, counts)

    def place_all(self, seats: Sequence[Seat]) -> None:
        """Put the pods of all these seats on their nodes, as if one seat after the other were placed."""
        alike: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[list[int], list[int]]] = defaultdict(
            lambda: ([], [])
        )
        asking: dict[bytes, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for seat in seats:
            self._hold(seat.one, seat.nodes, seat.counts)
            for where in (alike[seat.one.matched, seat.carried], asking[seat.one.request.tobytes()]):
                where[0].extend(seat.nodes)
                where[1].extend(seat.counts)
        for request, (nodes, counts) in asking.items():
            self.room[: self.count] -= np.bincount(nodes, counts, self.count)[:, None] * np.frombuffer(
                request
            )
        for (matched, carried), (nodes, counts) in alike.items():
            many = np.bincount(nodes, counts, self.count).astype(np.int64)
            here = np.nonzero(many)[0]
            self._count_all(matched, carried, here, many[here])

    def _hold(self, one: PodClass, nodes: list[int], counts: list[int]) -> None:
        """Note so many pods of the class on each of the nodes, with all that no room and no term counts."""
        number = one.number
        for node, many in zip(nodes, counts, strict=True):
            held = self.contents[node]
            held[number] = held.get(number, 0) + many
        if one.workload in self.share:
            np.add.at(self.share[one.workload][1], nodes, counts)
        if one.ports:
            for node in nodes:
                self.ports.setdefault(node, []).extend(one.ports)
        if one.attachments and self.attached:
            for node in nodes:
                if node in self.attached:
                    for driver, volume in one.attachments:
                        self.attached[node].setdefault(driver, set()).add(volume)

    def _count_all(self, matched: Sequence[int], carried: Sequence[int], nodes: Ints, counts: Ints) -> None:
        """Count pods that these terms match, and that carry those."""
        for number in matched:
            self._count(number, nodes, counts, self.matched, "matched")
        for number in carried:
            self._count(number, nodes, counts, self.carried, "carried")

    def _count(self, number: int, nodes: Ints, counts: Ints, per_host: Ints, what: str) -> None:
        i = self.at.get(number)
        if i is not None:
            per_host[nodes, i] += counts
            return
        state = self.by_domain[number]
        many = counts
        if what == "matched" and state.column_counts is not None and state.host_counts is not None:
            many = counts * self._counts_at(state, nodes)
        target: Ints = getattr(state, what)
        np.add.at(target, self.domain[state.term.key][nodes], many)
        target[0] = 0

    def _counts_at(self, state: DomainTerm, nodes: Ints) -> Bools:
        assert state.host_counts is not None
        assert state.column_counts is not None
        out = np.zeros(len(nodes), np.bool_)
        is_host = nodes < self.hosts.count
        out[is_host] = state.host_counts[nodes[is_host]]
        out[~is_host] = state.column_counts[self.column[nodes[~is_host]]]
        return out

    def saved(self) -> dict[str, object]:
        """All that placing changes, to be restored if it leads nowhere."""
        return {
            "room": self.room.copy(),
            "column": self.column.copy(),
            "contents": [dict(held) for held in self.contents],
            "matched": self.matched.copy(),
            "carried": self.carried.copy(),
            "by_domain": {n: term.copy() for n, term in self.by_domain.items()},
            "ports": {n: list(held) for n, held in self.ports.items()},
            "attached": {n: {d: set(v) for d, v in held.items()} for n, held in self.attached.items()},
            "share": {k: (cap, held.copy()) for k, (cap, held) in self.share.items()},
        }

    def restore(self, saved: dict[str, object]) -> None:
        for name, value in saved.items():
            setattr(self, name, value)

    def shape_of(self, number: int) -> PodShape:
        return self.classes.classes[number].shape

"""Placing pods one by one, every constraint judged exactly: for what the packing left over.

Slow but complete: standing and planned nodes first, then a new node of the cheapest column that every term allows.
Also the only way for pods that must share a host with others. Neighbours: `field` judges and counts.
"""

from collections.abc import Callable, Sequence

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.limits import Limits
from nodeyard.scheduling.topology import TermKind


class Mender:
    """`spare`: seconds left; placing stops when they are used up."""

    def __init__(self, state: Field, limits: Limits, spare: Callable[[], float], *, new_nodes: bool) -> None:
        self.state, self.limits, self.spare, self.new_nodes = state, limits, spare, new_nodes
        self.closed = -1
        """A node that takes no pods."""
        self.cells: tuple[Bools, Bools] | None = None
        """Set: only these nodes (by their column or host) and columns may be used."""
        self.beside: Floats = np.zeros(state.room.shape[1])
        """What comes beside the pods being placed, where these are the first of a group that shares one host."""

    def place(self, one: PodClass, carried: Sequence[int], many: int) -> int:
        """Place up to `many` pods of the class; returns how many found no place."""
        left = many
        loose = not self._bound_to_domains(one, carried)
        while left > 0 and self.spare() > 0:
            placed = self._on_nodes(one, carried, left, loose)
            if not placed:
                placed = self._on_new(one, carried, left, loose)
            if not placed:
                placed = self._on_grown(one, carried, left, loose)
            if not placed:
                break
            left -= placed
        return left

    def _bound_to_domains(self, one: PodClass, carried: Sequence[int]) -> bool:
        terms = self.state.by_domain
        return any(n in terms for n in carried) or any(
            n in terms and terms[n].term.kind is TermKind.ANTI_AFFINITY for n in one.matched
        )

    def _on_nodes(self, one: PodClass, carried: Sequence[int], left: int, loose: bool) -> int:
        state = self.state
        room = state.capacity(one, carried)
        if self.closed >= 0:
            room[self.closed] = 0
        if self.cells is not None:
            hosts, columns = self.cells
            room[: len(hosts)] *= hosts
            room[len(hosts) :] *= columns[state.column[len(hosts) : state.count]]
        if not loose:
            nodes, _ = state.domain_ok(one, carried)
            room = room * nodes
        able = np.nonzero(room)[0]
        if len(able) and self._founds(one, carried):
            able = self._for_the_group(one, able, room[able], left)
        if not len(able):
            return 0
        if not loose or self._by_host(carried, TermKind.AFFINITY):
            node = self._preferred(one, carried, able)
            many = 1
            if loose:
                many = min(left, int(room[node]))
            state.place(one, carried, np.array([node]), np.array([many]))
            return many
        ahead = np.cumsum(room[able]) - room[able]
        given = np.clip(left - ahead, 0, room[able])
        used = given > 0
        state.place(one, carried, able[used], given[used])
        return int(given.sum())

    def _founds(self, one: PodClass, carried: Sequence[int]) -> bool:
        """Whether the class must share one host with its own kind, and none of that is anywhere yet."""
        state, own = self.state, self._own_terms(one, carried)
        return bool(own) and not any(state.matched[: state.count, state.at[n]].any() for n in own)

    def _for_the_group(self, one: PodClass, able: Ints, room: Ints, left: int) -> Ints:
        """Of the nodes that take one pod, those that take the whole group; else the one that takes most, unless a new one
        takes more: once the first pod is somewhere, all others must come to it.
        """
        state = self.state
        whole = (state.room[able] >= one.request * left + self.beside - 1e-6).all(axis=1) & (room >= left)
        if whole.any():
            return able[whole]
        best = int(np.argmax(room))
        if self.new_nodes:
            takes = state.rules.on_columns(one) & self.limits.affordable()
            if self.cells is not None:
                takes = takes & self.cells[1]
            if (state.columns.room[takes] >= one.request * (int(room[best]) + 1)).all(axis=1).any():
                return able[:0]
        return able[best : best + 1]

    def _by_host(self, carried: Sequence[int], kind: TermKind) -> bool:
        return any(n in self.state.at and self.state.classes.terms[n].kind is kind for n in carried)

    def _preferred(self, one: PodClass, carried: Sequence[int], able: Ints) -> int:
        """Standing nodes before planned ones; among domains to be balanced, the emptiest."""
        state = self.state
        score = (able >= state.hosts.count).astype(np.float64)
        for number in one.matched:
            term = state.by_domain.get(number)
            if term is not None and number in carried and term.term.kind is TermKind.SPREAD:
                score = score * 1e-3 + term.matched[state.domain[term.term.key][able]]
        return int(able[np.argmin(score)])

    # --- new nodes -----------------------------------------------------------------------------------------------------
    def _on_new(self, one: PodClass, carried: Sequence[int], left: int, loose: bool) -> int:
        if not self.new_nodes or not self.state.columns.count:
            return 0
        state = self.state
        usable = state.rules.on_columns(one) & (state.columns.room >= one.request).all(axis=1)
        usable &= self.limits.affordable()
        if not loose:
            usable &= state.domain_ok(one, carried)[1]
        if self.cells is not None:
            usable &= self.cells[1]
        usable &= self._host_terms_allow(one, carried)
        where = np.nonzero(usable)[0]
        if not len(where):
            return 0
        flexible = where[state.columns.flexible[where]]
        where = flexible if len(flexible) else where
        where = where[state.columns.tier[where] == state.columns.tier[where].min()]
        together = bool(self._own_terms(one, carried))
        if together:
            whole = (state.columns.room[where] >= one.request * left + self.beside).all(axis=1)
            where = where[whole] if whole.any() else where
        column = self._cheapest(one, carried, where, left, together)
        node = state.add_nodes(np.array([column]))
        self.limits.spend(column)
        many = 1
        if loose or together:
            many = min(left, int(state.capacity(one, carried)[node[0]]))
        state.place(one, carried, node, np.array([max(many, 1)]))
        return max(many, 1)

    # --- larger nodes --------------------------------------------------------------------------------------------------
    def _on_grown(self, one: PodClass, carried: Sequence[int], left: int, loose: bool) -> int:
        """Where a pod must join a planned node that is full, or no more nodes may be made: a larger one in its place."""
        state = self.state
        if not self.new_nodes or state.count == state.hosts.count:
            return 0
        room = state.capacity(one, carried, first=state.hosts.count, whatever_room=True)
        if not loose:
            room = room * state.domain_ok(one, carried)[0]
        if self.cells is not None:
            room[state.hosts.count :] *= self.cells[1][state.column[state.hosts.count : state.count]]
        if self.closed >= 0:
            room[self.closed] = 0
        best: tuple[float, int, int, int] | None = None
        for node in np.nonzero(room)[0].tolist():
            if self.spare() <= 0:
                break
            wanted = min(left, int(room[node])) if loose else 1
            for many in dict.fromkeys((wanted, (wanted + 1) // 2, 1)):
                column = self._larger(node, one, many)
                if column is not None:
                    more = state.columns.cost[column] - state.columns.cost[state.column[node]]
                    found = (float(more) / many, node, column, many)
                    best = found if best is None or found < best else best
                    break
        if best is None:
            return 0
        _, node, column, many = best
        self.limits.give_back(int(state.column[node]))
        self.limits.spend(column)
        state.move(node, column)
        state.place(one, carried, np.array([node]), np.array([many]))
        return many

    def _larger(self, node: int, one: PodClass, many: int) -> int | None:
        """The cheapest column for the node with `many` more pods of the class: its pool, its domains, its daemons."""
        state = self.state
        columns, old = state.columns, int(state.column[node])
        load = columns.room[old] - state.room[node] + one.request * many
        able = (columns.variant == columns.variant[old]) & (columns.room >= load - 1e-6).all(axis=1)
        if not able.any():
            return None
        able &= state.rules.on_columns(one)
        for number in state.contents[node]:
            able &= state.rules.on_columns(state.classes.classes[number])
        for key in state.keys:
            able &= state.column_domain[key] == state.column_domain[key][old]
        for there, _ in state.daemon_matched:
            able &= there == there[old]
        self.limits.give_back(old)
        able &= self.limits.affordable()
        self.limits.spend(old)
        where = np.nonzero(able)[0]
        if not len(where):
            return None
        flexible = where[columns.flexible[where]]
        where = flexible if len(flexible) else where
        return int(where[np.argmin(columns.cost[where])])

    # --- how a new node is chosen --------------------------------------------------------------------------------------
    def _own_terms(self, one: PodClass, carried: Sequence[int]) -> list[int]:
        """Terms by which the class must share one host with its own kind."""
        terms = self.state.classes.terms
        return [
            n for n in carried
            if n in one.matched and n in self.state.at and terms[n].kind is TermKind.AFFINITY
        ]  # fmt: skip

    def _host_terms_allow(self, one: PodClass, carried: Sequence[int]) -> Bools:
        """Columns on whose empty node the per-node terms let the class begin; daemons count."""
        state = self.state
        out = np.ones(state.columns.count, np.bool_)
        for number in carried:
            i = state.at.get(number)
            if i is None:
                continue
            there = np.zeros(state.columns.count, np.int64)
            for mask, (matches, _) in state.daemon_matched:
                there[mask] += matches[i]
            term = state.classes.terms[number]
            if term.kind is TermKind.AFFINITY:
                first = number in one.matched and not state.matched[: state.count, i].any()
                out &= (there > 0) | first
            elif term.kind is TermKind.ANTI_AFFINITY:
                out &= there == 0
            else:
                out &= there + int(number in one.matched) <= term.max_skew
        for number in one.matched:
            i = state.at.get(number)
            if i is not None and state.classes.terms[number].kind is TermKind.ANTI_AFFINITY:
                for mask, (_, carries) in state.daemon_matched:
                    if carries[i]:
                        out &= ~mask
        return out

    def _cheapest(self, one: PodClass, carried: Sequence[int], where: Ints, left: int, together: bool) -> int:
        """The column with the least cost per pod it would take; for pods that must stay together, one that takes all."""
        state = self.state
        needed = one.request > 0
        fit = np.floor((state.columns.room[where][:, needed] / one.request[needed]).min(axis=1) + 1e-9)
        most = float(left)
        for number in carried:
            term = state.classes.terms[number]
            if number in state.at and number in one.matched and not together:
                most = min(most, 1.0 if term.kind is TermKind.ANTI_AFFINITY else float(term.max_skew))
        if one.ports:
            most = 1.0
        fit = np.minimum(fit, most)
        if together:
            fit = np.where(fit >= fit.max(), fit, 1e-6)
        cost: Floats = state.columns.cost[where] / np.maximum(fit, 1e-9)
        return int(where[np.argmin(cost)])

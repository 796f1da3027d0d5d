"""Nodes that a question about pods with terms over zones needs beside those with room: what is counted there counts.

A term over domains sees the rest of the cluster as counts per domain, and spread also which domains there are. So a question
stays true where it has every node with a pod that such a term counts (or that keeps the pods away by a term of its own), and
one node of each domain. Neighbours: `screening` has the nodes with room, `vicinity` cuts the question out.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from nodeyard.api.pod import PodShape
from nodeyard.disruption.resident import Resident, keeps_away, looks_far
from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.labelled import Ints, Labelled
from nodeyard.scheduling.topology import TermKind


class Anchors:
    """The nodes that matter to classes of one cluster, as `resident` has it now."""

    def __init__(self, resident: Resident, shapes: Mapping[str, PodShape]) -> None:
        self._resident = resident
        self._shapes = shapes
        self._labelled = Labelled(len(resident.names), resident.labels)
        self._of_term: dict[int, frozenset[str]] = {}

    def of(self, numbers: Ints) -> frozenset[str] | None:
        """What these classes' terms beyond the node look at; None where claims without a node hold pods, which count too."""
        if any(host.pods for host in self._resident.alone):
            return None
        classes = self._resident.classes.classes
        return frozenset().union(*(self._of(n) for c in numbers.tolist() for n in self._far(classes[c])))

    def _far(self, one: PodClass) -> Iterable[int]:
        """Terms that see more than a node, of which others' preferences are none."""
        terms = self._resident.classes.terms
        yield from (n for n in one.carried if looks_far(terms[n]))
        yield from (n for n in one.matched if keeps_away(terms[n]))

    def _of(self, number: int) -> frozenset[str]:
        found = self._of_term.get(number)
        if found is None:
            shapes = self._counting(number)
            nodes = {name for name, standing in self._resident.standing() if not shapes.isdisjoint(standing)}
            found = self._of_term[number] = frozenset(nodes | set(self._domains(number)))
        return found

    def _counting(self, number: int) -> frozenset[str]:
        """Shapes that the term counts, or that carry it."""
        resident = self._resident
        found = resident.counting.get(number)
        if found is None:
            group, carried = resident.classes.terms[number].group, resident.classes.standing_terms
            found = resident.counting[number] = frozenset(
                id_
                for id_ in resident.stood
                if number in carried.get(id_, ())
                or group.selects(self._shapes[id_].namespace, self._shapes[id_].labels)
            )
        return found

    def _domains(self, number: int) -> Iterable[str]:
        """A node of each domain that enters a spread's minimum."""
        term, rule = self._resident.classes.terms[number], self._resident.classes.counted[number]
        if term.kind is not TermKind.SPREAD:
            return ()
        ok = np.ones(len(self._resident.names), np.bool_)
        if rule is not None:
            ok = self._labelled.admitted(rule) & self._resident.tolerated(rule)
        codes, _ = self._labelled.column(term.key)
        where = np.nonzero(ok)[0]
        _, first = np.unique(codes[where], return_index=True)
        return [self._resident.names[i] for i in where[first].tolist()]

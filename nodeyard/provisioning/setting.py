"""What attempts share, what one works on, and what it comes to.

`Setting` is the problem compiled once; `Site` is one attempt's field with the limits it spends and the terms it keeps;
`Draft` is the outcome. Neighbours: `attempt` makes drafts, `buying`, `gathering` and `repairing` work on its site.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nodeyard.provisioning.classes import Classes, PodClass
from nodeyard.provisioning.columns import Columns
from nodeyard.provisioning.domains import ANYWHERE, Cells
from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.field import Field, Rules
from nodeyard.provisioning.hosts import Hosts
from nodeyard.provisioning.labelled import Bools, Floats
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.mending import Mender
from nodeyard.provisioning.model import Options, Problem
from nodeyard.scheduling.topology import TermKind

Carried = Callable[[PodClass], tuple[int, ...]]


@dataclass(slots=True, frozen=True)
class Honour:
    """Which preferences count as if they were required. `affinity`, `anti_affinity`: terms up to this weight."""

    affinity: int = 0
    anti_affinity: int = 0
    spread: bool = False
    node: bool = False
    taints: bool = False


NONE = Honour()


def _unproved(_cost: float) -> bool:
    return False


@dataclass(slots=True)
class Setting:
    """What every attempt at a problem shares."""

    problem: Problem
    options: Options
    classes: Classes
    columns: Columns
    hosts: Hosts
    rules: Rules
    minding: frozenset[int] = frozenset()
    """Classes that do not tolerate some soft taint of a pool or node, as far as preferences are looked at."""
    effort: Effort = field(default_factory=Effort)
    near: Callable[[float], bool] = _unproved
    """Whether a plan of all pods that costs so much is as good as the cheapest, as far as is proved."""
    relaxed: dict[tuple[int, ...], float] = field(default_factory=dict)
    """What the relaxation proves for so many pods of each class, once it was asked (`bounding`)."""


@dataclass(slots=True)
class Site:
    """What an attempt works on. `carried_of`: the terms that bind a class at present; `spare`: seconds until the
    deadline; `new_nodes`: whether nodes may be bought at all.
    """

    setting: Setting
    state: Field
    limits: Limits
    cells: Cells
    carried_of: Carried
    spare: Callable[[], float]
    new_nodes: bool

    def mender(self, *, new_nodes: bool) -> Mender:
        return Mender(self.state, self.limits, self.spare, new_nodes=new_nodes)

    def shares_host(self, one: PodClass) -> bool:
        """Whether the class must share a host with certain pods."""
        state = self.state
        return any(
            n in state.at and state.classes.terms[n].kind is TermKind.AFFINITY for n in self.carried_of(one)
        )

    def in_cells(self, cells: list[int]) -> tuple[Bools, Bools] | None:
        """(hosts, columns) of the cells a class was dealt to; None: anywhere."""
        if not cells or ANYWHERE in cells:
            return None
        return np.isin(self.cells.of_host, cells), np.isin(self.cells.of_column, cells)


@dataclass(slots=True)
class Draft:
    """What an attempt came to. `left`: class number -> pods without a place."""

    state: Field
    limits: Limits
    left: dict[int, int]
    carried_of: Carried
    view_of: Callable[[PodClass], PodClass]
    """The class as the attempt saw it: with the preferred node terms it honoured among its rules."""
    cost: float = 0.0

    @property
    def unplaced(self) -> int:
        return sum(self.left.values())


def load_of(state: Field, node: int) -> Floats:
    """What the planned pods of a node ask for together."""
    total = np.zeros(state.room.shape[1])
    for number, many in state.contents[node].items():
        total += state.classes.classes[number].request * many
    return total

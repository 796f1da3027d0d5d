"""What the watcher needs of others."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from nodeyard.rpc.cluster_log import ClusterLog


class Event(Protocol):
    """What happened to one object: ADDED, MODIFIED or DELETED, and the object as it now is, undecoded."""

    @property
    def type(self) -> str: ...

    @property
    def object(self) -> msgspec.Raw: ...


class Inflow(Protocol):
    """Where the objects of one kind come in."""

    def begin(self) -> None: ...

    def page(self, items: Sequence[msgspec.Raw]) -> None: ...

    def end(self, resource_version: str) -> None: ...

    def events(self, events: Sequence[Event]) -> None: ...

    def missing(self) -> None: ...


class Follower(Protocol):
    """Brings the objects of one kind in, for as long as `run` runs."""

    trouble: str
    """The last failure in words, empty while all is well."""
    failing_since: float | None
    """Monotonic time."""
    resource_version: str
    listings: int

    @property
    def settled(self) -> bool: ...

    @property
    def refused(self) -> bool: ...

    def relist(self) -> None: ...

    async def run(self) -> None: ...


class Follow(Protocol):
    """Makes the follower of a Kubernetes kind."""

    def __call__(self, kind: str, inflow: Inflow) -> Follower: ...


class ApiServer(Protocol):
    """The Kubernetes API, to see whether it is there."""

    async def answers(self) -> bool: ...


class Following(Protocol):
    """What the servicer needs of the controller."""

    log: ClusterLog

    def not_serving_because(self) -> str | None:
        """Why subscribers should not rely on us now; None when they may."""

    def hesitates(self) -> bool:
        """Something essential is not being followed just now: claim nothing."""

    def reached(self) -> Mapping[str, str]:
        """Source -> the resourceVersion that the log is at."""

"""What admin needs of others, as small as it needs it."""

from collections.abc import Sequence
from typing import Any, Protocol

from nodeyard.api.decision import Decision
from nodeyard.api.nodeclass import NodeClass
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.state.cluster import Snapshot


class Cluster(Protocol):
    @property
    def synced(self) -> bool: ...
    def snapshot(self) -> Snapshot: ...


class Prices(Protocol):
    @property
    def ready(self) -> bool: ...
    def catalogue_for(self, node_class: NodeClass) -> Catalogue: ...


class Decisions(Protocol):
    async def recent(self, limit: int, kind: str = "", subject: str = "") -> Sequence[Decision]: ...


class Service(Protocol):
    """A service with several replicas; raises nodeyard.rpc.calls.ServiceError."""

    async def call(self, method: str, request: Any, timeout_s: float) -> Any: ...

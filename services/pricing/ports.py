"""What pricing needs of others, as small as it needs it."""

from collections.abc import AsyncIterator, Iterable
from typing import Literal, Protocol

from nodeyard.cloudprovider.commitments import Commitments, Usage
from nodeyard.cloudprovider.feed import Feed
from nodeyard.cloudprovider.learned import LearnedMemory
from nodeyard.cloudprovider.market import PriceSheet, TypeTable
from nodeyard.cloudprovider.scarcity import Standing

Part = Literal["types", "on-demand", "spot"]
News = Literal["types", "on-demand", "spot", "refusals", "learned"]


class Cloud(Protocol):
    """The three sources. Raise nodeyard.cloudprovider.errors.CloudError."""

    async def types(self) -> TypeTable: ...
    async def on_demand(self, now: float) -> PriceSheet: ...
    async def spot(self, now: float) -> PriceSheet: ...


class Backup(Protocol):
    """Prices from elsewhere, for when AWS can't be asked.

    Raises CloudError when it can't be had, nodeyard.cloudprovider.feed.FeedError when it is of no use.
    """

    async def read(self, now: float) -> Feed: ...


class Paid(Protocol):
    """What is paid for already, and what runs. Raise CloudError, or CommitmentsError."""

    async def commitments(self) -> Commitments: ...
    async def usage(self) -> Usage: ...


class Shelf(Protocol):
    """Where the last answers outlive the process. Raises nodeyard.runtime.leadership.StoreUnavailableError."""

    async def types(self) -> tuple[TypeTable, float] | None: ...
    async def sheet(self, part: Part) -> PriceSheet | None: ...
    async def save_types(self, table: TypeTable, asked_at: float) -> None: ...
    async def save_sheet(self, part: Part, sheet: PriceSheet) -> None: ...


class Memory(Shelf, Protocol):
    """What replicas share. Raises nodeyard.runtime.leadership.StoreUnavailableError."""

    async def claim(self, part: Part, holder: str, ttl_s: float) -> bool: ...
    async def release(self, part: Part, holder: str) -> None: ...
    async def remember(self, standings: Iterable[Standing], now: float) -> None: ...
    async def refusals(self, now: float) -> list[Standing]: ...
    async def learn(self, seen: Iterable[LearnedMemory], now: float) -> None: ...
    async def learned(self, now: float) -> list[LearnedMemory]: ...
    def news(self) -> AsyncIterator[News | None]: ...

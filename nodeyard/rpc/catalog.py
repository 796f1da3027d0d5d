"""The catalogue between pricing and its subscribers: codecs, and the feed that follows a pricing replica.

A stream begins with everything and goes on with the offerings that changed. `CatalogFeed` keeps the market of the
last message, goes to another address when a replica is lost, and keeps serving what it knew meanwhile. Refusals that
its owner reports count here at once, before pricing has sent them back. Neighbours: `cloudprovider.market` (what
travels), `cloudprovider.resolve` (a node class's view), services/pricing (the other end).
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import msgspec

from nodeyard.api.labels import ON_DEMAND, RESERVED, SPOT
from nodeyard.api.nodeclass import NodeClass
from nodeyard.cloudprovider import market as sources
from nodeyard.cloudprovider.description import TypeDescription
from nodeyard.cloudprovider.learned import NOTHING, Learned, LearnedMemory
from nodeyard.cloudprovider.market import Market, TypeTable, Zone
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.refusals import Refusal, RefusalMemory
from nodeyard.cloudprovider.reservations import CapacityReservation, selected
from nodeyard.cloudprovider.resolve import Resolver
from nodeyard.cloudprovider.rows import Row
from nodeyard.rpc.calls import CHANNEL_OPTIONS, Replicas, ServiceError
from nodeyard.rpc.v1 import catalog_pb2 as pb
from nodeyard.rpc.v1 import catalog_pb2_grpc as pb_grpc

_CAPACITY_TYPE: Final = {
    ON_DEMAND: pb.CAPACITY_TYPE_ON_DEMAND,
    SPOT: pb.CAPACITY_TYPE_SPOT,
    RESERVED: pb.CAPACITY_TYPE_RESERVED,
}
_CAPACITY_NAME: Final = {number: name for name, number in _CAPACITY_TYPE.items()}
_SOURCE: Final = {
    sources.UNPRICED: pb.PRICE_SOURCE_UNSPECIFIED,
    sources.PRICING_API: pb.PRICE_SOURCE_PRICING_API,
    sources.SPOT_HISTORY: pb.PRICE_SOURCE_SPOT_HISTORY,
    sources.FEED: pb.PRICE_SOURCE_FEED,
    sources.LAST_KNOWN: pb.PRICE_SOURCE_LAST_KNOWN,
    sources.ESTIMATE: pb.PRICE_SOURCE_ESTIMATE,
    sources.RESERVATIONS: pb.PRICE_SOURCE_CAPACITY_RESERVATIONS,
}
_SOURCE_NAME: Final = {number: name for name, number in _SOURCE.items()}
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)
_REPORT_TIMEOUT_S: Final = 5.0
_COUNT_S: Final = 5.0
"""How long a count that was asked for may take, and how long it may then take to get here."""
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 5.0


class OutOfStep(Exception):
    """A message that does not fit what was received before; the stream is begun again."""


def message_of(market: Market, older: Market | None) -> pb.WatchCatalogResponse:
    """What turns a subscriber that has `older` into one that has `market`; everything for one that has nothing."""
    changed = market.changed_since(older) if older is not None else None
    message = pb.WatchCatalogResponse(
        revision=market.revision,
        exhausted_subnets=sorted(market.exhausted_subnets),
        zones_out=sorted(market.zones_out),
        asked=[
            pb.Asked(source=_SOURCE[s], at=at) for s, at in sorted(market.asked_at.items()) if s in _SOURCE
        ],
    )
    message.refused_in_groups.extend(
        pb.Refusal(placement_group=group, capacity_type=pool[0], instance_type=pool[1], zone=pool[2])
        for group, pool in sorted(market.refused_in_groups)
    )
    known = NOTHING if older is None or changed is None else older.learned
    if market.learned.digest != known.digest:
        message.learned.CopyFrom(pb.LearnedCapacity(memory=_learned_to(market.learned.entries)))
    if older is None or changed is None or market.reservations != older.reservations:
        message.reservations_json = msgspec.json.encode(market.reservations)
    if changed is None:
        table = market.table
        message.types_json, message.region = table.json, table.region
        message.reserved_interfaces = table.reserved_interfaces
        message.zones.extend(zone.name for zone in table.zones)
        message.zone_ids.extend(zone.id for zone in table.zones)
        changed = list(range(len(market.rows)))
    message.offerings.CopyFrom(_columns(market, changed))
    return message


def market_from(message: pb.WatchCatalogResponse, older: Market | None) -> Market:
    """The market after a message. Raises OutOfStep for changes to something that was never received."""
    asked_at = {_SOURCE_NAME.get(asked.source, ""): asked.at for asked in message.asked}
    learned = Learned(_learned_from(message.learned.memory)) if message.HasField("learned") else None
    reserved = _reservations_from(message.reservations_json)
    in_groups = [
        (r.placement_group, (r.capacity_type, r.instance_type, r.zone)) for r in message.refused_in_groups
    ]
    if not message.types_json:
        if older is None:
            raise OutOfStep("changed offerings arrived before the first whole catalogue")
        changes = _rows(message.offerings, older.table)
        return older.with_rows(
            changes, message.exhausted_subnets, asked_at, learned, reserved, in_groups, message.zones_out
        )
    types = msgspec.json.decode(message.types_json, type=tuple[TypeDescription, ...])
    zones = [Zone(name, id_) for name, id_ in zip(message.zones, message.zone_ids, strict=True)]
    table = TypeTable(message.region, zones, types, message.reserved_interfaces)
    every = _every_row(message.offerings, table)
    return Market(
        table, every, message.exhausted_subnets, asked_at, learned or NOTHING, reserved or (), in_groups,
        message.zones_out,
    )  # fmt: skip


def _reservations_from(raw: bytes) -> tuple[CapacityReservation, ...] | None:
    """None: the same as before."""
    return msgspec.json.decode(raw, type=tuple[CapacityReservation, ...]) if raw else None


def _learned_to(entries: Iterable[LearnedMemory]) -> list[pb.LearnedMemory]:
    return [
        pb.LearnedMemory(
            instance_type=e.instance_type, image=e.image, settings=e.settings, memory_bytes=e.memory_bytes
        )
        for e in entries
    ]


def _learned_from(memory: Iterable[pb.LearnedMemory], at: float = 0.0) -> list[LearnedMemory]:
    return [LearnedMemory(m.instance_type, m.image, m.settings, m.memory_bytes, at) for m in memory]


def observations_from(request: pb.ReportCapacityRequest, now: float) -> list[LearnedMemory]:
    """What nodes showed at `now` (Unix seconds)."""
    return _learned_from(request.memory, now)


def _columns(market: Market, indices: Iterable[int]) -> pb.Offerings:
    keys = [market.table.rows[i] for i in indices]
    rows = [market.rows[i] for i in indices]
    return pb.Offerings(
        type=[key[0] for key in keys],
        zone=[key[1] for key in keys],
        capacity_type=[_CAPACITY_TYPE[key[2]] for key in keys],
        price=[row.price for row in rows],
        available=[row.available for row in rows],
        source=[_SOURCE.get(row.source, pb.PRICE_SOURCE_UNSPECIFIED) for row in rows],
        priced_at=[row.priced_at for row in rows],
        risk=_unless_zero([row.risk for row in rows]),
        list_price=_unless_zero([row.list_price for row in rows]),
        release=_unless_zero([row.release for row in rows]),
    )


def _unless_zero(figures: list[float]) -> list[float]:
    return figures if any(figures) else []


def _every_row(columns: pb.Offerings, table: TypeTable) -> list[Row]:
    """The rows of a whole catalogue, which mostly come in the table's order."""
    if list(_keys(columns)) == list(table.rows):
        return _values(columns)
    rows = _rows(columns, table)
    if len(rows) != len(table.rows):
        raise OutOfStep(f"{len(rows)} offerings arrived for a table of {len(table.rows)}")
    return [rows[i] for i in range(len(rows))]


def _rows(columns: pb.Offerings, table: TypeTable) -> dict[int, Row]:
    out: dict[int, Row] = {}
    for key, row in zip(_keys(columns), _values(columns), strict=True):
        index = table.index.get(key)
        if index is None:
            raise OutOfStep(f"no offering {key} in the table")
        out[index] = row
    return out


def _keys(columns: pb.Offerings) -> Iterator[tuple[int, int, str]]:
    names = [_CAPACITY_NAME.get(number, "") for number in columns.capacity_type]
    return zip(columns.type, columns.zone, names, strict=True)


def _values(columns: pb.Offerings) -> list[Row]:
    zeros = [0.0] * len(columns.type)
    parts: list[Sequence[Any]] = [
        columns.price, columns.available, [_SOURCE_NAME.get(number, "") for number in columns.source],
        columns.priced_at, columns.risk or zeros, columns.list_price or zeros, columns.release or zeros,
    ]  # fmt: skip
    if {len(part) for part in parts} - {len(zeros)}:
        raise OutOfStep("columns of offerings are of different lengths")
    return list(map(Row, *parts))


def refusals_to(refusals: Iterable[Refusal]) -> pb.ReportRefusalRequest:
    """Refusals as a message."""
    return pb.ReportRefusalRequest(
        refusals=[
            pb.Refusal(
                instance_type=r.instance_type,
                zone=r.zone,
                capacity_type=r.capacity_type,
                code=r.code,
                subnet=r.subnet,
                placement_group=r.placement_group,
                reservation=r.reservation,
            )
            for r in refusals
        ]
    )


def refusals_from(request: pb.ReportRefusalRequest) -> list[Refusal]:
    """A message's refusals. Raises ValueError for one that names nothing, since it would shut everything."""
    out = [
        Refusal(r.instance_type, r.zone, r.capacity_type, r.code, r.subnet, r.placement_group, r.reservation)
        for r in request.refusals
    ]
    for refusal in out:
        if not any(refusal.key):
            raise ValueError(
                "a refusal names neither type, zone, capacity type, subnet, placement group nor reservation"
            )
    return out


class CatalogFeed:
    """Follows pricing. `run` for ever in a task of its own; everything else may be called at any time.

    `addresses` are tried in order. `subscriber` is a name for the server's log.
    """

    def __init__(self, addresses: Sequence[str], subscriber: str) -> None:
        if not addresses:
            raise ValueError("the catalogue's feed needs an address")
        self._addresses = tuple(addresses)
        self._subscriber = subscriber
        self._market: Market | None = None
        self._resolver = Resolver()
        self._changed = asyncio.Condition()
        self._own = RefusalMemory()
        self._resolving = threading.Lock()
        self._replicas = Replicas("pricing", addresses, pb_grpc.PricingStub)
        self.problem = "not connected yet"
        """Why the last stream ended; empty while one is open."""

    @property
    def ready(self) -> bool:
        """Whether there is a catalogue at all; it stays while pricing is away."""
        return self._market is not None

    @property
    def revision(self) -> str:
        """Of the market last received; empty before the first."""
        return self._market.revision if self._market is not None else ""

    @property
    def market(self) -> Market | None:
        """What was last received."""
        return self._market

    @property
    def zones_out(self) -> frozenset[str]:
        """Zones that nothing is to be asked of now."""
        return self._market.zones_out if self._market is not None else frozenset()

    def catalogue_for(self, node_class: NodeClass) -> Catalogue:
        """What the class can buy now; empty before the first message. The same content is the same object.

        Safe in any thread; the first call for a class's settings takes some 150 ms, later ones a few.
        """
        market = self._market
        if market is None:
            return Catalogue(())
        now = time.time()
        with self._resolving:
            self._own.forget(now)
            return self._resolver.resolve(market, node_class, now=now, shut=self._own.shut())

    def reservations_for(self, node_class: NodeClass) -> tuple[CapacityReservation, ...] | None:
        """The capacity reservations that the class selects, as last counted; None where they never were."""
        if self._market is None or sources.RESERVATIONS not in self._market.asked_at:
            return None
        return selected(node_class, self._market.reservations)

    async def wait_changed(self, after_revision: str, timeout_s: float) -> str:
        """The revision, as soon as it is not `after_revision`, or after `timeout_s` whatever it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.revision != after_revision)
        return self.revision

    async def report_refusals(self, refusals: Sequence[Refusal]) -> bool:
        """Tells pricing what the cloud just refused. Counts here at once, even when no replica could be told (False)."""
        if not refusals:
            return True
        with self._resolving:
            for refusal in refusals:
                self._own.remember([refusal], time.time() + refusal.ttl_s)
        try:
            await self._replicas.call("ReportRefusal", refusals_to(refusals), _REPORT_TIMEOUT_S)
        except ServiceError as error:
            self.problem = error.message
            return False
        return True

    async def report_capacity(self, seen: Sequence[LearnedMemory]) -> bool:
        """Tells pricing what nodes turned out to have; False when no replica could be told."""
        try:
            request = pb.ReportCapacityRequest(memory=_learned_to(seen))
            await self._replicas.call("ReportCapacity", request, _REPORT_TIMEOUT_S)
        except ServiceError as error:
            self.problem = error.message
            return False
        return True

    async def count_reservations(self) -> bool:
        """Has pricing count the capacity reservations now, and waits for the catalogue that knows of it; False where that
        could not be had.
        """
        try:
            answer = await self._replicas.call("CountReservations", pb.CountReservationsRequest(), _COUNT_S)
        except ServiceError as error:
            self.problem = error.message
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_COUNT_S), self._changed:
                await self._changed.wait_for(lambda: self._counted_at() >= answer.counted_at)
                return True
        return False

    def _counted_at(self) -> float:
        return self._market.asked_at.get(sources.RESERVATIONS, 0.0) if self._market is not None else 0.0

    async def run(self) -> None:
        """Follows one replica after another until cancelled."""
        failures = 0
        try:
            while True:
                for address in self._addresses:
                    heard = await self._follow(address)
                    failures = 0 if heard else failures + 1
                    wait_s = min(_RETRY_MOST_S, _RETRY_FIRST_S * 2.0 ** min(failures, 10))
                    await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
        finally:
            await self._replicas.close()

    async def _follow(self, address: str) -> bool:
        """Reads one stream to its end; whether anything came."""
        heard = False
        received: Market | None = None
        async with grpc.aio.insecure_channel(address, options=(*CHANNEL_OPTIONS, *_KEEPALIVE)) as channel:
            stream = pb_grpc.PricingStub(channel).Watch(pb.WatchCatalogRequest(subscriber=self._subscriber))
            try:
                async for message in stream:
                    received = await self._take(message, received)
                    heard, self.problem = True, ""
                self.problem = f"{address} ended the stream"
            except grpc.aio.AioRpcError as error:
                self.problem = f"{address}: {error.code().name}: {error.details()}"
            except (OutOfStep, msgspec.MsgspecError, ValueError) as error:
                self.problem = f"{address} sent what can't be understood: {error}"
        return heard

    async def _take(self, message: pb.WatchCatalogResponse, received: Market | None) -> Market:
        """Applies a message to what this stream sent before."""
        if message.types_json:
            market = await asyncio.to_thread(market_from, message, None)
        else:
            market = market_from(message, received)
        async with self._changed:
            self._market = market
            self._changed.notify_all()
        return market

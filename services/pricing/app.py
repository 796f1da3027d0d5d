"""HTTP for people: what is for sale, at what price, how old each figure is, and what was refused."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, Field

from nodeyard import __version__
from nodeyard.api.labels import RESERVED
from nodeyard.cloudprovider.market import RESERVATIONS, Market
from nodeyard.cloudprovider.reservations import reserved_price
from services.pricing.board import PARTS, PriceBoard

Sort = Literal[
    "price", "-price", "type", "-type", "zone", "-zone", "vcpus", "-vcpus", "memory", "-memory", "age", "-age"
]
_KEYS: dict[str, Callable[["OfferingView"], Any]] = {
    "price": lambda o: (o.priceUsdPerHour, o.instanceType, o.zone),
    "type": lambda o: (o.instanceType, o.zone, o.capacityType),
    "zone": lambda o: (o.zone, o.instanceType, o.capacityType),
    "vcpus": lambda o: (o.vcpus, o.instanceType, o.zone),
    "memory": lambda o: (o.memoryMiB, o.instanceType, o.zone),
    "age": lambda o: (o.priceAgeSeconds, o.instanceType, o.zone),
}


class OfferingView(BaseModel):
    """One way to buy one type."""

    instanceType: str  # noqa: N815 - the API's spelling is Kubernetes'
    zone: str
    zoneId: str  # noqa: N815
    capacityType: str  # noqa: N815
    priceUsdPerHour: float = Field(  # noqa: N815
        description="What one more costs, commitments and discounts taken off; 0 when no source has a price."
    )
    listPriceUsdPerHour: float  # noqa: N815
    releaseUsdPerHour: float = Field(description="What giving one up saves.")  # noqa: N815
    available: bool = Field(description="False while the cloud refuses it, or without a price.")
    riskUsdPerHour: float = Field(  # noqa: N815
        description="Added when plans are compared, for the odds that the cloud refuses."
    )
    priceSource: str = Field(  # noqa: N815
        description="pricing-api, spot-history, feed, last-known, estimate, capacity-reservations; empty without a price."
    )
    priceAgeSeconds: float  # noqa: N815
    arch: str
    vcpus: int
    memoryMiB: int  # noqa: N815
    reservationId: str = Field(  # noqa: N815
        default="", description="The capacity reservation, where the capacity type is reserved."
    )
    reservationCapacity: int | None = Field(  # noqa: N815
        default=None, description="Instances that the reservation still takes."
    )


class OfferingPage(BaseModel):
    """`total` counts what the filters let through."""

    revision: str
    total: int
    offset: int
    offerings: list[OfferingView]


class PartView(BaseModel):
    """`ageSeconds` is None for what was never learned; `problem` is why the last attempt failed."""

    ageSeconds: float | None  # noqa: N815
    problem: str


class FeedView(BaseModel):
    """The price feed, which stands in while AWS can't be asked."""

    ageSeconds: float  # noqa: N815
    onDemandPrices: int  # noqa: N815
    spotPrices: int  # noqa: N815
    problems: list[str]


class CatalogueView(BaseModel):
    """What there is, and how fresh."""

    revision: str
    region: str
    zones: list[str]
    types: int
    offerings: int
    bySource: dict[str, int]  # noqa: N815
    parts: dict[str, PartView]
    commitmentsProblem: str = Field(  # noqa: N815
        description="Why commitments, or what uses them up, could not be read the last time."
    )
    zonesOut: list[str] = Field(  # noqa: N815
        description="Zones that nothing is bought in, because traffic is shifted away from them."
    )
    feed: FeedView | None = Field(description="None: no feed was ever read.")


class ReservationView(BaseModel):
    """A capacity reservation or block of the account's, whichever node class may use it."""

    id: str
    instanceType: str  # noqa: N815
    zone: str
    reservationType: str = Field(description="default, or capacity-block.")  # noqa: N815
    instanceMatchCriteria: str  # noqa: N815
    interruptible: bool
    state: str = Field(description="active; expiring: a block in its last 40 minutes.")
    total: int
    available: int = Field(description="Instances it still takes, as EC2 last counted.")
    endsInSeconds: float | None  # noqa: N815
    ownerId: str  # noqa: N815


class RefusalView(BaseModel):
    """What the cloud refused; an empty field stands for all values. Let back, it is still remembered for a while."""

    instanceType: str  # noqa: N815
    zone: str
    capacityType: str  # noqa: N815
    subnet: str
    placementGroup: str = Field(description="Set: only launches into this group are affected.")  # noqa: N815
    reservation: str
    code: str
    strikes: int = Field(description="Refusals in a row; each doubles the time it is out, up to an hour.")
    outForSeconds: float = Field(description="0: let back.")  # noqa: N815
    odds: float = Field(description="Probability that asking now is refused.")
    forgottenInSeconds: float  # noqa: N815


def build_app(board: PriceBoard, now: Callable[[], float]) -> FastAPI:
    """The application over one board."""
    app = FastAPI(title="Nodeyard pricing", version=__version__, docs_url="/docs", redoc_url=None)

    def market() -> Market:
        if board.market is None:
            raise HTTPException(503, board.unready())
        return board.market

    @app.get("/v1/offerings")
    async def offerings(
        type: Annotated[str, Query(description="Exact instance type.")] = "",
        family: str = "",
        zone: Annotated[str, Query(description="Zone name or id.")] = "",
        capacity_type: Literal["", "on-demand", "spot", "reserved"] = "",
        arch: Literal["", "amd64", "arm64"] = "",
        available: bool | None = None,
        min_vcpus: Annotated[int, Query(ge=0)] = 0,
        min_memory_mib: Annotated[int, Query(ge=0)] = 0,
        max_price: Annotated[float | None, Query(gt=0, description="USD per hour.")] = None,
        source: str = "",
        sort: Sort = "price",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> OfferingPage:
        """Offerings, filtered, sorted and paged."""
        found = [
            o
            for o in (*_views(market(), now()), *_reserved_views(market(), now()))
            if type in ("", o.instanceType)
            and family in ("", o.instanceType.partition(".")[0])
            and zone in ("", o.zone, o.zoneId)
            and capacity_type in ("", o.capacityType)
            and arch in ("", o.arch)
            and available in (None, o.available)
            and o.vcpus >= min_vcpus
            and o.memoryMiB >= min_memory_mib
            and (max_price is None or 0 < o.priceUsdPerHour <= max_price)
            and source in ("", o.priceSource)
        ]
        found.sort(key=_KEYS[sort.lstrip("-")], reverse=sort.startswith("-"))
        page = found[offset : offset + limit]
        return OfferingPage(revision=market().revision, total=len(found), offset=offset, offerings=page)

    @app.get("/v1/catalogue")
    async def catalogue() -> CatalogueView:
        """What there is, and how fresh each part is."""
        seen, at = market(), now()
        parts: dict[str, PartView] = {
            part: PartView(
                ageSeconds=None if (asked := board.asked_at(part)) is None else round(at - asked, 1),
                problem=board.problems.get(part, ""),
            )
            for part in PARTS
        }
        return CatalogueView(
            revision=seen.revision,
            region=seen.table.region,
            zones=[zone.name for zone in seen.table.zones],
            types=len(seen.table.types),
            offerings=len(seen.rows),
            bySource={source or "none": count for source, count in seen.counts().items()},
            parts=parts,
            commitmentsProblem=board.commitments_problem,
            zonesOut=board.zones_out,
            feed=_feed_view(board, at),
        )

    @app.get("/v1/reservations")
    async def reservations() -> list[ReservationView]:
        """The capacity reservations that can be counted on, by id."""
        at = now()
        return [
            ReservationView(
                id=r.id, instanceType=r.instance_type, zone=r.zone, reservationType=r.kind,
                instanceMatchCriteria=r.match, interruptible=r.interruptible, state=r.state, total=r.total,
                available=r.available, endsInSeconds=None if r.ends_at is None else round(r.ends_at - at, 1),
                ownerId=r.owner_id,
            )
            for r in market().reservations
        ]  # fmt: skip

    @app.get("/v1/refusals")
    async def refusals() -> list[RefusalView]:
        """What the cloud refused, for how long it is out, and the odds of another refusal."""
        at = now()
        return [
            RefusalView(
                instanceType=s.refusal.instance_type, zone=s.refusal.zone, capacityType=s.refusal.capacity_type,
                subnet=s.refusal.subnet, placementGroup=s.refusal.placement_group, reservation=s.refusal.reservation,
                code=s.refusal.code, strikes=s.strikes_left(at), odds=round(s.odds(at), 4),
                outForSeconds=round(max(0.0, s.until - at), 1),
                forgottenInSeconds=round(max(0.0, s.forgotten_at - at), 1),
            )
            for s in board.scarcity.standings()
        ]  # fmt: skip

    return app


def _feed_view(board: PriceBoard, at: float) -> FeedView | None:
    if board.feed is None:
        return None
    return FeedView(
        ageSeconds=round(max(0.0, at - board.feed.on_demand.asked_at), 1),
        onDemandPrices=len(board.feed.on_demand.usd),
        spotPrices=len(board.feed.spot.usd),
        problems=list(board.feed_problems),
    )


def _views(market: Market, now: float) -> Iterator[OfferingView]:
    table = market.table
    for (type_index, zone_index, capacity_type), row in zip(table.rows, market.rows, strict=True):
        described, zone = table.types[type_index], table.zones[zone_index]
        yield OfferingView.model_construct(
            instanceType=described.name,
            zone=zone.name,
            zoneId=zone.id,
            capacityType=capacity_type,
            priceUsdPerHour=row.price,
            listPriceUsdPerHour=row.list_price or row.price,
            releaseUsdPerHour=row.release or row.price,
            available=row.available,
            riskUsdPerHour=row.risk,
            priceSource=row.source,
            priceAgeSeconds=round(max(0.0, now - market.asked_at.get(row.source, row.priced_at)), 1),
            arch=described.arch,
            vcpus=described.vcpus,
            memoryMiB=described.memory_mib,
        )


def _reserved_views(market: Market, now: float) -> Iterator[OfferingView]:
    """A row for each capacity reservation, whichever node class may use it."""
    table = market.table
    zones = {zone.name: (index, zone.id) for index, zone in enumerate(table.zones)}
    age = round(max(0.0, now - market.asked_at.get(RESERVATIONS, now)), 1)
    for one in market.reservations:
        type_index = table.type_index.get(one.instance_type)
        if type_index is None or one.zone not in zones:
            continue
        described, (zone_index, zone_id) = table.types[type_index], zones[one.zone]
        listed = market.listed(type_index, zone_index)
        yield OfferingView(
            instanceType=described.name, zone=one.zone, zoneId=zone_id, capacityType=RESERVED,
            priceUsdPerHour=reserved_price(listed), listPriceUsdPerHour=listed,
            releaseUsdPerHour=reserved_price(listed), available=one.available > 0, riskUsdPerHour=0.0,
            priceSource=RESERVATIONS, priceAgeSeconds=age, arch=described.arch, vcpus=described.vcpus,
            memoryMiB=described.memory_mib, reservationId=one.id, reservationCapacity=one.available,
        )  # fmt: skip

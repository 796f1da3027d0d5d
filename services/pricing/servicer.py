"""gRPC: the catalogue's stream and the refusals that come back."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from nodeyard.cloudprovider.market import Market
from nodeyard.rpc.catalog import message_of, observations_from, refusals_from
from nodeyard.rpc.v1 import catalog_pb2 as pb
from nodeyard.rpc.v1 import catalog_pb2_grpc as pb_grpc
from services.pricing.board import PriceBoard
from services.pricing.controller import PricingController
from services.pricing.metrics import PricingMetrics


class PricingServicer(pb_grpc.PricingServicer):
    """Everything first, then what changed. A replica with nothing to serve says so, and others are tried."""

    def __init__(self, board: PriceBoard, controller: PricingController, metrics: PricingMetrics) -> None:
        self._board = board
        self._controller = controller
        self._metrics = metrics
        self._last: tuple[Market, Market | None, pb.WatchCatalogResponse] | None = None

    async def Watch(  # noqa: N802 - gRPC's name
        self, request: pb.WatchCatalogRequest, context: Any
    ) -> AsyncIterator[pb.WatchCatalogResponse]:
        """Streams until the subscriber leaves."""
        reason = self._board.unready()
        if reason is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        older: Market | None = None
        self._metrics.subscribers.inc()
        try:
            while True:
                market = await self._board.next(older)
                yield self._message(market, older)
                older = market
        finally:
            self._metrics.subscribers.dec()

    def _message(self, market: Market, older: Market | None) -> pb.WatchCatalogResponse:
        """The same message for all subscribers that are at the same point."""
        if self._last is None or self._last[0] is not market or self._last[1] is not older:
            self._last = (market, older, message_of(market, older))
        return self._last[2]

    async def ReportCapacity(  # noqa: N802 - gRPC's name
        self, request: pb.ReportCapacityRequest, context: Any
    ) -> pb.ReportCapacityResponse:
        """Notes what nodes turned out to have."""
        await self._controller.observed(observations_from(request, self._controller.now()))
        return pb.ReportCapacityResponse()

    async def CountReservations(  # noqa: N802 - gRPC's name
        self, request: pb.CountReservationsRequest, context: Any
    ) -> pb.CountReservationsResponse:
        """Has them counted, and says when they last were."""
        return pb.CountReservationsResponse(counted_at=await self._controller.count_reservations())

    async def ReportRefusal(  # noqa: N802 - gRPC's name
        self, request: pb.ReportRefusalRequest, context: Any
    ) -> pb.ReportRefusalResponse:
        """Notes what the cloud refused."""
        try:
            refusals = refusals_from(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        await self._controller.refused(refusals)
        return pb.ReportRefusalResponse()

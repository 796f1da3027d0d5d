"""gRPC: what would be replaced now and what stops it, and what would be if something else were."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import msgspec

from nodeyard.disruption.model import Proposal
from nodeyard.disruption.whatif import UnusableQuestion
from nodeyard.rpc.v1 import disruption_pb2, disruption_pb2_grpc
from nodeyard.runtime.leadership import StoreUnavailableError
from services.reallocator.simulating import Simulator


class Servicer(disruption_pb2_grpc.ReallocatorServicer):
    """`proposals` gives the newest ones; `unready` why there can't be any, None when there can."""

    def __init__(
        self,
        proposals: Callable[[], Awaitable[Sequence[Proposal]]],
        simulator: Simulator,
        unready: Callable[[], str | None],
    ) -> None:
        self._proposals = proposals
        self._simulator = simulator
        self._unready = unready

    async def ListProposals(  # noqa: N802 - the wire's name
        self,
        request: disruption_pb2.ListProposalsRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> disruption_pb2.ListProposalsResponse:
        """Every node's proposal as JSON; FAILED_PRECONDITION while this replica can't judge."""
        if (reason := self._unready()) is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        try:
            found = await self._proposals()
        except StoreUnavailableError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return disruption_pb2.ListProposalsResponse(proposals_json=msgspec.json.encode(list(found)))

    async def Simulate(  # noqa: N802 - the wire's name
        self,
        request: disruption_pb2.SimulateRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> disruption_pb2.SimulateResponse:
        """The answer to a what-if question; INVALID_ARGUMENT where it can't be answered, as above while unready."""
        if (reason := self._unready()) is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        try:
            answer = await self._simulator.answer(request.question_json)
        except UnusableQuestion as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except StoreUnavailableError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return disruption_pb2.SimulateResponse(answer_json=answer)

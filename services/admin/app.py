"""The HTTP API: routes, their inputs and their errors. Bodies are the JSON of the values, camelCase.

OpenAPI is at /docs. Every error is `{"error": {"reason", "message"}}`: 400 for unusable input (what and where), 503
for a service that is away (which).
"""

from typing import Annotated, Any, Literal

import grpc
import msgspec
from fastapi import Body, FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from nodeyard import __version__
from nodeyard.rpc.calls import ServiceError
from nodeyard.rpc.v1 import disruption_pb2, planning_pb2
from services.admin.nodes import views
from services.admin.ports import Cluster, Decisions, Prices, Service

PLAN_TIMEOUT_S = 60.0
SIMULATE_TIMEOUT_S = 180.0
STATUS_OF = {grpc.StatusCode.INVALID_ARGUMENT: 400, grpc.StatusCode.DEADLINE_EXCEEDED: 504}


def build_app(
    *, cluster: Cluster, prices: Prices, allocator: Service, reallocator: Service, journal: Decisions
) -> FastAPI:
    """The application over its five sources; nothing is asked before the first request."""
    app = FastAPI(title="Nodeyard admin", version=__version__)

    @app.exception_handler(ServiceError)
    async def _refused(_: Request, error: ServiceError) -> JSONResponse:
        status = STATUS_OF.get(error.code, 503)
        body = {"error": {"reason": error.code.name, "message": f"{error.service}: {error.message}"}}
        return JSONResponse(body, status_code=status)

    _planning(app, allocator)
    _simulating(app, reallocator)
    _observing(app, cluster, prices, reallocator, journal)
    return app


def _planning(app: FastAPI, allocator: Service) -> None:
    @app.post("/v1/plan", summary="Dry run: what would be launched")
    async def plan(
        objects: Annotated[
            list[dict[str, Any]], Body(description="Pods and workloads, as Kubernetes writes them")
        ] = [],  # noqa: B006 - FastAPI copies it
        pending: Annotated[
            bool | None, Body(description="Plan what is pending too; default: only without objects")
        ] = None,
        options: Annotated[dict[str, Any], Body(description="Options that differ from the allocator's")] = {},  # noqa: B006
    ) -> Response:
        """What would be launched for these pods, or for what is pending now. Nothing is written or launched."""
        request = planning_pb2.PlanRequest(
            objects_json=msgspec.json.encode(objects) if objects else b"",
            include_pending=not objects if pending is None else pending,
            options_json=msgspec.json.encode(options) if options else b"",
        )
        answer = await allocator.call("Plan", request, PLAN_TIMEOUT_S)
        return Response(answer.plan_json, media_type="application/json")


def _simulating(app: FastAPI, reallocator: Service) -> None:
    @app.post("/v1/simulate/{action}", summary="What if: where pods would go, what it costs, what blocks it")
    async def simulate(
        action: Annotated[
            Literal["remove", "replace", "drain-zone", "add", "price", "pool", "consolidate"],
            Path(description="The kind of question"),
        ],
        question: Annotated[
            dict[str, Any],
            Body(description="What it is about: nodes, zone, objects, prices, ...; see docs/whatif.md"),
        ] = {},  # noqa: B006 - FastAPI copies it
    ) -> Response:
        """The reallocator's answer about the cluster as it is. Nothing is written."""
        asked = {**question, "action": action}
        request = disruption_pb2.SimulateRequest(question_json=msgspec.json.encode(asked))
        answer = await reallocator.call("Simulate", request, SIMULATE_TIMEOUT_S)
        return Response(answer.answer_json, media_type="application/json")


def _observing(
    app: FastAPI, cluster: Cluster, prices: Prices, reallocator: Service, journal: Decisions
) -> None:
    @app.get("/v1/nodes", summary="The nodes, what they cost, hold and are doing")
    async def nodes(pool: Annotated[str | None, Query(description="Only this pool")] = None) -> Response:
        if not cluster.synced:
            raise ServiceError(
                "watcher", grpc.StatusCode.UNAVAILABLE, "the cluster's state has not arrived yet"
            )
        snapshot = cluster.snapshot()

        def price_of(pool_key: str, kind: str, zone: str, capacity: str) -> float | None:
            owner = snapshot.pools.get(pool_key)
            node_class = snapshot.node_classes.get(owner.node_class.key) if owner else None
            if node_class is None or not prices.ready:
                return None
            offering = prices.catalogue_for(node_class).offering(kind, zone, capacity)
            return offering.price if offering else None

        found = [view for view in views(snapshot, price_of) if pool in (None, view.pool)]
        known = sum(view.price_per_hour or 0.0 for view in found)
        body = {
            "nodes": found,
            "pricePerHour": round(known, 6),
            "unpriced": sum(v.price_per_hour is None for v in found),
        }
        return Response(msgspec.json.encode(body), media_type="application/json")

    @app.get("/v1/proposals", summary="What the reallocator would replace now, and what stops it")
    async def proposals() -> Response:
        answer = await reallocator.call(
            "ListProposals", disruption_pb2.ListProposalsRequest(), PLAN_TIMEOUT_S
        )
        return Response(answer.proposals_json, media_type="application/json")

    @app.get("/v1/decisions", summary="The decision journal, newest first")
    async def decisions(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        kind: Annotated[str, Query(description="planned, refused, launched, ...")] = "",
        subject: Annotated[str, Query(description="for example nodeclaim/default-x7k2p")] = "",
    ) -> Response:
        found = await journal.recent(limit, kind, subject)
        return Response(msgspec.json.encode(list(found)), media_type="application/json")

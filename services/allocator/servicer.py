"""gRPC: dry runs, by the same function that plans for real, on the same snapshot and catalogues.

Objects given with a request are laid over the live snapshot for that plan only; nothing is written. One dry run at a
time, off the event loop, so that planning for real is not held up. Refuses while `stopped` gives a reason: node classes
are not looked up then.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import msgspec

from nodeyard.api.pod import PodKey
from nodeyard.provisioning.landing import Planner
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.pending import pending
from nodeyard.rpc.v1 import planning_pb2 as pb
from nodeyard.rpc.v1 import planning_pb2_grpc as pb_grpc
from nodeyard.runtime.clock import Clock
from nodeyard.state.cluster import Change, Kind, Snapshot
from nodeyard.state.laying import laid_over, objects_of
from nodeyard.state.manifests import ManifestError, changes_from
from services.allocator.controller import Controller
from services.allocator.ports import Cluster, Offers

Json = dict[str, Any]
Report = Callable[[Plan, Snapshot], Json]


class AllocatorServicer(pb_grpc.AllocatorServicer):
    """Answers `Plan`."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        offers: Offers,
        controller: Controller,
        planner: Planner,
        report: Report,
        options: Options,
        clock: Clock,
        stopped: Callable[[], str | None],
    ) -> None:
        self._stopped = stopped
        self._cluster = cluster
        self._offers = offers
        self._controller = controller
        self._planner = planner
        self._report = report
        self._options = options
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def Plan(self, request: pb.PlanRequest, context: Any) -> pb.PlanResponse:  # noqa: N802 - gRPC's name
        """What would be done for these objects, for what is pending, or for both."""
        if reason := self._stopped():
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        if not self._cluster.synced or not self._offers.ready:
            what = "snapshot" if not self._cluster.synced else "catalogue"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"there is no current {what} yet")
        try:
            options = options_of(request.options_json, self._options)
            objects = objects_of(request.objects_json)
            added = changes_from(objects)
        except (ManifestError, ValueError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        live, now = self._cluster.snapshot(), self._clock.now()
        snapshot = laid_over(live, added)
        need = pending(live, now)
        wanted: dict[PodKey, None] = {c.key: None for c in added if c.kind is Kind.POD and _unplaced(c)}
        if request.include_pending or not objects:
            wanted |= dict.fromkeys(need.all)
        problem = Problem(
            snapshot=snapshot,
            pods=tuple(wanted),
            catalogues=self._controller.catalogues(snapshot),
            now=now,
            without_nodes=need.leaving,
        )
        async with self._one_at_a_time:
            plan = await asyncio.to_thread(self._planner, problem, options, self._clock.monotonic)
        return pb.PlanResponse(plan_json=msgspec.json.encode(self._report(plan, snapshot)))


def options_of(text: bytes, ours: Options) -> Options:
    """Our options with those of a request (a JSON object, snake_case) in place. Raises ValueError."""
    if not text:
        return ours
    try:
        wanted = msgspec.json.decode(text, type=dict[str, Any])
        unknown = set(wanted) - set(Options.__struct_fields__)
        if unknown:
            raise ValueError(f"options: unknown {', '.join(sorted(unknown))}")
        return msgspec.convert({**msgspec.structs.asdict(ours), **wanted}, Options)
    except msgspec.ValidationError as error:
        raise ValueError(f"options: {error}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"options are not JSON: {error}") from None


def _unplaced(change: Change) -> bool:
    pod = change.value
    return pod is not None and not pod.node and not pod.finished and not pod.daemon and not pod.terminating

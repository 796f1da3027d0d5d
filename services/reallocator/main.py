"""Composition root of the reallocator: the only place here that names concrete adapters."""

import time

import grpc.aio
import msgspec

from nodeyard.adapters.ec2.budget import CallBudget
from nodeyard.adapters.ec2.instances import Instances
from nodeyard.adapters.ec2.interruption_queue import InterruptionQueue
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.consent import approved_digest
from nodeyard.adapters.kubernetes.deletion_costs import DeletionCosts
from nodeyard.adapters.kubernetes.epochs import KubernetesEpochs
from nodeyard.adapters.kubernetes.events import EventRecorder
from nodeyard.adapters.kubernetes.evictions import Evictions
from nodeyard.adapters.kubernetes.node_claims import NodeClaims
from nodeyard.adapters.kubernetes.placement import Placement
from nodeyard.adapters.kubernetes.rival import Rivals
from nodeyard.adapters.kubernetes.scales import Scales
from nodeyard.adapters.kubernetes.termination import NodeTermination
from nodeyard.adapters.redis.call_buckets import CallBuckets
from nodeyard.adapters.redis.connection import connect, key_prefix
from nodeyard.adapters.redis.journal import Journal
from nodeyard.adapters.redis.leases import RedisLeases
from nodeyard.adapters.redis.moves import Moves
from nodeyard.adapters.redis.nominations import Nominations
from nodeyard.cloudprovider.errors import InvalidRequest
from nodeyard.disruption.model import Options
from nodeyard.disruption.simulation import effort_s
from nodeyard.provisioning import model as provisioning
from nodeyard.provisioning.model import Plan, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.rpc.catalog import CatalogFeed
from nodeyard.rpc.cluster import ClusterFeed
from nodeyard.rpc.v1 import disruption_pb2_grpc
from nodeyard.runtime.leadership import Leadership, LeadershipMetrics
from nodeyard.runtime.lifecycle import Runtime, Service, StartError, run_service
from nodeyard.runtime.scheduler_config import default_spread_told
from services.reallocator.chronicle import Chronicle
from services.reallocator.collection import Collector
from services.reallocator.controller import Disruption
from services.reallocator.courses import Courses
from services.reallocator.drains import Drains
from services.reallocator.execution import Execution
from services.reallocator.interruptions import Interruptions
from services.reallocator.leases import HeldLeases
from services.reallocator.machines import InstanceBook
from services.reallocator.metrics import ReallocatorMetrics
from services.reallocator.moves import MoveMemory
from services.reallocator.reserved import ReservedNodes
from services.reallocator.servicer import Servicer
from services.reallocator.settings import Settings
from services.reallocator.simulating import Simulator
from services.reallocator.surges import Surges
from services.reallocator.termination import Termination

LEASE = "disruption"
_PLAN_DEADLINE_S = 10.0


class _Identity(msgspec.Struct):
    class Meta(msgspec.Struct):
        uid: str

    metadata: Meta


async def build(settings: Settings, runtime: Runtime) -> Service:
    """Asks the API server who the cluster is; everything else is asked by the loops."""
    clock, prefix = runtime.clock, key_prefix(settings.cluster_name)
    client = await KubernetesClient.connect(settings.kubeconfig or None, agent="nodeyard-reallocator")
    runtime.closing.push_async_callback(client.close)
    try:
        redis = connect(settings.redis_url)
    except ValueError as error:
        raise StartError(str(error)) from error
    runtime.closing.push_async_callback(redis.aclose)
    budget = CallBudget(
        share=settings.ec2_share,
        shared=CallBuckets(redis, prefix),
        account_share=settings.ec2_account_share,
    )
    session = Ec2Session(budget=budget)
    runtime.closing.callback(session.close)
    try:
        _ = session.region
    except InvalidRequest as error:
        raise StartError(str(error)) from error
    identity = msgspec.json.decode(await client.get(paths.namespace("kube-system")), type=_Identity)

    who = f"reallocator/{settings.replica}"
    measures = ReallocatorMetrics(runtime.registry)
    cluster, prices = ClusterFeed(settings.watcher, who), CatalogFeed(settings.pricing, who)
    leases = RedisLeases(redis, prefix)
    lead = Leadership(
        leases, KubernetesEpochs(client, settings.namespace), LEASE, settings.replica, settings.lease_ttl, clock,
        LeadershipMetrics(runtime.registry),
    )  # fmt: skip
    rivals = Rivals(client, clock)
    events = EventRecorder(client, "nodeyard", clock=clock, instance=settings.replica)
    journal = Journal(redis, prefix, writer=who, clock=clock)
    chronicle = Chronicle(journal, events, replica=settings.replica, now=clock.now)
    nominations = Nominations(redis, prefix)
    moves = MoveMemory(Moves(redis, prefix), clock)
    claims, nodes = NodeClaims(client, "reallocator"), NodeTermination(client)
    machines = Instances(session, cluster_uid=identity.metadata.uid)

    default_spread = default_spread_told(settings.scheduler_config)

    def permitted() -> bool:
        return rivals.permitted

    def planner(problem: Problem) -> Plan:
        return plan(
            problem,
            provisioning.Options(
                node_charge_usd_per_hour=settings.node_charge,
                deadline_s=_PLAN_DEADLINE_S,
                search_s=effort_s(problem),
                bound=False,
                default_spread=default_spread,
                strict_reservations=False,
            ),
            time.monotonic,
        )

    execution = Execution(
        cluster=cluster, claims=claims, nodes=nodes, nominations=nominations, moves=moves, lead=lead,
        chronicle=chronicle, clock=clock, measures=measures,
        costs=DeletionCosts(client) if settings.mark_leaving_pods else None,
    )  # fmt: skip
    surges = Surges(
        workloads=Scales(client) if settings.surge else None, claims=claims, cluster=cluster, chronicle=chronicle,
        clock=clock,
    )  # fmt: skip
    binder = Placement(client, "reallocator") if settings.bind_returning_pods else None
    courses = Courses(
        cluster=cluster, claims=claims, nodes=nodes, pods=binder, lead=lead, execution=execution,
        chronicle=chronicle, planner=plan, clock=clock,
    )  # fmt: skip
    disruption = Disruption(
        cluster=cluster, prices=prices, claims=claims, nodes=nodes, nominations=nominations, moves=moves, lead=lead,
        execution=execution, courses=courses, chronicle=chronicle, planner=planner,
        options=Options(
            node_charge_usd_per_hour=settings.node_charge, spot_to_spot=settings.spot_to_spot,
            eviction_usd=settings.eviction_cost, max_payback_s=settings.max_payback,
            no_return_s=settings.no_return, surge=settings.surge, default_spread=default_spread,
        ),
        clock=clock, measures=measures, permitted=permitted, poll_s=settings.disruption_poll,
        validation_wait_s=settings.validation_wait,
    )  # fmt: skip
    termination = Termination(
        cluster=cluster, claims=claims, nodes=nodes,
        drains=Drains(Evictions(client), chronicle, clock, measures), surges=surges, book=InstanceBook(machines, clock),
        leases=HeldLeases(leases, holder=settings.replica, ttl_s=settings.lease_ttl, clock=clock),
        chronicle=chronicle, clock=clock, measures=measures, permitted=permitted,
    )  # fmt: skip
    collector = Collector(
        cluster=cluster, machines=machines, claims=claims, nodes=nodes, lead=lead, chronicle=chronicle,
        clock=clock, measures=measures, approved=lambda: approved_digest(client, settings.namespace),
        permitted=permitted, interval_s=settings.gc_interval, fast=settings.fast_gc,
    )  # fmt: skip

    reserved = ReservedNodes(
        cluster=cluster, machines=machines, claims=claims, nodes=nodes, lead=lead, chronicle=chronicle, clock=clock,
        permitted=permitted,
    )  # fmt: skip
    loops = {
        "cluster": cluster.run, "prices": prices.run, "disruption-lease": lead.run, "rivals": rivals.run,
        "events": events.run, "journal": journal.run, "passes": disruption.run_passes,
        "commands": disruption.run_turns, "courses": disruption.run_courses, "marks": disruption.run_marks, "terminations": termination.run,
        "garbage": collector.run, "reserved": reserved.run,
    }  # fmt: skip
    if settings.interruption_queue:
        loops["interruptions"] = Interruptions(
            queue=InterruptionQueue(session, settings.interruption_queue), cluster=cluster, claims=claims,
            refusals=prices, chronicle=chronicle, clock=clock, measures=measures, permitted=permitted,
        ).run  # fmt: skip

    def unready() -> str | None:
        if rivals.reason or cluster.not_synced_because:
            return rivals.reason or cluster.not_synced_because
        return None if prices.ready else f"no catalogue from pricing: {prices.problem}"

    simulator = Simulator(disruption.view_now, planner, time.monotonic)
    servicer = Servicer(disruption.list_proposals, simulator, unready)

    def register(server: grpc.aio.Server) -> None:
        disruption_pb2_grpc.add_ReallocatorServicer_to_server(servicer, server)

    return Service(loops=loops, ready=unready, register=register)


def main() -> None:
    """Runs the reallocator until it is told to stop."""
    run_service("reallocator", Settings, build)


if __name__ == "__main__":
    main()

"""Composition root of the allocator: the watcher's and pricing's streams on one side, Kubernetes, EC2 and Redis on the
other, planner and launcher between. The only place that names concrete adapters.
"""

from collections.abc import Callable
from uuid import uuid4

import grpc.aio
import msgspec

from nodeyard.adapters.ec2.budget import CallBudget
from nodeyard.adapters.ec2.dry_runs import DryRuns
from nodeyard.adapters.ec2.launch import Fleet
from nodeyard.adapters.ec2.launch_templates import LaunchTemplates
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.placement import Partitions
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.epochs import KubernetesEpochs
from nodeyard.adapters.kubernetes.events import EventRecorder
from nodeyard.adapters.kubernetes.node_claims import NodeClaims
from nodeyard.adapters.kubernetes.placement import Placement
from nodeyard.adapters.kubernetes.pool_status import PoolStatus
from nodeyard.adapters.kubernetes.registration import Registration
from nodeyard.adapters.kubernetes.rival import Rivals
from nodeyard.adapters.redis.call_buckets import CallBuckets
from nodeyard.adapters.redis.connection import connect, key_prefix
from nodeyard.adapters.redis.journal import Journal
from nodeyard.adapters.redis.leases import RedisLeases
from nodeyard.adapters.redis.nominations import Nominations
from nodeyard.api import labels as keys
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import InvalidRequest
from nodeyard.provisioning.addresses import Addresses
from nodeyard.provisioning.lifecycle import Deadlines
from nodeyard.provisioning.model import Options
from nodeyard.provisioning.planner import plan
from nodeyard.provisioning.report import plan_json
from nodeyard.rpc.catalog import CatalogFeed
from nodeyard.rpc.cluster import ClusterFeed
from nodeyard.rpc.v1 import planning_pb2_grpc
from nodeyard.runtime.batcher import Batcher
from nodeyard.runtime.leadership import Leadership, LeadershipMetrics
from nodeyard.runtime.lifecycle import Runtime, Service, StartError, run_service
from nodeyard.runtime.scheduler_config import default_spread_told
from services.allocator.batches import Batches
from services.allocator.classes import Classes
from services.allocator.controller import LEASE, Controller
from services.allocator.follower import Follower
from services.allocator.launcher import Launcher
from services.allocator.learning import Learning
from services.allocator.leases import NodeLeases
from services.allocator.metrics import AllocatorMetrics
from services.allocator.naming import Namer
from services.allocator.pools import Pools
from services.allocator.registrar import Registrar
from services.allocator.reporting import Reporter, log
from services.allocator.servicer import AllocatorServicer
from services.allocator.settings import AllocatorSettings

_AWS_THREADS = 16


class _Identity(msgspec.Struct):
    class Meta(msgspec.Struct):
        uid: str

    metadata: Meta


class _Version(msgspec.Struct):
    major: str
    minor: str


async def build(settings: AllocatorSettings, runtime: Runtime) -> Service:
    """Asks the API server who the cluster is; everything else is asked by the loops."""
    client = await KubernetesClient.connect(settings.kubeconfig or None, agent="nodeyard-allocator")
    runtime.closing.push_async_callback(client.close)
    try:
        redis = connect(settings.redis_url)
    except ValueError as error:
        raise StartError(str(error)) from error
    runtime.closing.push_async_callback(redis.aclose)
    measures = AllocatorMetrics(runtime.registry)
    clock, prefix = runtime.clock, key_prefix(settings.cluster_name)
    budget = CallBudget(
        share=settings.ec2_share,
        shared=CallBuckets(redis, prefix),
        account_share=settings.ec2_account_share,
    )
    session = Ec2Session(threads=_AWS_THREADS, observe=measures.api_call, budget=budget)
    runtime.closing.callback(session.close)
    try:
        log.info("allocator works in a region", region=session.region)
    except InvalidRequest as error:
        raise StartError(str(error)) from error
    cluster_uid = msgspec.json.decode(
        await client.get(paths.namespace("kube-system")), type=_Identity
    ).metadata.uid
    version = msgspec.json.decode(await client.get("/version"), type=_Version)
    tags = {keys.CLUSTER_UID_TAG: cluster_uid, f"kubernetes.io/cluster/{settings.cluster_name}": "owned"}
    cluster = ClusterFeed(settings.watcher, f"allocator/{settings.replica}")
    offers = CatalogFeed(settings.pricing, f"allocator/{settings.replica}")
    redis_leases = RedisLeases(redis, prefix)
    epochs = KubernetesEpochs(client, settings.namespace)
    leader = Leadership(
        redis_leases, epochs, LEASE, settings.replica, settings.lease_ttl,
        clock, LeadershipMetrics(runtime.registry),
    )  # fmt: skip
    rivals = Rivals(client, clock)

    def stopped() -> str | None:
        return rivals.reason

    events = EventRecorder(client, "nodeyard", clock=clock, instance=settings.replica)
    journal = Journal(redis, prefix, writer=f"allocator/{settings.replica}", clock=clock)
    report = Reporter(journal, events, clock, settings.replica)
    claims = NodeClaims(client)
    templates = LaunchTemplates(session, cluster=settings.cluster_name, tags=tags)
    statuses = PoolStatus(client)
    nominated = Nominations(redis, prefix)
    options = Options(
        node_charge_usd_per_hour=settings.node_charge, deadline_s=settings.plan_deadline,
        search_s=settings.plan_search, bound=False, default_spread=default_spread_told(settings.scheduler_config),
    )  # fmt: skip
    addresses = Addresses()
    classes = Classes(
        cluster=cluster, offers=offers, templates=templates, statuses=statuses, clock=clock, report=report,
        stopped=stopped, resolver=Resolver(
            session, clock, cluster=settings.cluster_name, cluster_uid=cluster_uid,
            kubernetes_version=f"{version.major}.{version.minor.rstrip('+')}", addresses=addresses,
            dry_runs=DryRuns(session, clock, cluster=settings.cluster_name, tags=tags) if settings.dry_runs else None,
        ),
        boot=Boot(
            cluster=settings.cluster_name, endpoint=settings.cluster_endpoint or client.server,
            ca_bundle=settings.cluster_ca, service_cidr=settings.service_cidr,
            cluster_dns=(settings.cluster_dns,) if settings.cluster_dns else (),
        ),
    )  # fmt: skip
    node_leases = NodeLeases(redis_leases, settings.replica, settings.lease_ttl, clock)
    fleet = Fleet(session, cluster_uid=cluster_uid)
    namer = Namer(fleet, cluster, clock, stopped, lambda: offers.zones_out)
    launcher = Launcher(
        cluster=cluster, offers=offers, claims=claims, region=session.region, namer=namer,
        batches=Batches(
            fleet=fleet, claims=claims, cluster=cluster, leases=node_leases, clock=clock,
            consistency_lag_s=settings.ec2_consistency_lag,
        ),
        templates=templates, classes=classes, epochs=epochs, leader=leader,
        report=report, measures=measures, clock=clock, tags=tags, addresses=addresses,
    )  # fmt: skip
    registrar = Registrar(
        cluster=cluster, claims=claims, nodes=Registration(client), pods=Placement(client), nominated=nominated,
        partitions=Partitions(session),
        report=report, measures=measures, clock=clock, mode=settings.placement_mode, planner=plan,
        nomination_s=settings.nomination_s,
    )  # fmt: skip
    follower = Follower(
        cluster=cluster, launcher=launcher, registrar=registrar,
        leases=node_leases, report=report, clock=clock, deadlines=Deadlines(settings.launch_ttl, settings.registration_ttl),
        stopped=stopped,
    )  # fmt: skip
    controller = Controller(
        cluster=cluster, offers=offers, classes=classes, claims=claims, launcher=launcher, follower=follower,
        leader=leader, nominated=nominated, report=report, measures=measures, clock=clock,
        batcher=Batcher(settings.batch_idle_duration, settings.batch_max_duration, clock),
        planner=plan, options=options, stopped=stopped, new_plan_id=lambda: uuid4().hex[:12],
        nomination_s=settings.nomination_s,
    )  # fmt: skip
    pools = Pools(
        cluster=cluster, classes=classes, statuses=statuses, leader=leader, measures=measures, clock=clock,
        stopped=stopped,
    )  # fmt: skip
    servicer = AllocatorServicer(
        cluster=cluster, offers=offers, controller=controller, planner=plan, report=plan_json,
        options=msgspec.structs.replace(options, search_s=None),
        clock=clock, stopped=stopped,
    )  # fmt: skip

    def register(server: grpc.aio.Server) -> None:
        planning_pb2_grpc.add_AllocatorServicer_to_server(servicer, server)

    return Service(
        loops={
            "cluster": cluster.run, "offers": offers.run, "planning-lease": leader.run, "rivals": rivals.run,
            "events": events.run, "journal": journal.run, "classes": classes.run, "claims": follower.run, "names": namer.run,
            "pending": controller.watch, "planning": controller.run, "drafts": controller.draft, "pools": pools.run, "learning": Learning(cluster, offers, clock).run,
        },
        ready=_ready(rivals, cluster, offers),
        register=register,
    )  # fmt: skip


def _ready(rivals: Rivals, cluster: ClusterFeed, offers: CatalogFeed) -> Callable[[], str | None]:
    def reason() -> str | None:
        if rivals.reason or cluster.not_synced_because:
            return rivals.reason or cluster.not_synced_because
        return None if offers.ready else f"no catalogue from pricing: {offers.problem}"

    return reason


def main() -> None:
    """Runs the allocator until it is told to stop."""
    run_service("allocator", AllocatorSettings, build)


if __name__ == "__main__":
    main()

"""Small traces, a small market and their pools, for tests of the replay."""

from collections.abc import Sequence

import msgspec

from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.pod import PodShape
from nodeyard.api.pool import Pool
from nodeyard.api.shape import shape_id
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.replay.generating import Season, pools
from nodeyard.replay.trace import JOB, Trace, TracePod, trace_of
from nodeyard.state.cluster import Change, Kind
from tests.support.invented_market import catalogue_of, invented

MIB = 2**20
SMALL = Season(days=0.1, pods_per_day=2_000, services=6, replicas=40, burst_pods=8, reclaims_per_week=40.0)
"""A cluster of a handful of nodes for two hours and a bit, in rough weather."""


def market_types(types: int = 20, zones: int = 2) -> Catalogue:
    return catalogue_of(invented(types, zones))


def allowed(made: Sequence[Pool] = ()) -> list[Change]:
    """Pools (the generator's by default) and their node class."""
    changes = [Change(Kind.POOL, p.key, p) for p in made or pools()]
    return [*changes, Change(Kind.NODE_CLASS, "default", NodeClass("default"))]


def shape(name: str, cpu: int = 1000, **fields: object) -> PodShape:
    requests = {"cpu": cpu, "memory": cpu * 2 * MIB, "pods": 1}
    made = msgspec.structs.replace(PodShape("", "default", {"app": name}, requests), **fields)
    return msgspec.structs.replace(made, id=shape_id(made))


def service(of: PodShape, name: str, at_s: float, until_s: float) -> TracePod:
    return TracePod("default", name, at_s, of.id, until_s=until_s, owner_name=of.labels["app"])


def job(of: PodShape, name: str, at_s: float, work_s: float) -> TracePod:
    return TracePod("default", name, at_s, of.id, work_s=work_s, owner_kind=JOB, owner_name=name)


def trace(pods: Sequence[TracePod], *shapes: PodShape, hours: float = 3.0) -> Trace:
    return trace_of(pods, {s.id: s for s in shapes}, hours * 3600.0)

"""A problem compiled once for all attempts at it: pods become classes, pools columns, nodes hosts.

The parts can be compiled one by one, for whoever keeps some of them from one problem to the next: classes hang on the
shapes of pods, columns on pools and catalogues, hosts on nodes. Neighbours: `setting` holds the whole, `planner` plans with it.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from nodeyard.api.cluster import DaemonSet
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import TopologySpreadConstraint
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.classes import Classes, classes_of, rule_of
from nodeyard.provisioning.columns import Columns
from nodeyard.provisioning.daemons import daemons_of
from nodeyard.provisioning.explaining import Skipped
from nodeyard.provisioning.field import Rules
from nodeyard.provisioning.hosts import Host, Hosts, daemons_to_come, hosts_of, settle_claims
from nodeyard.provisioning.model import Options, PreferencePolicy, Problem, Reason
from nodeyard.provisioning.preferring import minding_of
from nodeyard.provisioning.reserving import stock_of
from nodeyard.provisioning.setting import Setting


def compile_problem(problem: Problem, options: Options) -> tuple[Setting, list[Skipped]]:
    """Everything that attempts share: classes, columns, hosts, and which rules admit what."""
    pools, skipped = usable_pools(problem)
    raw = hosts_of(problem)
    daemons = daemons_of(problem.snapshot)
    classes = compiled_classes(problem, options, {p.shape for h in raw for p in h.pods}, daemons)
    columns = compiled_columns(problem, options, pools, classes, daemons)
    settle_claims(problem, raw, columns)
    hosts = compiled_hosts(problem, raw, classes.resources, daemons)
    soft = options.preference_policy is not PreferencePolicy.IGNORE
    minding = minding_of(classes.classes, columns, hosts) if soft else frozenset[int]()
    return Setting(problem, options, classes, columns, hosts, Rules(columns, hosts), minding), skipped


def compiled_classes(
    problem: Problem, options: Options, standing: Iterable[str], daemons: Sequence[DaemonSet]
) -> Classes:
    """The problem's pods as classes. `standing`: shapes of pods that stay where they are."""
    soft = options.preference_policy is not PreferencePolicy.IGNORE
    spread = tuple(c for c in options.default_spread if isinstance(c, TopologySpreadConstraint))
    apart = options.max_share_per_node is not None
    return classes_of(problem, standing, spread, daemons, soft=soft, by_workload=apart)


def compiled_columns(
    problem: Problem,
    options: Options,
    pools: Sequence[tuple[Pool, Catalogue]],
    classes: Classes,
    daemons: Sequence[DaemonSet],
) -> Columns:
    """What the pools could buy, told apart as far as the classes do."""
    columns = Columns(pools, classes.resources, classes.mentioned, options.node_charge_usd_per_hour)
    columns.free_in = stock_of(problem).free()
    columns.take_off([(d, rule_of(d.shape)) for d in daemons])
    return columns


def compiled_hosts(
    problem: Problem, raw: Sequence[Host], resources: Sequence[str], daemons: Sequence[DaemonSet]
) -> Hosts:
    """Hosts with what standing pods and daemons to come leave."""
    hosts = Hosts(raw, resources)
    shapes = [problem.snapshot.shapes[i] for i in hosts.shapes]
    requests = np.array([[s.requests.get(r, 0) for r in resources] for s in shapes], np.float64)
    hosts.use(requests.reshape(len(shapes), len(resources)))
    daemons_to_come(daemons, hosts, resources)
    return hosts


def usable_pools(problem: Problem) -> tuple[list[tuple[Pool, Catalogue]], list[Skipped]]:
    """Pools by falling weight, and those left out with the reason."""
    usable: list[tuple[Pool, Catalogue]] = []
    skipped: list[Skipped] = []
    pools = sorted(problem.snapshot.pools.values(), key=lambda p: p.key, reverse=True)
    for pool in sorted(pools, key=lambda p: -p.weight):
        catalogue = problem.catalogue_of(pool.node_class.key)
        if pool.problems:
            skipped.append(Skipped(pool, Reason.POOL_NOT_READY, f"pool {pool.key}: {pool.problems[0]}"))
        elif pool.deleting:
            skipped.append(Skipped(pool, Reason.POOL_NOT_READY, f"pool {pool.key} is being deleted"))
        elif pool.replicas is not None:
            skipped.append(
                Skipped(pool, Reason.POOL_NOT_READY, f"pool {pool.key} has a fixed number of nodes")
            )
        elif catalogue is None:
            message = f"node class {pool.node_class.key!r} of pool {pool.key} is not ready"
            skipped.append(Skipped(pool, Reason.POOL_NOT_READY, message))
        else:
            usable.append((pool, catalogue))
    return usable, skipped

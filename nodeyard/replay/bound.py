"""The least that each hour of a trace could have cost, whoever decides.

Had every pod run from its arrival for as long as it asks, an hour's average load is so much of every shape; the
planner's linear relaxation says what that load costs at least when nodes may be bought in fractions and for any part
of the hour. It is convex in the load, so the hour's average load never costs more than the hour itself. Each
offering counts at its lowest price within the hour. Waiting, moving, starting and idle room are all on top of it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from nodeyard.api.pod import PodRecord
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.labelled import Floats
from nodeyard.provisioning.linear import Kinds, relax
from nodeyard.provisioning.linear import Market as Offered
from nodeyard.provisioning.model import Options, Problem
from nodeyard.provisioning.setting import Setting
from nodeyard.replay.market import Market, PriceMove, market_of
from nodeyard.replay.trace import Trace
from nodeyard.state.cluster import Change, Kind, Snapshot, snapshot_of

_HOUR_S = 3600.0


def hourly_bound(trace: Trace, market: Market, objects: Sequence[Change], options: Options) -> Floats:
    """USD for each hour, node charge included. `objects`: pools, node classes and daemon sets."""
    shapes = sorted(trace.shapes)
    load = hourly_load(trace, shapes)
    snapshot = _one_pod_each(trace, shapes, objects)
    out = np.zeros(load.shape[0])
    for hour in range(load.shape[0]):
        begins = hour * _HOUR_S
        share = min(1.0, (trace.length_s - begins) / _HOUR_S)
        cheapest = _cheapest(market, begins, begins + _HOUR_S)
        out[hour] = share * _least(snapshot, shapes, load[hour] / share, {"": cheapest}, options)
    return out


def hourly_load(trace: Trace, shapes: Sequence[str]) -> Floats:
    """[hour, shape]: pods of the shape that run, on average over the hour (a part of the last hour counts as such)."""
    hours = int(np.ceil(trace.length_s / _HOUR_S))
    number = {id_: i for i, id_ in enumerate(shapes)}
    of = np.array([number[p.shape] for p in trace.pods], np.int64)
    begin = np.array([p.arrives_s for p in trace.pods])
    end = np.minimum(np.array([p.ends_s for p in trace.pods]), trace.length_s)
    out = np.zeros((hours, len(shapes)))
    for hour in range(hours):
        at = hour * _HOUR_S
        seconds = np.minimum(end, at + _HOUR_S) - np.maximum(begin, at)
        here = seconds > 0
        out[hour] = np.bincount(of[here], seconds[here], len(shapes)) / _HOUR_S
    return out


def _cheapest(market: Market, begins: float, ends: float) -> Catalogue:
    """The catalogue of the hour, every offering at its lowest price in it."""
    times = [at for at, _ in market.catalogues]
    first = int(np.searchsorted(times, begins, side="right")) - 1
    last = int(np.searchsorted(times, ends, side="left"))
    within = [catalogue for _, catalogue in market.catalogues[first:last]]
    if len(within) == 1:
        return within[0]
    low: dict[tuple[str, str, str], float] = {}
    for catalogue in within:
        for found in catalogue.types:
            for offer in found.offerings:
                key = (found.name, offer.zone, offer.capacity_type)
                low[key] = min(offer.price, low.get(key, offer.price))
    moves = [PriceMove(0.0, *key, price) for key, price in low.items()]
    return market_of(within[0], moves).catalogues[0][1]


def _one_pod_each(trace: Trace, shapes: Sequence[str], objects: Sequence[Change]) -> Snapshot:
    changes = list(objects)
    for id_ in shapes:
        shape = trace.shapes[id_]
        pod = PodRecord(shape.namespace, id_, id_, id_, unschedulable=True)
        changes += [Change(Kind.SHAPE, id_, shape), Change(Kind.POD, pod.key, pod)]
    return snapshot_of(changes)


def _least(
    snapshot: Snapshot,
    shapes: Sequence[str],
    load: Floats,
    catalogues: Mapping[str, Catalogue],
    options: Options,
) -> float:
    """USD per hour for so many pods of each shape; shapes that fit nowhere are left out, which only lowers it."""
    here = {
        f"{snapshot.shapes[id_].namespace}/{id_}": float(n)
        for id_, n in zip(shapes, load, strict=True)
        if n > 0
    }
    if not here:
        return 0.0
    setting, _ = compile_problem(Problem(snapshot, tuple(here), catalogues, 0.0), options)
    kinds = _kinds(setting, here)
    if kinds is None:
        return 0.0
    columns = setting.columns
    none = np.zeros((columns.count, 0))
    return relax(kinds, Offered(columns.room, columns.cost, none, np.zeros(0))).bound


def _kinds(setting: Setting, load: Mapping[str, float]) -> Kinds | None:
    request, demand, allowed = [], [], []
    for one in setting.classes.classes:
        mask = setting.rules.on_columns(one) & (setting.columns.room >= one.request).all(axis=1)
        if mask.any():
            request.append(one.request)
            demand.append(sum(load[key] for key in one.pods))
            allowed.append(mask)
    return Kinds(np.array(request), np.array(demand), np.array(allowed)) if request else None

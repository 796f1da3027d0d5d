"""Traces as a real cluster might have written them, from a seed: services that breathe with the day and are rolled
out, batch jobs in bursts, spot prices that walk, spot capacity that is taken back.

`Season` says how much of each. Services are Deployments whose replicas follow a daily cycle and are re-scaled every
quarter of an hour; a rollout brings new replicas up in steps and takes the old ones down 40 s after each step. Bursts
are Jobs of like pods. All of it is invented, from the seed alone: the same season and seed give the same trace.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClassRef
from nodeyard.api.pod import PodShape
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Requirement, Taint, Toleration, Value
from nodeyard.api.shape import shape_id
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.replay.market import Market, PriceMove, Reclaim, market_of
from nodeyard.replay.trace import JOB, Trace, TracePod, trace_of

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0
_MIB: Final = 2**20
_SCALING_S: Final = 900.0
_STEP_S: Final = 30.0
_OLD_STAYS_S: Final = 40.0
_CPUS: Final = (100, 250, 250, 500, 500, 1000, 1000, 2000)
_MIB_PER_CPU: Final = (1.0, 2.0, 2.0, 4.0, 4.0, 8.0)
BATCH: Final = "batch"
GENERAL: Final = "general"


class Season(Value, frozen=True):
    """What a generated trace is like. `pods_per_day` counts every pod that arrives, services' and jobs'."""

    days: float = 7.0
    pods_per_day: int = 20_000
    services: int = 60
    replicas: int = 1_500
    """Replicas of all services together at the day's average."""
    swing: float = 0.35
    """How far replicas rise and fall around their average over a day, as a share."""
    rollouts_per_day: float = 1.0
    """Of each service, on average."""
    spot_services: float = 0.3
    """Share of the services that may run on spot."""
    burst_pods: int = 120
    """Pods of an average burst."""
    work_s: float = 600.0
    """What an average batch pod works for."""
    price_step: float = 0.02
    """Spot prices move hourly by about this share, and drift back to where they began."""
    reclaims_per_week: float = 1.0
    """How often each spot pool (type and zone) is taken back."""


def pools(class_name: str = "default") -> tuple[Pool, ...]:
    """The pools that generated traces are made for: general purpose, and spot for batch jobs, tainted."""
    ref = NodeClassRef(class_name)
    spot = Requirement(keys.CAPACITY_TYPE, "In", (keys.SPOT,))
    both = Requirement(keys.CAPACITY_TYPE, "In", (keys.ON_DEMAND, keys.SPOT))
    taint = Taint(BATCH, keys.NO_SCHEDULE, "true")
    return (
        Pool(GENERAL, uid=GENERAL, node_class=ref, requirements=(both,)),
        Pool(
            BATCH,
            uid=BATCH,
            weight=10,
            node_class=ref,
            requirements=(spot,),
            taints=(taint,),
            labels={"work": BATCH},
        ),
    )


def generate(season: Season, catalogue: Catalogue, seed: int) -> tuple[Trace, Market]:
    """A trace and a market for it. Raises TraceError for a season that makes no pod."""
    rng = np.random.default_rng(seed)
    length_s = season.days * DAY_S
    shapes: dict[str, PodShape] = {}
    services = _services(season, rng, shapes)
    found = [pod for service in services for pod in service.pods(season, rng, length_s)]
    arrived = sum(1 for pod in found if pod.arrives_s > 0)
    found += _bursts(season, rng, shapes, max(0, round(season.pods_per_day * season.days) - arrived))
    trace = trace_of([pod for pod in found if pod.arrives_s < length_s], shapes, length_s)
    return trace, walking(season, catalogue, np.random.default_rng([seed, 1]))


# --- services -----------------------------------------------------------------------------------------------------------
class _Service:
    """A Deployment: replicas oldest first, each with its arrival."""

    def __init__(self, name: str, shape: PodShape, replicas: float, phase: float) -> None:
        self.name, self.shape, self.replicas, self.phase = name, shape, replicas, phase
        self.running: list[tuple[str, float]] = []
        self.made = 0

    def wanted(self, season: Season, at_s: float, noise: float) -> int:
        """Replicas at a moment of the day."""
        wave = math.sin(2 * math.pi * (at_s / DAY_S - 0.375 + self.phase))
        return max(1, round(self.replicas * (1 + season.swing * wave + noise)))

    def pods(self, season: Season, rng: np.random.Generator, length_s: float) -> Iterator[TracePod]:
        """Its whole life, replica by replica."""
        rollouts = _moments(rng, season.rollouts_per_day / DAY_S, length_s)
        scalings = np.arange(_SCALING_S + rng.uniform(0, _SCALING_S), length_s, _SCALING_S)
        self._grow(self.wanted(season, 0.0, 0.0), 0.0)
        steady = season.swing == 0
        for at_s, roll in sorted([(float(t), False) for t in scalings] + [(t, True) for t in rollouts]):
            if roll:
                yield from self._roll(at_s)
                continue
            noise = 0.0 if steady else float(rng.normal(0.0, 0.02))
            target = self.wanted(season, at_s, noise)
            if abs(target - len(self.running)) > (0 if steady else 0.08 * len(self.running)):
                yield from self._scale(target, at_s)
        for name, since in self.running:
            yield self._pod(name, since, length_s + HOUR_S)

    def _grow(self, many: int, at_s: float) -> None:
        for _ in range(many):
            self.running.append((f"{self.name}-{self.made}", at_s))
            self.made += 1

    def _scale(self, target: int, at_s: float) -> Iterator[TracePod]:
        self._grow(target - len(self.running), at_s)
        while len(self.running) > target:
            yield self._pod(*self.running.pop(), at_s)

    def _roll(self, at_s: float) -> Iterator[TracePod]:
        """A quarter at a time: new ones come, the old ones go a little later."""
        old, self.running = self.running, []
        step = max(1, math.ceil(len(old) / 4))
        for number, first in enumerate(range(0, len(old), step)):
            begins = at_s + number * (_OLD_STAYS_S + _STEP_S)
            for name, since in old[first : first + step]:
                self._grow(1, begins)
                yield self._pod(name, since, max(begins, since) + _OLD_STAYS_S)

    def _pod(self, name: str, since: float, until: float) -> TracePod:
        return TracePod(
            "apps", name, since, self.shape.id, until_s=max(until, since + 1.0), owner_name=self.name
        )


def _services(season: Season, rng: np.random.Generator, shapes: dict[str, PodShape]) -> list[_Service]:
    weights = rng.pareto(1.5, season.services) + 0.5
    shares = weights / weights.sum() * season.replicas if season.services else weights
    out = []
    for number in range(season.services):
        cpu = int(rng.choice(_CPUS))
        memory = int(cpu / 1000 * rng.choice(_MIB_PER_CPU) * 1024) * _MIB
        on_spot = rng.random() < season.spot_services
        selector = {} if on_spot else {keys.CAPACITY_TYPE: keys.ON_DEMAND}
        shape = _shape("apps", f"svc-{number}", cpu, memory, selector)
        shapes[shape.id] = shape
        out.append(_Service(f"svc-{number}", shape, float(shares[number]), float(rng.uniform(-0.05, 0.05))))
    return out


# --- batch --------------------------------------------------------------------------------------------------------------
def _bursts(
    season: Season, rng: np.random.Generator, shapes: dict[str, PodShape], many: int
) -> Iterator[TracePod]:
    """Jobs of like pods, so many pods in all; twelve kinds of job, each with its own size and length of work."""
    kinds = []
    for number in range(12):
        cpu = int(rng.choice((500, 1000, 1000, 2000)))
        toleration = Toleration(key=BATCH, operator="Exists")
        shape = _shape("jobs", f"job-{number}", cpu, cpu * 2 * _MIB, {"work": BATCH}, (toleration,))
        shapes[shape.id] = shape
        kinds.append((shape, season.work_s * float(rng.uniform(0.5, 1.5))))
    made = 0
    for run in range(10**9):
        if made >= many:
            return
        shape, work_s = kinds[int(rng.integers(len(kinds)))]
        size = min(many - made, 1 + int(rng.exponential(season.burst_pods)))
        at_s = float(rng.uniform(60.0, max(61.0, season.days * DAY_S - 60.0)))
        job = f"{shape.labels['app']}-{run}"
        for index, share in enumerate(rng.uniform(0.85, 1.15, size)):
            yield TracePod(
                "jobs", f"{job}-{index}", at_s, shape.id, work_s=work_s * float(share), owner_kind=JOB,
                owner_name=job,
            )  # fmt: skip
        made += size


def _shape(
    namespace: str, app: str, cpu: int, memory: int, selector: dict[str, str],
    tolerations: tuple[Toleration, ...] = (),
) -> PodShape:  # fmt: skip
    shape = PodShape(
        "",
        namespace,
        {"app": app},
        {"cpu": cpu, "memory": memory, "pods": 1},
        selector,
        tolerations=tolerations,
    )
    return msgspec.structs.replace(shape, id=shape_id(shape))


# --- the market -----------------------------------------------------------------------------------------------------------
def walking(season: Season, catalogue: Catalogue, rng: np.random.Generator) -> Market:
    """Spot prices that walk hour by hour around where they began, and reclaims."""
    spot = [
        (t.name, o.zone, o.price)
        for t in catalogue.types
        for o in t.offerings
        if o.capacity_type == keys.SPOT
    ]
    if not spot:
        return market_of(catalogue)
    return market_of(catalogue, _walk(season, spot, rng), _reclaims(season, spot, rng))


def _walk(
    season: Season, spot: Sequence[tuple[str, str, float]], rng: np.random.Generator
) -> Iterable[PriceMove]:
    if season.price_step <= 0:
        return
    level = np.zeros(len(spot))
    for hour in range(1, math.ceil(season.days * 24)):
        level = level * 0.97 + rng.normal(0.0, season.price_step, len(spot))
        for (name, zone, price), now in zip(spot, np.exp(level), strict=True):
            yield PriceMove(hour * HOUR_S, name, zone, keys.SPOT, round(price * float(now), 5))


def _reclaims(
    season: Season, spot: Sequence[tuple[str, str, float]], rng: np.random.Generator
) -> Iterable[Reclaim]:
    for name, zone, _ in spot:
        for at_s in _moments(rng, season.reclaims_per_week / (7 * DAY_S), season.days * DAY_S):
            yield Reclaim(at_s, name, zone)


def _moments(rng: np.random.Generator, per_second: float, length_s: float) -> list[float]:
    """Moments of a Poisson process."""
    many = int(rng.poisson(per_second * length_s)) if per_second > 0 else 0
    return sorted(float(t) for t in rng.uniform(0.0, length_s, many))

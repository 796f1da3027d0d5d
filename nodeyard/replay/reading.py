"""Traces and prices from CSV, and a trace written back as such.

CSV has a header. Pods: `at,namespace,name,cpu,memory` and one of `work` and `until` (seconds), optionally `owner_kind,
owner_name,selector,tolerations,do_not_disrupt,count`; prices: `at,instance_type,zone,capacity_type,price`, where a
row with `reclaim` for a price takes the spot nodes back. Every complaint names the line and the field.
"""

import csv
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from nodeyard.api.pod import PodShape
from nodeyard.api.quantity import QuantityError, Resources, parse, render_all
from nodeyard.api.selectors import Toleration
from nodeyard.api.shape import shape_id
from nodeyard.replay.market import PriceMove, Reclaim
from nodeyard.replay.trace import JOB, REPLICA_SET, Trace, TraceError, TracePod, trace_of

Row = dict[str, str]
POD_FIELDS: Final = (
    "at", "namespace", "name", "cpu", "memory", "work", "until", "owner_kind", "owner_name", "selector",
    "tolerations", "do_not_disrupt", "count",
)  # fmt: skip
PRICE_FIELDS: Final = ("at", "instance_type", "zone", "capacity_type", "price")
RECLAIM: Final = "reclaim"


# --- CSV ----------------------------------------------------------------------------------------------------------------
def read_pods(lines: Iterable[str], length_s: float | None = None) -> Trace:
    """The trace of a pod CSV. `length_s`: how long it is; the last arrival or end where not given. Raises TraceError."""
    shapes: dict[str, PodShape] = {}
    pods: list[TracePod] = []
    for line, row in _rows(lines, POD_FIELDS, ("at", "name", "cpu", "memory")):
        shape = _shape_of(row, line)
        shapes[shape.id] = shape
        pods += _pods_of(row, shape, line)
    if not pods:
        raise TraceError("the trace holds no pod")
    ends = max(pod.ends_s for pod in pods)
    return trace_of(pods, shapes, length_s if length_s is not None else ends)


def read_prices(lines: Iterable[str]) -> tuple[list[PriceMove], list[Reclaim]]:
    """The moves and reclaims of a price CSV. Raises TraceError."""
    moves, reclaims = [], []
    for line, row in _rows(lines, PRICE_FIELDS, PRICE_FIELDS):
        at_s = _number(row, "at", line)
        if row["price"] == RECLAIM:
            reclaims.append(Reclaim(at_s, row["instance_type"], row["zone"]))
        else:
            price = _number(row, "price", line)
            moves.append(PriceMove(at_s, row["instance_type"], row["zone"], row["capacity_type"], price))
    return moves, reclaims


def pod_rows(trace: Trace) -> Iterator[str]:
    """The trace as pod CSV, header first, without line ends."""
    yield ",".join(POD_FIELDS[:-1])
    for pod in trace.pods:
        shape = trace.shapes[pod.shape]
        amounts = render_all(shape.requests)
        selector = ";".join(f"{k}={v}" for k, v in sorted(shape.node_selector.items()))
        tolerations = ";".join(t.key for t in shape.tolerations)
        yield ",".join(
            (
                f"{pod.arrives_s:.3f}", pod.namespace, pod.name, amounts.get("cpu", "0"), amounts.get("memory", "0"),
                "" if pod.work_s is None else f"{pod.work_s:.3f}",
                "" if pod.until_s is None else f"{pod.until_s:.3f}",
                pod.owner_kind, pod.owner_name, selector, tolerations, pod.do_not_disrupt,
            )
        )  # fmt: skip


def _rows(lines: Iterable[str], known: tuple[str, ...], needed: tuple[str, ...]) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(lines, restkey="", restval="")
    header = reader.fieldnames or ()
    if strange := [f for f in header if f not in known]:
        raise TraceError(f"line 1: no such column: {', '.join(map(str, strange))}; known: {', '.join(known)}")
    if missing := [f for f in needed if f not in header]:
        raise TraceError(f"line 1: column missing: {', '.join(missing)}")
    for row in reader:
        if "" in row:
            raise TraceError(f"line {reader.line_num}: more fields than the header has")
        yield reader.line_num, {k: (v or "").strip() for k, v in row.items()}


def _shape_of(row: Row, line: int) -> PodShape:
    requests: Resources = {}
    for field in ("cpu", "memory"):
        try:
            requests[field] = parse(field, row[field])
        except QuantityError as error:
            raise TraceError(f"line {line}: {field}: {error}") from None
        if requests[field] < 0:
            raise TraceError(f"line {line}: {field}: {row[field]!r} is negative")
    selector: dict[str, str] = {}
    for part in filter(None, row.get("selector", "").split(";")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise TraceError(f"line {line}: selector: {part!r} is not key=value")
        selector[key] = value
    tolerated = filter(None, row.get("tolerations", "").split(";"))
    shape = PodShape(
        "", row.get("namespace") or "default", {}, {**requests, "pods": 1}, selector,
        tolerations=tuple(Toleration(key=key, operator="Exists") for key in tolerated),
    )  # fmt: skip
    return msgspec.structs.replace(shape, id=shape_id(shape))


def _pods_of(row: Row, shape: PodShape, line: int) -> list[TracePod]:
    at_s = _number(row, "at", line)
    work_s = _number(row, "work", line) if row.get("work") else None
    until_s = _number(row, "until", line) if row.get("until") else None
    if (work_s is None) == (until_s is None):
        raise TraceError(f"line {line}: give one of work and until")
    count = 1
    if row.get("count"):
        if not row["count"].isdecimal() or not 0 < int(row["count"]) <= 100_000:
            raise TraceError(f"line {line}: count: {row['count']!r} is not a number of pods")
        count = int(row["count"])
    kind = row.get("owner_kind") or (JOB if work_s is not None else REPLICA_SET)
    names = [row["name"]] if count == 1 else [f"{row['name']}-{i}" for i in range(count)]
    return [
        TracePod(
            shape.namespace, name, at_s, shape.id, work_s, until_s, kind, row.get("owner_name") or row["name"],
            row.get("do_not_disrupt", ""),
        )
        for name in names
    ]  # fmt: skip


def _number(row: Row, field: str, line: int) -> float:
    try:
        return float(row[field])
    except ValueError:
        raise TraceError(f"line {line}: {field}: {row[field]!r} is not a number") from None

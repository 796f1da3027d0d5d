"""Traces and prices from CSV and from what Kubernetes tells, and what is wrong with them."""

import pytest

from nodeyard.replay.events import pods_from_events
from nodeyard.replay.generating import generate
from nodeyard.replay.market import market_of
from nodeyard.replay.policy import PolicyError, policy_of
from nodeyard.replay.reading import pod_rows, read_pods, read_prices
from nodeyard.replay.trace import TraceError
from tests.support.replaying import SMALL, market_types

HEADER = "at,namespace,name,cpu,memory,work,until"


def test_a_row_is_a_pod_or_as_many_as_it_says() -> None:
    found = read_pods(["at,name,cpu,memory,work,until,count", "5,one,500m,1Gi,60,,", "7,job,1,2Gi,30,,3"])
    assert [p.key for p in found.pods] == ["default/one", "default/job-0", "default/job-1", "default/job-2"]
    assert found.shapes[found.pods[0].shape].requests == {"cpu": 500, "memory": 2**30, "pods": 1}
    assert found.length_s == 65.0


def test_a_generated_trace_written_as_csv_reads_back_the_same() -> None:
    played, _ = generate(SMALL, market_types(), seed=1)
    again = read_pods(list(pod_rows(played)), played.length_s)
    assert [p.key for p in again.pods] == [p.key for p in sorted(played.pods, key=lambda p: p.arrives_s)]
    for old, new in zip(played.pods, again.pods, strict=True):
        a, b = played.shapes[old.shape], again.shapes[new.shape]
        assert (a.requests, a.node_selector, len(a.tolerations)) == (
            b.requests,
            b.node_selector,
            len(b.tolerations),
        )


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("x,default,a,1,1Gi,60,", "line 2: at: 'x' is not a number"),
        ("0,default,a,one,1Gi,60,", "line 2: cpu"),
        ("0,default,a,1,1Gi,60,70", "line 2: give one of work and until"),
        ("0,default,a,1,1Gi,,", "line 2: give one of work and until"),
        ("9,default,a,1,1Gi,,5", "pod default/a: ends at 5 s"),
        ("-1,default,a,1,1Gi,60,", "pod default/a: arrives at -1 s"),
        ("0,default,a,1,1Gi,-60,", "pod default/a: works for -60 s"),
        ("0,default,a,-1,1Gi,60,", "line 2: cpu: '-1' is negative"),
        ("0,default,a,1,1Gi,60,,extra", "line 2: more fields"),
    ],
)
def test_a_bad_row_is_named_by_line_and_field(row: str, complaint: str) -> None:
    with pytest.raises(TraceError) as error:
        read_pods([HEADER, row])
    assert complaint in str(error.value)


def test_a_pod_that_stands_there_twice_is_refused() -> None:
    with pytest.raises(TraceError, match="default/a: stands in the trace twice"):
        read_pods([HEADER, "0,,a,1,1Gi,60,", "1,,a,1,1Gi,60,"])


def test_an_unknown_or_missing_column_is_named() -> None:
    with pytest.raises(TraceError, match="no such column: colour"):
        read_pods([HEADER + ",colour"])
    with pytest.raises(TraceError, match="column missing: memory"):
        read_pods(["at,name,cpu,work"])


def test_prices_move_and_capacity_is_taken_back_by_csv() -> None:
    catalogue = market_types()
    kind = catalogue.types[0]
    offer = kind.offerings[0]
    row = f"{kind.name},{offer.zone},{offer.capacity_type}"
    moves, reclaims = read_prices(
        [
            "at,instance_type,zone,capacity_type,price",
            f"60,{row},9.5",
            f"90,{kind.name},{offer.zone},spot,reclaim",
        ]
    )
    market = market_of(catalogue, moves, reclaims)
    assert [at for at, _ in market.catalogues] == [0.0, 60.0]
    now = market.catalogues[1][1].offering(kind.name, offer.zone, offer.capacity_type)
    assert now is not None
    assert now.price == 9.5
    assert market.reclaims[0].at_s == 90.0


def test_a_price_of_something_that_is_not_sold_is_refused() -> None:
    moves, _ = read_prices(["at,instance_type,zone,capacity_type,price", "0,z9.large,nowhere,spot,1"])
    with pytest.raises(TraceError, match="nowhere spot"):
        market_of(market_types(), moves)


def pod(name: str, created: str, owner: str = "ReplicaSet", **more: object) -> dict[str, object]:
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "web", "uid": f"uid-{name}", "creationTimestamp": created,
            "ownerReferences": [{"kind": owner, "name": "o", "uid": "u", "controller": True, "apiVersion": "v1"}],
            **dict(more.pop("meta", {})),  # type: ignore[call-overload]
        },
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]},
        **more,
    }  # fmt: skip


def test_pods_of_a_watch_arrive_and_end_as_they_did() -> None:
    finished = {
        "startTime": "2026-01-01T00:01:00Z",
        "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": False, "restartCount": 0,
             "state": {"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:11:00Z"}}}
        ],
    }  # fmt: skip
    found = pods_from_events(
        [
            {"type": "ADDED", "object": pod("stays", "2026-01-01T00:00:00Z")},
            {"type": "ADDED", "object": pod("goes", "2026-01-01T00:00:30Z")},
            {"type": "DELETED", "object": pod("goes", "2026-01-01T00:00:30Z", meta={"deletionTimestamp": "2026-01-01T00:05:30Z"})},
            {"type": "ADDED", "object": pod("works", "2026-01-01T00:00:50Z", "Job", status=finished)},
            {"type": "ADDED", "object": pod("daemon", "2026-01-01T00:00:00Z", "DaemonSet")},
        ]
    )  # fmt: skip
    by_name = {p.name: p for p in found.pods}
    assert sorted(by_name) == ["goes", "stays", "works"]
    assert (by_name["goes"].arrives_s, by_name["goes"].until_s) == (30.0, 330.0)
    assert by_name["works"].work_s == 600.0
    assert by_name["stays"].until_s == found.length_s


def test_no_pod_at_all_is_refused() -> None:
    with pytest.raises(TraceError, match="no pod"):
        pods_from_events([{"kind": "Node", "metadata": {"name": "n"}}])


def test_a_policy_takes_settings_and_refuses_what_makes_no_sense() -> None:
    made = policy_of("nodeyard:consolidate_after_s=60,budget=3,packed=true")
    assert (made.consolidate_after_s, made.budget, made.packed) == (60.0, "3", True)
    for text in ("nobody", "nodeyard:colour=red", "nodeyard:pass_every_s=0", "nodeyard:consolidation=Never",
                 "nodeyard:consolidate_after_s=-5", "nodeyard:consolidate_after_s=soon"):  # fmt: skip
        with pytest.raises(PolicyError):
            policy_of(text)

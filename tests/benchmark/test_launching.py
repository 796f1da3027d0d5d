"""500 NodeClaims launched on the simulated account, whose limits are those that AWS publishes.

The launcher with its batches, classes, templates and EC2 adapter as in production; the API server is the honest
in-memory one, so that the figure is about EC2. Asserted: exactly one instance per claim, and no call beyond a limit.
"""

from __future__ import annotations

from collections import Counter

import pytest

from nodeyard.adapters.ec2.budget import CallBudget
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.local.account.server import AccountServer
from tests.support.account import AwsClients, DialBoard, account_server, reach
from tests.support.launching import LaunchBench

__all__ = ["account_server"]

pytestmark = pytest.mark.benchmark
LIMITS = {
    "CreateFleet": (50, 5.0), "CreateLaunchTemplate": (50, 5.0), "CreateTags": (100, 10.0),
    "TerminateInstances": (100, 5.0), "Describe*": (100, 20.0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("count", "sets", "every_nth"),
    [(1, 1, None), (500, 1, None), (500, 40, None), (500, 40, 3), (120, 120, None), (500, 500, None)],
)
async def test_launching(
    count: int,
    sets: int,
    every_nth: int | None,
    account_server: AccountServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reach(account_server, monkeypatch)
    dials = DialBoard(account_server.url)
    for action, (burst, rate) in LIMITS.items():
        dials.post("faults", kind="throttle", service="ec2", action=action, burst=burst, rate_per_second=rate)
    if every_nth is not None:
        dials.post("faults", kind="throttle", service="ec2", action="CreateFleet", every_nth=every_nth)
    session = Ec2Session(threads=16, budget=CallBudget())
    bench = LaunchBench(session)
    launched_s, tagged_s = await bench.launched(count, sets)
    session.close()
    calls = Counter(
        call["action"] for call in dials.get("calls", limit=100_000)["calls"] if call["error"] is None
    )
    throttled = Counter(
        c["action"]
        for c in dials.get("calls", limit=100_000)["calls"]
        if c["error"] == "RequestLimitExceeded"
    )
    instances = AwsClients(account_server.url).instances(instance_state_name="*")
    owned = {c.provider_id.rpartition("/")[2]: c.uid for c in bench.api.claims.values()}
    assert len(instances) == len(owned) == count
    for shown in instances:
        tags = {t["Key"]: t["Value"] for t in shown["Tags"]}
        assert tags[keys.NODECLAIM_UID_TAG] == owned[shown["InstanceId"]]
    if every_nth is None:
        assert not throttled, "a limit was exceeded"
    with capsys.disabled():
        print(
            f"\n{count:4} claims, {sets:3} sets, every {every_nth or '-':>2}th throttled: launched in {launched_s:5.1f} s,"
            f" tagged in {tagged_s:5.1f} s; CreateFleet {calls['CreateFleet']:3} + {throttled['CreateFleet']:2} throttled,"
            f" CreateLaunchTemplate {calls['CreateLaunchTemplate']:3}, CreateTags {calls['CreateTags']:3}"
        )

"""Whether the account lets us launch by a class is known before the first launch, through real boto3."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from nodeyard.adapters.ec2.dry_runs import ALLOWED_S, REFUSED_S, DryRuns
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api.node import Condition
from nodeyard.api.nodeclass import NodeClass
from nodeyard.local.account.server import AccountServer
from nodeyard.provisioning.launches import missing_in
from tests.support.account import AwsClients, DialBoard, account, dials, reach
from tests.support.clock import FakeClock
from tests.support.launching import CLASS, OURS

__all__ = ["account", "dials"]

ACTIONS = ("CreateLaunchTemplate", "CreateFleet", "RunInstances")
REFUSAL = {
    "kind": "fail",
    "code": "UnauthorizedOperation",
    "status": 403,
    "times": 1000,
    "message": "You may not.",
}


class Trial:
    """A resolver that asks by dry runs, on a clock that stands still."""

    def __init__(self, session: Ec2Session) -> None:
        self.clock = FakeClock()
        dry_runs = DryRuns(session, self.clock, cluster="nodeyard", tags=OURS)
        self._resolver = Resolver(
            session,
            self.clock,
            cluster="nodeyard",
            cluster_uid="uid",
            kubernetes_version="1.36",
            dry_runs=dry_runs,
        )

    async def resolve(self, node_class: NodeClass = CLASS) -> tuple[NodeClass, Condition]:
        """The class and its condition ValidationSucceeded."""
        found = await self._resolver.resolve(node_class)
        return found, next(c for c in found.conditions if c.type == "ValidationSucceeded")


@pytest.fixture
def trial(account: AccountServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    reach(account, monkeypatch)
    session = Ec2Session(attempts=1)
    yield Trial(session)
    session.close()


def asked(dials: DialBoard) -> list[str]:
    """The three actions as they were called, in order."""
    calls = dials.get("calls", limit=1000)["calls"]
    return [call["action"] for call in calls if call["action"] in ACTIONS]


async def test_what_is_allowed_makes_nothing_and_is_asked_again_after_half_an_hour(
    trial: Trial, account: AccountServer, dials: DialBoard
) -> None:
    dials.delete("calls")
    found, valid = await trial.resolve()
    assert valid.status == "True"
    assert missing_in(found) is None
    await trial.clock.advance(ALLOWED_S - 1)
    await trial.resolve()
    assert sorted(asked(dials)) == sorted(ACTIONS)
    await trial.clock.advance(2.0)
    await trial.resolve()
    assert sorted(asked(dials)) == sorted(ACTIONS * 2)
    ec2 = AwsClients(account.url).ec2
    assert not ec2.describe_launch_templates()["LaunchTemplates"]
    assert not ec2.describe_instances()["Reservations"]


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_call_that_is_refused_is_told_and_nothing_is_launched(
    trial: Trial, dials: DialBoard, action: str
) -> None:
    dials.post("faults", action=action, **REFUSAL)
    found, valid = await trial.resolve()
    assert (valid.status, valid.reason) == ("False", f"{action}AuthCheckFailed")
    assert "You may not." in valid.message
    assert next(c.status for c in found.conditions if c.type == "Ready") == "False"
    missing = missing_in(found)
    assert missing is not None
    assert missing.reason == "ValidationFailed"


async def test_a_permission_that_was_given_is_seen_after_ten_minutes_or_with_the_class(
    trial: Trial, dials: DialBoard
) -> None:
    dials.post("faults", action="CreateFleet", **REFUSAL)
    assert (await trial.resolve())[1].status == "False"
    dials.delete("faults")
    await trial.clock.advance(REFUSED_S - 1)
    assert (await trial.resolve())[1].status == "False"
    changed = msgspec.structs.replace(CLASS, generation=CLASS.generation + 1)
    assert (await trial.resolve(changed))[1].status == "True"


async def test_no_answer_leaves_the_class_as_it_is_and_is_asked_again(trial: Trial, dials: DialBoard) -> None:
    dials.post("faults", kind="throttle", action="CreateFleet")
    assert (await trial.resolve())[1].status == "True"
    dials.delete("faults")
    dials.post("faults", action="CreateFleet", **REFUSAL)
    assert (await trial.resolve())[1].status == "False"


async def test_a_class_that_lacks_something_is_not_tried(trial: Trial, dials: DialBoard) -> None:
    dials.delete("calls")
    await trial.resolve(msgspec.structs.replace(CLASS, subnet_terms=()))
    assert asked(dials) == []

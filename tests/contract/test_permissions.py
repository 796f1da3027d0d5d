"""The IAM policy in docs/ec2.md allows what we call, nothing we never call, and asks for no tag that we don't set."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodeyard.adapters.ec2.budget import CallBudget
from nodeyard.adapters.ec2.describe import read_reservations, read_spot_prices, read_types
from nodeyard.adapters.ec2.dry_runs import DryRuns
from nodeyard.adapters.ec2.images import alias_parameters
from nodeyard.adapters.ec2.instances import Instances
from nodeyard.adapters.ec2.interruption_queue import InterruptionQueue
from nodeyard.adapters.ec2.launch_templates import LaunchTemplates
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.ec2.usage import read_usage
from nodeyard.adapters.ec2.zonal_shift import read_shifted_zones
from nodeyard.adapters.pricing.account_commitments import read_account_commitments
from nodeyard.adapters.pricing.products import read_on_demand_prices
from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import SelectorTerm
from nodeyard.api.placement import PlacementGroupSelector
from nodeyard.local.account.server import AccountServer
from nodeyard.provisioning.batches import LAUNCH_BATCH
from nodeyard.runtime.clock import SystemClock
from tests.support.account import REGION, AwsClients, DialBoard, account, reach
from tests.support.launching import CLASS, OURS, LaunchBench

__all__ = ["account"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "ec2.md"
IMPLIED = {
    "iam:PassRole": "asked for when instances get their role",
    "iam:TagInstanceProfile": "asked for when a profile is made with tags",
}
BATCHES = {"sqs:DeleteMessageBatch": "sqs:DeleteMessage"}
"""Calls that IAM knows by the name of the single one."""


@pytest.fixture(scope="module")
def policy() -> list[dict[str, Any]]:
    blocks = re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (found,) = (json.loads(block) for block in blocks if '"Statement"' in block)
    return list(found["Statement"])


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def actions(policy: list[dict[str, Any]]) -> set[str]:
    return {action for statement in policy for action in listed(statement["Action"])}


def statement(policy: list[dict[str, Any]], sid: str) -> dict[str, Any]:
    return next(one for one in policy if one["Sid"] == sid)


def condition(policy: list[dict[str, Any]], sid: str, operator: str) -> dict[str, Any]:
    found: dict[str, Any] = statement(policy, sid)["Condition"][operator]
    return found


@pytest.fixture
def called() -> set[str]:
    """Filled with "service:Action" of each call as our side sees it."""
    return set()


@pytest.fixture
def session(
    account: AccountServer, called: set[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ec2Session]:
    reach(account, monkeypatch)

    def note(service: str, operation: str, outcome: str, seconds: float) -> None:
        called.add(f"{service}:{operation}")

    session = Ec2Session(threads=8, budget=CallBudget(), observe=note)
    yield session
    session.close()


class Committed:
    """An account with a Savings Plan; the simulated one sells no commitments."""

    region = REGION

    def __init__(self, called: set[str]) -> None:
        self._called = called

    async def call(self, service: str, operation: str, **params: Any) -> dict[str, Any]:
        self._called.add(f"{service}:{''.join(word.capitalize() for word in operation.split('_'))}")
        plan = {"savingsPlanId": "1", "savingsPlanType": "Compute", "currency": "USD", "commitment": "1"}
        return {"savingsPlans": [plan], "searchResults": []}


async def market_read(session: Ec2Session, called: set[str]) -> None:
    """What pricing asks AWS."""
    await read_types(session)
    await read_spot_prices(session, time.time())
    await read_reservations(session, time.time())
    await read_on_demand_prices(session, time.time())
    await read_usage(session)
    await read_shifted_zones(session, "arn:aws:eks:eu-west-1:123456789012:cluster/nodeyard")
    await read_account_commitments(Committed(called))


async def interruptions_heard(session: Ec2Session) -> None:
    """The notices of what the launches did, deleted."""
    queue = InterruptionQueue(session, "nodeyard")
    messages = await queue.receive()
    assert await queue.delete([message.handle for message in messages]) == len(messages) > 0


async def torn_down(session: Ec2Session) -> None:
    """A class whose images are found by name, its end, and that of all instances."""
    resolver = Resolver(
        session, SystemClock(), cluster="nodeyard", cluster_uid="uid", kubernetes_version="1.36"
    )
    by_name = msgspec.structs.replace(
        CLASS,
        ami_terms=(SelectorTerm(name="amazon-eks-*"),),
        placement_group_selector=PlacementGroupSelector(name="none-such"),
    )
    await resolver.resolve(by_name)
    dry_runs = DryRuns(session, SystemClock(), cluster="nodeyard", tags=OURS)
    assert await dry_runs.denied(await resolver.resolve(CLASS)) is None
    await resolver.delete_profile(CLASS)
    await LaunchTemplates(session, cluster="nodeyard", tags=OURS).delete_of(CLASS.key)
    machines = Instances(session, cluster_uid="uid")
    await machines.terminate([i.id for i in await machines.list_ours()])


async def test_the_policy_allows_what_is_called_and_nothing_else(
    session: Ec2Session, account: AccountServer, called: set[str], policy: list[dict[str, Any]]
) -> None:
    dials = DialBoard(account.url)
    dials.delete("calls")
    await market_read(session, called)
    bench = LaunchBench(session)
    await bench.launched(3, 2)
    await bench.namer.sweep()
    await interruptions_heard(session)
    await torn_down(session)
    log = dials.get("calls", limit=10_000)["calls"]
    answered = {f"{call['service']}:{call['action']}" for call in log}
    assert "ec2:CreateFleet" in answered
    assert answered <= called, "a call went round the session"
    needed = {BATCHES.get(call, call) for call in called}
    assert needed <= actions(policy)
    assert actions(policy) - needed == set(IMPLIED)


async def test_what_we_make_carries_the_tags_that_the_policy_asks_for(
    session: Ec2Session, account: AccountServer, policy: list[dict[str, Any]]
) -> None:
    bench = LaunchBench(session)
    await bench.launched(3, 1)
    wanted = condition(policy, "MakeTaggedAsOurs", "StringEquals")
    ((_, key), value) = next((name.split("/", 1), value) for name, value in wanted.items())
    ec2 = AwsClients(account.url).ec2
    made = {
        "instance": AwsClients(account.url).instances(),
        "launch-template": ec2.describe_launch_templates()["LaunchTemplates"],
        "volume": ec2.describe_volumes()["Volumes"],
    }
    for kind, described in made.items():
        assert described, kind
        for one in described:
            assert {"Key": key, "Value": value} in one.get("Tags", []), kind


async def test_instances_are_named_with_the_keys_that_the_policy_lets_us_set(
    session: Ec2Session, account: AccountServer, policy: list[dict[str, Any]]
) -> None:
    bench = LaunchBench(session)
    await bench.launched(2, 1)
    before = {*OURS, LAUNCH_BATCH, keys.NODEPOOL_TAG}
    allowed = condition(policy, "NameOurInstances", "ForAllValues:StringEquals")["aws:TagKeys"]
    owned = {claim.provider_id.rpartition("/")[2] for claim in bench.api.claims.values()}
    for shown in AwsClients(account.url).instances():
        if shown["InstanceId"] in owned:
            later = {t["Key"] for t in shown["Tags"] if not t["Key"].startswith("aws:")} - before
            assert later == set(allowed)


async def test_profiles_and_image_parameters_are_under_the_names_that_the_policy_covers(
    session: Ec2Session, policy: list[dict[str, Any]]
) -> None:
    (profiles,) = listed(statement(policy, "KeepProfilesForRoles")["Resource"])
    resolver = Resolver(
        session, SystemClock(), cluster="nodeyard", cluster_uid="uid", kubernetes_version="1.36"
    )
    found = await resolver.resolve(CLASS)
    assert fnmatchcase(f"arn:aws:iam::ACCOUNT:instance-profile/{found.resolved_profile}", profiles)
    (parameters,) = listed(statement(policy, "ReadImageParameters")["Resource"])
    for alias in ("al2023", "al2", "bottlerocket", "windows2022"):
        for path, _ in alias_parameters(alias, "latest", "1.36"):
            assert fnmatchcase(f"arn:aws:ssm:REGION::parameter{path}", parameters)

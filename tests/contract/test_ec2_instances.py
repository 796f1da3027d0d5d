"""The reallocator's view of instances through real boto3 against the simulated account."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodeyard.adapters.ec2.instances import Instances
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.local.account.server import AccountServer
from tests.support.account import REGION, AwsClients


@pytest.fixture(scope="module")
def account() -> Iterator[AccountServer]:
    with AccountServer(region=REGION) as server:
        yield server


@pytest.fixture
def instances(account: AccountServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instances]:
    for name, value in {
        "AWS_ENDPOINT_URL": account.url, "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    session = Ec2Session(attempts=1)
    yield Instances(session, cluster_uid="ours")
    session.close()


def run(account: AccountServer, cluster_uid: str) -> str:
    clients = AwsClients(account.url)
    tags = [
        {"Key": keys.CLUSTER_UID_TAG, "Value": cluster_uid},
        {"Key": keys.NODECLAIM_TAG, "Value": "general-abcde"},
        {"Key": keys.NODECLAIM_UID_TAG, "Value": "uid-1"},
        {"Key": keys.NODEPOOL_TAG, "Value": "general"},
    ]
    answer = clients.ec2.run_instances(
        ImageId=clients.image(), InstanceType="m5.large", MinCount=1, MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )  # fmt: skip
    return str(answer["Instances"][0]["InstanceId"])


async def test_only_this_clusters_instances_are_listed_with_what_their_tags_say(
    account: AccountServer, instances: Instances
) -> None:
    ours, theirs = run(account, "ours"), run(account, "theirs")
    found = {i.id: i for i in await instances.list_ours()}
    assert theirs not in found
    one = found[ours]
    assert (one.cluster_uid, one.claim, one.claim_uid, one.pool) == (
        "ours",
        "general-abcde",
        "uid-1",
        "general",
    )
    assert one.alive
    assert one.launched_at > 0
    assert one.zone.startswith(REGION)


async def test_unknown_ids_are_absent_and_foreign_ones_are_told_apart(
    account: AccountServer, instances: Instances
) -> None:
    theirs = run(account, "theirs")
    found = await instances.describe([theirs, "i-0123456789abcdef0"])
    assert set(found) == {theirs}
    assert found[theirs].cluster_uid == "theirs"
    assert await instances.describe([]) == {}


async def test_terminating_skips_ids_that_are_gone_and_ends_the_others(
    account: AccountServer, instances: Instances
) -> None:
    one, two = run(account, "ours"), run(account, "ours")
    await instances.terminate([one, "i-0123456789abcdef0", two])
    states = {i.id: i.alive for i in (await instances.describe([one, two])).values()}
    assert not any(states.values())
    await instances.terminate([one])
    await instances.terminate(["i-0123456789abcdef0"])

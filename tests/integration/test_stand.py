"""A whole stand: everything around the services comes up together, and each part can be broken and comes back."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator

import boto3
import httpx
import pytest
import redis

from nodeyard.local.errors import StandError, StartError
from nodeyard.local.stand import Stand, read_endpoints
from tests.support.cluster import StandFactory

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def stand(module_stand: StandFactory) -> Iterator[Stand]:
    return module_stand(parts="services", services=())


def test_the_account_that_answers_is_the_one_that_was_started(stand: Stand) -> None:
    record = stand.processes.record("account")
    assert record is not None
    assert httpx.get(f"{stand.account_url}/healthz").json()["pid"] == record.pid


def test_the_settings_it_gives_lead_aws_clients_to_the_account(stand: Stand) -> None:
    aws = stand.aws_environment
    ec2 = boto3.client(
        "ec2",
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        region_name=aws["AWS_REGION"],
        aws_access_key_id=aws["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=aws["AWS_SECRET_ACCESS_KEY"],
    )
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert {zone["RegionName"] for zone in zones} == {aws["AWS_REGION"]}


def test_others_find_it_through_a_file_that_only_we_can_read(stand: Stand) -> None:
    known = read_endpoints(stand.directory)
    assert known is not None
    assert known["account"] == stand.account_url
    assert known["redis"] == stand.redis_url
    assert known["kubeconfig"] == str(stand.admin_kubeconfig)
    assert stat.S_IMODE((stand.directory / "endpoints.json").stat().st_mode) == 0o600


def test_redis_comes_back_empty_at_the_same_place(stand: Stand) -> None:
    with redis.Redis.from_url(stand.redis_url) as client:
        client.set("kept", "no")
        stand.restart_redis()
        assert client.get("kept") is None


def test_the_account_comes_back_empty_at_the_same_place(stand: Stand) -> None:
    before = stand.account_url
    stand.restart_account()
    assert stand.account_url == before
    assert httpx.get(f"{before}/healthz").is_success


def test_a_service_that_refuses_to_start_is_reported_with_its_last_words(stand: Stand) -> None:
    with pytest.raises(StartError, match="NODEYARD_LOG_FORMAT"):
        stand.start_service("admin", env={"NODEYARD_LOG_FORMAT": "smoke-signals"})
    assert "NODEYARD_LOG_FORMAT" in stand.logs("admin-0")


def test_killing_a_service_that_does_not_run_says_so(stand: Stand) -> None:
    with pytest.raises(StandError, match="allocator-1 does not run"):
        stand.kill_service("allocator", 1)


def test_the_custom_resources_are_served(stand: Stand) -> None:
    with stand.api() as api:
        groups = json.dumps(api.get("/apis"))
    assert "karpenter.sh" in groups
    assert "karpenter.k8s.aws" in groups

"""The dials of the simulated account, turned over HTTP and felt through real boto3 clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError, HTTPClientError

from nodeyard.local.account.server import AccountServer
from tests.support.account import AwsClients, DialBoard, account_server, node_config
from tests.support.cluster import eventually

__all__ = ["account_server"]

A = "eu-west-1a"


@pytest.fixture
def aws(account_server: AccountServer) -> AwsClients:
    clients = AwsClients(account_server.url)
    clients.template(user_data=node_config())
    return clients


@pytest.fixture
def dials(account_server: AccountServer) -> DialBoard:
    return DialBoard(account_server.url)


def launch(aws: AwsClients, **more: Any) -> str:
    answer = aws.fleet([("m5.large", A)], **more)
    instance: str = answer["Instances"][0]["InstanceIds"][0]
    return instance


def test_every_call_can_be_throttled(aws: AwsClients, dials: DialBoard):
    dials.post("faults", kind="throttle", action="CreateFleet")
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        launch(aws)
    assert aws.instances() == []
    dials.delete("faults")
    assert launch(aws)


def test_botocore_rides_out_every_second_call_being_throttled(
    aws: AwsClients, dials: DialBoard, account_server: AccountServer
):
    dials.post("faults", kind="throttle", action="DescribeInstances", every_nth=2)
    patient = AwsClients(account_server.url, retries=3)
    for _ in range(3):
        assert patient.instances() == []
    assert dials.get("calls")["errors"]["DescribeInstances:RequestLimitExceeded"] >= 1


def test_a_slow_action_takes_its_time_and_others_do_not(aws: AwsClients, dials: DialBoard):
    dials.post("faults", kind="slow", action="CreateFleet", seconds=5.0)
    aws.instances()
    launch(aws)
    took = {call["action"]: call["seconds"] for call in dials.get("calls")["calls"]}
    assert took["CreateFleet"] >= 5.0
    assert took["DescribeInstances"] < 5.0


def test_a_failure_once_has_no_effect_and_the_next_call_works(aws: AwsClients, dials: DialBoard):
    dials.post("faults", kind="fail", action="CreateFleet", code="InternalFailure", status=500)
    with pytest.raises(ClientError, match="InternalFailure"):
        launch(aws)
    assert aws.instances() == []
    assert launch(aws)


def test_a_cut_connection_has_launched_and_the_token_finds_it_again(aws: AwsClients, dials: DialBoard):
    dials.post("faults", kind="fail", action="CreateFleet", after_effect=True)
    with pytest.raises(HTTPClientError):
        launch(aws, token="t")
    (there,) = aws.instances()
    assert launch(aws, token="t") == there["InstanceId"]
    assert len(aws.instances()) == 1
    calls = dials.get("calls", action="CreateFleet")["calls"]
    assert [call["error"] for call in calls] == ["ConnectionCut", None]


def test_a_new_instance_is_invisible_for_the_consistency_lag(aws: AwsClients, dials: DialBoard):
    dials.put("consistency", lag_seconds=5)
    instance = launch(aws)
    assert aws.instances() == []
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        aws.ec2.describe_instances(InstanceIds=[instance])
    eventually(lambda: [i["InstanceId"] for i in aws.instances()] == [instance])


def test_an_instance_can_stay_pending(aws: AwsClients, dials: DialBoard):
    dials.put("machines", pending_seconds=5)
    launch(aws)
    assert aws.instances()[0]["State"]["Name"] == "pending"
    assert dials.get("cost")["rate_usd_per_hour"] == 0
    eventually(lambda: aws.instances()[0]["State"]["Name"] == "running")


def messages(aws: AwsClients) -> list[dict[str, Any]]:
    queue = aws.of("sqs").get_queue_url(QueueName="nodeyard")["QueueUrl"]
    answer = aws.of("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
    found = answer.get("Messages", [])
    for message in found:
        aws.of("sqs").delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return [json.loads(message["Body"]) for message in found]


def test_an_interruption_is_announced_and_then_the_instance_goes(aws: AwsClients, dials: DialBoard):
    instance = launch(aws, spot=True)
    messages(aws)
    dials.post("interrupt", instance_id=instance, delay_seconds=5)
    (notice,) = messages(aws)
    assert notice["detail-type"] == "EC2 Spot Instance Interruption Warning"
    assert notice["detail"] == {"instance-id": instance, "instance-action": "terminate"}
    eventually(lambda: aws.instances()[0]["State"]["Name"] == "terminated")
    assert aws.instances()[0]["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    told: list[str] = []
    while len(told) < 2 and (found := messages(aws)):
        told += [m["detail"].get("state") for m in found]
    assert told == ["shutting-down", "terminated"]


def test_a_recommendation_takes_nothing_away(aws: AwsClients, dials: DialBoard):
    instance = launch(aws, spot=True)
    messages(aws)
    dials.post("interrupt", instance_id=instance, kind="rebalance", delay_seconds=0)
    assert [m["detail-type"] for m in messages(aws)] == ["EC2 Instance Rebalance Recommendation"]
    assert aws.instances()[0]["State"]["Name"] == "running"


def test_the_call_log_tells_when_each_launch_came(aws: AwsClients, dials: DialBoard):
    dials.delete("calls")
    before = time.time()
    instance = launch(aws, token="abc")
    (call,) = dials.get("calls", action="CreateFleet")["calls"]
    assert before <= call["at"] <= time.time()
    assert call["facts"]["client_token"] == "abc"
    assert call["facts"]["instance_ids"] == [instance]
    assert dials.get("calls", after=call["number"])["calls"] == []


def test_money_runs_while_an_instance_runs(aws: AwsClients, dials: DialBoard):
    instance = launch(aws)
    rate = dials.get("cost")["rate_usd_per_hour"]
    assert rate > 0.05
    eventually(lambda: dials.get("cost")["total_usd"] > 0)
    aws.ec2.terminate_instances(InstanceIds=[instance])
    stopped = dials.get("cost")
    assert stopped["rate_usd_per_hour"] == 0
    assert dials.get("cost")["total_usd"] == stopped["total_usd"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        ("PUT", "/dials/machines", {"redy_seconds": 1}, 400, "redy_seconds"),
        ("PUT", "/dials/machines", [1], 400, "object"),
        ("POST", "/dials/faults", {"kind": "explode"}, 400, "kind"),
        ("POST", "/dials/capacity", {"left": -1}, 400, "left"),
        ("POST", "/dials/spot/prices", {"price_usd_per_hour": 0}, 400, "price_usd_per_hour"),
        ("POST", "/dials/interrupt", {"instance_id": "i-nothing"}, 404, "i-nothing"),
        ("DELETE", "/dials/faults/fault-99", None, 404, "fault-99"),
        ("GET", "/dials/colours", None, 404, "colours"),
        ("PUT", "/dials/cost", {}, 405, "PUT"),
        ("POST", "/", {}, 400, "AWS"),
    ],
)
def test_a_request_that_cannot_be_understood_says_what_is_wrong(
    account_server: AccountServer, method: str, path: str, body: Any, status: int, named: str
):
    answer = httpx.request(method, account_server.url + path, json=body, trust_env=False)
    assert answer.status_code == status
    assert named in answer.text


def test_all_dials_can_be_put_back_at_once(dials: DialBoard):
    fresh = dials.get("")
    dials.put("machines", ready_seconds=3)
    dials.put("machines/m5.*", ready_seconds=3)
    dials.post("capacity")
    dials.post("faults", kind="slow", seconds=1)
    dials.put("spot", speed=50)
    dials.post("spot/prices", price_usd_per_hour=1)
    assert dials.get("") != fresh
    dials.delete()
    assert dials.get("") == fresh


def test_the_process_answers_for_itself_and_ends_when_told(tmp_path: Path):
    command = [sys.executable, "-m", "nodeyard.local.account", "--port", "0", "--state-dir", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "AWS_REGION": "us-west-2"}
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().rsplit(" ", 1)[-1].strip()
        health = httpx.get(f"{url}/healthz", trust_env=False).json()
        assert (health["pid"], health["region"]) == (process.pid, "us-west-2")
        assert json.loads((tmp_path / "account.json").read_text())["url"] == url
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_process_refuses_a_kubeconfig_that_is_not_there():
    command = [sys.executable, "-m", "nodeyard.local.account", "--kubeconfig", "/nowhere/at/all"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "/nowhere/at/all" in done.stderr

"""How fast the simulated account and its machines are; what the product is measured against must not be the brake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nodeyard.local.account.machines.kube import Kube
from nodeyard.local.account.machines.seen import Pod
from nodeyard.local.account.server import AccountServer
from nodeyard.local.kubeapi import KubeApi
from nodeyard.local.stand import Stand
from tests.support.account import REGION, AwsClients, DialBoard, account_server, node_config
from tests.support.cluster import eventually

__all__ = ["account_server"]

pytestmark = pytest.mark.benchmark
PODS, NODES = 800, 8


def milliseconds(work: Callable[[], Any], times: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) * 1000 / times


def test_calls_to_ec2(account_server: AccountServer, capsys: pytest.CaptureFixture[str]):
    aws, dials = AwsClients(account_server.url), DialBoard(account_server.url)
    aws.template(user_data=node_config())
    families = ("m5", "m5a", "m6i", "m6a", "c5", "c5a", "c6i", "c6a", "r5", "r6i")
    sizes = ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge")
    offered = {o["InstanceType"] for page in aws.ec2.get_paginator("describe_instance_type_offerings").paginate()
               for o in page["InstanceTypeOfferings"]}  # fmt: skip
    zones = list(aws.subnets())
    pools = [(f"{f}.{s}", z) for f in families for s in sizes for z in zones if f"{f}.{s}" in offered]
    ec2 = aws.ec2

    def all_types() -> int:
        pages = ec2.get_paginator("describe_instance_types").paginate(MaxResults=100)
        return sum(len(page["InstanceTypes"]) for page in pages)

    def spot() -> int:
        pages = ec2.get_paginator("describe_spot_price_history").paginate(StartTime=datetime.now(UTC))
        return sum(len(page["SpotPriceHistory"]) for page in pages)

    aws.fleet(pools)
    rows = [
        ("DescribeInstanceTypes", "1395 types in 14 pages, first time", milliseconds(all_types)),
        ("DescribeInstanceTypes", "1395 types in 14 pages, later", milliseconds(all_types)),
        ("DescribeSpotPriceHistory", "all pools, now", milliseconds(spot)),
        ("CreateFleet", f"{len(pools)} overrides", milliseconds(lambda: aws.fleet(pools), 10)),
        ("CreateFleet", "3 overrides", milliseconds(lambda: aws.fleet(pools[:3]), 10)),
        ("CreateFleet", "3 overrides, 500 instances", milliseconds(lambda: aws.fleet(pools[:3], count=500))),
        ("DescribeInstances", "521 instances", milliseconds(aws.instances)),
    ]
    inside = {}
    for call in dials.get("calls", limit=5000)["calls"]:
        inside.setdefault(call["action"], []).append(call["seconds"] * 1000)
    with capsys.disabled():
        print("\naction                    what                                 ms with boto3")
        for action, what, took in rows:
            print(f"{action:25} {what:36} {took:8.1f}")
        for action, took_inside in sorted(inside.items()):
            print(
                f"{action:25} inside the account, mean of {len(took_inside):<6} {sum(took_inside) / len(took_inside):8.1f}"
            )
    assert rows[3][2] < 100


@pytest.mark.cluster
def test_pods_become_running(
    control_plane: Stand, kube: KubeApi, namespace: str, capsys: pytest.CaptureFixture[str]
):
    with AccountServer(region=REGION, kubeconfig=control_plane.admin_kubeconfig) as server:
        aws, dials = AwsClients(server.url), DialBoard(server.url)
        dials.put("machines", register_seconds=0, pod_exit_seconds=0)
        aws.template(user_data=node_config(max_pods=250))
        aws.fleet([("m5.4xlarge", "eu-west-1a")], count=NODES)
        eventually(lambda: sum(m["ready"] for m in dials.get("nodes")) == NODES)
        nodes = [machine["node"] for machine in dials.get("nodes")]
        try:
            figures = asyncio.run(_bind_and_wait(control_plane.admin_kubeconfig, namespace, nodes))
        finally:
            for name in nodes:
                kube.delete(f"/api/v1/nodes/{name}")
    with capsys.disabled():
        print(
            f"\n{PODS} pods on {NODES} machines: bound in {figures[0]:.2f} s, all Running {figures[1]:.2f} s later"
        )
    assert figures[1] < 10


async def _bind_and_wait(kubeconfig: Path, namespace: str, nodes: list[str]) -> tuple[float, float]:
    kube = await Kube.from_kubeconfig(kubeconfig)
    path = f"/api/v1/namespaces/{namespace}/pods"
    at_once = asyncio.Semaphore(24)

    async def send(to: str, body: dict[str, Any]) -> None:
        async with at_once:
            status, answer = await kube.request("POST", to, body)
            assert status == 201, answer

    def pod(number: int) -> dict[str, Any]:
        container = {
            "name": "main",
            "image": "registry.example/pause",
            "resources": {"requests": {"cpu": "100m"}},
        }
        spec = {"schedulerName": "nobody", "containers": [container]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}"}, "spec": spec}

    def binding(number: int) -> dict[str, Any]:
        target = {"kind": "Node", "name": nodes[number % len(nodes)]}
        return {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": f"p{number}"}, "target": target}

    try:
        await asyncio.gather(*(send(path, pod(number)) for number in range(PODS)))
        started = time.perf_counter()
        await asyncio.gather(*(send(f"{path}/p{number}/binding", binding(number)) for number in range(PODS)))
        bound = time.perf_counter()
        while True:
            pods, _ = await kube.everything(path, Pod)
            if all(each.status.phase == "Running" for each in pods):
                return bound - started, time.perf_counter() - bound
            await asyncio.sleep(0.1)
    finally:
        await kube.close()

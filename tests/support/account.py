"""A simulated AWS account in the test's own process, boto3 clients for it, and user data for its machines."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.local.account.server import AccountServer

REGION = "eu-west-1"
CLUSTER_TAG = {"Key": "kubernetes.io/cluster/nodeyard", "Value": "owned"}
IMAGE_PARAMETER = "/aws/service/eks/optimized-ami/1.36/amazon-linux-2023/{arch}/standard/recommended/image_id"


@pytest.fixture
def account_server() -> Iterator[AccountServer]:
    """A running account without a cluster."""
    with AccountServer(region=REGION) as server:
        yield server


@pytest.fixture(scope="module")
def account() -> Iterator[AccountServer]:
    """One account for all tests of a module."""
    with AccountServer(region=REGION) as server:
        yield server


@pytest.fixture
def dials(account: AccountServer) -> Iterator[DialBoard]:
    """The module's account's dials, all turned back after the test."""
    board = DialBoard(account.url)
    yield board
    board.delete()


def reach(account: AccountServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes AWS clients go to this account while the test lasts."""
    for name, value in {
        "AWS_ENDPOINT_URL": account.url, "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.fixture
def session(account: AccountServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2Session]:
    """The services' own door to the module's account, which tries each call once."""
    reach(account, monkeypatch)
    session = Ec2Session(attempts=1)
    yield session
    session.close()


class AwsClients:
    """Real boto3 clients pointed at one endpoint. `retries` are botocore's own; off unless asked for."""

    def __init__(self, url: str, *, retries: int = 0) -> None:
        self._url = url
        self._config = Config(retries={"max_attempts": retries}, read_timeout=60)
        self._made: dict[str, Any] = {}

    def of(self, service: str) -> Any:
        """The client of a service."""
        if service not in self._made:
            self._made[service] = boto3.client(
                service,  # type: ignore[call-overload]
                region_name=REGION,
                endpoint_url=self._url,
                aws_access_key_id="testing",
                aws_secret_access_key="testing",
                config=self._config,
            )
        return self._made[service]

    @property
    def ec2(self) -> Any:
        """EC2."""
        return self.of("ec2")

    def subnets(self) -> dict[str, str]:
        """Zone → the cluster's subnet in it."""
        found = self.ec2.describe_subnets(
            Filters=[{"Name": "tag:karpenter.sh/discovery", "Values": ["nodeyard"]}]
        )
        return {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in found["Subnets"]}

    def image(self, arch: str = "x86_64") -> str:
        """The recommended AL2023 image."""
        found = self.of("ssm").get_parameter(Name=IMAGE_PARAMETER.format(arch=arch))
        return str(found["Parameter"]["Value"])

    def template(self, name: str = "nodes", user_data: str | None = None, **data: Any) -> str:
        """Creates a launch template; its name."""
        body = {"ImageId": self.image(), **data}
        if user_data is not None:
            body["UserData"] = base64.b64encode(user_data.encode()).decode()
        self.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=body)
        return name

    def fleet(
        self,
        pools: list[tuple[str, str]],
        *,
        template: str = "nodes",
        spot: bool = False,
        count: int = 1,
        strategy: str | None = None,
        token: str | None = None,
        tags: dict[str, str] | None = None,
        priorities: list[float] | None = None,
    ) -> dict[str, Any]:
        """CreateFleet `instant` over (type, zone) pools; its whole answer."""
        subnets = self.subnets()
        overrides: list[dict[str, Any]] = [
            {"InstanceType": name, "SubnetId": subnets[zone], "AvailabilityZone": zone}
            for name, zone in pools
        ]
        for override, priority in zip(overrides, priorities or [], strict=False):
            override["Priority"] = priority
        wanted = [CLUSTER_TAG, *({"Key": key, "Value": value} for key, value in (tags or {}).items())]
        request: dict[str, Any] = {
            "Type": "instant",
            "LaunchTemplateConfigs": [
                {
                    "LaunchTemplateSpecification": {"LaunchTemplateName": template, "Version": "$Latest"},
                    "Overrides": overrides,
                }
            ],
            "TargetCapacitySpecification": {
                "TotalTargetCapacity": count,
                "DefaultTargetCapacityType": "spot" if spot else "on-demand",
            },
            "TagSpecifications": [{"ResourceType": "instance", "Tags": wanted}],
        }
        if strategy is not None:
            request["SpotOptions" if spot else "OnDemandOptions"] = {"AllocationStrategy": strategy}
        if token is not None:
            request["ClientToken"] = token
        answer: dict[str, Any] = self.ec2.create_fleet(**request)
        return answer

    def instances(self, **filters: str) -> list[dict[str, Any]]:
        """Instances by filters, whose dashes are written as underscores."""
        wanted = [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in filters.items()]
        pages = self.ec2.get_paginator("describe_instances").paginate(Filters=wanted)
        return [i for page in pages for r in page["Reservations"] for i in r["Instances"]]


class DialBoard:
    """The dials of a running account, over HTTP; an answer that is an error fails the test."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=60)

    def get(self, path: str, **query: Any) -> Any:
        """GET /dials/<path>."""
        return self._answered(self._http.get(f"/dials/{path}", params=query))

    def put(self, path: str, **body: Any) -> Any:
        """PUT /dials/<path>."""
        return self._answered(self._http.put(f"/dials/{path}", json=body))

    def post(self, path: str, **body: Any) -> Any:
        """POST /dials/<path>."""
        return self._answered(self._http.post(f"/dials/{path}", json=body))

    def delete(self, path: str = "") -> Any:
        """DELETE /dials/<path>."""
        return self._answered(self._http.delete(f"/dials/{path}".rstrip("/")))

    def _answered(self, answer: httpx.Response) -> Any:
        assert answer.is_success, answer.text
        return answer.json()


def node_config(
    *, labels: dict[str, str] | None = None, taints: str = "", max_pods: int | None = None
) -> str:
    """AL2023 user data in MIME, as a launcher writes it."""
    flags = []
    if labels:
        flags.append("--node-labels=" + ",".join(f"{key}={value}" for key, value in labels.items()))
    if taints:
        flags.append(f"--register-with-taints={taints}")
    kubelet: dict[str, Any] = {"flags": flags}
    if max_pods is not None:
        kubelet["config"] = {"maxPods": max_pods}
    document = {
        "apiVersion": "node.eks.aws/v1alpha1",
        "kind": "NodeConfig",
        "spec": {"cluster": {"name": "nodeyard"}, "kubelet": kubelet},
    }
    return (
        'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="//"\n\n'
        f"--//\nContent-Type: application/node.eks.aws\n\n{json.dumps(document)}\n\n--//--\n"
    )

"""How each service is started on the stand: its command, its ports and its settings.

Settings are environment variables, the same that a cluster gives; a service is told only those that it
reads. Ports are taken beforehand, for every replica that a stand may start, so that all know where the others
will be. Nothing of a person's own AWS or cluster settings is passed on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nodeyard.local.ports import LOOPBACK, free_ports

SERVICES = ("watcher", "pricing", "allocator", "reallocator", "admin")
WITH_KUBERNETES = ("watcher", "allocator", "reallocator")
_WITH_AWS = ("pricing", "allocator", "reallocator")
_WITH_REDIS = ("pricing", "allocator", "reallocator", "admin")
_PEERS: Mapping[str, tuple[str, ...]] = {
    "watcher": (),
    "pricing": (),
    "allocator": ("watcher", "pricing"),
    "reallocator": ("watcher", "pricing"),
    "admin": ("watcher", "pricing", "allocator", "reallocator"),
}
_NOT_INHERITED = ("AWS_", "NODEYARD_", "KUBECONFIG", "KUBERNETES_", "BOTO_CONFIG")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Ports of one replica on loopback: gRPC, and HTTP for health, metrics and (admin's) API."""

    grpc: int
    http: int

    @property
    def url(self) -> str:
        """The URL of the HTTP side."""
        return f"http://{LOOPBACK}:{self.http}"

    @property
    def target(self) -> str:
        """host:port of the gRPC side."""
        return f"{LOOPBACK}:{self.grpc}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the services of one stand are pointed at."""

    cluster_name: str
    endpoints: Mapping[str, tuple[Endpoint, ...]]
    kubeconfigs: Mapping[str, Path]
    endpoints_dir: Path
    redis_url: str
    account_url: str
    region: str


def take_endpoints(replicas: int) -> dict[str, tuple[Endpoint, ...]]:
    """Free ports for `replicas` replicas of every service."""
    ports = iter(free_ports(len(SERVICES) * replicas * 2))
    return {name: tuple(Endpoint(next(ports), next(ports)) for _ in range(replicas)) for name in SERVICES}


def process_name(service: str, replica: int) -> str:
    """The name under which a replica runs, e.g. "allocator-0"; its log is named after it."""
    return f"{service}-{replica}"


def command(service: str) -> list[str]:
    """The command that runs a service."""
    return [sys.executable, "-m", f"services.{service}.main"]


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment (or the given one) without anybody's own AWS, Kubernetes or Nodeyard settings."""
    given = os.environ if environment is None else environment
    return {name: value for name, value in given.items() if not name.startswith(_NOT_INHERITED)}


def aws_environment(account_url: str, region: str) -> dict[str, str]:
    """Settings that point boto3 at the simulated account and at nothing else."""
    return {
        "AWS_ENDPOINT_URL": account_url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def settings(service: str, replica: int, around: Surroundings) -> dict[str, str]:
    """The settings of one replica, as environment variables (docs/architecture.md, "Settings")."""
    own = around.endpoints[service][replica]
    name = process_name(service, replica)
    values = {
        "NODEYARD_CLUSTER_NAME": around.cluster_name,
        "NODEYARD_REPLICA": name,
        "NODEYARD_HTTP_LISTEN": f"{LOOPBACK}:{own.http}",
        "NODEYARD_ENDPOINTS_FILE": str(around.endpoints_dir / f"{name}.json"),
        "NODEYARD_LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
    }
    if service != "admin":
        values["NODEYARD_GRPC_LISTEN"] = own.target
    if service in WITH_KUBERNETES:
        values["NODEYARD_KUBECONFIG"] = str(around.kubeconfigs[service])
    if service in _WITH_REDIS:
        values["NODEYARD_REDIS_URL"] = around.redis_url
    if service in _WITH_AWS:
        values |= aws_environment(around.account_url, around.region)
    if service == "reallocator":
        values["NODEYARD_INTERRUPTION_QUEUE"] = around.cluster_name
    for peer in _PEERS[service]:
        values[f"NODEYARD_{peer.upper()}"] = ",".join(each.target for each in around.endpoints[peer])
    return values

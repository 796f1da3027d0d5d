"""Services on the stand are told what docs/architecture.md says that they read, and nothing of a person's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodeyard.local import services
from nodeyard.local.binaries import source_root
from nodeyard.local.services import SERVICES, WITH_KUBERNETES, Surroundings


@pytest.fixture
def around() -> Surroundings:
    return Surroundings(
        cluster_name="test",
        endpoints=services.take_endpoints(2),
        kubeconfigs={name: Path(f"/k/{name}.kubeconfig") for name in WITH_KUBERNETES},
        endpoints_dir=Path("/e"),
        redis_url="redis://127.0.0.1:1/0",
        account_url="http://127.0.0.1:2",
        region="eu-west-1",
    )


def _readers() -> dict[str, set[str]]:
    """Which services read each variable, from the table in docs/architecture.md."""
    text = (source_root() / "docs" / "architecture.md").read_text()
    readers: dict[str, set[str]] = {}
    for variables, who in re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", text, re.MULTILINE):
        names = {"all": set(SERVICES), "all but admin": set(SERVICES) - {"admin"}}.get(
            who, set(who.split(", "))
        )
        for variable in re.findall(r"`([A-Z_*]+)`", variables):
            readers[variable] = names
    return readers


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_told_only_what_it_reads(service: str, around: Surroundings) -> None:
    readers = _readers()
    for variable in services.settings(service, 0, around):
        if variable == "PYTHONUNBUFFERED":
            continue
        documented = "AWS_*" if variable.startswith("AWS_") else variable
        assert service in readers[documented], f"{service} does not read {variable}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_told_where_its_kubernetes_redis_and_peers_are(
    service: str, around: Surroundings
) -> None:
    told = services.settings(service, 0, around)
    for variable in ("NODEYARD_KUBECONFIG", "NODEYARD_REDIS_URL", "NODEYARD_WATCHER", "NODEYARD_PRICING"):
        assert (variable in told) == (service in _readers()[variable])


def test_replicas_listen_at_different_places_and_are_all_named_to_others(around: Surroundings) -> None:
    first, second = (services.settings("watcher", replica, around) for replica in (0, 1))
    assert first["NODEYARD_GRPC_LISTEN"] != second["NODEYARD_GRPC_LISTEN"]
    assert first["NODEYARD_REPLICA"] != second["NODEYARD_REPLICA"]
    told = services.settings("allocator", 0, around)["NODEYARD_WATCHER"]
    assert told.split(",") == [first["NODEYARD_GRPC_LISTEN"], second["NODEYARD_GRPC_LISTEN"]]


def test_nothing_of_a_persons_own_accounts_and_clusters_is_passed_on() -> None:
    mine = {
        "PATH": "/bin",
        "AWS_PROFILE": "production",
        "AWS_SESSION_TOKEN": "secret",
        "KUBECONFIG": "/home/me/.kube/config",
        "NODEYARD_REDIS_URL": "redis://production",
    }
    assert services.clean_environment(mine) == {"PATH": "/bin"}


def test_all_ports_of_a_stand_differ() -> None:
    endpoints = services.take_endpoints(3)
    ports = [port for each in endpoints.values() for end in each for port in (end.grpc, end.http)]
    assert len(ports) == len(set(ports)) == len(SERVICES) * 3 * 2

"""docker-compose.yml starts the same commands as the stand, with settings that the services understand."""

import importlib
from typing import Any

import msgspec
import pytest
import yaml

from nodeyard.local.account.__main__ import _parser
from nodeyard.local.binaries import source_root
from nodeyard.local.services import SERVICES, WITH_KUBERNETES, command
from nodeyard.runtime.settings import load
from tests.unit.local.test_chart import settings_class

ROOT = source_root()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return whole


def test_it_has_the_services_redis_and_the_account(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {*SERVICES, "redis", "account"}
    for service in compose["services"].values():
        for name in service.get("networks", []):
            assert name in compose["networks"]
        for other in service.get("depends_on", []):
            assert other in compose["services"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_started_as_on_the_stand(compose: dict[str, Any], service: str) -> None:
    dockerfile = (ROOT / "deploy" / "images" / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["python", "-m"]' in dockerfile
    assert ["python", "-m", *compose["services"][service]["command"]] == ["python", *command(service)[1:]]
    importlib.import_module(f"services.{service}.main")


@pytest.mark.parametrize("service", SERVICES)
def test_its_settings_are_understood(compose: dict[str, Any], service: str) -> None:
    environ = {name: str(value) for name, value in compose["services"][service]["environment"].items()}
    environ["NODEYARD_LOG_FORMAT"] = "console"
    read = {field.encode_name for field in msgspec.structs.fields(settings_class(service))}
    assert {name for name in environ if name.startswith("NODEYARD_")} <= read
    load(settings_class(service), environ)
    assert ("NODEYARD_KUBECONFIG" in environ) == (service in WITH_KUBERNETES)


def test_peers_are_called_where_they_listen(compose: dict[str, Any]) -> None:
    for service in SERVICES:
        environment = compose["services"][service]["environment"]
        for peer in SERVICES:
            if address := environment.get(f"NODEYARD_{peer.upper()}"):
                host, _, port = address.partition(":")
                assert compose["services"][host]["environment"]["NODEYARD_GRPC_LISTEN"].endswith(f":{port}")


def test_the_accounts_arguments_are_understood(compose: dict[str, Any]) -> None:
    module, *arguments = compose["services"]["account"]["command"]
    assert module == "nodeyard.local.account"
    parsed = _parser().parse_args(arguments)
    assert (parsed.host, parsed.port) == ("0.0.0.0", 5000)
    assert compose["services"]["allocator"]["environment"]["AWS_ENDPOINT_URL"] == "http://account:5000"


def test_nothing_is_published_beyond_this_machine(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_images_targets_and_the_files_they_copy_exist(compose: dict[str, Any]) -> None:
    lines = (ROOT / "deploy" / "images" / "Dockerfile").read_text().splitlines()
    targets = {line.split(" AS ")[1] for line in lines if line.startswith("FROM") and " AS " in line}
    for service in compose["services"].values():
        if "build" in service:
            assert service["build"]["target"] in targets
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), line

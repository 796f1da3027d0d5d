"""Settings are read from the environment, whole or not at all, and never show a secret."""

from typing import Literal

import msgspec
import pytest

from nodeyard.runtime.settings import (
    Addresses,
    Listen,
    RedisUrl,
    Seconds,
    Secret,
    ServiceSettings,
    Settings,
    SettingsError,
    load,
    shown,
    split_address,
    without_password,
)


class Sample(Settings, frozen=True, kw_only=True):
    launch_ttl: Seconds = 300.0
    watcher: Addresses = ("127.0.0.1:7001",)
    listen: Listen = "127.0.0.1:0"
    mode: Literal["nominate", "bind"] = "nominate"
    charge: float = 0.01
    fast: int = 20
    on: bool = False
    token: Secret = ""
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    region: str = msgspec.field(default="", name="AWS_REGION")


class Needy(Settings, frozen=True, kw_only=True):
    cluster: str


def test_what_is_not_set_has_its_default() -> None:
    assert load(Sample, {}) == Sample()
    assert load(Sample, {"NODEYARD_LAUNCH_TTL": " "}) == Sample()


def test_every_kind_of_setting_is_read() -> None:
    read = load(
        Sample,
        {
            "NODEYARD_LAUNCH_TTL": "2m30s",
            "NODEYARD_WATCHER": "a:1, b:2,",
            "NODEYARD_LISTEN": "[::1]:80",
            "NODEYARD_MODE": "bind",
            "NODEYARD_CHARGE": "0.5",
            "NODEYARD_FAST": "3",
            "NODEYARD_ON": "true",
            "NODEYARD_REDIS_URL": "rediss://:pw@h:1/0",
            "AWS_REGION": "eu-west-1",
            "NODEYARD_SOMETHING_ELSE": "ignored",
        },
    )
    assert read == Sample(
        launch_ttl=150.0, watcher=("a:1", "b:2"), listen="[::1]:80", mode="bind", charge=0.5, fast=3, on=True,
        redis_url="rediss://:pw@h:1/0", region="eu-west-1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NODEYARD_LAUNCH_TTL", "5 minutes"),
        ("NODEYARD_LAUNCH_TTL", "-5s"),
        ("NODEYARD_WATCHER", "a"),
        ("NODEYARD_WATCHER", ","),
        ("NODEYARD_LISTEN", "localhost"),
        ("NODEYARD_LISTEN", "localhost:99999"),
        ("NODEYARD_MODE", "guess"),
        ("NODEYARD_CHARGE", "cheap"),
        ("NODEYARD_FAST", "1.5"),
        ("NODEYARD_ON", "perhaps"),
        ("NODEYARD_REDIS_URL", "http://x"),
    ],
)
def test_what_cannot_be_understood_is_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        load(Sample, {variable: value})


def test_all_bad_variables_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"NODEYARD_FAST.*NODEYARD_ON|NODEYARD_ON.*NODEYARD_FAST"):
        load(Sample, {"NODEYARD_FAST": "x", "NODEYARD_ON": "x"})


def test_a_required_variable_that_is_missing_is_named() -> None:
    with pytest.raises(SettingsError, match="NODEYARD_CLUSTER is not set"):
        load(Needy, {})


def test_a_bad_url_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(SettingsError) as caught:
        load(Sample, {"NODEYARD_REDIS_URL": "http://:hunter2@x"})
    assert "hunter2" not in str(caught.value)


def test_what_is_shown_hides_secrets_and_spells_durations() -> None:
    said = shown(Sample(token="hunter2", redis_url="redis://me:hunter2@h:1/0", launch_ttl=90.0))
    assert "hunter2" not in str(said)
    assert said["NODEYARD_REDIS_URL"] == "redis://me:***@h:1/0"
    assert said["NODEYARD_LAUNCH_TTL"] == "1m30s"
    assert said["NODEYARD_WATCHER"] == "127.0.0.1:7001"


def test_shown_settings_read_back_to_the_same() -> None:
    first = Sample(launch_ttl=0.25, watcher=("a:1", "b:2"), on=True, mode="bind")
    assert load(Sample, shown(first)) == first


def test_a_replica_is_named_after_host_and_process() -> None:
    import os

    assert load(ServiceSettings, {}).replica.endswith(f"-{os.getpid()}")


def test_addresses_split_into_host_and_port() -> None:
    assert split_address("a.b:80") == ("a.b", 80)
    assert split_address("[::1]:80") == ("::1", 80)


def test_a_url_without_a_password_is_shown_as_it_is() -> None:
    assert without_password("redis://h:1/0") == "redis://h:1/0"

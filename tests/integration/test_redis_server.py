"""The stand's Redis: real, behind a password, and empty after it was killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from nodeyard.local.processes import Processes
from nodeyard.local.redisserver import RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(Processes(tmp_path), tmp_path / "redis", password="a-password")
    started.start()
    yield started
    started.stop()


def test_it_answers_with_the_password_only(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_killed_and_restarted_it_is_at_the_same_place_and_empty(server: RedisServer) -> None:
    before = server.url
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "no")
        server.restart_empty()
        assert server.url == before
        assert client.get("kept") is None


def test_it_leaves_nothing_on_disk(server: RedisServer, tmp_path: Path) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("secret", "value")
    server.stop()
    assert [path.name for path in (tmp_path / "redis").iterdir()] == ["redis.conf"]

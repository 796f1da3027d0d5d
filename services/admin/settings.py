"""What admin is told by its environment; see docs/architecture.md, "Settings"."""

from nodeyard.runtime.settings import Addresses, RedisUrl, ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True):
    watcher: Addresses = ("127.0.0.1:7001",)
    pricing: Addresses = ("127.0.0.1:7002",)
    allocator: Addresses = ("127.0.0.1:7003",)
    reallocator: Addresses = ("127.0.0.1:7004",)
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"

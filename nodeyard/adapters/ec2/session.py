"""The one way to AWS: boto3's clients, which block, behind a bounded pool of threads.

Region, endpoint and credentials come from boto3's own environment (AWS_REGION, AWS_ENDPOINT_URL, AWS_*, profiles,
the instance's role). Every call is retried, within a `budget` where one is given, else by botocore's adaptive mode,
which also slows down under throttling; what still fails is raised as our error tree, never as botocore's. Neighbours:
`errors` (the table), everything else in `adapters/ec2` and `adapters/pricing` (the callers).
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import boto3
import botocore.session
from botocore import exceptions as aws
from botocore import xform_name
from botocore.config import Config

from nodeyard import __version__
from nodeyard.adapters.ec2.budget import CallBudget
from nodeyard.adapters.ec2.errors import DRY_RUN_OK, translated
from nodeyard.adapters.ec2.timestamps import read_timestamp
from nodeyard.cloudprovider.errors import CloudError, InvalidRequest, Throttled
from nodeyard.runtime.backoff import Backoff

T = TypeVar("T")
Observer = Callable[[str, str, str, float], None]
"""Told (service, operation, outcome, seconds) of every finished call; the outcome is "ok" or the error's class."""

_PRICING_REGIONS: Final = {"cn": "cn-northwest-1", "eu": "eu-central-1", "ap": "ap-south-1"}
"""The Pricing API is served in few regions only; by the first part of ours, else us-east-1. Source: AWS Price List API."""


def _ignore(service: str, operation: str, outcome: str, seconds: float) -> None:
    return None


class Ec2Session:
    """Calls AWS from asyncio. Make one per process and close it."""

    def __init__(
        self,
        *,
        threads: int = 8,
        region: str | None = None,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 30.0,
        attempts: int = 6,
        observe: Observer = _ignore,
        budget: CallBudget | None = None,
    ) -> None:
        """`region` overrides the environment's. `attempts` counts the first try. With a `budget`, EC2 is called within
        it and tries are repeated from it; without, botocore's adaptive mode does both. Nothing is contacted here.
        """
        core = botocore.session.get_session()
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=read_timestamp)
        self._session = boto3.Session(
            region_name=region or os.environ.get("AWS_REGION") or None, botocore_session=core
        )
        own_attempts = attempts if budget is None else 1
        self._attempts = attempts
        self._budget = budget
        self._config = Config(
            retries={
                "mode": "adaptive" if budget is None else "standard",
                "total_max_attempts": own_attempts,
            },
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            max_pool_connections=threads,
            user_agent_extra=f"nodeyard/{__version__}",
        )
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="aws")
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._observe = observe

    @property
    def region(self) -> str:
        """The region that calls go to; raises InvalidRequest when none is configured."""
        if not self._session.region_name:
            raise InvalidRequest("no AWS region: set AWS_REGION", code="NoRegionError")
        return self._session.region_name

    async def call(self, service: str, operation: str, **params: Any) -> dict[str, Any]:
        """One call of boto3's `operation` ("describe_vpcs" or "DescribeVpcs"); the answer as boto3 gives it.

        A dry run that would have succeeded answers {}. Raises CloudError's subclasses.
        """

        def run() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self._client(service), xform_name(operation))(**params)
            return answer

        return await self._in_pool(service, operation, run)

    async def pages(self, service: str, operation: str, **params: Any) -> list[dict[str, Any]]:
        """All pages of `operation`, or its one answer where AWS does not page it. Raises CloudError's subclasses."""

        def run() -> list[dict[str, Any]]:
            client, method = self._client(service), xform_name(operation)
            if not client.can_paginate(method):
                return [getattr(client, method)(**params)]
            return list(client.get_paginator(method).paginate(**params))

        return await self._in_pool(service, operation, run)

    async def each_page(
        self, service: str, operation: str, take: Callable[[dict[str, Any]], T], **params: Any
    ) -> list[T]:
        """`take(page)` of every page, in the pool, without holding more than one; for answers that are large."""

        def work(client: Any) -> list[T]:
            return [take(page) for page in client.get_paginator(xform_name(operation)).paginate(**params)]

        return await self.run(service, operation, work)

    async def run(self, service: str, operation: str, work: Callable[[Any], T]) -> T:
        """`work(client)` in the pool, for what neither `call` nor `pages` can express; errors translated alike."""
        return await self._in_pool(service, operation, lambda: work(self._client(service)))

    def close(self) -> None:
        """Give the threads back; calls still running are left to end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_pool(self, service: str, operation: str, work: Callable[[], T]) -> T:
        name = f"{service}:{_camel(operation)}"
        if self._budget is None:
            return await self._once(name, work)
        return await self._within(self._budget, name, work)

    async def _once(self, name: str, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._measured, name, work)

    async def _within(self, budget: CallBudget, name: str, work: Callable[[], T]) -> T:
        """The call, in its turn, and again while that is worth it: throttled, or without an answer."""
        service, _, action = name.partition(":")
        action = action if service == "ec2" else name
        pauses = Backoff(0.1, 5.0)
        for attempt in range(self._attempts):
            if service == "ec2":
                await budget.take(action)
            try:
                answer = await self._once(name, work)
            except CloudError as error:
                if isinstance(error, Throttled):
                    await budget.throttled(action)
                if not error.retryable or attempt + 1 == self._attempts or not budget.may_repeat():
                    raise
                await asyncio.sleep(pauses.next_s())
            else:
                await budget.succeeded(action)
                return answer
        raise AssertionError("a call is tried at least once")

    def _measured(self, name: str, work: Callable[[], T]) -> T:
        service, _, operation = name.partition(":")
        started = time.monotonic()
        outcome = "ok"
        try:
            return work()
        except aws.ClientError as error:
            if error.response.get("Error", {}).get("Code") == DRY_RUN_OK:
                return {}  # type: ignore[return-value]  # only `call` can ask for a dry run
            ours = translated(error, name)
            outcome = type(ours).__name__
            raise ours from error
        except aws.BotoCoreError as error:
            ours = translated(error, name)
            outcome = type(ours).__name__
            raise ours from error
        except CloudError as error:
            outcome = type(error).__name__
            raise
        finally:
            self._observe(service, operation, outcome, time.monotonic() - started)

    def _client(self, service: str) -> Any:
        with self._lock:
            if service not in self._clients:
                region = self.region
                if service == "pricing":
                    region = _PRICING_REGIONS.get(region.split("-")[0], "us-east-1")
                self._clients[service] = self._session.client(  # type: ignore[call-overload]
                    service, region_name=region, config=self._config
                )
            return self._clients[service]


def _camel(operation: str) -> str:
    return (
        operation if operation[:1].isupper() else "".join(part.capitalize() for part in operation.split("_"))
    )

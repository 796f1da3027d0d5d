"""End-to-end tests run on stands with all services, two replicas each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.cluster import StandFactory
from tests.support.yard import Yard, node_class, node_pool

YardFactory = Callable[..., Yard]


@pytest.fixture(scope="module")
def make_yard(module_stand: StandFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[YardFactory]:
    """Starts a stand with all services ready; takes the fields of `Options` as arguments."""
    with ExitStack() as stack:

        def start(**options: Any) -> Yard:
            kill_point = tmp_path_factory.mktemp("deaths") / "point"
            settings = {"NODEYARD_KILL_POINT": f"@{kill_point}", **options.pop("settings", {})}
            yard = Yard(module_stand(**{"replicas": 2, **options, "settings": settings}), kill_point)
            stack.callback(yard.close)
            yard.wait_ready()
            return yard

        yield start


@pytest.fixture(scope="module")
def lone_yard(make_yard: YardFactory) -> Yard:
    """One replica of each service, so that what the one that dies leaves behind waits for the next; hasty, and with a
    short memory.
    """
    yard = make_yard(
        replicas=1,
        settings={
            "NODEYARD_VALIDATION_WAIT": "500ms",
            "NODEYARD_DISRUPTION_POLL": "1s",
            "NODEYARD_BATCH_MAX_DURATION": "3s",
            "NODEYARD_LEASE_TTL": "2s",
            "NODEYARD_REFUSAL_TTL": "2s",
            "NODEYARD_NO_RETURN": "0s",
            "NODEYARD_GC_INTERVAL": "5s",
            "NODEYARD_EC2_CONSISTENCY_LAG": "5s",  # the account shows at once what it made
        },
    )
    yard.apply(node_class(), node_pool())
    return yard

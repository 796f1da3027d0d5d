"""End-to-end tests run on stands with all services, two replicas each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.cluster import StandFactory
from tests.support.yard import Yard

YardFactory = Callable[..., Yard]


@pytest.fixture(scope="module")
def make_yard(module_stand: StandFactory) -> Iterator[YardFactory]:
    """Starts a stand with all services ready; takes the fields of `Options` as arguments."""
    with ExitStack() as stack:

        def start(**options: Any) -> Yard:
            yard = Yard(module_stand(**{"replicas": 2, **options}))
            stack.callback(yard.close)
            yard.wait_ready()
            return yard

        yield start

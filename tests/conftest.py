"""What every test may use: the fixtures of `tests.support`, and the control plane's programs made ready first."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator
from typing import Final

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import settings

from tests.support.cluster import control_plane, kube, make_stand, module_stand, namespace

# No example is too slow: a busy machine must change nothing. In CI the same examples every time: a new counterexample
# is found by people at their desks, not by a landing.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

_LONGEST_TEARDOWN_S = 240.0
_LONGEST_FIRST: Final = (
    "tests/e2e/test_kills.py",
    "tests/e2e/test_kills_on_the_side.py",
    "tests/e2e/test_reallocator.py",
    "tests/e2e/test_main_job.py",
    "tests/e2e/test_protections.py",
    "tests/e2e/test_placing.py",
    "tests/e2e/test_spot.py",
    "tests/e2e/",
    "tests/integration/",
    "tests/contract/",
    "tests/property/",
    "tests/",
)
"""Files and directories in the order of what a file takes, about."""

__all__ = ["control_plane", "kube", "make_stand", "module_stand", "namespace"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several workers share the files, those that take long go first, so that all workers end together."""
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: next(
                n for n, start in enumerate(_LONGEST_FIRST) if item.nodeid.startswith(start)
            )
        )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetches or builds the control plane before the first test, where any chosen test needs it.

    Not in a fixture, since a first build takes longer than a test may.
    """
    if (
        any(item.get_closest_marker("cluster") for item in session.items)
        and not session.config.option.collectonly
    ):
        from nodeyard.local.binaries import Binaries
        from nodeyard.local.progress import LineProgress

        Binaries().resolve(LineProgress())


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """A teardown that hangs ends its process with all threads' tracebacks; the runner reports it and goes on.

    Pytest's own watch over a test ends when the test has failed, just when what it left behind is likely to hang.
    """
    faulthandler.dump_traceback_later(
        _LONGEST_TEARDOWN_S, exit=True, file=item.config.stash[fault_handler_stderr_fd_key]
    )
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()

"""What every test may use: the fixtures of `tests.support`, and the control plane's programs made ready first."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.support.cluster import control_plane, kube, make_stand, module_stand, namespace

# In CI the same examples every time: a new counterexample is found by people at their desks, not by a landing.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

__all__ = ["control_plane", "kube", "make_stand", "module_stand", "namespace"]


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

"""Fixtures that give tests a real control plane, and whole stands.

`control_plane` is one per test run, shared; tests keep apart by working in a `namespace` of their own.
`make_stand` gives a test a stand of its own, with the services and the simulated account if asked, and ends
it with the test; `module_stand` does the same for a module. Nothing is skipped where programs are missing:
they are fetched or built, visibly, before the first test runs.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nodeyard.local import install, kwok
from nodeyard.local.kubeapi import KubeApi, KubeError
from nodeyard.local.stand import Options, Stand

StandFactory = Callable[..., Stand]
Found = TypeVar("Found")
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A real control plane with our custom resources installed, shared by the whole run."""
    with Stand(tmp_path_factory.mktemp("control-plane"), Options(parts="control-plane")) as stand:
        with stand.api() as api:
            install.install(api, install.definitions())
        yield stand


@pytest.fixture(scope="session")
def kube(control_plane: Stand) -> Iterator[KubeApi]:
    """An administrator's client of the shared control plane."""
    with control_plane.api() as api:
        yield api


@pytest.fixture
def namespace(kube: KubeApi) -> Iterator[str]:
    """A new namespace on the shared control plane, ready for pods; deleted after the test."""
    name = f"test-{next(_numbers)}"
    make_namespace(kube, name)
    yield name
    kube.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def make_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandFactory]:
    """Starts stands that end with the test; takes the fields of `Options` as arguments."""
    yield from _stands(tmp_path_factory)


@pytest.fixture(scope="module")
def module_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandFactory]:
    """Starts stands that end with the module; takes the fields of `Options` as arguments."""
    yield from _stands(tmp_path_factory)


def _stands(factory: pytest.TempPathFactory) -> Iterator[StandFactory]:
    with ExitStack() as stack:

        def start(**options: Any) -> Stand:
            directory: Path = factory.mktemp("stand")
            return stack.enter_context(Stand(directory, Options(**options)))

        yield start


def make_namespace(api: KubeApi, name: str) -> str:
    """Creates a namespace and waits until pods can be created in it; returns its name."""
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    eventually(lambda: exists(api, f"/api/v1/namespaces/{name}/serviceaccounts/default"))
    return name


def exists(api: KubeApi, path: str) -> bool:
    """Whether there is an object at this path."""
    try:
        api.get(path)
    except KubeError as error:
        if error.status == 404:
            return False
        raise
    return True


def eventually(check: Callable[[], Found], *, within_s: float = 60.0, every_s: float = 0.1) -> Found:
    """The first true value that `check` returns; fails with the last value when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:g} s; last seen: {found!r}")
        time.sleep(every_s)


def plain_node(name: str, *, allocatable: Mapping[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    """A node that KWOK keeps Ready and on which it runs any pod; `name` gets the prefix that this takes."""
    room = dict(allocatable or {"cpu": "8", "memory": "32Gi", "pods": "110"})
    annotations = {kwok.NODE_ANNOTATION: "fake", **metadata.pop("annotations", {})}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"{kwok.PLAIN_NODE_PREFIX}{name}", "annotations": annotations, **metadata},
        "status": {"allocatable": room, "capacity": room},
    }


def pod(name: str, *, requests: Mapping[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A pod of one container that requests these resources; further arguments go into its spec."""
    container = {
        "name": "main",
        "image": "registry.example/pause",
        "resources": {"requests": dict(requests or {})},
    }
    metadata = {"name": name, "labels": {"app": name}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], **spec},
    }


def condition(thing: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """A Kubernetes object's condition of this type; empty when it has none."""
    conditions = thing.get("status", {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})

"""When each pod was refused, placed and Running, as seen on a watch of the API server (whose own times are whole
seconds). Times are seconds since the epoch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import httpx

from nodeyard.local.kubeapi import KubeApi

Json = dict[str, Any]
Times = dict[str, float]


class PodTimes:
    """Follows the pods of one namespace whose names start with `prefix`, in a thread, while its `with` lasts."""

    def __init__(self, api: KubeApi, prefix: str = "", namespace: str = "default") -> None:
        self._api, self._path, self._prefix = api, f"/api/v1/namespaces/{namespace}/pods", prefix
        self.created: Times = {}
        self.refused: Times = {}
        self.placed: Times = {}
        self.running: Times = {}
        self.node_of: dict[str, str] = {}
        self.graces: dict[str, int] = {}
        """Seconds that its deletion first gave a pod to end in; a kubelet sets them to nothing once it has ended."""
        self._closed = False
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> PodTimes:
        self._from = self._api.get(self._path, limit="1")["metadata"]["resourceVersion"]
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._api.close()
        self._thread.join(timeout=5.0)

    def wait(self, done: Callable[[PodTimes], bool], within_s: float) -> bool:
        """Whether `done` came true in time."""
        deadline = time.monotonic() + within_s
        while not done(self):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _follow(self) -> None:
        """Watches until closed; a watch that the server ends (a slow reader, say) goes on where it was."""
        while not self._closed:
            with suppress(httpx.HTTPError, httpx.StreamError, RuntimeError, OSError):
                for kind, pod in self._api.watch(self._path, resourceVersion=self._from):
                    if kind == "ERROR":
                        self._from = "0"
                        break
                    self._from = pod["metadata"]["resourceVersion"]
                    if kind != "DELETED" and pod["metadata"]["name"].startswith(self._prefix):
                        self._note(pod, time.time())

    def _note(self, pod: Json, now: float) -> None:
        name, status = pod["metadata"]["name"], pod["status"]
        self.created.setdefault(name, now)
        if (grace := pod["metadata"].get("deletionGracePeriodSeconds")) is not None:
            self.graces.setdefault(name, grace)
        if any(c.get("reason") == "Unschedulable" for c in status.get("conditions") or []):
            self.refused.setdefault(name, now)
        if node := pod["spec"].get("nodeName"):
            self.placed.setdefault(name, now)
            self.node_of[name] = node
        if status.get("phase") == "Running":
            self.running.setdefault(name, now)

"""A kind cluster in place of our own control plane, where Docker and kind are there to run one.

Machines of the simulated account join it like any other cluster: KWOK runs beside it as a process. The
cluster's shape is in `deploy/kind/cluster.yaml`.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from nodeyard.local import kubeconfig, kwok
from nodeyard.local.binaries import source_root
from nodeyard.local.errors import StandError
from nodeyard.local.kubeapi import KubeApi
from nodeyard.local.ports import LOOPBACK, free_port
from nodeyard.local.probe import succeeds
from nodeyard.local.processes import Processes
from nodeyard.local.progress import Progress, silent


class KindCluster:
    """A cluster made by kind, with KWOK beside it."""

    def __init__(
        self,
        name: str,
        directory: Path,
        processes: Processes,
        binaries: Mapping[str, Path],
        *,
        progress: Progress = silent,
    ) -> None:
        self._name = f"nodeyard-{name}"
        self._directory = directory
        self._processes = processes
        self._binaries = binaries
        self._progress = progress
        self.kubeconfig_dir = directory / "kubeconfigs"

    @property
    def admin_kubeconfig(self) -> Path:
        """The kubeconfig of a cluster administrator (client certificate)."""
        return self.kubeconfig_dir / "admin.kubeconfig"

    @property
    def server(self) -> str:
        """The API server's URL."""
        return kubeconfig.read(self.admin_kubeconfig).server

    def prepare(self) -> None:
        """Checks that there is a kind and a Docker that answers, and makes the cluster. Raises StandError."""
        for program in ("docker", "kind"):
            if shutil.which(program) is None:
                raise StandError(
                    f"--kind needs {program}, which is not on PATH; leave --kind out to run without"
                )
        _run(["docker", "info"], "Docker does not answer")
        self.kubeconfig_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._progress("kind", f"creating cluster {self._name}")
        self.delete()
        config = source_root() / "deploy" / "kind" / "cluster.yaml"
        command = [
            "kind",
            "create",
            "cluster",
            "--name",
            self._name,
            "--config",
            str(config),
            "--wait",
            "120s",
        ]
        _run([*command, "--kubeconfig", str(self.admin_kubeconfig)], "kind could not create a cluster")

    def start(self, *, timeout_s: float = 180.0) -> None:
        """Waits until the cluster's API server answers and starts KWOK. Raises StandError."""
        port = free_port()
        with KubeApi(self.admin_kubeconfig) as api:
            if not api.ready():
                raise StandError(f"the kind cluster at {self.server} does not answer")
        program = str(self._binaries["kwok"])
        self._processes.start(
            "kwok", [program, *kwok.arguments(self._directory, self.admin_kubeconfig, port)]
        )
        self._processes.wait_answering(
            "kwok", lambda: succeeds(f"http://{LOOPBACK}:{port}/healthz"), timeout_s=timeout_s
        )

    def stop(self) -> None:
        """Stops KWOK and deletes the cluster."""
        self._processes.stop(["kwok"])
        self.delete()

    def delete(self) -> None:
        """Deletes the cluster, if there is one."""
        _run(["kind", "delete", "cluster", "--name", self._name], "kind could not delete the cluster")


def _run(command: list[str], failure: str) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise StandError(f"{failure}: {error}") from error
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip()[-800:]
        raise StandError(f"{failure}: `{' '.join(command[:3])}` said: {said}")

"""A real Kubernetes control plane as processes on loopback.

etcd, kube-apiserver with RBAC and service account tokens, kube-scheduler and kube-controller-manager with
their client limits lifted (so that 800 pods take seconds to be made, not a minute), and KWOK. Each component
has a kubeconfig and a client certificate of its own. All state is under one directory and starts empty each
time; what answers is checked to be what was started: the process lives, and its certificate is signed by the
authority made a moment ago.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodeyard.local import kubeconfig, kwok
from nodeyard.local.certificates import Authority, KeyPair
from nodeyard.local.errors import StartError
from nodeyard.local.kubeapi import KubeApi
from nodeyard.local.ports import LOOPBACK, free_ports
from nodeyard.local.probe import succeeds
from nodeyard.local.processes import Processes
from nodeyard.local.progress import Progress, silent

COMPONENTS = ("etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kwok")
SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc.cluster.local"

# User and groups of each component, as kubeadm names them; KWOK plays machines and needs everything.
_CLIENTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("nodeyard-admin", ("system:masters",)),
    "kube-scheduler": ("system:kube-scheduler", ()),
    "kube-controller-manager": ("system:kube-controller-manager", ()),
    "kwok": ("nodeyard-kwok", ("system:masters",)),
}
_ATTEMPTS = 3
_GOGC = "400"
"""Go's collector runs less often: memory is there, processor time is what a stand on two cores is short of."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the control plane's parts may ask of the API server, and it may serve at once."""

    client_qps: int = 1000
    client_burst: int = 2000
    inflight: int = 3000
    mutating_inflight: int = 1500


@dataclass(frozen=True, slots=True)
class _Ports:
    etcd: int
    etcd_peer: int
    apiserver: int
    scheduler: int
    controller_manager: int
    kwok: int


class ControlPlane:
    """One control plane under `directory`, its processes kept by `processes`.

    `binaries` maps each component (and etcd) to its program.
    """

    def __init__(
        self,
        directory: Path,
        processes: Processes,
        binaries: Mapping[str, Path],
        *,
        progress: Progress = silent,
        limits: Limits | None = None,
    ) -> None:
        self._directory = directory
        self._processes = processes
        self._binaries = binaries
        self._progress = progress
        self._limits = limits if limits is not None else Limits()
        self._ports: _Ports | None = None
        self._certificates = directory / "certificates"
        self.kubeconfig_dir = directory / "kubeconfigs"

    @property
    def admin_kubeconfig(self) -> Path:
        """The kubeconfig of a cluster administrator (client certificate)."""
        return self.kubeconfig_dir / "admin.kubeconfig"

    @property
    def kwok_kubeconfig(self) -> Path:
        """The kubeconfig that KWOK uses."""
        return self.kubeconfig_dir / "kwok.kubeconfig"

    @property
    def authority(self) -> Path:
        """The certificate authority (PEM) that signed the API server's certificate."""
        return self._certificates / "ca.crt"

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{LOOPBACK}:{self._taken.apiserver}"

    @property
    def _taken(self) -> _Ports:
        if self._ports is None:
            raise StartError("control plane", "it was not started")
        return self._ports

    def prepare(self) -> None:
        """Takes ports and makes certificates and kubeconfigs, so that others can be pointed here already."""
        self._ports = _Ports(*free_ports(6))
        shutil.rmtree(self._directory / "etcd", ignore_errors=True)
        authority = Authority(self._certificates, now=dt.datetime.now(dt.UTC))
        addresses = [LOOPBACK, "10.96.0.1"]
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        authority.server("apiserver", names=names, addresses=addresses)
        authority.server("components", names=["localhost"], addresses=[LOOPBACK])
        authority.token_keys("service-accounts")
        for name, (user, groups) in _CLIENTS.items():
            pair = authority.client(name, user=user, groups=groups)
            access = kubeconfig.by_certificate(self.server, authority.certificate, pair)
            kubeconfig.write(self.kubeconfig_dir / f"{name}.kubeconfig", access, user=user)

    def start(self, *, timeout_s: float = 180.0) -> None:
        """Brings everything up and waits until it answers.

        Raises StartError with the end of the log of the component that failed. A port that somebody took in
        the meantime is answered by another attempt with other ports.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            if self._ports is None or attempt > 1:
                self.prepare()
            try:
                self._start_once(timeout_s)
                return
            except StartError as error:
                self.stop()
                if attempt == _ATTEMPTS or "address already in use" not in error.log_tail:
                    raise
                self._progress("control plane", f"{error.component}: port taken, trying others")

    def _start_once(self, timeout_s: float) -> None:
        self._progress("control plane", "starting etcd and the API server")
        self._launch("etcd", self._etcd_arguments())
        self._await("etcd", lambda: succeeds(f"http://{LOOPBACK}:{self._taken.etcd}/health"), timeout_s)
        self._launch("kube-apiserver", self._apiserver_arguments())
        self.wait_apiserver(timeout_s=timeout_s)
        self._progress("control plane", "starting the scheduler, the controllers and KWOK")
        self._launch("kube-scheduler", self._scheduler_arguments())
        self._launch("kube-controller-manager", self._controller_manager_arguments())
        self._launch("kwok", kwok.arguments(self._directory, self.kwok_kubeconfig, self._taken.kwok))
        tls = ssl.create_default_context(cafile=str(self.authority))
        at, ports = f"https://{LOOPBACK}", self._taken
        self._await("kube-scheduler", lambda: succeeds(f"{at}:{ports.scheduler}/healthz", tls), timeout_s)
        self._await(
            "kube-controller-manager",
            lambda: succeeds(f"{at}:{ports.controller_manager}/healthz", tls),
            timeout_s,
        )
        self._await("kwok", lambda: succeeds(f"http://{LOOPBACK}:{ports.kwok}/healthz"), timeout_s)

    def stop(self) -> None:
        """Stops all components, those that depend on others first."""
        self._processes.stop(["kwok", "kube-controller-manager", "kube-scheduler"], grace_s=2.0)
        self._processes.stop(["kube-apiserver"], grace_s=2.0)
        self._processes.stop(["etcd"], grace_s=2.0)

    def running(self) -> dict[str, bool]:
        """Which components run."""
        return {name: self._processes.running(name) for name in COMPONENTS}

    def stop_apiserver(self, *, grace_s: float = 2.0) -> None:
        """Stops the API server alone; everybody else loses it."""
        self._processes.stop(["kube-apiserver"], grace_s=grace_s)

    def start_apiserver(self, *, timeout_s: float = 180.0) -> None:
        """Starts the API server again on its port, over the same etcd."""
        self._launch("kube-apiserver", self._apiserver_arguments(), append_log=True)
        self.wait_apiserver(timeout_s=timeout_s)

    def wait_apiserver(self, *, timeout_s: float = 180.0) -> None:
        """Waits until the API server that we started says that it is ready."""
        with KubeApi(self.admin_kubeconfig, timeout_s=5.0) as api:
            self._await("kube-apiserver", api.ready, timeout_s)

    def _launch(self, name: str, arguments: Sequence[str], *, append_log: bool = False) -> None:
        environment = {**os.environ, "GOGC": _GOGC}
        command = [str(self._binaries[name]), *arguments]
        self._processes.start(name, command, env=environment, append_log=append_log)

    def _await(self, name: str, check: Callable[[], bool], timeout_s: float) -> None:
        self._processes.wait_answering(name, check, timeout_s=timeout_s)

    def _pair(self, name: str) -> KeyPair:
        return KeyPair(self._certificates / f"{name}.crt", self._certificates / f"{name}.key")

    def _etcd_arguments(self) -> list[str]:
        client = f"http://{LOOPBACK}:{self._taken.etcd}"
        peer = f"http://{LOOPBACK}:{self._taken.etcd_peer}"
        return [
            f"--data-dir={self._directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--quota-backend-bytes=4294967296",
            "--log-level=warn",
        ]

    def _apiserver_arguments(self) -> list[str]:
        serving, tokens = self._pair("apiserver"), self._certificates / "service-accounts"
        limits = self._limits
        return [
            f"--etcd-servers=http://{LOOPBACK}:{self._taken.etcd}",
            f"--bind-address={LOOPBACK}",
            f"--advertise-address={LOOPBACK}",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self._taken.apiserver}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.authority}",
            "--authorization-mode=Node,RBAC",
            f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
            f"--service-account-key-file={tokens}.pub",
            f"--service-account-signing-key-file={tokens}.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--max-requests-inflight={limits.inflight}",
            f"--max-mutating-requests-inflight={limits.mutating_inflight}",
            "--watch-cache=true",
            "--allow-privileged=true",
            "--event-ttl=30m",
            "--profiling=false",
            "--v=1",
        ]

    def _client_arguments(self, name: str, port: int) -> list[str]:
        serving = self._pair("components")
        path = self.kubeconfig_dir / f"{name}.kubeconfig"
        return [
            f"--kubeconfig={path}",
            f"--authentication-kubeconfig={path}",
            f"--authorization-kubeconfig={path}",
            f"--kube-api-qps={self._limits.client_qps}",
            f"--kube-api-burst={self._limits.client_burst}",
            "--leader-elect=false",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={port}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            "--v=1",
        ]

    def _scheduler_arguments(self) -> list[str]:
        return self._client_arguments("kube-scheduler", self._taken.scheduler)

    def _controller_manager_arguments(self) -> list[str]:
        return [
            *self._client_arguments("kube-controller-manager", self._taken.controller_manager),
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self._certificates / 'service-accounts.key'}",
            f"--root-ca-file={self.authority}",
            "--concurrent-deployment-syncs=20",
            "--concurrent-replicaset-syncs=20",
        ]

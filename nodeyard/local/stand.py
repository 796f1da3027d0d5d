"""The stand: everything that Nodeyard needs and is, running on one machine under one directory.

A Stand brings up the control plane, Redis, the simulated account with its machines, the custom resources and
rights, and then the services as processes, and can break any of them the way life does: kill a replica, empty
Redis, take the API server away. Attached (tests, demo) it ends with the process that made it; detached
(`nodeyard local up`) it stays until `nodeyard local down`. Other programs find it through `endpoints.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import httpx

from nodeyard.local import install, services
from nodeyard.local.binaries import Binaries
from nodeyard.local.controlplane import ControlPlane
from nodeyard.local.errors import StandError
from nodeyard.local.kind import KindCluster
from nodeyard.local.kubeapi import KubeApi
from nodeyard.local.ports import LOOPBACK, free_port
from nodeyard.local.probe import ask, responds, succeeds
from nodeyard.local.processes import Processes, is_running
from nodeyard.local.progress import Progress, silent
from nodeyard.local.redisserver import RedisServer
from nodeyard.local.services import SERVICES, Endpoint, Surroundings

REGION = "eu-west-1"
_ACCOUNT = "account"
_RIGHTS = {
    "NODEYARD_BIND_RETURNING_PODS": "bindReturningPods",
    "NODEYARD_SURGE": "surge",
    "NODEYARD_MARK_LEAVING_PODS": "markLeavingPods",
}
"""Settings of the reallocator that it has rights by, and the chart's values for them."""
_ANSWERS_S = 180.0
"""How long a process may take until it answers, on a machine that starts several at once or is busy with others."""
_LEFTOVERS_LAST = ("kube-apiserver", "etcd")


class Cluster(Protocol):
    """A Kubernetes cluster that a stand can run on."""

    kubeconfig_dir: Path

    @property
    def admin_kubeconfig(self) -> Path: ...
    @property
    def server(self) -> str: ...
    def prepare(self) -> None: ...
    def start(self, *, timeout_s: float = 180.0) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What a stand consists of.

    `parts` leaves out the outer rings: "control-plane" is the cluster alone, "account" adds Redis, the
    simulated account and the custom resources, "services" adds the services named in `services`, `replicas` of
    each. `settings` are added to every service's environment, `service_settings` to one's.
    `account_arguments` go to the simulated account's command line.
    """

    name: str = "default"
    parts: str = "services"
    services: Sequence[str] = SERVICES
    replicas: int = 1
    cluster_name: str = "nodeyard"
    kind: bool = False
    detached: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    service_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    account_arguments: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.parts not in ("control-plane", "account", "services"):
            raise StandError(f"no such parts of a stand: {self.parts!r}")
        if unknown := set(self.services) - set(SERVICES):
            raise StandError(f"no such service: {', '.join(sorted(unknown))}")
        if self.replicas < 1:
            raise StandError(f"a stand needs at least one replica of each service, not {self.replicas}")


def default_directory(name: str, environment: Mapping[str, str] | None = None) -> Path:
    """Where the stand of this name keeps its state: $XDG_STATE_HOME/nodeyard/<name> or ~/.local/state/…"""
    env = os.environ if environment is None else environment
    return Path(env.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "nodeyard" / name


class Stand:
    """One stand. Use it in a `with`, or call `start` and `stop`.

    Failures are StandError. All methods block; none needs an event loop.
    """

    def __init__(
        self,
        directory: Path | None = None,
        options: Options | None = None,
        *,
        progress: Progress = silent,
        binaries: Binaries | None = None,
    ) -> None:
        self.options = options if options is not None else Options()
        self.directory = (directory or default_directory(self.options.name)).absolute()
        self._progress = progress
        self._binaries = binaries if binaries is not None else Binaries()
        self.processes = Processes(self.directory)
        self._cluster: Cluster | None = None
        self.redis = RedisServer(self.processes, self.directory / "redis", password=secrets.token_urlsafe(18))
        self._account_port = 0
        # Ports for one replica more than is started, so that tests can add one.
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self._kubeconfigs: dict[str, Path] = {}

    def __enter__(self) -> Stand:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def cluster(self) -> Cluster:
        """The Kubernetes cluster, once started."""
        if self._cluster is None:
            raise StandError("this stand was not started")
        return self._cluster

    @property
    def admin_kubeconfig(self) -> Path:
        """The kubeconfig of a cluster administrator."""
        return self.cluster.admin_kubeconfig

    @property
    def redis_url(self) -> str:
        """Redis' URL, the password included."""
        return self.redis.url

    @property
    def account_url(self) -> str:
        """The URL of the simulated account: AWS APIs, and its dials under /dials."""
        return f"http://{LOOPBACK}:{self._account_port}"

    @property
    def aws_environment(self) -> dict[str, str]:
        """Environment variables that point boto3 at the simulated account."""
        return services.aws_environment(self.account_url, REGION)

    def endpoint(self, service: str, replica: int = 0) -> Endpoint:
        """The ports of one replica of a service."""
        return self._endpoints[service][replica]

    def kubeconfig(self, service: str) -> Path:
        """The kubeconfig that a service runs with (its own ServiceAccount's token)."""
        return self._kubeconfigs[service]

    def api(self) -> KubeApi:
        """A new client of the API server with an administrator's rights; close it when done."""
        return KubeApi(self.admin_kubeconfig)

    def start(self) -> None:
        """Brings everything up. On failure whatever was started is stopped again and StandError is raised."""
        programs = self._binaries.resolve(self._progress)
        if not self.options.detached:
            self.processes.guard()
        try:
            self._start(programs)
        except BaseException:
            with contextlib.suppress(StandError):
                self.stop()
            raise

    def _start(self, programs: Mapping[str, Path]) -> None:
        self._stop_leftovers()
        if self.options.kind:
            self._cluster = KindCluster(
                self.options.name, self.directory, self.processes, programs, progress=self._progress
            )
        else:
            self._cluster = ControlPlane(self.directory, self.processes, programs, progress=self._progress)
        self._cluster.prepare()
        outer = self.options.parts != "control-plane"
        if outer:
            self.redis.launch()
            self._launch_account()
        pointed_at = self._cluster.server
        self._cluster.start()
        if outer:
            self._start_outer(moved=self._cluster.server != pointed_at)
        self._write_endpoints()
        self._progress("stand", f"up; state and logs are under {self.directory}")

    def _stop_leftovers(self) -> None:
        left = [record for record in self.processes.records() if is_running(record)]
        if left:
            self._progress("stand", f"stopping what an earlier run left: {', '.join(r.name for r in left)}")
        _stop_everything(self.processes)
        for name in ("etcd", "redis", "endpoints"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        (self.directory / "endpoints").mkdir()

    def _start_outer(self, *, moved: bool) -> None:
        self.redis.wait()
        if moved:
            self.processes.stop([_ACCOUNT])
            self._launch_account()
        with self.api() as api:
            self._progress("install", "custom resources, service accounts and rights")
            install.install(api, install.definitions())
            if self.options.parts == "services":
                self._make_service_kubeconfigs(api)
        self._progress("account", "waiting for the simulated AWS account")
        self.processes.wait_answering(_ACCOUNT, self._account_is_ours, timeout_s=_ANSWERS_S)
        if self.options.parts == "services":
            self._endpoints = services.take_endpoints(self.options.replicas + 1)
            self._start_services()

    def _make_service_kubeconfigs(self, api: KubeApi) -> None:
        allocator, reallocator = (
            {**self.options.settings, **self.options.service_settings.get(name, {})}
            for name in ("allocator", "reallocator")
        )
        mode = allocator.get("NODEYARD_PLACEMENT_MODE", "nominate")
        told = {value: reallocator[name] == "true" for name, value in _RIGHTS.items() if name in reallocator}
        manifests = [*install.rights(placement_mode=mode, reallocator=told)]
        install.install(api, manifests)
        for name in services.WITH_KUBERNETES:
            path = self.cluster.kubeconfig_dir / f"{name}.kubeconfig"
            account = install.account_of(name, manifests)
            self._kubeconfigs[name] = install.service_kubeconfig(api, path, account=account)

    def _launch_account(self) -> None:
        self._account_port = self._account_port or free_port()
        state = self.directory / _ACCOUNT
        state.mkdir(exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", "nodeyard.local.account", "--port", str(self._account_port)]
        command += ["--state-dir", str(state), "--kubeconfig", str(self.admin_kubeconfig)]
        command += ["--cluster-name", self.options.cluster_name, "--region", REGION]
        environment = {**services.clean_environment(), "PYTHONUNBUFFERED": "1"}
        self.processes.start(_ACCOUNT, [*command, *self.options.account_arguments], env=environment)

    def _account_is_ours(self) -> bool:
        record = self.processes.record(_ACCOUNT)
        try:
            answer = ask(f"{self.account_url}/healthz")
            return record is not None and answer.is_success and answer.json().get("pid") == record.pid
        except (httpx.HTTPError, ValueError):
            return False

    def _start_services(self) -> None:
        self._progress("services", f"starting {', '.join(self.options.services)}")
        started = [
            (name, replica) for name in self.options.services for replica in range(self.options.replicas)
        ]
        for name, replica in started:
            self._launch_service(name, replica, {})
        for name, replica in started:
            self._wait_service(name, replica)

    def start_service(self, service: str, replica: int = 0, env: Mapping[str, str] | None = None) -> None:
        """Starts one replica of a service, with settings of its own on top, and waits until it answers.

        Replicas 0 to `replicas` (one more than the stand starts) have ports of their own.
        """
        self._launch_service(service, replica, env or {})
        self._wait_service(service, replica)

    def _launch_service(self, service: str, replica: int, env: Mapping[str, str]) -> None:
        around = Surroundings(
            cluster_name=self.options.cluster_name,
            endpoints=self._endpoints,
            kubeconfigs=self._kubeconfigs,
            endpoints_dir=self.directory / "endpoints",
            redis_url=self.redis_url,
            account_url=self.account_url,
            region=REGION,
        )
        environment = {
            **services.clean_environment(),
            **services.settings(service, replica, around),
            **self.options.settings,
            **self.options.service_settings.get(service, {}),
            **env,
        }
        name = services.process_name(service, replica)
        known = self.processes.record(name) is not None
        self.processes.start(name, services.command(service), env=environment, append_log=known)

    def _wait_service(self, service: str, replica: int) -> None:
        url = f"{self.endpoint(service, replica).url}/healthz"
        name = services.process_name(service, replica)
        self.processes.wait_answering(name, lambda: responds(url), timeout_s=_ANSWERS_S)

    def ready(self, service: str, replica: int = 0) -> bool:
        """Whether a replica says that it is ready."""
        return succeeds(f"{self.endpoint(service, replica).url}/readyz")

    def kill_service(self, service: str, replica: int = 0, number: int = signal.SIGKILL) -> None:
        """Signals one replica of a service and, where that ends it, waits until it is gone."""
        name = services.process_name(service, replica)
        self.processes.signal(name, number)
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            self.processes.wait_gone(name, timeout_s=60.0)

    def restart_redis(self) -> None:
        """Kills Redis and brings it back at the same place with nothing in it."""
        self.redis.restart_empty()

    def restart_account(self) -> None:
        """Stops the simulated account and starts an empty one at the same place."""
        self.processes.stop([_ACCOUNT])
        self._launch_account()
        self.processes.wait_answering(_ACCOUNT, self._account_is_ours, timeout_s=_ANSWERS_S)

    def restart_apiserver(self) -> None:
        """Takes the API server away and brings it back at the same place, over the same data."""
        cluster = self.cluster
        if not isinstance(cluster, ControlPlane):
            raise StandError("the API server of a kind cluster is not ours to restart")
        cluster.stop_apiserver()
        cluster.start_apiserver()

    def logs(self, name: str) -> str:
        """All that a component has written: "kube-apiserver", "redis", "account", "allocator-0", …"""
        path = self.processes.log_path(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """Stops everything; state and logs stay under the directory until the next start."""
        stop_directory(self.directory, cluster=self._cluster, processes=self.processes)
        self.processes.release_guard()

    def _write_endpoints(self) -> None:
        content: dict[str, Any] = {
            "name": self.options.name,
            "parts": self.options.parts,
            "kind": self.options.kind,
            "server": self.cluster.server,
            "kubeconfig": str(self.admin_kubeconfig),
        }
        if self.options.parts != "control-plane":
            content |= {"redis": self.redis_url, "account": self.account_url}
            content["aws_environment"] = self.aws_environment
        if self._endpoints:
            replicas = self.options.replicas
            content["services"] = {
                name: [asdict(each) | {"url": each.url} for each in endpoints[:replicas]]
                for name, endpoints in self._endpoints.items()
                if name in self.options.services
            }
        path = self.directory / "endpoints.json"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=2) + "\n")


def read_endpoints(directory: Path) -> dict[str, Any] | None:
    """What a stand that is up says of itself; None when none was brought up under this directory."""
    try:
        content = json.loads((directory / "endpoints.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def stop_directory(
    directory: Path, *, cluster: Cluster | None = None, processes: Processes | None = None
) -> list[str]:
    """Stops whatever runs under a stand's directory, whoever started it; returns the names of what it stopped."""
    known = read_endpoints(directory) or {}
    (directory / "endpoints.json").unlink(missing_ok=True)
    kept = processes if processes is not None else Processes(directory)
    stopped = _stop_everything(kept)
    if cluster is None and known.get("kind"):
        cluster = KindCluster(str(known["name"]), directory, kept, {})
    if isinstance(cluster, KindCluster):
        cluster.stop()
    return stopped


def _stop_everything(processes: Processes) -> list[str]:
    """Stops all recorded processes: those that use the cluster first, then the API server, then etcd."""
    records = processes.records()
    stopped = [record.name for record in records if is_running(record)]
    first = [record.name for record in records if record.name not in _LEFTOVERS_LAST]
    processes.stop(first, grace_s=5.0)
    for name in _LEFTOVERS_LAST:
        processes.stop([name], grace_s=2.0)
    return stopped

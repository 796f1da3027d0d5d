"""`nodeyard demo`: the main job on this machine, before your eyes.

Brings up a stand, applies `deploy/demo`, shows a live table of pods, nodes, prices and decisions while pending pods
get machines, scales everything to zero and watches the cost fall to nothing. What it tells at the end is read from
the API server and the account, not from our own memory. Unattended it prints lines instead of a live table, and
exits 1 when the story does not come true. Whatever happens, it leaves nothing running.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml
from rich.console import Console
from rich.live import Live

from nodeyard.cli.cluster import read_cluster
from nodeyard.cli.demo_scene import Scene, board, line
from nodeyard.cli.demo_single import cheapest_single
from nodeyard.cli.demo_summary import summary
from nodeyard.cli.files import InputError
from nodeyard.cli.market import REGION, catalogues
from nodeyard.cli.plan import snapshot_of_found
from nodeyard.local.binaries import source_root
from nodeyard.local.errors import StandError
from nodeyard.local.kubeapi import KubeApi, KubeError
from nodeyard.local.progress import LineProgress
from nodeyard.local.stand import Options, Stand

app = typer.Typer(add_completion=False)
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
IMPOSSIBLE = "giant"
"""The deployment that cannot be scheduled at all and has to be told why."""


class StoryError(Exception):
    """The story did not come true; says at which step."""


@app.callback(invoke_without_command=True)
def demo(
    unattended: Annotated[
        bool, typer.Option("--unattended", help="Print lines, ask nothing, exit 0 or 1.")
    ] = False,
    mode: Annotated[str, typer.Option(help="How pods are placed: nominate or bind.")] = "nominate",
    patience: Annotated[float, typer.Option(help="Seconds to wait for each step.", min=1)] = 180.0,
) -> None:
    """Run the main job on this machine and watch it."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    settings = {"NODEYARD_PLACEMENT_MODE": mode}
    options = Options(name="demo", service_settings={"allocator": settings})
    try:
        with _interruptible(), Stand(options=options, progress=LineProgress()) as stand, stand.api() as api:
            Story(stand, api, console, patience, live=not unattended and sys.stdout.isatty()).tell()
    except (StandError, StoryError) as error:
        console.print(f"[red]the demo failed:[/red] {error}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print("interrupted; everything was stopped")
        raise typer.Exit(130) from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the demo the way Ctrl-C does: everything is stopped."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Story:
    """The demo's steps, in order."""

    def __init__(
        self, stand: Stand, api: KubeApi, console: Console, patience_s: float, *, live: bool
    ) -> None:
        self._stand, self._api, self._console = stand, api, console
        self._patience_s, self._live = patience_s, live
        self._web = httpx.Client(timeout=10.0, trust_env=False)

    def tell(self) -> None:
        """Runs the story. Raises StoryError when a step does not come true in time."""
        say = self._console.print
        say(
            "\n[bold]1. A v1alpha5 Provisioner and a NodePool say what is allowed; 40 pods with mixed needs arrive[/bold]"
        )
        self._watch("every service ready", self._all_ready)
        self._apply("pools.yaml")
        wanted = self._apply("workloads.yaml")
        scene = self._watch("all pods that can run are Running", lambda s: s.running == wanted - 1)
        scene = self._watch("the impossible pod is told why", lambda s: bool(s.refusals(IMPOSSIBLE)))
        for message in scene.refusals(IMPOSSIBLE)[:1]:
            say(f"   the pod that cannot be scheduled: [yellow]{message}[/yellow]")
        account = self._get(f"{self._stand.account_url}/dials/cost")
        facts = [*summary(scene, account), *self._single_type()]
        say("\n[bold]2. Scale to zero: the nodes go, and so does the cost[/bold]")
        for deployment in self._api.get(DEPLOYMENTS)["items"]:
            self._api.patch(f"{DEPLOYMENTS}/{deployment['metadata']['name']}", {"spec": {"replicas": 0}})
        began = time.time()
        self._watch(
            "no node of ours, no machine, no cost", lambda s: not s.nodes and not s.claims and s.rate == 0
        )
        total = self._get(f"{self._stand.account_url}/dials/cost")["total_usd"]
        say("\n[bold]3. What happened, as the API server and the account tell it[/bold]")
        for name, value in (*facts, ("from zero replicas to no cost", f"{time.time() - began:.1f} s")):
            say(f"   {name:<46} {value}")
        say(f"   {'spent in all':<46} ${total:.6f}\n")

    def _apply(self, name: str) -> int:
        """Applies a file of deploy/demo; returns how many pods its deployments want."""
        path: Path = source_root() / "deploy" / "demo" / name
        manifests = [m for m in yaml.safe_load_all(path.read_text()) if m]
        try:
            self._api.apply(manifests)
        except KubeError as error:
            raise StoryError(f"{path.name}: {error}") from error
        return sum(m["spec"]["replicas"] for m in manifests if m["kind"] == "Deployment")

    def _all_ready(self, _: Scene) -> bool:
        return all(
            self._stand.ready(name) for name in ("watcher", "pricing", "allocator", "reallocator", "admin")
        )

    def _watch(self, what: str, true: Callable[[Scene], bool]) -> Scene:
        """Shows the scene until `true` of it; raises StoryError after the patience."""
        deadline = time.monotonic() + self._patience_s
        with (
            Live(console=self._console, auto_refresh=False, transient=True)
            if self._live
            else _lines() as view
        ):
            said = ""
            while True:
                scene = self._look()
                if isinstance(view, Live):
                    view.update(board(scene), refresh=True)
                elif (now := line(scene)) != said:
                    self._console.print(f"   {now}", highlight=False)
                    said = now
                if true(scene):
                    break
                if time.monotonic() > deadline:
                    raise StoryError(f"not within {self._patience_s:g} s: {what}; last seen: {line(scene)}")
                time.sleep(0.5)
        self._console.print(f"   [green]✓[/green] {what}")
        return scene

    def _look(self) -> Scene:
        admin = self._stand.endpoint("admin").url
        return Scene(
            pods=self._api.get("/api/v1/namespaces/default/pods")["items"],
            nodes=[n for n in self._api.get("/api/v1/nodes")["items"] if "providerID" in n["spec"]],
            claims=self._api.get("/apis/karpenter.sh/v1/nodeclaims")["items"],
            events=self._api.get("/api/v1/namespaces/default/events", limit="500")["items"],
            priced=self._get(f"{admin}/v1/nodes", default={"nodes": []})["nodes"],
            decisions=self._get(f"{admin}/v1/decisions?limit=12", default=[]),
            rate=self._get(f"{self._stand.account_url}/dials/cost")["rate_usd_per_hour"],
        )

    def _single_type(self) -> list[tuple[str, str]]:
        """What one type per pool would cost for the pods that run, by the API server's objects and today's prices."""
        what = "the cheapest single type (in each pool)"
        try:
            found = read_cluster(str(self._stand.admin_kubeconfig))
            target = self._stand.endpoint("pricing").target
            offered = catalogues(
                snapshot_of_found(found), file=None, pricing=target, region=REGION, now=time.time()
            )
        except InputError as error:
            return [(what, f"not known: {error}")]
        singles = cheapest_single([item.object for item in found], offered)
        if singles is None:
            return [(what, "none could hold them")]
        kinds = ", ".join(f"{one.nodes}×{one.instance_type}" for one in singles)
        return [(what, f"${sum(one.usd_per_hour for one in singles):.4f} per hour ({kinds})")]

    def _get(self, url: str, default: Any = None) -> Any:
        """JSON of a GET; `default`, where given, while the service behind it is not ready."""
        try:
            answer = self._web.get(url)
            answer.raise_for_status()
            return answer.json()
        except httpx.HTTPError as error:
            if default is not None:
                return default
            raise StoryError(f"{url}: {error}") from error


@contextmanager
def _lines() -> Iterator[None]:
    yield None

"""`nodeyard plan`: what would be launched for pods in files or in the current cluster. Writes and launches nothing.

The same function plans here as in the allocator. Objects come from `files`, from the cluster, or from both, where a
file's object stands in for the cluster's. Exit status: 0 all placed, 3 some pods not placed, 2 unusable input (the
message names file, object and field).
"""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer
import yaml
from rich.console import Console

from nodeyard.api.convert import node_claim_manifest
from nodeyard.api.reading import ConversionError
from nodeyard.api.scheduler_config import default_spread_of
from nodeyard.api.selectors import TopologySpreadConstraint
from nodeyard.cli.cluster import kubeconfig_path, read_cluster
from nodeyard.cli.files import TOO_DEEP, Found, InputError, read_objects
from nodeyard.cli.market import REGION, catalogues
from nodeyard.cli.options import NODE_CHARGE, Catalog, Files, Kubeconfig, NodeCharge, Pricing, Region
from nodeyard.cli.plan_table import render
from nodeyard.provisioning.claims import claim_of
from nodeyard.provisioning.model import Options, Plan, PreferencePolicy, Problem, Reason, Unschedulable
from nodeyard.provisioning.planner import plan as make_plan
from nodeyard.provisioning.report import plan_json
from nodeyard.state.cluster import Snapshot
from nodeyard.state.manifests import ManifestError, plannable, snapshot_from, subject_of

app = typer.Typer(add_completion=False)
UNUSABLE, SOME_LEFT = 2, 3


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    MANIFESTS = "manifests"


class _InFull(yaml.SafeDumper):
    """YAML without anchors: what is alike is written out each time."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class MinValues(enum.StrEnum):
    STRICT = "Strict"
    BEST_EFFORT = "BestEffort"


@app.callback(invoke_without_command=True)
def plan(
    files: Files = None,
    kubeconfig: Kubeconfig = None,
    catalog: Catalog = None,
    pricing: Pricing = None,
    region: Region = REGION,
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
    node_charge: NodeCharge = NODE_CHARGE,
    preferences: Annotated[
        PreferencePolicy, typer.Option(help="How soft constraints count.")
    ] = PreferencePolicy.PRICED,
    preference_worth: Annotated[
        float,
        typer.Option(
            help="USD per hour that one unit of weight of a kept preference is worth, per pod.", min=0
        ),
    ] = 0.0001,
    price_tolerance: Annotated[
        float, typer.Option(help="How much dearer an alternative may be, as a share.", min=0)
    ] = 0.10,
    max_alternatives: Annotated[int, typer.Option(help="Most alternatives per node.", min=0, max=60)] = 60,
    max_share: Annotated[
        float | None, typer.Option(help="Most of a workload's replicas on one node.", min=0.0001, max=1)
    ] = None,
    min_values: Annotated[
        MinValues, typer.Option(help="What happens where a pool's minValues can't be met.")
    ] = MinValues.STRICT,
    scheduler_config: Annotated[
        str | None, typer.Option(help="kube-scheduler's configuration, for the cluster's default spread.")
    ] = None,
    deadline: Annotated[
        float, typer.Option(help="Seconds after which the best plan so far is taken.", min=0.01)
    ] = 10.0,
    bound: Annotated[bool, typer.Option(help="Prove how near the optimum the plan is.")] = True,
) -> None:
    """Say what would be launched, for pods in files or in the current cluster. Launches nothing."""
    began = time.perf_counter()
    try:
        options = Options(
            node_charge_usd_per_hour=node_charge,
            preference_policy=preferences,
            preference_usd_per_weight_hour=preference_worth,
            price_tolerance=price_tolerance,
            max_alternatives=max_alternatives,
            max_share_per_node=max_share,
            min_values_policy=min_values.value,
            deadline_s=deadline,
            bound=bound,
            default_spread=default_spread(scheduler_config) if scheduler_config else (),
        )
        found = gathered(files or [], kubeconfig)
        snapshot = snapshot_of_found(found)
        offered = catalogues(snapshot, file=catalog, pricing=pricing, region=region, now=time.time())
    except InputError as error:
        print(f"nodeyard plan: {error}", file=sys.stderr)
        raise typer.Exit(UNUSABLE) from error
    parsed_s = time.perf_counter() - began
    problem = Problem(snapshot, plannable(snapshot), offered, time.time())
    made = with_leaving(make_plan(problem, options, time.monotonic), snapshot)
    _show(made, snapshot, output, parsed_s)
    if made.unschedulable:
        raise typer.Exit(SOME_LEFT)


def gathered(files: Sequence[str], kubeconfig: str | None) -> list[Found]:
    """The objects asked for; of one that is both in a file and in the cluster, the file's. Raises InputError."""
    if files and not kubeconfig:
        return read_objects(files)
    path = kubeconfig_path(kubeconfig)
    if path is None:
        raise InputError("nothing to plan: give -f FILE, or --kubeconfig FILE to read a cluster")
    own = read_objects(files)
    replaced = {_identity(item) for item in own}
    return [*(item for item in read_cluster(path) if _identity(item) not in replaced), *own]


def _identity(item: Found) -> tuple[str, str, str]:
    meta = item.object.get("metadata") or {}
    return str(item.object.get("kind")), str(meta.get("namespace") or "default"), str(meta.get("name"))


def default_spread(file: str) -> tuple[TopologySpreadConstraint, ...]:
    """The default constraints of a scheduler configuration. Raises InputError naming file and field."""
    found = read_objects([file])
    if len(found) != 1:
        raise InputError(f"{file}: {len(found)} documents where one KubeSchedulerConfiguration is wanted")
    try:
        return default_spread_of(found[0].object)
    except ConversionError as error:
        raise InputError(f"{file}: {error}") from error


def with_leaving(made: Plan, snapshot: Snapshot) -> Plan:
    """The plan with pods listed that have no node and are being deleted: nothing is planned for them."""
    leaving = tuple(
        Unschedulable(key, Reason.INVALID, "it is being deleted")
        for key, pod in snapshot.pods.items()
        if pod.terminating and not (pod.node or pod.finished or pod.daemon)
    )
    return msgspec.structs.replace(made, unschedulable=(*made.unschedulable, *leaving)) if leaving else made


def snapshot_of_found(found: Sequence[Found]) -> Snapshot:
    """The objects as a snapshot. Raises InputError naming file, object and field, also for pools that make no sense.

    Those of a running cluster are no reason to refuse: one that can't be understood is named on standard error and left
    out, and its pools that make no sense are named and offer nothing, as in the cluster itself.
    """
    snapshot, found = _understood(found)
    live = {subject_of(item.object) for item in found if item.live}
    for pool in snapshot.pools.values():
        if pool.problems:
            kind, _, name = pool.key.rpartition("/")
            subject = f"{'Provisioner' if kind else 'NodePool'} {name}"
            message = f"{_file_of(subject, found)}{subject}: {pool.problems[0]}"
            if subject not in live:
                raise InputError(message)
            print(f"nodeyard: {message}: nothing is bought for it", file=sys.stderr)
    _note(snapshot, found)
    return snapshot


def _note(snapshot: Snapshot, found: Sequence[Found]) -> None:
    """Says on standard error what older objects mean in today's terms, and which node classes can't launch anything."""

    def say(subject: str, note: str) -> None:
        print(f"nodeyard: {_file_of(subject, found)}{subject}: {note}", file=sys.stderr)

    for pool in snapshot.pools.values():
        for note in pool.warnings:
            say(f"Provisioner {pool.key.rpartition('/')[2]}", note)
    for known in snapshot.node_classes.values():
        older, _, name = known.key.rpartition("/")
        if older == "provisioner":
            continue
        subject = f"{'AWSNodeTemplate' if older else 'EC2NodeClass'} {name}"
        for note in known.warnings:
            say(subject, note)
        for problem in known.problems[:1]:
            say(subject, f"{problem}: nothing could be launched by it")


def _understood(found: Sequence[Found]) -> tuple[Snapshot, Sequence[Found]]:
    """The snapshot, and what it is of: `found` without live objects that can't be understood."""
    while True:
        try:
            return snapshot_from(item.object for item in found), found
        except ManifestError as error:
            message = f"{_file_of(error.subject, found)}{error}"
            rest = [i for i in found if not (i.live and _is_called(i, error.subject))]
            if len(rest) == len(found):
                raise InputError(message) from error
            print(f"nodeyard: {message}: left out", file=sys.stderr)
            found = rest
        except RecursionError as error:
            raise InputError(f"{', '.join(sorted({item.file for item in found}))}: {TOO_DEEP}") from error


def _is_called(item: Found, subject: str) -> bool:
    called = subject_of(item.object)
    kind, _, name = called.partition(" ")
    return subject in (called, f"{kind} default/{name}")


def _file_of(subject: str, found: Sequence[Found]) -> str:
    """The file that the object so called stands in, with a colon; where it can't be told, all that it may stand in."""
    for item in found:
        if _is_called(item, subject):
            return f"{item.file}: "
    return ", ".join(sorted({item.file for item in found})) + ": "


def _show(made: Plan, snapshot: Snapshot, output: Output, parsed_s: float) -> None:
    if output is Output.TABLE:
        Console(width=None if sys.stdout.isatty() else 160).print(render(made, snapshot))
    elif output is Output.MANIFESTS:
        sys.stdout.write(yaml.dump_all(manifests(made, snapshot), Dumper=_InFull, sort_keys=False))
    else:
        report: dict[str, Any] = plan_json(made, snapshot)
        seconds = report["seconds"]
        seconds["parse"] = round(parsed_s, 6)
        seconds["total"] = round(parsed_s + made.plan_s + made.bound_s, 6)
        if output is Output.JSON:
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        else:
            sys.stdout.write(yaml.dump(report, Dumper=_InFull, sort_keys=False))


def manifests(made: Plan, snapshot: Snapshot) -> list[dict[str, Any]]:
    """The NodeClaims that the plan would write."""
    return [
        node_claim_manifest(
            claim_of(node, snapshot.pools[node.pool], name=node.name, plan_id="dry-run", group="", epoch=None)
        )
        for node in made.nodes
    ]

"""`nodeyard simulate consolidate` from files: what it prints, and how it complains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from nodeyard.cli.simulate import app
from tests.benchmark.consolidation_clusters import KINDS
from tests.support.invented_market import three_families
from tests.support.judge import judge

Json = dict[str, Any]


def simulated(tmp_path: Path, objects: list[Json], *more: str) -> Json:
    """What the command prints for these objects."""
    (tmp_path / "cluster.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    lines = "\n".join(json.dumps(entry) for entry in three_families().values())
    (tmp_path / "catalogue.jsonl").write_text(lines)
    result = CliRunner().invoke(
        app,
        [
            "consolidate", "-f", str(tmp_path / "cluster.json"), "--catalog", str(tmp_path / "catalogue.jsonl"),
            "--output", "json", "--deadline", "1", *more,
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def as_pending(objects: list[Json]) -> list[Json]:
    """The objects as if nothing had been placed yet, for the judge of plans."""
    pods = [
        {**o, "spec": {k: v for k, v in o["spec"].items() if k != "nodeName"}}
        for o in objects
        if o["kind"] == "Pod"
    ]
    return [*(o for o in objects if o["kind"] not in ("Pod", "Node")), *pods]


def test_every_kind_of_cluster_ends_cheaper_and_valid(tmp_path: Path) -> None:
    for kind, make in KINDS.items():
        objects = make(three_families(), 8, 3)
        report = simulated(tmp_path, objects)
        before, after = report["before"]["objectivePerHour"], report["after"]["objectivePerHour"]
        assert report["lowerBound"] <= after + 1e-9 <= before + 2e-9, kind
        nodes = [{**n, "alternatives": [], "runnersUp": [], "why": ""} for n in report["after"]["nodes"]]
        charge = sum(n["nodeChargePerHour"] for n in nodes)
        cost = {"pricePerHour": after - charge, "nodeChargePerHour": charge, "objectivePerHour": after}
        plan = {"nodes": nodes, "existing": [], "unschedulable": [], "cost": {**cost, "lowerBound": None}}
        assert judge(as_pending(objects), three_families(), plan) == [], kind


def test_steps_name_nodes_of_the_input_and_of_the_end(tmp_path: Path) -> None:
    objects = KINDS["after scale-down"](three_families(), 8, 5)
    report = simulated(tmp_path, objects)
    names = {o["metadata"]["name"] for o in objects if o["kind"] == "Node"}
    standing = set(names)
    for step in report["steps"]:
        assert set(step["remove"]) <= standing
        standing = (standing - set(step["remove"])) | set(step["add"])
    assert standing == {n["name"] for n in report["after"]["nodes"]}
    assert {n["name"] for n in report["after"]["nodes"] if n["existing"]} == standing & names
    saved = sum(step["savesPerHour"] for step in report["steps"])
    assert abs(report["before"]["objectivePerHour"] - report["after"]["objectivePerHour"] - saved) < 1e-6


def test_a_cluster_in_which_nothing_is_worth_a_step_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("kind: Namespace\napiVersion: v1\nmetadata: {name: shop}\n")
    lines = "\n".join(json.dumps(entry) for entry in three_families().values())
    (tmp_path / "catalogue.jsonl").write_text(lines)
    result = CliRunner().invoke(
        app,
        ["consolidate", "-f", str(tmp_path / "empty.yaml"), "--catalog", str(tmp_path / "catalogue.jsonl")],
    )
    assert result.exit_code == 0, result.output
    assert "no step is worth taking" in result.output
    assert "before: 0 nodes" in result.output


def test_a_broken_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("kind: Node\nmetadata: {}\n")
    result = CliRunner().invoke(app, ["consolidate", "-f", str(tmp_path / "bad.yaml"), "--catalog", "none"])
    assert result.exit_code == 2
    assert "bad.yaml" in result.output

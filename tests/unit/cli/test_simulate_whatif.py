"""`nodeyard simulate remove`, `replace` and `drain-zone` from files: where pods go, what it costs, and complaints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from nodeyard.cli.simulate import app
from tests.benchmark.consolidation_clusters import KINDS
from tests.unit.cli.test_simulate import catalogue

Json = dict[str, Any]


def cluster() -> list[Json]:
    return KINDS["after scale-down"](catalogue(), 8, 5)


def asked(tmp_path: Path, *question: str) -> Result:
    (tmp_path / "cluster.json").write_text(
        json.dumps({"apiVersion": "v1", "kind": "List", "items": cluster()})
    )
    lines = "\n".join(json.dumps(entry) for entry in catalogue().values())
    (tmp_path / "catalogue.jsonl").write_text(lines)
    reading = ["-f", str(tmp_path / "cluster.json"), "--catalog", str(tmp_path / "catalogue.jsonl")]
    return CliRunner().invoke(app, [*question, *reading, "--output", "json"])


def pods_of(*nodes: str) -> set[str]:
    return {
        f"{o['metadata'].get('namespace', 'default')}/{o['metadata']['name']}"
        for o in cluster()
        if o["kind"] == "Pod" and o["spec"].get("nodeName") in nodes
    }


def nodes() -> dict[str, str]:
    return {
        o["metadata"]["name"]: o["metadata"]["labels"]["topology.kubernetes.io/zone"]
        for o in cluster()
        if o["kind"] == "Node"
    }


def accounted(answer: Json) -> set[str]:
    return {m["pod"] for m in answer["moves"]} | {u["pod"] for u in answer["unschedulable"]}


def test_every_pod_of_a_removed_node_is_accounted_for(tmp_path: Path) -> None:
    name = min(nodes())
    result = asked(tmp_path, "remove", name)
    assert result.exit_code in (0, 3), result.output
    answer = json.loads(result.stdout)
    assert accounted(answer) == pods_of(name)
    assert all(m["from"] == name != m["to"] for m in answer["moves"])
    change = answer["before"]["objectivePerHour"] - answer["after"]["objectivePerHour"]
    assert abs(change - answer["savesPerHour"]) < 1e-9


def test_pods_of_a_replaced_node_go_to_new_nodes_only(tmp_path: Path) -> None:
    name = min(n for n in nodes() if pods_of(n))
    answer = json.loads(asked(tmp_path, "replace", name).stdout)
    assert accounted(answer) == pods_of(name)
    assert answer["moves"]
    assert {m["to"] for m in answer["moves"]} == {n["name"] for n in answer["launch"]}


def test_nothing_goes_to_a_drained_zone(tmp_path: Path) -> None:
    zone = min(nodes().values())
    inside = [n for n, where in nodes().items() if where == zone]
    answer = json.loads(asked(tmp_path, "drain-zone", zone).stdout)
    assert accounted(answer) == pods_of(*inside)
    assert not {m["to"] for m in answer["moves"]} & set(inside)
    assert all(n["zone"] != zone for n in answer["launch"])


def test_what_is_not_there_is_refused_by_its_name(tmp_path: Path) -> None:
    for question in (("remove", "n-gone"), ("replace", "n-gone"), ("drain-zone", "z-gone")):
        result = asked(tmp_path, *question)
        assert result.exit_code == 2
        assert "gone" in result.output

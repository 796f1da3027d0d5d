"""`nodeyard simulate remove`, `replace`, `drain-zone`, `add`, `price` and `pool` from files: where pods go, what it
costs, and complaints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from nodeyard.cli.simulate import app
from tests.benchmark.consolidation_clusters import KINDS
from tests.support.invented_market import three_families

Json = dict[str, Any]


def cluster() -> list[Json]:
    return KINDS["after scale-down"](three_families(), 8, 5)


def asked(tmp_path: Path, *question: str, output: str = "json") -> Result:
    (tmp_path / "cluster.json").write_text(
        json.dumps({"apiVersion": "v1", "kind": "List", "items": cluster()})
    )
    lines = "\n".join(json.dumps(entry) for entry in three_families().values())
    (tmp_path / "catalogue.jsonl").write_text(lines)
    reading = ["-f", str(tmp_path / "cluster.json"), "--catalog", str(tmp_path / "catalogue.jsonl")]
    return CliRunner().invoke(app, [*question, *reading, "--output", output])


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


def put(tmp_path: Path, *objects: Json) -> str:
    """A file with these objects."""
    path = tmp_path / "more.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
    return str(path)


def pool() -> Json:
    return next(o for o in cluster() if o["kind"] == "NodePool")


def test_an_added_deployment_is_placed_pod_by_pod_and_paid_for(tmp_path: Path) -> None:
    pod = {"containers": [{"name": "m", "resources": {"requests": {"cpu": "6"}}}]}
    template = {"metadata": {"labels": {"app": "late"}}, "spec": pod}
    spec = {"replicas": 3, "selector": {"matchLabels": {"app": "late"}}, "template": template}
    late = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "late"}, "spec": spec}
    result = asked(tmp_path, "add", put(tmp_path, late))
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert len(answer["moves"]) == 3
    assert all(m["from"] == "" and "late" in m["pod"] for m in answer["moves"])
    new = sum(n["pricePerHour"] + n["nodeChargePerHour"] for n in answer["launch"])
    assert abs(answer["savesPerHour"] + new) < 1e-9


def test_an_added_node_costs_its_offering_though_its_manifest_does_not_say_what_it_holds(
    tmp_path: Path,
) -> None:
    like = next(o for o in cluster() if o["kind"] == "Node")
    metadata = {"name": "extra", "labels": like["metadata"]["labels"]}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
    result = asked(tmp_path, "add", put(tmp_path, node))
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["after"]["pricePerHour"] > answer["before"]["pricePerHour"]
    assert answer["launch"] == []


def test_a_price_that_rises_brings_steps_away_from_it(tmp_path: Path) -> None:
    keys = ("node.kubernetes.io/instance-type", "topology.kubernetes.io/zone")
    labels = {o["metadata"]["name"]: o["metadata"]["labels"] for o in cluster() if o["kind"] == "Node"}
    offering = tuple(labels[min(n for n in nodes() if pods_of(n))][key] for key in keys)
    result = asked(tmp_path, "price", f"{'/'.join(offering)}=50", "--deadline", "2")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["unchanged"]["pricePerHour"] > answer["before"]["pricePerHour"] + 40
    first = answer["steps"][0]["remove"][0]
    assert tuple(labels[first][key] for key in keys) == offering
    assert answer["savesPerHour"] > 40


def test_a_pool_that_allows_one_zone_less_drifts_the_nodes_there(tmp_path: Path) -> None:
    zone = min(nodes().values())
    changed = pool()
    terms = [{"key": "topology.kubernetes.io/zone", "operator": "NotIn", "values": [zone]}]
    changed["spec"]["template"]["spec"]["requirements"] += terms
    result = asked(tmp_path, "pool", put(tmp_path, changed), "--deadline", "1")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["drifted"] == sorted(n for n, where in nodes().items() if where == zone)
    assert all(n["zone"] != zone for step in answer["steps"] for n in step["launch"])


def test_a_table_says_the_same_in_words(tmp_path: Path) -> None:
    name = min(n for n in nodes() if pods_of(n))
    shown = asked(tmp_path, "remove", name, output="table").stdout
    assert "drain:" in shown
    assert "saves:" in shown
    assert "as is:" in asked(tmp_path, "price", "c5.2=9", "--deadline", "0.2", output="table").stdout


def test_questions_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    taken = next(o for o in cluster() if o["kind"] == "Node")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}
    for question, words in (
        (("price", "c5.2"), "TYPE"),
        (("price", "c5.2=-1"), "above 0"),
        (("price", "no-such=1"), "no-such"),
        (("add", put(tmp_path, taken)), taken["metadata"]["name"]),
        (("pool", put(tmp_path, namespace)), "Namespace x"),
        (("add", str(tmp_path / "nowhere.json")), "nowhere.json"),
    ):
        if question[0] in ("add", "pool") and "more.json" in question[1]:
            put(tmp_path, taken if question[0] == "add" else namespace)
        result = asked(tmp_path, *question)
        assert result.exit_code == 2, (question, result.output)
        assert words in result.output


def autoscaler(target: str, cpu: int, mode: str = "Recreate") -> Json:
    recommended = [{"containerName": "main", "target": {"cpu": str(cpu)}}]
    return {
        "apiVersion": "autoscaling.k8s.io/v1",
        "kind": "VerticalPodAutoscaler",
        "metadata": {"name": target},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": target},
            "updatePolicy": {"updateMode": mode},
        },
        "status": {"recommendation": {"containerRecommendations": recommended}},
    }


def test_a_pod_that_comes_back_larger_goes_where_there_is_room_for_what_comes_back(tmp_path: Path) -> None:
    """Fifteen cores fit on the largest types only."""
    name = min(n for n in nodes() if pods_of(n))
    pod = min(pods_of(name))
    target = next(
        o["metadata"]["ownerReferences"][0]["name"]
        for o in cluster()
        if o["kind"] == "Pod" and f"default/{o['metadata']['name']}" == pod
    )

    def launched(mode: str) -> list[Json]:
        asking = asked(tmp_path, "replace", name, "-f", put(tmp_path, autoscaler(target, 15, mode)))
        made: list[Json] = json.loads(asking.stdout)["launch"]
        return [node for node in made if pod in node["pods"]]

    (now,), (then,) = launched("Off"), launched("Recreate")
    assert not now["instanceType"].endswith(".16")
    assert then["instanceType"].endswith(".16")

"""`nodeyard plan` as people run it: files, standard input, a cluster and a pricing service in; every output; exit codes."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from nodeyard.cli.main import app
from nodeyard.local.kubeapi import KubeApi
from nodeyard.local.stand import Stand
from nodeyard.runtime.clock import SystemClock
from tests.integration.test_catalogue_feed import Served
from tests.support.cluster import eventually
from tests.support.invented_market import ZONES, invented
from tests.support.judge import judge
from tests.support.kube_rules import ZONE
from tests.support.manifests import claim, node, pod, pods, pool, spread
from tests.support.pricing_fakes import FakeMemory
from tests.support.problems import KINDS

Json = dict[str, Any]
runner = CliRunner()


def deployment(name: str, replicas: int, cpu_m: int = 500, **spec: Any) -> Json:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod(name, cpu_m, 800, **spec)["spec"]}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}}  # fmt: skip


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    path = tmp_path / "catalogue.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in invented().values()))
    return str(path)


def written(folder: Path, *objects: Json, name: str = "objects.json") -> str:
    path = folder / name
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
    return str(path)


def planned(*arguments: str, code: int = 0, stdin: str | None = None) -> Any:
    result = runner.invoke(app, ["plan", *arguments], input=stdin)
    assert result.exit_code == code, result.output + result.stderr
    return result


# --- files -------------------------------------------------------------------------------------------------------------
def test_a_valid_plan_comes_out_as_documented_json(tmp_path: Path, catalogue: str) -> None:
    problem = KINDS["zone spread"](1)
    report = json.loads(planned("-f", written(tmp_path, *problem.objects), "--catalog", catalogue, "-o", "json").output)  # fmt: skip
    assert judge(problem.objects, problem.market, report) == []
    assert {"nodes", "existing", "unschedulable", "cost", "seconds"} <= report.keys()
    node = report["nodes"][0]
    assert {"name", "nodePool", "instanceType", "zone", "capacityType", "pricePerHour", "labels", "pods", "alternatives"} <= node.keys()  # fmt: skip
    assert {"pricePerHour", "nodeChargePerHour", "objectivePerHour", "lowerBound", "gap", "boundIgnores", "preferencesPerHour"} <= report["cost"].keys()  # fmt: skip
    seconds = report["seconds"]
    assert seconds["total"] == pytest.approx(seconds["parse"] + seconds["plan"] + seconds["bound"], abs=1e-3)


def test_each_pod_is_in_exactly_one_place_and_a_claim_without_a_node_is_one(
    tmp_path: Path, catalogue: str
) -> None:
    """On a node that stands, on a claim on its way, on a new node, or left out: with these fields and no others."""
    there = node("n", ZONES[0])
    coming = claim("c", ZONES[1])
    tied = [pod(f"at-{i}", 3000, 1000, nodeSelector={ZONE: zone}) for i, zone in enumerate(ZONES[:2])]
    runs = pod("runs-0", 100, 100, node="n")
    waiting = [*tied, pod("new-0", 3500, 1000), pod("huge-0", 900_000)]
    path = written(tmp_path, pool(), there, coming, runs, *waiting)
    report = json.loads(planned("-f", path, "--catalog", catalogue, "-o", "json", code=3).output)
    assert report["existing"] == [
        {"node": "n", "pods": ["default/at-0"]},
        {"node": "nodeclaim/c", "pods": ["default/at-1"]},
    ]
    (made,) = report["nodes"]
    (left,) = report["unschedulable"]
    assert (made["pods"], left["pod"]) == (["default/new-0"], "default/huge-0")
    assert left.keys() == {"pod", "reason", "message", "details"}
    assert all(
        a.keys() == {"instanceType", "zone", "capacityType", "pricePerHour"} for a in made["alternatives"]
    )


def test_a_provisioner_is_a_pool_like_any_other(tmp_path: Path, catalogue: str) -> None:
    older = {"apiVersion": "karpenter.sh/v1alpha5", "kind": "Provisioner", "metadata": {"name": "old"},
             "spec": {"provider": {"instanceProfile": "p"}}}  # fmt: skip
    path = written(tmp_path, older, pod("a-0"))
    report = json.loads(planned("-f", path, "--catalog", catalogue, "-o", "json").stdout)
    (made,) = report["nodes"]
    assert (made["nodePool"], made["capacityType"]) == ("provisioner/old", "on-demand")
    assert made["labels"]["karpenter.sh/provisioner-name"] == "old"


def test_workloads_are_expanded_by_the_replicas_that_are_not_there(tmp_path: Path, catalogue: str) -> None:
    there = pod("web-abc-1", 500, 800, namespace="shop", labels={"app": "web"})
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-abc", "uid": "1", "controller": True}
    there["metadata"]["ownerReferences"] = [owner]
    path = written(tmp_path, pool(), deployment("web", 3), there)
    report = json.loads(planned("-f", path, "--catalog", catalogue, "-o", "json").output)
    assert {p for n in report["nodes"] for p in n["pods"]} == {"shop/web-0", "shop/web-1", "shop/web-abc-1"}


def test_standard_input_and_several_files_are_read_together(tmp_path: Path, catalogue: str) -> None:
    stdin = yaml.safe_dump_all([pool(), pod("a-0")])
    path = written(tmp_path, pod("b-0"))
    report = json.loads(planned("-f", "-", "-f", path, "--catalog", catalogue, "-o", "json", stdin=stdin).output)  # fmt: skip
    assert sorted(p for n in report["nodes"] for p in n["pods"]) == ["default/a-0", "default/b-0"]


def test_yaml_says_what_json_says(tmp_path: Path, catalogue: str) -> None:
    path = written(tmp_path, pool(), *pods("web", 5))
    as_json, as_yaml = (planned("-f", path, "--catalog", catalogue, "-o", form).output for form in ("json", "yaml"))  # fmt: skip
    assert yaml.safe_load(as_yaml)["nodes"] == json.loads(as_json)["nodes"]


def test_manifests_are_node_claims_that_name_what_may_be_launched(tmp_path: Path, catalogue: str) -> None:
    path = written(tmp_path, pool(), *pods("web", 5))
    claims = list(yaml.safe_load_all(planned("-f", path, "--catalog", catalogue, "-o", "manifests").output))
    report = json.loads(planned("-f", path, "--catalog", catalogue, "-o", "json").output)
    assert [c["kind"] for c in claims] == ["NodeClaim"] * len(report["nodes"])
    for made, planned_node in zip(claims, report["nodes"], strict=True):
        types = next(
            r for r in made["spec"]["requirements"] if r["key"] == "node.kubernetes.io/instance-type"
        )
        assert planned_node["instanceType"] in types["values"]


def test_the_table_sums_pods_by_workload_and_says_what_was_left_out_and_why(
    tmp_path: Path, catalogue: str
) -> None:
    path = written(tmp_path, pool(), deployment("web", 4, cpu_m=100), pod("huge-0", 900_000))
    output = planned("-f", path, "--catalog", catalogue, code=3).output
    assert sum(int(n) for n in re.findall(r"(\d+)×shop/web", output)) == 4
    assert "InsufficientResources" in output
    assert "no plan can be below" in output


def test_the_table_says_what_the_rent_may_come_to_where_nodes_have_dearer_alternatives(
    tmp_path: Path, catalogue: str
) -> None:
    given = ("-f", written(tmp_path, pool(), deployment("web", 4, cpu_m=100)), "--catalog", catalogue)
    wide = ("--price-tolerance", "0.5")
    cost = json.loads(planned(*given, *wide, "-o", "json").output)["cost"]
    assert cost["dearestPerHour"] > cost["pricePerHour"]
    assert f"rent up to ${cost['dearestPerHour']:.4f}/h" in " ".join(planned(*given, *wide).output.split())
    assert "rent up to" not in planned(*given, "--max-alternatives", "0").output


def test_pods_left_out_make_the_status_three_and_are_listed_with_a_reason(
    tmp_path: Path, catalogue: str
) -> None:
    path = written(tmp_path, pool(), pod("a-0"), pod("b-0", nodeSelector={"disk": "ssd"}))
    report = json.loads(planned("-f", path, "--catalog", catalogue, "-o", "json", code=3).output)
    (left,) = report["unschedulable"]
    assert (left["pod"], left["reason"]) == ("default/b-0", "IncompatibleRequirements")
    assert "disk" in left["message"]


def test_a_pod_that_is_being_deleted_is_listed_and_not_planned(tmp_path: Path, catalogue: str) -> None:
    leaving = pod("a-0")
    leaving["metadata"]["deletionTimestamp"] = "2026-11-01T00:00:00Z"
    path = written(tmp_path, pool(), leaving)
    report = json.loads(planned("-f", path, "--catalog", catalogue, "-o", "json", code=3).output)
    assert (report["nodes"], report["unschedulable"][0]["reason"]) == ([], "InvalidPod")


def test_finished_daemons_and_mirror_pods_are_not_listed(tmp_path: Path, catalogue: str) -> None:
    done = {**pod("a-0"), "status": {"phase": "Succeeded"}}
    owned = [pod("b-0"), pod("c-0")]
    for each, kind in zip(owned, ("DaemonSet", "Node"), strict=True):
        each["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": kind, "name": "x", "uid": "1", "controller": True}]  # fmt: skip
    path = written(tmp_path, pool(), done, *owned)
    report = json.loads(planned("-f", path, "--catalog", catalogue, "-o", "json").output)
    assert (report["nodes"], report["existing"], report["unschedulable"]) == ([], [], [])


def test_a_scheduler_configuration_that_makes_no_sense_is_named(tmp_path: Path, catalogue: str) -> None:
    wrong = tmp_path / "scheduler.yaml"
    wrong.write_text("kind: KubeSchedulerConfiguration\nprofiles: 3\n")
    path = written(tmp_path, pool(), pod("a-0"))
    arguments = ("-f", path, "--catalog", catalogue, "--scheduler-config", str(wrong))
    assert "scheduler.yaml: profiles" in planned(*arguments, code=2).stderr


def test_the_default_spread_of_a_scheduler_configuration_holds_for_a_deployment(
    tmp_path: Path, catalogue: str
) -> None:
    constraint = {"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule"}
    args = {"defaultingType": "List", "defaultConstraints": [constraint]}
    plugin = {"pluginConfig": [{"name": "PodTopologySpread", "args": args}]}
    config = tmp_path / "scheduler.json"
    config.write_text(json.dumps({"kind": "KubeSchedulerConfiguration", "profiles": [plugin]}))
    given = ("-f", written(tmp_path, pool(), deployment("web", 6)), "--catalog", catalogue, "-o", "json")

    def zones(*more: str) -> list[int]:
        found = Counter(
            n["zone"] for n in json.loads(planned(*given, *more).output)["nodes"] for _ in n["pods"]
        )
        return sorted(found.values())

    assert zones() == [6]
    assert zones("--scheduler-config", str(config)) == [2, 2, 2]


def test_without_a_catalogue_the_simulated_account_sells(tmp_path: Path) -> None:
    constraint = spread("topology.kubernetes.io/zone", "web")
    path = written(tmp_path, pool(), *pods("web", 6, topologySpreadConstraints=[constraint]))
    report = json.loads(planned("-f", path, "-o", "json").output)
    assert {n["zone"] for n in report["nodes"]} == {"eu-west-1a", "eu-west-1b", "eu-west-1c"}


def test_settings_reach_the_planner(tmp_path: Path, catalogue: str) -> None:
    path = written(tmp_path, pool(), *pods("web", 5))
    arguments = ("--node-charge", "0", "--no-bound", "--price-tolerance", "0.5", "--max-alternatives", "3")
    report = json.loads(planned("-f", path, "--catalog", catalogue, "-o", "json", *arguments).output)
    assert report["cost"]["nodeChargePerHour"] == 0
    assert report["cost"]["lowerBound"] is None
    assert all(len(n["alternatives"]) <= 3 for n in report["nodes"])


# --- unusable input --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (pod("a-0", cpu_m="lots"), r"objects.json: Pod default/a-0: .*cpu: 'lotsm' is not a quantity"),  # type: ignore[arg-type]
        ({"kind": "Pod", "metadata": {}}, r"objects.json: Pod \(without a name\): metadata.name: is missing"),
        ({"metadata": {"name": "x"}}, r"objects.json: object x: kind: is missing"),
        (pool("odd", requirements=[{"key": "a", "operator": "Like", "values": ["b"]}]), r"objects.json: NodePool odd: .*operator"),
        (pool("dear", limits={"cpu": "much"}), r"objects.json: NodePool dear: .*limits.cpu: 'much' is not a quantity"),
        ({"kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 1}}, r"objects.json: Deployment default/d: spec"),
    ],
)  # fmt: skip
def test_unusable_objects_are_named_with_file_and_field(
    wrong: Json, says: str, tmp_path: Path, catalogue: str
) -> None:
    good = written(tmp_path, pool(), pod("fine-0"), name="good.json")
    result = planned("-f", good, "-f", written(tmp_path, wrong), "--catalog", catalogue, code=2)
    assert re.search(says, result.stderr), result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-f", "absent.yaml"), "absent.yaml: No such file or directory"),
        (("-f", "{objects}", "--catalog", "absent.jsonl"), "absent.jsonl: No such file or directory"),
        (("-f", "{objects}", "--pricing", "127.0.0.1:1", "--catalog", "x"), "give one of them"),
        (("-f", "{objects}", "--region", "mars-1"), "--region mars-1"),
        (("--kubeconfig", "absent.kubeconfig"), "absent.kubeconfig"),
        (("-f", "{objects}", "-o", "xml"), "xml"),
    ],
)
def test_arguments_that_cant_be_used_are_named(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    objects = written(tmp_path, pool(), pod("a-0"))
    result = planned(*(a.format(objects=objects) for a in arguments), code=2)
    assert says in result.stderr


def test_nothing_given_and_no_cluster_known_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "give -f FILE, or --kubeconfig FILE" in planned(code=2).stderr


# --- a pricing service and a cluster ---------------------------------------------------------------------------------
async def _run(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nodeyard.cli.main", "plan", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


async def test_a_running_pricing_service_sells(tmp_path: Path) -> None:
    replica = Served(FakeMemory(SystemClock()), "one")
    await replica.fill()
    await replica.start()
    try:
        path = written(tmp_path, pool(), *pods("web", 3))
        code, out, error = await _run("-f", path, "--pricing", replica.address, "-o", "json")
    finally:
        await replica.stop()
    assert code == 0, error
    assert {n["instanceType"] for n in json.loads(out)["nodes"]} <= {"m5.large", "m5.xlarge", "r6g.large"}


@pytest.mark.cluster
async def test_without_files_the_current_cluster_is_planned_whatever_is_wrong_there_and_files_add_to_it(
    control_plane: Stand, kube: KubeApi, namespace: str, tmp_path: Path, catalogue: str
) -> None:
    general = pool("plan-command")
    del general["metadata"]["uid"]
    odd = pool("plan-odd")
    del odd["metadata"]["uid"]
    odd["spec"]["disruption"] = {"budgets": [{"nodes": "1", "schedule": "61 * * * *", "duration": "1h"}]}
    kube.apply([general, odd])
    for i in range(3):
        kube.create(
            f"/api/v1/namespaces/{namespace}/pods",
            {**pod(f"web-{i}", 500, 800), "metadata": {"name": f"web-{i}"}},
        )
    eventually(lambda: len(kube.get(f"/api/v1/namespaces/{namespace}/pods")["items"]) == 3)
    extra = written(tmp_path, pod("more-0", namespace=namespace))
    config = str(control_plane.cluster.admin_kubeconfig)
    try:
        code, out, error = await _run(
            "--kubeconfig", config, "-f", extra, "--catalog", catalogue, "-o", "json"
        )
    finally:
        for name in ("plan-command", "plan-odd"):
            kube.delete(f"/apis/karpenter.sh/v1/nodepools/{name}")
    assert code in (0, 3), error
    assert "NodePool plan-odd: spec.disruption.budgets[0].schedule" in error
    assert "nothing is bought for it" in error
    report = json.loads(out)
    everywhere = {p for e in [*report["nodes"], *report["existing"]] for p in e["pods"]}
    assert {f"{namespace}/{p}" for p in ("web-0", "web-1", "web-2", "more-0")} <= everywhere

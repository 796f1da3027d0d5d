"""`nodeyard replay` as a person calls it: tables, JSON, files written, and complaints that say where."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nodeyard.cli.replay import app
from nodeyard.cloudprovider.jsonl import catalogue_lines
from tests.support.replaying import market_types

POOL = """
apiVersion: karpenter.sh/v1
kind: NodePool
metadata: {name: only}
spec:
  template:
    spec:
      nodeClassRef: {group: karpenter.k8s.aws, kind: EC2NodeClass, name: default}
      requirements: [{key: karpenter.sh/capacity-type, operator: In, values: [on-demand]}]
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    file = tmp_path / "types.jsonl"
    file.write_text("\n".join(catalogue_lines(market_types(8))))
    return str(file)


def called(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_generated_traces_are_compared_drawn_and_saved(tmp_path: Path, catalogue: str) -> None:
    plot, saved = tmp_path / "plot.svg", tmp_path / "trace.csv"
    made = called(
        "--catalog", catalogue, "--days", "0.05", "--pods-per-day", "400", "--replicas", "10",
        "--plot", str(plot), "--save-trace", str(saved),
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "nodeyard" in made.output
    assert "baseline" in made.output
    assert plot.read_text().startswith("<svg")
    again = called("--catalog", catalogue, "--trace", str(saved), "-p", "baseline", "-o", "json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)[0]["cost"] > 0


def test_a_trace_is_replayed_on_pools_from_files(tmp_path: Path, catalogue: str) -> None:
    (tmp_path / "pool.yaml").write_text(POOL)
    (tmp_path / "pods.csv").write_text("at,name,cpu,memory,until\n0,a,1,1Gi,7200\n")
    made = called(
        "--catalog", catalogue, "--trace", str(tmp_path / "pods.csv"), "-f", str(tmp_path / "pool.yaml"),
        "-p", "nodeyard", "-o", "json",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    found = json.loads(made.stdout)[0]
    assert found["launches"] == 1
    assert found["spotNodeHours"] == 0
    assert 0 < found["bound"] < found["cost"]


def test_pods_come_from_a_watch(tmp_path: Path, catalogue: str) -> None:
    events = tmp_path / "events.json"
    pod = {
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": "p", "namespace": "d", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
    }  # fmt: skip
    events.write_text(
        json.dumps({"type": "ADDED", "object": pod}) + "\n" + json.dumps({"type": "MODIFIED", "object": pod})
    )
    made = called("--catalog", catalogue, "--events", str(events), "-p", "baseline", "-o", "json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)[0]["waits"]["pods"] == 1


@pytest.mark.parametrize(
    ("file", "text", "option", "complaint"),
    [
        ("pods.csv", "at,name,cpu,memory,work\nsoon,a,1,1Gi,5", "--trace", "line 2: at: 'soon'"),
        ("events.json", '{"kind": "Pod"\n', "--events", "line 1: not JSON"),
        (
            "prices.csv",
            "at,instance_type,zone,capacity_type,price\n0,no.such,z,spot,1",
            "--prices",
            "no.such z spot",
        ),
        ("pool.yaml", POOL.replace("NodePool", "Deployment"), "-f", "pool.yaml"),
    ],
)
def test_unusable_input_names_the_file_and_the_place(
    tmp_path: Path, catalogue: str, file: str, text: str, option: str, complaint: str
) -> None:
    (tmp_path / file).write_text(text)
    made = called(
        "--catalog", catalogue, "--days", "0.02", "--pods-per-day", "50", option, str(tmp_path / file)
    )
    assert made.exit_code == 2
    assert complaint in made.output
    assert file in made.output


def test_an_unknown_policy_or_setting_is_refused(catalogue: str) -> None:
    for policy in ("fastest", "nodeyard:speed=9"):
        made = called("--catalog", catalogue, "-p", policy)
        assert made.exit_code == 2
        assert policy.partition(":")[2].partition("=")[0] in made.output

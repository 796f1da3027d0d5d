"""What is wrong in a running cluster is named and left out; in a file it ends the command."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from nodeyard.cli.cluster import read_cluster
from nodeyard.cli.files import Found, InputError
from nodeyard.cli.plan import snapshot_of_found
from tests.support.scripted_api import ScriptedApi, kubeconfig

NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "much"}}}]},
}
POOL: dict[str, Any] = {
    "apiVersion": "karpenter.sh/v1",
    "kind": "NodePool",
    "metadata": {"name": "odd"},
    "spec": {
        "template": {"spec": {"nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "c"}}},
        "disruption": {"budgets": [{"nodes": "1", "schedule": "61 * * * *", "duration": "1h"}]},
    },
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "named"), [(POD, "Pod shop/web"), (POOL, "NodePool odd")])
def test_what_is_wrong_in_a_file_ends_the_command(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"here.yaml: {named}: spec"):
        snapshot_of_found([Found(NODE, "there.yaml"), Found(wrong, "here.yaml")])


@pytest.mark.parametrize(("wrong", "named"), [(POD, "Pod shop/web"), (POOL, "NodePool odd")])
def test_what_is_wrong_in_a_cluster_is_named_and_the_rest_counts(
    wrong: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = snapshot_of_found([Found(item, "https://cluster", live=True) for item in (NODE, wrong)])
    assert list(snapshot.nodes) == ["a"]
    assert not snapshot.pods
    assert f"https://cluster: {named}: spec" in capsys.readouterr().err


def test_older_objects_and_unusable_classes_in_files_are_noted_and_the_plan_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = {
        "apiVersion": "karpenter.sh/v1alpha5", "kind": "Provisioner", "metadata": {"name": "old"},
        "spec": {"provider": {"instanceProfile": "p", "amiFamily": "AL2"}},
    }  # fmt: skip
    template = {
        "apiVersion": "karpenter.k8s.aws/v1alpha1", "kind": "AWSNodeTemplate", "metadata": {"name": "bare"},
        "spec": {"amiFamily": "AL2"},
    }  # fmt: skip
    node_class = {
        "apiVersion": "karpenter.k8s.aws/v1", "kind": "EC2NodeClass", "metadata": {"name": "odd"},
        "spec": {"role": "r", "amiSelectorTerms": [{"alias": "ubuntu"}], "subnetSelectorTerms": [{"id": "subnet-1"}],
                 "securityGroupSelectorTerms": [{"id": "sg-1"}]},
    }  # fmt: skip
    snapshot = snapshot_of_found([Found(item, "here.yaml") for item in (old, template, node_class)])
    assert set(snapshot.node_classes) == {"provisioner/old", "awsnodetemplate/bare", "odd"}
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2:4] for line in said] == [
        ["Provisioner old", "spec.provider.amiFamily"],
        ["AWSNodeTemplate bare", "spec.amiFamily"],
        ["AWSNodeTemplate bare", "spec.instanceProfile"],
        ["EC2NodeClass odd", "spec.amiSelectorTerms"],
    ]
    assert said[2].endswith("nothing could be launched by it")


async def test_autoscalers_of_a_cluster_are_read_and_spared_where_that_is_not_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    autoscalers = "/apis/autoscaling.k8s.io/v1/verticalpodautoscalers"
    config = tmp_path / "config"

    async def read() -> list[str]:
        found = await asyncio.to_thread(read_cluster, str(config))
        return [f"{one.object['kind']} {one.object['metadata']['name']}" for one in found]

    async with ScriptedApi() as api:
        config.write_text(json.dumps(kubeconfig(api.url)))
        api.put("/api/v1/nodes", "a")
        api.put(autoscalers, "web", metadata={"namespace": "shop"})
        assert await read() == ["Node a", "VerticalPodAutoscaler web"]
        api.refuse(autoscalers, 404, "NotFound")
        assert await read() == ["Node a"]
        assert not capsys.readouterr().err
        api.refuse(autoscalers, 403, "Forbidden")
        assert await read() == ["Node a"]
        assert "verticalpodautoscalers" in capsys.readouterr().err
        api.refuse("/api/v1/nodes", 403, "Forbidden")
        with pytest.raises(InputError, match="nodes"):
            await read()

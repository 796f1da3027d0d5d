"""What is wrong in a running cluster is named and left out; in a file it ends the command."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.cli.files import Found, InputError
from nodeyard.cli.plan import snapshot_of_found

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

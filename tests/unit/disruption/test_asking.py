"""What-if questions as JSON: each action is answered in its form, and what makes no sense is refused by its name."""

from typing import Any

import msgspec
import pytest

from nodeyard.disruption.asking import asked, question_of, unplaced
from nodeyard.disruption.whatif import UnusableQuestion
from tests.support.disruption import Builder, clock, first_fit

Json = dict[str, Any]
POD = {
    "kind": "Pod",
    "metadata": {"name": "late"},
    "spec": {"containers": [{"name": "m", "resources": {"requests": {"cpu": "1"}}}]},
}


@pytest.fixture
def build() -> Builder:
    made = Builder()
    made.pool()
    for name in ("n0", "n1"):
        made.node(name, claim={"termination_grace_period_s": 600.0})
        made.pod(f"p-{name}", name, owner_name=f"rs-{name}")
    return made


def answer(build: Builder, **question: Any) -> Json:
    return asked(build.view(), question_of(msgspec.json.encode(question)), first_fit, clock)


def test_removing_tells_the_drain_and_who_is_alone(build: Builder) -> None:
    found = answer(build, action="remove", nodes=["n0"])
    assert found["moves"] == [{"pod": "default/p-n0", "from": "n0", "to": "n1"}]
    assert found["drain"] == {"seconds": 30.0, "cutShort": False, "heldBy": []}
    assert found["singletons"] == ["default/p-n0"]
    build.pod("p-n0", "n0", do_not_disrupt="true")
    found = answer(build, action="remove", nodes=["n0"])
    assert (found["drain"]["seconds"], found["drain"]["cutShort"]) == (600.0, True)
    assert [b["rule"] for b in found["blocks"]] == ["PodDoNotDisrupt"]


@pytest.mark.parametrize(
    "question",
    [
        {"action": "replace", "nodes": ["n1"]},
        {"action": "drain-zone", "zone": "us-west-2a"},
        {"action": "add", "objects": [POD]},
        {"action": "price", "prices": [{"instanceType": "m5.large", "pricePerHour": 0.01}]},
        {"action": "consolidate", "deadlineSeconds": 0.5},
    ],
)
def test_every_action_is_answered_under_its_name(build: Builder, question: Json) -> None:
    found = answer(build, **question)
    assert found["action"] == question["action"]
    assert {"before", "after", "unschedulable"} <= set(found)
    assert unplaced(found) is (question["action"] == "drain-zone")  # the catalogue sells in this zone only


def test_a_changed_pool_is_read_from_its_manifest(build: Builder) -> None:
    reference = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"}
    terms = [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}]
    spec = {"template": {"spec": {"nodeClassRef": reference, "requirements": terms}}}
    pool = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": "default"},
        "spec": spec,
    }
    found = answer(build, action="pool", objects=[pool])
    assert found["drifted"] == ["n0", "n1"]


def test_an_added_pod_is_paid_for_only_where_there_is_no_room(build: Builder) -> None:
    assert answer(build, action="add", objects=[POD])["savesPerHour"] == 0.0
    for name in ("n0", "n1"):
        build.shape("big", 3400)
        build.pod(f"big-{name}", name, shape="big")
    found = answer(build, action="add", objects=[POD])
    assert [n["pods"] for n in found["launch"]] == [["default/late"]]
    assert found["savesPerHour"] == pytest.approx(-(0.1 / 3 + 0.01))


def test_an_added_node_takes_what_is_pending(build: Builder) -> None:
    build.shape("big", 3900)
    build.pod("waiting", shape="big")
    labels = build.snapshot.nodes["n0"].labels
    node = {"kind": "Node", "metadata": {"name": "extra", "labels": labels}}
    found = answer(build, action="add", objects=[node])
    assert found["moves"] == [{"pod": "default/waiting", "from": "", "to": "extra"}]
    assert found["after"]["pricePerHour"] - found["before"]["pricePerHour"] == pytest.approx(0.20)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({}, "action"),
        ({"action": "explode"}, "explode"),
        ({"action": "remove"}, "nodes"),
        ({"action": "remove", "nodes": []}, "nodes: at least one"),
        ({"action": "remove", "nodes": ["n9"]}, "n9"),
        ({"action": "remove", "nodes": ["n0"], "zone": "x"}, "zone"),
        ({"action": "drain-zone", "zone": "mars"}, "mars"),
        ({"action": "price", "prices": []}, "prices: at least one"),
        (
            {
                "action": "price",
                "prices": [{"instanceType": "m5.large", "pricePerHour": 1}],
                "deadlineSeconds": 0,
            },
            "deadlineSeconds",
        ),
        ({"action": "add", "objects": []}, "at least one"),
        ({"action": "add", "objects": [{"kind": "Secret", "metadata": {"name": "s"}}]}, "Secret s"),
        ({"action": "add", "objects": [{"kind": "Pod", "metadata": {}}]}, "metadata.name"),
        ({"action": "add", "objects": [{"kind": "Node", "metadata": {"name": "n0"}}]}, "n0"),
        ({"action": "add", "objects": [{"kind": "Node", "metadata": {"name": "new"}}]}, "allocatable"),
        ({"action": "pool", "objects": [POD]}, "Pod late"),
        (
            {"action": "pool", "objects": [{"kind": "NodePool", "metadata": {"name": "x"}, "spec": {}}]},
            "NodePool x",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(build: Builder, question: Json, words: str) -> None:
    with pytest.raises(UnusableQuestion, match=words):
        answer(build, **question)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(UnusableQuestion, match="can't be read"):
        question_of(b"{")

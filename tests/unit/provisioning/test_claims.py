"""The claim of a planned node: what it says, what is read back, and which are fenced."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim, NodeClassRef
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Requirement, Taint
from nodeyard.provisioning.claims import (
    LaunchRecord,
    TemplateChoice,
    claim_names,
    claim_of,
    encode_record,
    fenced,
    launch_record_of,
    offerings_of,
    planned_pods_of,
    planner_of,
    requirements_allow,
)
from nodeyard.provisioning.model import OfferingRef, PlannedNode

NODE = PlannedNode(
    name="n1", pool="web", instance_type="m5.large", zone="a", capacity_type="spot", price_per_hour=0.03,
    pods=("ns/p1", "ns/p2"),
    labels={
        keys.INSTANCE_TYPE: "m5.large", keys.ZONE: "a", keys.CAPACITY_TYPE: "spot", "team": "red",
        "karpenter.k8s.aws/instance-cpu": "2",
    },
    requirements=(Requirement(keys.ZONE, "In", ("a", "b")),), requests={"cpu": 1500, "pods": 2, "gpu": 0},
    alternatives=(OfferingRef("m5.large", "a", "spot", 0.03), OfferingRef("m5.large", "b", "spot", 0.04)),
)  # fmt: skip
POOL = Pool(
    "web", uid="u", labels={"tier": "front"}, annotations={"note": "x"}, taints=(Taint("t", "NoSchedule"),),
    startup_taints=(Taint("s", "NoExecute"),), node_class=NodeClassRef("default"), expire_after_s=3600.0, hash="h1",
)  # fmt: skip


def claim(**changes: object) -> NodeClaim:
    made = claim_of(NODE, POOL, name="web-abcde", plan_id="p", group="all", epoch=7)
    return msgspec.structs.replace(made, **changes)


def test_a_claim_says_what_the_pool_and_the_plan_say() -> None:
    made = claim()
    assert made.labels == {
        "team": "red", "tier": "front", keys.NODEPOOL: "web", keys.NODECLASS_LABEL: "default",
    }  # fmt: skip
    assert made.taints == POOL.taints
    assert made.startup_taints == POOL.startup_taints
    assert made.expire_after_s == 3600.0
    assert made.requests == {"cpu": 1500, "pods": 2}
    assert made.finalizers == (keys.TERMINATION_FINALIZER,)
    assert made.annotations["note"] == "x"
    assert made.annotations[keys.NODEPOOL_HASH] == "h1"


def test_a_claim_with_fewer_kinds_than_its_pool_demands_says_so() -> None:
    lenient = msgspec.structs.replace(NODE, min_values_relaxed=True)
    made = claim_of(lenient, POOL, name="web-abcde", plan_id="p", group="all", epoch=7)
    assert made.annotations["karpenter.sh/nodeclaim-min-values-relaxed"] == "true"
    assert keys.MIN_VALUES_RELAXED not in claim().annotations


def test_what_is_on_a_claim_is_read_back() -> None:
    made = claim()
    assert planned_pods_of(made) == ("ns/p1", "ns/p2")
    assert planner_of(made) == ("all", 7)
    assert offerings_of(made) == (
        OfferingRef("m5.large", "a", "spot", 0.03),
        OfferingRef("m5.large", "b", "spot", 0.04),
    )


def test_a_provisioners_claim_refers_to_the_provisioner_itself() -> None:
    pool = Pool("provisioner/web", node_class=NodeClassRef("web", "Provisioner", "karpenter.sh"))
    made = claim_of(NODE, pool, name="web-abcde", plan_id="p", group="all", epoch=None)
    assert made.labels == {"team": "red", keys.PROVISIONER: "web"}
    assert made.node_class.key == "provisioner/web"
    assert planner_of(made) is None


def test_a_replacement_promises_no_pod_by_name() -> None:
    made = claim_of(NODE, POOL, name="n", plan_id="p", group="all", epoch=1, pods=(), annotations={"a": "b"})
    assert planned_pods_of(made) == ()
    assert made.annotations["a"] == "b"


@pytest.mark.parametrize("text", ["", "not json", '{"a": 1}', "[1, 2]", "null"])
def test_an_annotation_that_a_user_broke_counts_as_absent(text: str) -> None:
    broken = claim(
        annotations={keys.PLANNED_PODS: text, keys.LAUNCH_OFFERINGS: text, "nodeyard.dev/launch": text}
    )
    assert planned_pods_of(broken) == ()
    assert offerings_of(broken) == ()
    assert launch_record_of(broken) is None


def test_a_launch_record_is_read_back() -> None:
    record = LaunchRecord("spot", (TemplateChoice("t", "ami", (("m5.large", "a", "s"),)),), {"k": "v"})
    read = launch_record_of(claim(annotations={"nodeyard.dev/launch": encode_record(record)}))
    assert read == record


@given(
    st.lists(st.sampled_from(["web", "provisioner/web", "x" * 80, "a.b-"]), max_size=60), st.text(max_size=5)
)
def test_names_are_unique_valid_and_the_same_each_time(pools: list[str], plan_id: str) -> None:
    nodes = [msgspec.structs.replace(NODE, pool=pool) for pool in pools]
    names = claim_names(plan_id, nodes)
    assert names == claim_names(plan_id, nodes)
    assert len(set(names)) == len(nodes)
    assert all(len(n) <= 63 and n[-1].isalnum() and "/" not in n and ".-" not in n for n in names)


@pytest.mark.parametrize(
    ("epoch", "began", "created", "is_fenced"),
    [
        (8, 100.0, 101.0, True),
        (8, 100.0, 100.0, False),
        (8, 100.0, 99.0, False),
        (7, 100.0, 200.0, False),
        (0, 0.0, 5.0, False),
    ],
)
def test_only_older_claims_written_after_a_newer_epoch_began_are_fenced(
    epoch: int, began: float, created: float, is_fenced: bool
) -> None:
    assert fenced(claim(created_at=created), epoch, began) is is_fenced


def test_a_users_claim_is_never_fenced() -> None:
    assert not fenced(claim(annotations={}, created_at=500.0), 9, 100.0)


@pytest.mark.parametrize(
    ("operator", "wanted", "values", "allowed"),
    [
        ("In", ("a",), ("a", "b"), True),
        ("In", ("c",), ("a", "b"), False),
        ("NotIn", ("a",), ("a",), False),
        ("NotIn", ("a",), ("a", "b"), True),
        ("NotIn", ("a",), None, True),
        ("Exists", (), ("a",), True),
        ("Exists", (), None, False),
        ("DoesNotExist", (), None, True),
        ("DoesNotExist", (), ("a",), False),
        ("Gt", ("4",), ("5",), True),
        ("Gt", ("5",), ("5",), False),
        ("Gte", ("5",), ("5",), True),
        ("Lt", ("4",), ("nan",), False),
        ("Lte", ("4",), ("4", "9"), True),
    ],
)
def test_requirements_against_the_values_a_node_can_take(
    operator: str, wanted: tuple[str, ...], values: tuple[str, ...] | None, allowed: bool
) -> None:
    labels = {} if values is None else {"k": values}
    assert requirements_allow((Requirement("k", operator, wanted),), labels) is allowed

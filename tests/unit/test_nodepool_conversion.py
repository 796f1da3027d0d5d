"""NodePools and EC2NodeClasses: defaults, what is understood, and problems that name their field."""

from typing import Any

import pytest

from nodeyard.api import labels as keys
from nodeyard.api.nodepool import node_class_of, pool_of_nodepool
from nodeyard.api.pool import Budget, Renewal, Steadiness
from nodeyard.api.reading import ConversionError
from nodeyard.provisioning.claims import HASH_VERSION


def nodepool(**spec: Any) -> dict[str, Any]:
    """The smallest good NodePool, with `spec` laid over; `template` is merged into the template's spec, `annotations`
    are the pool's own.
    """
    template = {
        "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"},
        "requirements": [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}],
        **spec.pop("template", {}),
    }
    metadata, annotations = spec.pop("labels", {}), spec.pop("annotations", {})
    return {
        "metadata": {
            "name": "general",
            "uid": "u1",
            "resourceVersion": "5",
            "generation": 2,
            "annotations": annotations,
        },
        "spec": {"template": {"metadata": {"labels": metadata}, "spec": template}, **spec},
    }


def problems(**spec: Any) -> tuple[str, ...]:
    return pool_of_nodepool(nodepool(**spec)).problems


def test_what_is_not_said_has_karpenters_defaults() -> None:
    pool = pool_of_nodepool(nodepool())
    assert pool.problems == ()
    assert pool.expire_after_s == 720 * 3600
    assert pool.disruption.policy == "WhenEmptyOrUnderutilized"
    assert pool.disruption.consolidate_after_s == 0.0
    assert pool.disruption.budgets == (Budget("10%"),)
    assert (pool.weight, pool.limits, pool.replicas, pool.limits_inclusive) == (0, {}, None, True)
    assert pool.capacity_type_order == ("reserved", "spot", "on-demand")


def test_what_is_said_is_read() -> None:
    pool = pool_of_nodepool(
        nodepool(
            weight=10,
            limits={"cpu": "1000", "memory": "1Ti", "nodes": 7},
            disruption={
                "consolidationPolicy": "WhenEmpty",
                "consolidateAfter": "Never",
                "budgets": [
                    {"nodes": "0", "schedule": "0 9 * * mon-fri", "duration": "8h", "reasons": ["Drifted"]},
                    {"nodes": 5},
                ],
            },
            template={
                "expireAfter": "Never",
                "terminationGracePeriod": "1h30m",
                "taints": [{"key": "team", "value": "a", "effect": "NoSchedule"}],
            },
            labels={"team": "a"},
        )
    )
    assert pool.problems == ()
    assert pool.limits == {"cpu": 1_000_000, "memory": 2**40, "nodes": 7}
    assert pool.expire_after_s is None
    assert pool.termination_grace_period_s == 5400
    assert pool.disruption.consolidate_after_s is None
    assert pool.disruption.budgets == (
        Budget("0", "0 9 * * mon-fri", 8 * 3600.0, ("Drifted",)),
        Budget("5"),
    )


def test_annotations_say_what_a_move_must_be_worth_and_how_nodes_are_renewed() -> None:
    pool = pool_of_nodepool(
        nodepool(
            annotations={
                keys.MIN_SAVING: "0.05", keys.MIN_SAVING_SHARE: "10%", keys.MAX_PAYBACK: "Never",
                keys.NO_RETURN: "2h", keys.DRIFT_WAVES: "Off", keys.DRIFT_WAVE_PAUSE: "5m",
                keys.EXPIRY: "Graceful", keys.EXPIRY_JITTER: "0.1", keys.EXPIRY_CAP: "24h",
            }
        )
    )  # fmt: skip
    assert pool.problems == ()
    assert pool.disruption.steadiness == Steadiness(0.05, 0.1, 1e9, 7200.0)
    assert pool.disruption.renewal == Renewal(False, 300.0, True, 0.1, 24 * 3600.0)
    assert pool_of_nodepool(nodepool()).disruption.renewal == Renewal()


def test_budgets_and_windows_have_time_zones_and_ends() -> None:
    night = {"schedule": "0 22 * * *", "duration": "6h", "timeZone": "Europe/Berlin", "reasons": ["Expired"]}
    freeze = {"nodes": "0", "start": "2026-12-24T12:00:00Z", "end": "2026-12-27T00:00:00Z"}
    found = pool_of_nodepool(nodepool(disruption={"budgets": [freeze], "allowWindows": [night]})).disruption
    assert found.budgets == (Budget("0", start=freeze["start"], end=freeze["end"]),)
    assert found.allow_windows == (
        Budget(schedule="0 22 * * *", duration_s=6 * 3600.0, reasons=("Expired",), time_zone="Europe/Berlin"),
    )


@pytest.mark.parametrize(
    ("spec", "field", "what"),
    [
        ({"limits": {"cpu": "many"}}, "spec.limits.cpu", "'many' is not a quantity"),
        ({"limits": {"cpu": "-1"}}, "spec.limits.cpu", "negative"),
        ({"weight": 101}, "spec.weight", "not within 1..100"),
        ({"template": {"expireAfter": "soon"}}, "spec.template.spec.expireAfter", "'soon' is not a duration"),
        ({"template": {"terminationGracePeriod": "-5s"}}, "terminationGracePeriod", "negative"),
        ({"template": {"nodeClassRef": {"group": "x", "kind": "Y", "name": "z"}}}, "nodeClassRef", "not supported"),
        ({"template": {"nodeClassRef": {}}}, "nodeClassRef.name", "missing"),
        ({"labels": {"kubernetes.io/hostname": "x"}}, "labels[kubernetes.io/hostname]", "set by the system"),
        ({"labels": {"foo.k8s.io/x": "y"}}, "labels[foo.k8s.io/x]", "restricted domain k8s.io"),
        ({"labels": {"karpenter.sh/custom": "y"}}, "karpenter.sh/custom", "restricted domain karpenter.sh"),
        ({"labels": {"bad key": "y"}}, "labels[bad key]", "not a valid label key"),
        ({"labels": {"team": "not a value"}}, "labels[team]", "not a valid label value"),
        ({"template": {"taints": [{"key": "a", "effect": "Never"}]}}, "taints[0]", "effect 'Never' is none of"),
        ({"disruption": {"consolidationPolicy": "Sometimes"}}, "consolidationPolicy", "'Sometimes' is none of"),
        ({"disruption": {"budgets": [{"nodes": "200%"}]}}, "budgets[0].nodes", "neither a count nor a percentage"),
        ({"disruption": {"budgets": [{"schedule": "@daily"}]}}, "budgets[0]", "belong together"),
        (
            {"disruption": {"budgets": [{"schedule": "99 * * * *", "duration": "1h"}]}},
            "budgets[0].schedule",
            "'99 * * * *' is not a cron schedule",
        ),
        ({"disruption": {"budgets": [{"reasons": ["Bored"]}]}}, "budgets[0].reasons", "'Bored' is none of"),
        (
            {"disruption": {"budgets": [{"schedule": "@daily", "duration": "1h", "timeZone": "Mars/Base"}]}},
            "budgets[0].timeZone",
            "'Mars/Base' is not a time zone",
        ),
        ({"disruption": {"budgets": [{"start": "2026-12-24"}]}}, "budgets[0].start", "'2026-12-24' is not a time"),
        ({"disruption": {"allowWindows": [{"reasons": ["Empty"]}]}}, "allowWindows[0]", "needs a schedule"),
        ({"annotations": {keys.MIN_SAVING: "much"}}, keys.MIN_SAVING, "'much' is not an amount in USD"),
        ({"annotations": {keys.MIN_SAVING_SHARE: "120%"}}, keys.MIN_SAVING_SHARE, "a share up to 100%"),
        ({"annotations": {keys.MAX_PAYBACK: "soon"}}, keys.MAX_PAYBACK, "'soon' is not a duration"),
        ({"annotations": {keys.DRIFT_WAVES: "Maybe"}}, keys.DRIFT_WAVES, "'Maybe' is not On or Off"),
        ({"annotations": {keys.EXPIRY: "Gently"}}, keys.EXPIRY, "'Gently' is not Forceful or Graceful"),
        ({"annotations": {keys.EXPIRY_JITTER: "60%"}}, keys.EXPIRY_JITTER, "a share up to 50%"),
        ({"disruption": {"budgets": [{}] * 51}}, "budgets", "51 are more than 50"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_a_problem_that_names_the_field(
    spec: dict[str, Any], field: str, what: str
) -> None:
    found = problems(**spec)
    assert len(found) == 1
    assert field in found[0]
    assert what in found[0]


@pytest.mark.parametrize(
    ("requirement", "what"),
    [
        ({"key": "team", "operator": "Is", "values": ["a"]}, "operator 'Is' is none of"),
        ({"key": "team", "operator": "In"}, "needs at least one value"),
        ({"key": "team", "operator": "Exists", "values": ["a"]}, "takes no values"),
        ({"key": "team", "operator": "Gt", "values": ["many"]}, "exactly one whole number"),
        ({"key": "team", "operator": "Lt", "values": ["1", "2"]}, "exactly one whole number"),
        ({"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}, "set by the system"),
        ({"key": "karpenter.sh/nodepool", "operator": "Exists"}, "set by the system"),
        ({"key": "team", "operator": "In", "values": ["a"], "minValues": 2}, "only 1 values"),
        ({"key": "team", "operator": "Exists", "minValues": 51}, "not within 1..50"),
    ],
)
def test_a_requirement_that_cannot_hold_is_a_problem(requirement: dict[str, Any], what: str) -> None:
    (found,) = problems(template={"requirements": [requirement]})
    assert found.startswith("spec.template.spec.requirements[0]")
    assert what in found


@pytest.mark.parametrize(
    "key",
    [
        "topology.kubernetes.io/zone",
        "node.kubernetes.io/instance-type",
        "karpenter.k8s.aws/instance-category",
        "karpenter.k8s.aws/instance-gpu-count",
        "node-restriction.kubernetes.io/team",
        "kubernetes.io/arch",
        "example.com/team",
        "beta.kubernetes.io/arch",
    ],
)
def test_well_known_and_own_keys_may_be_constrained(key: str) -> None:
    assert problems(template={"requirements": [{"key": key, "operator": "Exists"}]}) == ()


def test_a_field_of_the_wrong_type_makes_a_pool_with_a_problem_and_its_name() -> None:
    body = nodepool(weight="heavy")
    pool = pool_of_nodepool(body)
    assert (pool.key, pool.uid, pool.generation) == ("general", "u1", 2)
    assert pool.problems == ("spec.weight: Expected `int | null`, got `str`",)


def test_an_object_without_a_name_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"metadata\.name: is missing"):
        pool_of_nodepool({"metadata": {}, "spec": {"weight": "x"}})


def test_a_node_charge_is_read_from_its_annotation_or_is_a_problem() -> None:
    body = nodepool()
    body["metadata"]["annotations"] = {"nodeyard.dev/node-charge-per-hour": "0.05"}
    assert pool_of_nodepool(body).node_charge_usd_per_hour == 0.05
    for text in ("free", "-1", "nan", "inf"):
        body["metadata"]["annotations"] = {"nodeyard.dev/node-charge-per-hour": text}
        assert "is not an amount in USD" in pool_of_nodepool(body).problems[0]


def test_the_hash_changes_with_what_drifts_nodes_and_with_nothing_else() -> None:
    same = pool_of_nodepool(nodepool()).hash
    requirements = [{"key": "team", "operator": "Exists"}]
    assert pool_of_nodepool(nodepool(weight=5, limits={"cpu": "1"})).hash == same
    assert pool_of_nodepool(nodepool(template={"requirements": requirements})).hash == same
    assert pool_of_nodepool(nodepool(labels={"a": "b"})).hash != same
    assert pool_of_nodepool(nodepool(template={"expireAfter": "1h"})).hash != same


# --- EC2NodeClass ---------------------------------------------------------------------------------------------------
def nodeclass(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "default", "uid": "u", "resourceVersion": "3"},
        "spec": {
            "role": "node",
            "amiSelectorTerms": [{"alias": "al2023@latest"}],
            "subnetSelectorTerms": [{"tags": {"discovery": "c"}}],
            "securityGroupSelectorTerms": [{"id": "sg-1"}],
            **spec,
        },
    }


def test_a_good_class_has_no_problems_and_its_family_from_the_alias() -> None:
    made = node_class_of(nodeclass())
    assert made.problems == ()
    assert made.ami_family == "AL2023"
    assert made.metadata_options.http_tokens == "required"
    assert made.hash


def test_kubelet_settings_that_have_no_name_here_are_kept() -> None:
    made = node_class_of(nodeclass(kubelet={"maxPods": 7, "topologyManagerPolicy": "restricted"}))
    assert made.problems == ()
    assert (made.kubelet.max_pods, made.kubelet.other) == (7, {"topologyManagerPolicy": "restricted"})
    assert made.hash != node_class_of(nodeclass(kubelet={"maxPods": 7})).hash


PRIMARY = {"networkCardIndex": 0, "deviceIndex": 0, "interfaceType": "interface"}
SECOND = {"networkCardIndex": 1, "deviceIndex": 0, "interfaceType": "efa-only"}


@pytest.mark.parametrize(
    "spec",
    [
        {"context": "reserved"},
        {"ipPrefixCount": 2},
        {"networkInterfaces": [PRIMARY, SECOND]},
        {"connectionTracking": {"udpTimeout": 45}},
    ],
)
def test_what_new_instances_would_be_made_with_is_in_the_hash(spec: dict[str, Any]) -> None:
    made = node_class_of(nodeclass(**spec))
    assert made.problems == ()
    assert made.hash != node_class_of(nodeclass()).hash


def test_the_status_is_what_was_found_in_the_account() -> None:
    body = nodeclass()
    body["status"] = {
        "subnets": [{"id": "s-1", "zone": "a", "zoneID": "use1-az1"}],
        "securityGroups": [{"id": "sg-1", "name": "n"}],
        "amis": [{"id": "ami-1", "name": "x", "requirements": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["arm64"]}]}],
        "instanceProfile": "p",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }  # fmt: skip
    made = node_class_of(body)
    assert (made.subnets[0].zone_id, made.security_groups[0].id, made.images[0].id) == (
        "use1-az1",
        "sg-1",
        "ami-1",
    )
    assert made.images[0].requirements[0].values == ("arm64",)
    assert made.resolved_profile == "p"
    assert made.conditions[0].since == 1767225600.0


@pytest.mark.parametrize(
    ("spec", "field", "what"),
    [
        ({"instanceProfile": "p"}, "spec", "exactly one of role and instanceProfile"),
        ({"role": ""}, "spec", "exactly one of role and instanceProfile"),
        ({"subnetSelectorTerms": []}, "spec.subnetSelectorTerms", "at least one term"),
        ({"subnetSelectorTerms": [{"id": "s", "tags": {"a": "b"}}]}, "subnetSelectorTerms[0]", "can't be combined"),
        ({"securityGroupSelectorTerms": [{}]}, "securityGroupSelectorTerms[0]", "is empty"),
        ({"amiSelectorTerms": [{"alias": "arch@latest"}]}, "spec.amiSelectorTerms", "names none of the families"),
        ({"amiSelectorTerms": [{"alias": "al2023"}]}, "spec.amiSelectorTerms", "lacks a version"),
        ({"amiFamily": "Gentoo", "amiSelectorTerms": [{"id": "ami-1"}]}, "spec.amiFamily", "'Gentoo' is none of"),
        ({"amiFamily": "AL2"}, "spec.amiFamily", "contradicts the alias"),
        ({"kubelet": {"kubeReserved": {"cpu": "x"}}}, "spec.kubelet.kubeReserved.cpu", "not a quantity"),
        ({"kubelet": {"evictionHard": {"memory.available": "x"}}}, "spec.kubelet.evictionHard", "not a quantity"),
        ({"blockDeviceMappings": [{"ebs": {"volumeSize": "big"}}]}, "blockDeviceMappings[0].ebs.volumeSize", "not a quantity"),
        ({"tags": {"a": 1}}, "spec.tags", "Expected `str`"),
        ({"ipPrefixCount": -1}, "spec.ipPrefixCount", "negative"),
        ({"networkInterfaces": [SECOND]}, "spec.networkInterfaces", "networkCardIndex 0"),
        ({"networkInterfaces": [PRIMARY, SECOND, SECOND]}, "spec.networkInterfaces", "two have the same"),
        ({"networkInterfaces": [PRIMARY, {**SECOND, "interfaceType": "efa"}]}, "[1].interfaceType", "neither"),
        ({"networkInterfaces": [PRIMARY, {**SECOND, "deviceIndex": -1}]}, "spec.networkInterfaces[1]", "negative"),
        ({"networkInterfaces": [PRIMARY, *({**SECOND, "deviceIndex": n} for n in range(150))]}, "spec.net", "151 are more"),
        ({"networkInterfaces": [PRIMARY, SECOND], "associatePublicIPAddress": True}, "spec.associatePublic", "more than one"),
        ({"connectionTracking": {"tcpEstablishedTimeout": 59}}, "tcpEstablishedTimeout", "60..432000"),
        ({"connectionTracking": {"udpStreamTimeout": 181}}, "udpStreamTimeout", "60..180"),
        ({"connectionTracking": {"udpTimeout": 61}}, "udpTimeout", "30..60"),
        ({"tags": {"karpenter.sh/nodeclaim": "x"}}, "spec.tags", "set for you"),
        ({"tags": {"kubernetes.io/cluster/web": "owned"}}, "spec.tags", "set for you"),
        ({"kubelet": {"maxPods": "many"}}, "spec.kubelet", "Expected `int"),
        ({"kubelet": {"evictionSoft": {"memory.available": "1Gi"}}}, "spec.kubelet", "evictionSoftGracePeriod"),
    ],
)  # fmt: skip
def test_a_class_that_cannot_be_understood_says_which_field(
    spec: dict[str, Any], field: str, what: str
) -> None:
    found = node_class_of(nodeclass(**spec)).problems
    assert len(found) == 1
    assert field in found[0]
    assert what in found[0]


def test_digests_are_those_of_their_version() -> None:
    """Other digests for the same objects drift every node of every cluster: raise HASH_VERSION with them."""
    pool = pool_of_nodepool(nodepool(labels={"team": "a"}, template={"terminationGracePeriod": "1h"}))
    node_class = node_class_of(
        {
            "metadata": {"name": "default"},
            "spec": {"role": "r", "amiSelectorTerms": [{"alias": "al2023@latest"}]},
        }
    )
    assert (HASH_VERSION, pool.hash, node_class.hash) == (
        "nodeyard-v2",
        "8365ce3a8409d1a1",
        "c796b58f634e39c5",
    )

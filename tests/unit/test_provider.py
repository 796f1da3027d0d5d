"""AWSNodeTemplate (karpenter.k8s.aws/v1alpha1) as the node class that an EC2NodeClass would be."""

from typing import Any

import pytest

from nodeyard.api.nodeclass import NodeClass, SelectorTerm
from nodeyard.api.provider import node_class_of_template
from nodeyard.api.reading import ConversionError

Json = dict[str, Any]


def template(**spec: Any) -> NodeClass:
    meta = {"name": "shared", "uid": "u-1", "generation": 3}
    whole = {"instanceProfile": "nodes", **spec}
    return node_class_of_template(
        {"metadata": meta, "spec": {k: v for k, v in whole.items() if v is not None}}, "demo"
    )


def test_it_is_a_class_of_its_own_with_the_older_defaults() -> None:
    made = template()
    assert (made.key, made.uid, made.generation) == ("awsnodetemplate/shared", "u-1", 3)
    assert made.instance_profile == "nodes"
    of_cluster = (SelectorTerm(tags={"kubernetes.io/cluster/demo": "*"}),)
    assert (made.subnet_terms, made.security_group_terms) == (of_cluster, of_cluster)
    assert made.metadata_options.http_put_response_hop_limit == 2
    assert (made.ami_family, made.ami_terms) == ("AL2023", (SelectorTerm(alias="al2023@latest"),))
    assert [w.partition(":")[0] for w in made.warnings] == ["spec.amiFamily"]
    assert made.problems == ()


def test_what_came_with_templates_is_kept() -> None:
    made = template(amiFamily="Bottlerocket", userData="[settings]\n", detailedMonitoring=True)
    assert (made.user_data, made.detailed_monitoring, made.warnings) == ("[settings]\n", True, ())


@pytest.mark.parametrize(
    ("selector", "terms"),
    [
        ({"team": "a", "env": "*"}, [SelectorTerm(tags={"team": "a", "env": "*"})]),
        ({"aws-ids": "ami-1, ami-2"}, [SelectorTerm(id="ami-1"), SelectorTerm(id="ami-2")]),
        ({"aws::ids": "ami-1"}, [SelectorTerm(id="ami-1")]),
        (
            {"aws::name": "mine-*,yours", "aws::owners": "self,amazon", "team": "a"},
            [
                SelectorTerm(tags={"team": "a"}, name=name, owner=owner)
                for name in ("mine-*", "yours")
                for owner in ("self", "amazon")
            ],
        ),
    ],
)
def test_images_are_selected_as_they_were(selector: Json, terms: list[SelectorTerm]) -> None:
    made = template(amiSelector=selector, amiFamily="Custom")
    assert (made.ami_family, list(made.ami_terms), made.problems) == ("Custom", terms, ())


def test_a_launch_template_brings_image_and_groups_and_what_it_replaces_is_named() -> None:
    made = template(
        launchTemplate="own", amiFamily="AL2", amiSelector={"a": "b"}, securityGroupSelector={"a": "b"}
    )
    assert (made.launch_template, made.ami_terms, made.security_group_terms) == ("own", (), ())
    fields = {w.partition(":")[0] for w in made.warnings}
    assert fields == {"spec.amiFamily", "spec.amiSelector", "spec.securityGroupSelector"}


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"instanceProfile": None}, "spec.instanceProfile"),
        ({"subnets": ["subnet-1"]}, "subnets"),
        ({"kind": "GCP"}, "spec.kind"),
        ({"amiFamily": "Ubuntu"}, "spec.amiFamily"),
        ({"amiFamily": "Custom"}, "spec.amiFamily"),
        ({"amiSelector": {"a": ""}}, "spec.amiSelector"),
        ({"amiSelector": {"aws-ids": "ami-1", "a": "b"}}, "spec.amiSelector"),
        ({"subnetSelector": {"aws-ids": "subnet-1", "a": "b"}}, "spec.subnetSelector"),
        ({"tags": {"karpenter.sh/nodepool": "x"}}, "spec.tags[karpenter.sh/nodepool]"),
    ],
)
def test_what_cannot_be_understood_becomes_a_problem_that_names_it(spec: Json, names: str) -> None:
    assert any(names in problem for problem in template(**spec).problems)


def test_one_that_is_broken_or_nameless_is_not_lost() -> None:
    broken = node_class_of_template({"metadata": {"name": "shared"}, "spec": "none"})
    assert broken.key == "awsnodetemplate/shared"
    assert "spec" in broken.problems[0]
    with pytest.raises(ConversionError, match=r"metadata\.name"):
        node_class_of_template({"metadata": {}, "spec": {}})


def test_its_hash_follows_its_settings() -> None:
    assert template().hash == template().hash
    assert template(userData="#!/bin/sh").hash != template().hash

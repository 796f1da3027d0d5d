"""The AWS settings of v1alpha5 as a NodeClass: a Provisioner's `provider`, or the AWSNodeTemplate it refers to.

Neither is written to stand for the other. What can't be understood is in the class's `problems`; what is understood in
today's terms, or left out, is a warning.
Source: Karpenter documentation v0.5 to v0.31, "AWS Provisioning", "Node Templates"; upgrade guide to v1.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api import objects, validation
from nodeyard.api.nodeclass import (
    BlockDeviceMapping,
    Kubelet,
    MetadataOptions,
    NodeClass,
    SelectorTerm,
)
from nodeyard.api.nodepool import class_of_object, node_class_hash
from nodeyard.api.reading import ConversionError, Source, explain, identity_of, read

TEMPLATE: Final = "AWSNodeTemplate"
_FAMILIES: Final = {
    "AL2": "al2@latest",
    "AL2023": "al2023@latest",
    "Bottlerocket": "bottlerocket@latest",
    "Windows2019": "windows2019@latest",
    "Windows2022": "windows2022@latest",
}
_IDS: Final = frozenset({"aws-ids", "aws::ids"})
"""Selector keys whose value is a comma-separated list of ids."""
_IMAGE_NAME, _IMAGE_OWNERS = "aws::name", "aws::owners"
_KUBELET_FIELDS: Final = frozenset(
    {
        "clusterDNS",
        "maxPods",
        "podsPerCore",
        "kubeReserved",
        "systemReserved",
        "evictionHard",
        "evictionSoft",
        "evictionSoftGracePeriod",
        "evictionMaxPodGracePeriod",
        "imageGCHighThresholdPercent",
        "imageGCLowThresholdPercent",
        "cpuCFSQuota",
    }
)
_OLD_METADATA_OPTIONS: Final = MetadataOptions(http_put_response_hop_limit=2)
"""v1alpha5 allowed pods one hop more than v1 does."""


class Provider(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A Provisioner's `provider`, decoded strictly as it always was."""

    api_version: str = ""
    kind: str = ""
    instance_profile: str = ""
    launch_template: str = ""
    subnet_selector: dict[str, str] = {}
    security_group_selector: dict[str, str] = {}
    tags: dict[str, str] = {}
    ami_family: str = ""
    block_device_mappings: tuple[BlockDeviceMapping, ...] = ()
    metadata_options: MetadataOptions | None = None
    context: str = ""


class TemplateSpec(Provider, rename="camel", forbid_unknown_fields=True):
    """The same in an object of its own, with what came later."""

    ami_selector: dict[str, str] = {}
    user_data: str = ""
    detailed_monitoring: bool = False


class RawTemplate(objects.Raw):
    metadata: objects.Meta
    spec: dict[str, Any] = {}
    status: objects.EC2NodeClassStatus = msgspec.field(default_factory=objects.EC2NodeClassStatus)


_P = TypeVar("_P", bound=Provider)


class Findings:
    """What is wrong with settings and what is noteworthy; `where` is the field that holds them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def problem(self, field: str, text: str) -> None:
        self.problems.append(f"{self.where}.{field}: {text}")

    def warning(self, field: str, text: str) -> None:
        self.warnings.append(f"{self.where}.{field}: {text}")


def node_class_of_template(source: Source | RawTemplate, cluster_name: str = "nodeyard") -> NodeClass:
    """An AWSNodeTemplate (karpenter.k8s.aws/v1alpha1), keyed `awsnodetemplate/<name>`.

    `cluster_name` is what default selectors look for. Raises ConversionError for an object without a name only.
    """
    try:
        raw = read(source, RawTemplate)
    except ConversionError as error:
        meta = identity_of(source).metadata
        broken = class_of_object(f"awsnodetemplate/{meta.name}", meta, objects.EC2NodeClassStatus())
        return msgspec.structs.replace(broken, problems=(str(error),))
    if not raw.metadata.name:
        raise ConversionError("metadata.name: is missing")
    found = Findings("spec")
    provider = _decoded(raw.spec, TemplateSpec, found) or TemplateSpec()
    key = f"awsnodetemplate/{raw.metadata.name}"
    made = node_class(key, raw.metadata, raw.status, provider, Kubelet(), cluster_name, found)
    return msgspec.structs.replace(made, warnings=tuple(found.warnings))


def inline_provider(raw: dict[str, Any] | None, found: Findings) -> Provider:
    """A Provisioner's `provider`; an empty one, and why in `found`, where it can't be understood."""
    if raw is None:
        found.problems.append("spec.provider: is missing; instanceProfile is needed")
        return Provider()
    return _decoded(raw, Provider, found) or Provider()


def _decoded(raw: dict[str, Any], kind: type[_P], found: Findings) -> _P | None:
    try:
        provider = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        found.problems.append(f"{found.where}.{explain(error)}")
        return None
    if provider.api_version not in ("", "extensions.karpenter.sh/v1alpha1"):
        found.problem("apiVersion", f"{provider.api_version!r} is not extensions.karpenter.sh/v1alpha1")
    if provider.kind not in ("", "AWS"):
        found.problem("kind", f"{provider.kind!r} is not AWS")
    if not provider.instance_profile:
        found.problem("instanceProfile", "is missing")
    return provider


def node_class(
    key: str, meta: objects.Meta, status: objects.EC2NodeClassStatus, provider: Provider, kubelet: Kubelet,
    cluster_name: str, found: Findings,
) -> NodeClass:  # fmt: skip
    """The class that these settings describe; its `problems` are those found so far, these here included."""
    family, ami_terms = _images(provider, found)
    more: dict[str, Any] = {}
    if isinstance(provider, TemplateSpec):
        more = {"user_data": provider.user_data, "detailed_monitoring": provider.detailed_monitoring}
    made = msgspec.structs.replace(
        class_of_object(key, meta, status),
        ami_family=family,
        subnet_terms=_terms(provider.subnet_selector, cluster_name, "subnetSelector", found),
        security_group_terms=_groups(provider, cluster_name, found),
        ami_terms=ami_terms,
        instance_profile=provider.instance_profile,
        launch_template=provider.launch_template,
        context=provider.context,
        tags=_tags(provider.tags, cluster_name, found),
        kubelet=kubelet,
        block_device_mappings=provider.block_device_mappings,
        metadata_options=provider.metadata_options or _OLD_METADATA_OPTIONS,
        **more,
    )
    return msgspec.structs.replace(made, hash=node_class_hash(made), problems=tuple(found.problems))


# --- images -------------------------------------------------------------------------------------------------------
def _images(provider: Provider, found: Findings) -> tuple[str, tuple[SelectorTerm, ...]]:
    """The image family and terms. AL2, the older API's default, is out of support, so its successor stands in."""
    selector = provider.ami_selector if isinstance(provider, TemplateSpec) else {}
    family = provider.ami_family
    if provider.launch_template:
        for field, given in (("amiFamily", family), ("amiSelector", selector)):
            if given:
                found.warning(field, "the launch template brings the image; it is left out")
        return "Custom", ()
    if family == "Custom" and selector:
        return family, _image_terms(selector, found)
    if not family:
        found.warning("amiFamily", "is not set; AL2023 is used, because AL2 is at its end of life")
        family = "AL2023"
    elif family == "AL2":
        found.warning("amiFamily", "AL2 is at its end of life")
    if family not in _FAMILIES:
        found.problem("amiFamily", f"{family!r} is none of {', '.join(_FAMILIES)}")
        return "Custom", ()
    return family, _image_terms(selector, found) if selector else (SelectorTerm(alias=_FAMILIES[family]),)


def _image_terms(selector: dict[str, str], found: Findings) -> tuple[SelectorTerm, ...]:
    """`aws::name` and `aws::owners` (comma-separated, one of them is enough) beside tags, or ids alone."""
    if _IDS & selector.keys():
        return _by_id_or_tags(selector, "amiSelector", found)
    names = _parts(selector.get(_IMAGE_NAME, ""))
    owners = _parts(selector.get(_IMAGE_OWNERS, ""))
    tags = {key: value for key, value in selector.items() if key not in (_IMAGE_NAME, _IMAGE_OWNERS)}
    if any(not key or not value for key, value in selector.items()):
        found.problem("amiSelector", "an empty key or value")
        return ()
    return tuple(
        SelectorTerm(tags=tags, name=name, owner=owner) for name in names or [""] for owner in owners or [""]
    )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


# --- selectors and tags -------------------------------------------------------------------------------------------
def _groups(provider: Provider, cluster_name: str, found: Findings) -> tuple[SelectorTerm, ...]:
    if not provider.launch_template:
        return _terms(provider.security_group_selector, cluster_name, "securityGroupSelector", found)
    if provider.security_group_selector:
        found.warning(
            "securityGroupSelector", "the launch template brings the security groups; it is left out"
        )
    return ()


def _terms(
    selector: dict[str, str], cluster_name: str, field: str, found: Findings
) -> tuple[SelectorTerm, ...]:
    if not selector:
        return (SelectorTerm(tags={f"kubernetes.io/cluster/{cluster_name}": "*"}),)
    return _by_id_or_tags(selector, field, found)


def _by_id_or_tags(selector: dict[str, str], field: str, found: Findings) -> tuple[SelectorTerm, ...]:
    """A selector map as terms: all its tags hold together; ids stand for themselves."""
    tags = {key: value for key, value in selector.items() if key not in _IDS}
    ids = [value for key, value in selector.items() if key in _IDS]
    if any(not key or not value for key, value in selector.items()):
        found.problem(field, "an empty tag key or value")
        return ()
    if not ids:
        return (SelectorTerm(tags=tags),)
    if tags:
        found.problem(field, "ids can't be combined with tags")
        return ()
    return tuple(SelectorTerm(id=one) for text in ids for one in _parts(text))


def _tags(tags: dict[str, str], cluster_name: str, found: Findings) -> dict[str, str]:
    managed = {"Name", f"kubernetes.io/cluster/{cluster_name}", f"karpenter.sh/cluster/{cluster_name}"}
    managed |= {keys.CLUSTER_UID_TAG, keys.NODECLAIM_TAG, keys.NODECLAIM_UID_TAG, keys.NODEPOOL_TAG}
    for key, value in tags.items():
        if not key or not value:
            found.problem(f"tags[{key}]", "an empty key or value")
        elif key in managed:
            found.problem(f"tags[{key}]", "is set by the system")
    return tags


# --- kubelet ------------------------------------------------------------------------------------------------------
def kubelet_of(raw: Mapping[str, Any] | None, problems: list[str], warnings: list[str]) -> Kubelet:
    """A Provisioner's `kubeletConfiguration`."""
    if not raw:
        return Kubelet()
    for field in sorted(raw.keys() - _KUBELET_FIELDS):
        warnings.append(f"spec.kubeletConfiguration.{field}: is not passed on")
    try:
        kubelet = msgspec.convert({name: raw[name] for name in raw.keys() & _KUBELET_FIELDS}, Kubelet)
    except msgspec.ValidationError as error:
        problems.append(f"spec.kubeletConfiguration.{explain(error)}")
        return Kubelet()
    for field, amounts in (
        ("kubeReserved", kubelet.kube_reserved),
        ("systemReserved", kubelet.system_reserved),
    ):
        problems.extend(validation.read_quantities(amounts, f"spec.kubeletConfiguration.{field}")[1])
    return kubelet

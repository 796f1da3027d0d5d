"""Provisioner (karpenter.sh/v1alpha5) as the same Pool and NodeClass that NodePools become, keyed `provisioner/<name>`.

The older API's own defaults are filled in here, and differ from a NodePool's: amd64 and on-demand where nothing is
said, on-demand preferred where both are allowed, nodes that stay for ever unless told otherwise, limits that refuse
once they are reached. What can't be understood is in `problems`; what is understood in today's terms, or left out, is
in the pool's `warnings`. Fields that came later in v1alpha5 are accepted.
Source: Karpenter documentation v0.5 to v0.31, "Provisioner API", "AWS Provisioning"; upgrade guide to v1.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api import objects, validation
from nodeyard.api.node import NodeClassRef
from nodeyard.api.nodeclass import (
    BlockDeviceMapping,
    Image,
    Kubelet,
    MetadataOptions,
    NodeClass,
    SecurityGroup,
    SelectorTerm,
    Subnet,
)
from nodeyard.api.nodepool import node_charge, node_class_hash
from nodeyard.api.pool import WHEN_EMPTY, WHEN_UNDERUTILIZED, Budget, Disruption, Pool
from nodeyard.api.reading import ConversionError, Source, conditions_of, explain, identity_of, read
from nodeyard.api.selectors import Requirement, Taint

GROUP: Final = "karpenter.sh"
KIND: Final = "Provisioner"
_FAMILIES: Final = {
    "AL2": "al2@latest",
    "AL2023": "al2023@latest",
    "Bottlerocket": "bottlerocket@latest",
    "Windows2019": "windows2019@latest",
    "Windows2022": "windows2022@latest",
}
_OPERATORS: Final = frozenset({"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"})
_IDS: Final = "aws-ids"
"""Selector key whose value is a comma-separated list of ids."""
_ANY_NUMBER: Final = (Budget(nodes="100%"),)
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


class RawConsolidation(objects.Raw):
    enabled: bool = False


class RawLimits(objects.Raw):
    resources: objects.Quantities = {}


class RawProviderRef(objects.Raw):
    name: str = ""
    kind: str = "AWSNodeTemplate"
    api_version: str = ""


class RawTaint(objects.Raw):
    """As a taint, but its effect may be missing."""

    key: str = ""
    value: str = ""
    effect: str = ""


class RawProvisionerSpec(objects.Raw):
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    requirements: tuple[Requirement, ...] = ()
    taints: tuple[RawTaint, ...] = ()
    startup_taints: tuple[RawTaint, ...] = ()
    ttl_seconds_after_empty: int | None = None
    ttl_seconds_until_expired: int | None = None
    weight: int | None = None
    consolidation: RawConsolidation | None = None
    limits: RawLimits | None = None
    provider: dict[str, Any] | None = None
    provider_ref: RawProviderRef | None = None
    kubelet_configuration: dict[str, Any] | None = None


class RawProvisionerStatus(objects.Raw):
    resources: objects.Quantities = {}
    conditions: tuple[objects.RawCondition, ...] = ()
    node_class: objects.EC2NodeClassStatus = msgspec.field(default_factory=objects.EC2NodeClassStatus)


class RawProvisioner(objects.Raw):
    metadata: objects.Meta
    spec: RawProvisionerSpec = msgspec.field(default_factory=RawProvisionerSpec)
    status: RawProvisionerStatus = msgspec.field(default_factory=RawProvisionerStatus)


class Provider(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The AWS settings of a Provisioner, decoded strictly as they always were."""

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


def pool_of_provisioner(
    source: Source | RawProvisioner, cluster_name: str = "nodeyard"
) -> tuple[Pool, NodeClass | None]:
    """The pool and the class that it describes itself; no class where `providerRef` names an EC2NodeClass.

    `cluster_name` is what default selectors look for. Raises ConversionError for an object without a name only.
    """
    try:
        raw = read(source, RawProvisioner)
    except ConversionError as error:
        meta = identity_of(source).metadata
        broken = RawProvisioner(metadata=meta)
        pool = msgspec.structs.replace(_pool(broken, [], []), problems=(str(error),))
        return pool, None
    if not raw.metadata.name:
        raise ConversionError("metadata.name: is missing")
    problems: list[str] = []
    warnings: list[str] = []
    node_class = _node_class(raw, cluster_name, problems, warnings)
    if node_class is not None:
        node_class = msgspec.structs.replace(node_class, problems=tuple(problems))
    return _pool(raw, problems, warnings), node_class


# --- the pool -------------------------------------------------------------------------------------------------------
def _pool(raw: RawProvisioner, class_problems: list[str], class_warnings: list[str]) -> Pool:
    meta, spec = raw.metadata, raw.spec
    limits, bad_limits = validation.read_quantities(
        spec.limits.resources if spec.limits else {}, "spec.limits.resources"
    )
    resources, _ = validation.read_quantities(raw.status.resources, "status.resources")
    charge, bad_charge = node_charge(meta.annotations)
    taints, taint_warnings = _taints(spec.taints, "spec.taints")
    startup_taints, startup_warnings = _taints(spec.startup_taints, "spec.startupTaints")
    reference = spec.provider_ref
    own_class = reference is None or reference.kind != "EC2NodeClass"
    return Pool(
        key=f"provisioner/{meta.name}",
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        deleting=meta.deletion_timestamp is not None,
        weight=spec.weight or 0,
        labels=_normalised_labels(spec.labels),
        annotations=spec.annotations,
        requirements=_with_defaults(spec),
        taints=taints,
        startup_taints=startup_taints,
        node_class=(
            NodeClassRef(meta.name, KIND, GROUP)
            if own_class
            else NodeClassRef(reference.name if reference is not None else "")
        ),
        expire_after_s=_seconds(spec.ttl_seconds_until_expired),
        disruption=_disruption(spec),
        limits=limits,
        limits_inclusive=False,
        capacity_type_order=(keys.ON_DEMAND, keys.SPOT),
        node_charge_usd_per_hour=charge,
        conditions=conditions_of(raw.status.conditions),
        resources=resources,
        problems=(*_spec_problems(spec), *bad_limits, *bad_charge, *class_problems),
        warnings=(*taint_warnings, *startup_warnings, *class_warnings),
    )


def _spec_problems(spec: RawProvisionerSpec) -> Iterable[str]:
    yield from validation.label_problems(spec.labels, "spec.labels")
    yield from validation.requirement_problems(spec.requirements, "spec.requirements")
    for index, requirement in enumerate(spec.requirements):
        if requirement.operator in validation.OPERATORS - _OPERATORS:
            known = ", ".join(sorted(_OPERATORS))
            yield f"spec.requirements[{index}] ({requirement.key}): operator {requirement.operator!r} is none of {known}"
    effects = validation.EFFECTS | {""}
    for where, taints in (("spec.taints", spec.taints), ("spec.startupTaints", spec.startup_taints)):
        yield from validation.taint_problems(
            [Taint(t.key, t.effect, t.value) for t in taints], where, effects=effects
        )
    for field, seconds in (
        ("ttlSecondsAfterEmpty", spec.ttl_seconds_after_empty),
        ("ttlSecondsUntilExpired", spec.ttl_seconds_until_expired),
    ):
        if seconds is not None and seconds < 0:
            yield f"spec.{field}: {seconds} is negative"
    if spec.ttl_seconds_after_empty is not None and spec.consolidation and spec.consolidation.enabled:
        yield "spec: ttlSecondsAfterEmpty and consolidation can't both be set"
    if spec.weight is not None and not 1 <= spec.weight <= 100:
        yield f"spec.weight: {spec.weight} is not within 1..100"


def _with_defaults(spec: RawProvisionerSpec) -> tuple[Requirement, ...]:
    """The requirements, those that labels amount to, and the defaults of what neither says."""
    requirements = [
        Requirement(keys.BETA_ALIASES.get(one.key, one.key), one.operator, one.values)
        for one in spec.requirements
    ]
    labels = _normalised_labels(spec.labels)
    requirements += [
        Requirement(key, "In", (value,)) for key, value in labels.items() if key in validation.WELL_KNOWN
    ]
    said = {one.key for one in requirements}
    for key, value in ((keys.ARCH, "amd64"), (keys.CAPACITY_TYPE, keys.ON_DEMAND), (keys.OS, _os(spec))):
        if key not in said:
            requirements.append(Requirement(key, "In", (value,)))
    return tuple(requirements)


def _os(spec: RawProvisionerSpec) -> str:
    """Nodes were Linux always, until the image families of Windows came."""
    return "windows" if str((spec.provider or {}).get("amiFamily", "")).startswith("Windows") else "linux"


def _normalised_labels(labels: dict[str, str]) -> dict[str, str]:
    return {keys.BETA_ALIASES.get(key, key): value for key, value in labels.items()}


def _disruption(spec: RawProvisionerSpec) -> Disruption:
    """Nothing happens unless it is asked for; v1alpha5 knows no budgets, so emptiness takes every node at once."""
    if spec.consolidation is not None and spec.consolidation.enabled:
        return Disruption(WHEN_UNDERUTILIZED, 0.0)
    return Disruption(WHEN_EMPTY, _seconds(spec.ttl_seconds_after_empty), _ANY_NUMBER)


def _seconds(value: int | None) -> float | None:
    return float(value) if value is not None and value >= 0 else None


def _taints(raw: tuple[RawTaint, ...], where: str) -> tuple[tuple[Taint, ...], list[str]]:
    """Taints; one without an effect, which the older API let pass, means NoSchedule."""
    warnings = [
        f"{where}[{index}] ({taint.key}): has no effect given and is taken for {keys.NO_SCHEDULE}"
        for index, taint in enumerate(raw)
        if not taint.effect
    ]
    return tuple(Taint(t.key, t.effect or keys.NO_SCHEDULE, t.value) for t in raw), warnings


# --- the class ------------------------------------------------------------------------------------------------------
def _node_class(
    raw: RawProvisioner, cluster_name: str, problems: list[str], warnings: list[str]
) -> NodeClass | None:
    spec, meta, status = raw.spec, raw.metadata, raw.status.node_class
    if spec.provider_ref is not None and spec.provider_ref.kind == "EC2NodeClass":
        return None
    provider = _provider(spec, problems)
    family, ami_terms = _images(provider, problems, warnings)
    node_class = NodeClass(
        key=f"provisioner/{meta.name}",
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        deleting=meta.deletion_timestamp is not None,
        labels=meta.labels,
        annotations=meta.annotations,
        finalizers=meta.finalizers,
        ami_family=family,
        subnet_terms=_terms(provider.subnet_selector, cluster_name, "subnetSelector", problems),
        security_group_terms=_groups(provider, cluster_name, problems, warnings),
        ami_terms=ami_terms,
        instance_profile=provider.instance_profile,
        launch_template=provider.launch_template,
        context=provider.context,
        tags=_tags(provider.tags, cluster_name, problems),
        kubelet=_kubelet(spec.kubelet_configuration, problems, warnings),
        block_device_mappings=provider.block_device_mappings,
        metadata_options=provider.metadata_options or _OLD_METADATA_OPTIONS,
        subnets=tuple(Subnet(s.id, s.zone, s.zone_id) for s in status.subnets),
        security_groups=tuple(SecurityGroup(g.id, g.name) for g in status.security_groups),
        images=tuple(Image(i.id, i.name, i.requirements) for i in status.amis),
        resolved_profile=status.instance_profile,
        conditions=conditions_of(status.conditions),
    )
    return msgspec.structs.replace(node_class, hash=node_class_hash(node_class))


_OLD_METADATA_OPTIONS: Final = MetadataOptions(http_put_response_hop_limit=2)
"""v1alpha5 allowed pods one hop more than v1 does."""


def _provider(spec: RawProvisionerSpec, problems: list[str]) -> Provider:
    if spec.provider_ref is not None:
        problems.append(
            f"spec.providerRef: {spec.provider_ref.kind} is not supported; put its fields into spec.provider, "
            "or refer to an EC2NodeClass"
        )
        return Provider()
    if spec.provider is None:
        problems.append("spec.provider: is missing; instanceProfile is needed")
        return Provider()
    try:
        provider = msgspec.convert(spec.provider, Provider)
    except msgspec.ValidationError as error:
        problems.append(f"spec.provider.{explain(error)}")
        return Provider()
    if provider.api_version not in ("", "extensions.karpenter.sh/v1alpha1"):
        problems.append(
            f"spec.provider.apiVersion: {provider.api_version!r} is not extensions.karpenter.sh/v1alpha1"
        )
    if provider.kind not in ("", "AWS"):
        problems.append(f"spec.provider.kind: {provider.kind!r} is not AWS")
    if not provider.instance_profile:
        problems.append("spec.provider.instanceProfile: is missing")
    return provider


def _images(
    provider: Provider, problems: list[str], warnings: list[str]
) -> tuple[str, tuple[SelectorTerm, ...]]:
    """The image family and terms. AL2, the older API's default, is out of support, so its successor stands in."""
    family = provider.ami_family
    if provider.launch_template:
        if family:
            warnings.append(
                "spec.provider.amiFamily: the launch template brings the image; the family is left out"
            )
        return "Custom", ()
    if not family:
        warnings.append(
            "spec.provider.amiFamily: is not set; AL2023 is used, because AL2 is at its end of life"
        )
        family = "AL2023"
    elif family == "AL2":
        warnings.append("spec.provider.amiFamily: AL2 is at its end of life")
    if family not in _FAMILIES:
        problems.append(f"spec.provider.amiFamily: {family!r} is none of {', '.join(_FAMILIES)}")
        return "Custom", ()
    return family, (SelectorTerm(alias=_FAMILIES[family]),)


def _groups(
    provider: Provider, cluster_name: str, problems: list[str], warnings: list[str]
) -> tuple[SelectorTerm, ...]:
    if not provider.launch_template:
        return _terms(provider.security_group_selector, cluster_name, "securityGroupSelector", problems)
    if provider.security_group_selector:
        warnings.append(
            "spec.provider.securityGroupSelector: the launch template brings the security groups; it is left out"
        )
    return ()


def _terms(
    selector: dict[str, str], cluster_name: str, field: str, problems: list[str]
) -> tuple[SelectorTerm, ...]:
    """A selector map as terms: all its tags hold together; ids stand for themselves."""
    if not selector:
        return (SelectorTerm(tags={f"kubernetes.io/cluster/{cluster_name}": "*"}),)
    tags = {key: value for key, value in selector.items() if key != _IDS}
    if any(not key or not value for key, value in selector.items()):
        problems.append(f"spec.provider.{field}: an empty tag key or value")
        return ()
    if _IDS not in selector:
        return (SelectorTerm(tags=tags),)
    if tags:
        problems.append(f"spec.provider.{field}: {_IDS} can't be combined with tags")
        return ()
    ids = [part.strip() for part in selector[_IDS].split(",")]
    return tuple(SelectorTerm(id=one) for one in ids if one)


def _tags(tags: dict[str, str], cluster_name: str, problems: list[str]) -> dict[str, str]:
    managed = {"Name", f"kubernetes.io/cluster/{cluster_name}", f"karpenter.sh/cluster/{cluster_name}"}
    managed |= {keys.CLUSTER_UID_TAG, keys.NODECLAIM_TAG, keys.NODECLAIM_UID_TAG, keys.NODEPOOL_TAG}
    for key, value in tags.items():
        if not key or not value:
            problems.append(f"spec.provider.tags[{key}]: an empty key or value")
        elif key in managed:
            problems.append(f"spec.provider.tags[{key}]: is set by the system")
    return tags


def _kubelet(raw: Mapping[str, Any] | None, problems: list[str], warnings: list[str]) -> Kubelet:
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

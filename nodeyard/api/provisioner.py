"""Provisioner (karpenter.sh/v1alpha5) as the same Pool and NodeClass that NodePools become, keyed `provisioner/<name>`.

The older API's own defaults are filled in here, and differ from a NodePool's: amd64 and on-demand where nothing is
said, on-demand preferred where both are allowed, nodes that stay for ever unless told otherwise, limits that refuse
once they are reached. What can't be understood is in `problems`; what is understood in today's terms, or left out, is
in the pool's `warnings`. Fields that came later in v1alpha5 are accepted.
Source: Karpenter documentation v0.5 to v0.31, "Provisioner API"; upgrade guide to v1.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api import objects, validation
from nodeyard.api.node import NodeClassRef
from nodeyard.api.nodeclass import Kubelet, NodeClass
from nodeyard.api.nodepool import node_charge
from nodeyard.api.pool import WHEN_EMPTY, WHEN_UNDERUTILIZED, Budget, Disruption, Pool
from nodeyard.api.provider import TEMPLATE, Findings, Provider, inline_provider, kubelet_of, node_class
from nodeyard.api.reading import ConversionError, Source, conditions_of, identity_of, read
from nodeyard.api.selectors import Requirement, Taint

GROUP: Final = "karpenter.sh"
KIND: Final = "Provisioner"
_OPERATORS: Final = frozenset({"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"})
_ANY_NUMBER: Final = (Budget(nodes="100%"),)


class RawConsolidation(objects.Raw):
    enabled: bool = False


class RawLimits(objects.Raw):
    resources: objects.Quantities = {}


class RawProviderRef(objects.Raw):
    name: str = ""
    kind: str = TEMPLATE
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


def pool_of_provisioner(
    source: Source | RawProvisioner, cluster_name: str = "nodeyard"
) -> tuple[Pool, NodeClass | None]:
    """The pool and the class that it describes itself; no class where `providerRef` names one.

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
        node_class=_class_ref(raw),
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


def _class_ref(raw: RawProvisioner) -> NodeClassRef:
    reference = raw.spec.provider_ref
    if reference is None or _own_class(raw.spec):
        return NodeClassRef(raw.metadata.name, KIND, GROUP)
    return NodeClassRef(reference.name, reference.kind)


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
        Requirement(keys.ALIASES.get(one.key, one.key), one.operator, one.values) for one in spec.requirements
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
    return {keys.ALIASES.get(key, key): value for key, value in labels.items()}


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
def _own_class(spec: RawProvisionerSpec) -> bool:
    return spec.provider_ref is None or spec.provider_ref.kind not in (TEMPLATE, "EC2NodeClass")


def _node_class(
    raw: RawProvisioner, cluster_name: str, problems: list[str], warnings: list[str]
) -> NodeClass | None:
    spec, meta = raw.spec, raw.metadata
    kubelet = kubelet_of(spec.kubelet_configuration, problems, warnings)
    if not _own_class(spec):
        if kubelet != Kubelet():
            problems.append(
                "spec.kubeletConfiguration: can't be combined with providerRef; refer to an EC2NodeClass with spec.kubelet"
            )
        return None
    found = Findings("spec.provider")
    if spec.provider_ref is not None:
        found.problems.append(
            f"spec.providerRef: {spec.provider_ref.kind!r} is neither {TEMPLATE} nor EC2NodeClass"
        )
        provider = Provider()
    else:
        provider = inline_provider(spec.provider, found)
    key = f"provisioner/{meta.name}"
    made = node_class(key, meta, raw.status.node_class, provider, kubelet, cluster_name, found)
    problems[:] = [*found.problems, *problems]
    warnings[:] = [*found.warnings, *warnings]
    return msgspec.structs.replace(made, problems=tuple(problems))

"""NodePool (karpenter.sh/v1) and EC2NodeClass (karpenter.k8s.aws/v1) as Pool and NodeClass.

Whatever is wrong with one becomes its `problems`, each naming the field; only an object without a readable name
raises. Hashes cover the fields whose change drifts nodes; requirements and selector terms are compared with what is
there instead. Source: Karpenter documentation, "NodePools", "NodeClasses", "Disruption" (drift).
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api import objects, validation
from nodeyard.api.cpu_options import cpu_problems
from nodeyard.api.networking import network_problems
from nodeyard.api.node import NodeClassRef
from nodeyard.api.nodeclass import (
    Image,
    Kubelet,
    NodeClass,
    ReservationTerm,
    SecurityGroup,
    SelectorTerm,
    Subnet,
)
from nodeyard.api.placement import placement_problems
from nodeyard.api.pool import Pool
from nodeyard.api.pool_disruption import disruption_of
from nodeyard.api.reading import ConversionError, Source, conditions_of, identity_of, read

EXPIRE_AFTER_S: Final = 720 * 3600.0
MAX_TERMS: Final = 30
MAX_MAPPINGS: Final = 50
_FAMILY_OF_ALIAS: Final = {
    "al2": "AL2",
    "al2023": "AL2023",
    "bottlerocket": "Bottlerocket",
    "windows2019": "Windows2019",
    "windows2022": "Windows2022",
    "windows2025": "Windows2025",
}
_FAMILIES: Final = frozenset({*_FAMILY_OF_ALIAS.values(), "Custom"})
_canonical: Final = msgspec.json.Encoder(order="deterministic")


def digest_of(*parts: Any) -> str:
    """A digest of values' content, equal in every process: 16 hexadecimal digits."""
    return blake2b(_canonical.encode(parts), digest_size=8).hexdigest()


# --- NodePool -------------------------------------------------------------------------------------------------------
def pool_of_nodepool(source: Source | objects.NodePool) -> Pool:
    """The pool; what can't be understood is in its `problems`. Raises ConversionError for an object without a name."""
    try:
        raw = read(source, objects.NodePool)
    except ConversionError as error:
        meta = identity_of(source).metadata
        return Pool(
            key=meta.name, uid=meta.uid, resource_version=meta.resource_version, generation=meta.generation,
            deleting=meta.deletion_timestamp is not None, problems=(str(error),),
        )  # fmt: skip
    meta, spec, template = raw.metadata, raw.spec, raw.spec.template
    at = "spec.template.spec"
    expire_after_s, bad_expiry = validation.read_duration(
        template.spec.expire_after, f"{at}.expireAfter", default_s=EXPIRE_AFTER_S
    )
    grace_s, bad_grace = validation.read_duration(
        template.spec.termination_grace_period, f"{at}.terminationGracePeriod", default_s=None
    )
    limits, bad_limits = validation.read_quantities(spec.limits, "spec.limits")
    resources, _ = validation.read_quantities(raw.status.resources, "status.resources")
    disruption, bad_disruption = disruption_of(spec.disruption, meta.annotations)
    charge, bad_charge = node_charge(meta.annotations)
    reference = template.spec.node_class_ref
    problems = (
        *validation.label_problems(template.metadata.labels, "spec.template.metadata.labels"),
        *validation.requirement_problems(template.spec.requirements, f"{at}.requirements"),
        *validation.taint_problems(template.spec.taints, f"{at}.taints"),
        *validation.taint_problems(template.spec.startup_taints, f"{at}.startupTaints"),
        *_reference_problems(reference, f"{at}.nodeClassRef"),
        *bad_expiry, *bad_grace, *bad_limits, *bad_disruption, *bad_charge,
        *_weight_problems(spec),
    )  # fmt: skip
    pool = Pool(
        key=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        deleting=meta.deletion_timestamp is not None,
        weight=spec.weight or 0,
        labels=template.metadata.labels,
        annotations=template.metadata.annotations,
        requirements=template.spec.requirements,
        taints=template.spec.taints,
        startup_taints=template.spec.startup_taints,
        node_class=NodeClassRef(reference.name, reference.kind, reference.group),
        expire_after_s=expire_after_s,
        termination_grace_period_s=grace_s,
        disruption=disruption,
        limits=limits,
        replicas=spec.replicas,
        node_charge_usd_per_hour=charge,
        conditions=conditions_of(raw.status.conditions),
        resources=resources,
        problems=problems,
    )
    return msgspec.structs.replace(pool, hash=pool_hash(pool))


def pool_hash(pool: Pool) -> str:
    """Digest of the template fields whose change drifts the pool's nodes."""
    return digest_of(
        pool.labels,
        pool.annotations,
        sorted(pool.taints, key=_canonical.encode),
        sorted(pool.startup_taints, key=_canonical.encode),
        pool.node_class,
        pool.expire_after_s,
        pool.termination_grace_period_s,
    )


def node_charge(annotations: dict[str, str]) -> tuple[float | None, list[str]]:
    """USD per node-hour that the pool adds to the rent; None where it does not say."""
    text = annotations.get(keys.NODE_CHARGE)
    if text is None:
        return None, []
    try:
        charge = float(text)
    except ValueError:
        charge = -1.0
    if not 0.0 <= charge < 1e6:
        return None, [f"metadata.annotations[{keys.NODE_CHARGE}]: {text!r} is not an amount in USD"]
    return charge, []


def _reference_problems(reference: objects.NodeClassReference, where: str) -> Iterable[str]:
    if not reference.name:
        yield f"{where}.name: is missing"
    if (reference.group, reference.kind) != (keys.AWS_GROUP, "EC2NodeClass"):
        yield f"{where}: {reference.kind}.{reference.group} is not supported, only EC2NodeClass.{keys.AWS_GROUP}"


def _weight_problems(spec: objects.NodePoolSpec) -> Iterable[str]:
    if spec.weight is not None and not 1 <= spec.weight <= 100:
        yield f"spec.weight: {spec.weight} is not within 1..100"
    if spec.replicas is not None and spec.replicas < 0:
        yield f"spec.replicas: {spec.replicas} is negative"
    if spec.replicas is not None and spec.weight is not None:
        yield "spec.weight: can't be set beside spec.replicas"


# --- EC2NodeClass ---------------------------------------------------------------------------------------------------
def node_class_of(source: Source | objects.EC2NodeClass) -> NodeClass:
    """The class; what can't be understood is in its `problems`. Raises ConversionError for one without a name."""
    try:
        raw = read(source, objects.EC2NodeClass)
    except ConversionError as error:
        meta = identity_of(source).metadata
        broken = class_of_object(meta.name, meta, objects.EC2NodeClassStatus())
        return msgspec.structs.replace(broken, problems=(str(error),))
    meta, spec = raw.metadata, raw.spec
    family, problems = _family(spec)
    kubelet, kubelet_problems = _kubelet(spec.kubelet)
    node_class = msgspec.structs.replace(
        class_of_object(meta.name, meta, raw.status),
        ami_family=family,
        subnet_terms=spec.subnet_selector_terms,
        security_group_terms=spec.security_group_selector_terms,
        ami_terms=spec.ami_selector_terms,
        capacity_reservation_terms=spec.capacity_reservation_selector_terms,
        role=spec.role,
        instance_profile=spec.instance_profile,
        user_data=spec.user_data,
        tags=spec.tags,
        kubelet=kubelet,
        block_device_mappings=spec.block_device_mappings,
        instance_store_policy=spec.instance_store_policy,
        metadata_options=spec.metadata_options,
        associate_public_ip=spec.associate_public_ip,
        ip_prefix_count=spec.ip_prefix_count,
        network_interfaces=spec.network_interfaces,
        connection_tracking=spec.connection_tracking,
        detailed_monitoring=spec.detailed_monitoring,
        cpu_options=spec.cpu_options,
        placement_group_selector=spec.placement_group_selector,
        context=spec.context,
        problems=(*problems, *kubelet_problems, *_class_problems(spec, kubelet)),
    )
    return msgspec.structs.replace(node_class, hash=node_class_hash(node_class))


def class_of_object(key: str, meta: objects.Meta, status: objects.EC2NodeClassStatus) -> NodeClass:
    """A class without settings: what its object is called, and what was found in the account for it."""
    return NodeClass(
        key=key,
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        deleting=meta.deletion_timestamp is not None,
        labels=meta.labels,
        annotations=meta.annotations,
        finalizers=meta.finalizers,
        subnets=tuple(Subnet(s.id, s.zone, s.zone_id) for s in status.subnets),
        security_groups=tuple(SecurityGroup(g.id, g.name) for g in status.security_groups),
        images=tuple(Image(i.id, i.name, i.requirements) for i in status.amis),
        capacity_reservations=status.capacity_reservations,
        resolved_profile=status.instance_profile,
        placement_group=status.placement_group,
        conditions=conditions_of(status.conditions),
    )


def node_class_hash(node_class: NodeClass) -> str:
    """Digest of the fields whose change drifts the class's nodes."""
    return digest_of(
        node_class.ami_family,
        node_class.role,
        node_class.instance_profile,
        node_class.launch_template,
        node_class.user_data,
        node_class.tags,
        node_class.kubelet,
        node_class.block_device_mappings,
        node_class.instance_store_policy,
        node_class.metadata_options,
        node_class.associate_public_ip,
        node_class.detailed_monitoring,
        {name: value for name in _HASHED_WHEN_SET if (value := getattr(node_class, name))},
    )


_HASHED_WHEN_SET: Final = (
    "context",
    "ip_prefix_count",
    "network_interfaces",
    "connection_tracking",
    "placement_group_selector",
    "cpu_options",
)
"""Fields that leave the digest of a class without them as it was, so that more can come without another version."""


def _family(spec: objects.EC2NodeClassSpec) -> tuple[str, list[str]]:
    """The AMI family, from the field or else from an alias term."""
    alias = next((term.alias for term in spec.ami_selector_terms if term.alias), "")
    of_alias = _FAMILY_OF_ALIAS.get(alias.partition("@")[0], "")
    if alias and not of_alias:
        known = ", ".join(sorted(_FAMILY_OF_ALIAS))
        return spec.ami_family or "Custom", [
            f"spec.amiSelectorTerms: alias {alias!r} names none of the families {known}"
        ]
    if alias and "@" not in alias:
        return of_alias, [f"spec.amiSelectorTerms: alias {alias!r} lacks a version, e.g. {alias}@latest"]
    if spec.ami_family is not None and spec.ami_family not in _FAMILIES:
        return "Custom", [f"spec.amiFamily: {spec.ami_family!r} is none of {', '.join(sorted(_FAMILIES))}"]
    if spec.ami_family and of_alias and spec.ami_family not in (of_alias, "Custom"):
        return of_alias, [f"spec.amiFamily: {spec.ami_family!r} contradicts the alias {alias!r}"]
    return spec.ami_family or of_alias or "Custom", []


def _kubelet(raw: dict[str, Any]) -> tuple[Kubelet, list[str]]:
    """The kubelet's settings, those that have no name here kept as they are."""
    names = {field.encode_name for field in msgspec.structs.fields(Kubelet)} - {"other"}
    known = {name: value for name, value in raw.items() if name in names}
    other = {name: value for name, value in raw.items() if name not in names}
    try:
        return msgspec.convert({**known, "other": other}, Kubelet), []
    except msgspec.ValidationError as error:
        return Kubelet(), [f"spec.kubelet: {error}"]


_RESTRICTED_TAGS: Final = (
    "karpenter.sh/nodepool",
    "karpenter.sh/nodeclaim",
    "karpenter.k8s.aws/ec2nodeclass",
    "kubernetes.io/cluster/",
    "eks:eks-cluster-name",
    "nodeyard.dev/",
)


def _class_problems(spec: objects.EC2NodeClassSpec, kubelet: Kubelet) -> Iterable[str]:
    for tag in spec.tags:
        if not tag or tag.startswith(_RESTRICTED_TAGS):
            yield f"spec.tags: {tag!r} is a tag that is set for you"
    for signal in kubelet.eviction_soft.keys() ^ kubelet.eviction_soft_grace_period.keys():
        yield f"spec.kubelet: {signal!r} is wanted in evictionSoft and in evictionSoftGracePeriod, or in neither"
    yield from network_problems(
        spec.network_interfaces, spec.connection_tracking, spec.ip_prefix_count, spec.associate_public_ip
    )
    yield from cpu_problems(spec.cpu_options)
    yield from placement_problems(spec.placement_group_selector)
    if bool(spec.role) == bool(spec.instance_profile):
        yield "spec: exactly one of role and instanceProfile is wanted"
    yield from _term_problems(spec.subnet_selector_terms, "spec.subnetSelectorTerms")
    yield from _term_problems(spec.security_group_selector_terms, "spec.securityGroupSelectorTerms")
    yield from _term_problems(spec.ami_selector_terms, "spec.amiSelectorTerms")
    yield from _reservation_problems(spec.capacity_reservation_selector_terms)
    for name, quantities in (
        ("kubeReserved", kubelet.kube_reserved),
        ("systemReserved", kubelet.system_reserved),
    ):
        yield from validation.read_quantities(quantities, f"spec.kubelet.{name}")[1]
    for name, thresholds in (
        ("evictionHard", kubelet.eviction_hard),
        ("evictionSoft", kubelet.eviction_soft),
    ):
        amounts = {signal: text for signal, text in thresholds.items() if not text.endswith("%")}
        yield from validation.read_quantities(amounts, f"spec.kubelet.{name}")[1]
    if len(spec.block_device_mappings) > MAX_MAPPINGS:
        yield f"spec.blockDeviceMappings: {len(spec.block_device_mappings)} are more than {MAX_MAPPINGS}"
    if sum(mapping.root_volume for mapping in spec.block_device_mappings) > 1:
        yield "spec.blockDeviceMappings: only one may be the rootVolume"
    for index, mapping in enumerate(spec.block_device_mappings):
        if mapping.ebs is not None and mapping.ebs.volume_size:
            size = {"volumeSize": mapping.ebs.volume_size}
            yield from validation.read_quantities(size, f"spec.blockDeviceMappings[{index}].ebs")[1]


def _term_problems(terms: tuple[SelectorTerm, ...], where: str) -> Iterable[str]:
    if not terms:
        yield f"{where}: at least one term is wanted"
    if len(terms) > MAX_TERMS:
        yield f"{where}: {len(terms)} terms are more than {MAX_TERMS}"
    for index, term in enumerate(terms):
        alone = [name for name in ("id", "alias", "ssm_parameter") if getattr(term, name)]
        beside = bool(term.tags) + bool(term.name or term.owner)
        if not alone and not beside:
            yield f"{where}[{index}]: is empty"
        elif len(alone) > 1 or (alone and beside):
            yield f"{where}[{index}]: {alone[0]} can't be combined with anything else"
        if any(not key for key in term.tags):
            yield f"{where}[{index}].tags: a key is empty"


def _reservation_problems(terms: tuple[ReservationTerm, ...]) -> Iterable[str]:
    where = "spec.capacityReservationSelectorTerms"
    if len(terms) > MAX_TERMS:
        yield f"{where}: {len(terms)} terms are more than {MAX_TERMS}"
    for index, term in enumerate(terms):
        beside = term.tags or term.owner_id or term.instance_match_criteria
        if term.id and beside:
            yield f"{where}[{index}]: id can't be combined with anything else"
        elif not (term.id or term.tags or term.instance_match_criteria):
            yield f"{where}[{index}]: one of tags, id and instanceMatchCriteria is wanted"
        if term.instance_match_criteria not in ("", "open", "targeted"):
            criteria = term.instance_match_criteria
            yield f"{where}[{index}].instanceMatchCriteria: {criteria!r} is neither open nor targeted"
        if any(not key for key in term.tags):
            yield f"{where}[{index}].tags: a key is empty"

"""What a VerticalPodAutoscaler will make of a pod that is created again.

A pod keeps the requests that it was created with; its successor gets those that the autoscaler's admission webhook
writes: the target of each container, within the policy for it. Init containers that end have no target; sidecars have
one where the autoscaler knows them. LimitRanges and the boost of a start are not looked at. Pure.
Source: kubernetes/autoscaler, vertical-pod-autoscaler, `pkg/utils/vpa` (api, capping), docs/features.md.
"""

from typing import Final

import msgspec

from nodeyard.api import objects
from nodeyard.api.pod import INIT, ContainerShape, PodShape
from nodeyard.api.quantity import QuantityError, Resources, largest, parse_all
from nodeyard.api.reading import ConversionError, Source, read, seconds_of
from nodeyard.api.selectors import Value
from nodeyard.api.shape import requests_together, shape_id

_OFF: Final = "Off"
_EVERY_OTHER: Final = "*"
_REQUESTS_ONLY: Final = "RequestsOnly"
_CONTROLLED: Final = ("cpu", "memory")


class ContainerTarget(Value, frozen=True):
    """What a container will ask for. `within_limits`: no more than its limits, which stay as they are."""

    requests: Resources
    within_limits: bool = False


class VerticalPodAutoscaler(Value, frozen=True):
    """One that changes pods as they are created: it applies to those whose topmost controller is its target."""

    namespace: str
    name: str
    target_kind: str
    target_name: str
    created_at: float = 0.0
    targets: dict[str, ContainerTarget] = {}
    """By container, within the policies."""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


# --- as Kubernetes writes it ------------------------------------------------------------------------------------------
class _TargetRef(objects.Raw):
    kind: str = ""
    name: str = ""


class _UpdatePolicy(objects.Raw):
    update_mode: str = ""


class _ContainerPolicy(objects.Raw):
    container_name: str = ""
    mode: str = ""
    min_allowed: objects.Quantities = {}
    max_allowed: objects.Quantities = {}
    controlled_resources: tuple[str, ...] | None = None
    controlled_values: str = ""


class _ResourcePolicy(objects.Raw):
    container_policies: tuple[_ContainerPolicy, ...] = ()


class _Spec(objects.Raw):
    target_ref: _TargetRef = msgspec.field(default_factory=_TargetRef)
    update_policy: _UpdatePolicy = msgspec.field(default_factory=_UpdatePolicy)
    resource_policy: _ResourcePolicy = msgspec.field(default_factory=_ResourcePolicy)


class _ContainerRecommendation(objects.Raw):
    container_name: str = ""
    target: objects.Quantities = {}


class _Recommendation(objects.Raw):
    container_recommendations: tuple[_ContainerRecommendation, ...] = ()


class _Status(objects.Raw):
    recommendation: _Recommendation = msgspec.field(default_factory=_Recommendation)


class _Autoscaler(objects.Raw):
    metadata: objects.Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


def autoscaler_of(source: Source) -> VerticalPodAutoscaler | None:
    """The autoscaler; None of one that only recommends or has no target. Raises ConversionError."""
    raw = read(source, _Autoscaler)
    target = raw.spec.target_ref
    if raw.spec.update_policy.update_mode == _OFF or not (target.kind and target.name):
        return None
    policies = {policy.container_name: policy for policy in raw.spec.resource_policy.container_policies}
    targets = {}
    for one in raw.status.recommendation.container_recommendations:
        policy = policies.get(one.container_name) or policies.get(_EVERY_OTHER) or _ContainerPolicy()
        try:
            found = _within(policy, one)
        except QuantityError as error:
            raise ConversionError(f"container {one.container_name}: {error}") from error
        if found is not None:
            targets[one.container_name] = found
    meta = raw.metadata
    created = seconds_of(meta.creation_timestamp)
    return VerticalPodAutoscaler(meta.namespace, meta.name, target.kind, target.name, created, targets)


def _within(policy: _ContainerPolicy, recommended: _ContainerRecommendation) -> ContainerTarget | None:
    """The target as the policy lets it be: at least its least, then at most its most; zero bounds nothing."""
    if policy.mode == _OFF:
        return None
    least, most = parse_all(policy.min_allowed), parse_all(policy.max_allowed)
    controlled = _CONTROLLED if policy.controlled_resources is None else policy.controlled_resources
    requests = {}
    for resource, amount in parse_all(recommended.target).items():
        if resource in controlled:
            raised = max(amount, least.get(resource, 0))
            requests[resource] = min(raised, most.get(resource) or raised)
    return ContainerTarget(requests, policy.controlled_values == _REQUESTS_ONLY)


# --- what comes back --------------------------------------------------------------------------------------------------
def successor_of(shape: PodShape, autoscaler: VerticalPodAutoscaler) -> PodShape:
    """The shape to count with for a pod that is created again: of each resource what it has, or what the autoscaler will
    give it if that is more. The same object where the autoscaler changes nothing.
    """
    after = tuple(_created_again(c, autoscaler.targets.get(c.name)) for c in shape.containers)
    if after == shape.containers:
        return shape
    old, new = requests_together(shape.containers), requests_together(after)
    asked = {r: amount + shape.requests.get(r, 0) - old.get(r, 0) for r, amount in new.items()}
    requests = largest(shape.requests, asked)
    made = msgspec.structs.replace(shape, requests=dict(sorted(requests.items())), containers=after)
    return msgspec.structs.replace(made, id=shape_id(made))


def _created_again(container: ContainerShape, target: ContainerTarget | None) -> ContainerShape:
    if target is None or container.stage == INIT:
        return container
    requests = target.requests
    if target.within_limits:
        requests = {r: min(amount, container.limits.get(r, amount)) for r, amount in requests.items()}
    if all(container.requests.get(r) == amount for r, amount in requests.items()):
        return container
    return msgspec.structs.replace(container, requests={**container.requests, **requests})

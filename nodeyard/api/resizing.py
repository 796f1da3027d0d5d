"""What a pod holds on its node while it is resized in place, where that is not what it asks for.

A resize counts once the kubelet has made it; until then the container keeps what it was given, and the kube-scheduler
reserves whichever is more. Of a resize that its node can never make, only what the container holds counts. A raw pod is
changed accordingly before it becomes a shape. Source: Kubernetes documentation, "Resize CPU and Memory Resources
assigned to Containers"; KEP-1287.
"""

from typing import Final

import msgspec

from nodeyard.api import objects
from nodeyard.api.quantity import Resources, largest, parse_all, render_all

_PENDING: Final = "PodResizePending"
_INFEASIBLE: Final = "Infeasible"


def count_held(pod: objects.Pod) -> None:
    """Makes the requests in `pod.spec` what its node reserves. Raises QuantityError."""
    status, spec = pod.status, pod.spec
    held = {one.name: one for one in (*status.container_statuses, *status.init_container_statuses)}
    if not any(_differs(c, held.get(c.name)) for c in (*spec.containers, *spec.init_containers)):
        return
    in_vain = any(
        c.type == _PENDING and c.status == "True" and c.reason == _INFEASIBLE for c in status.conditions
    )
    spec.containers = tuple(_counted(c, held.get(c.name), in_vain) for c in spec.containers)
    spec.init_containers = tuple(
        _counted(c, held.get(c.name), in_vain) if c.restart_policy == "Always" else c
        for c in spec.init_containers
    )


def _differs(container: objects.Container, status: objects.ContainerStatus | None) -> bool:
    if status is None:
        return False
    asked = container.resources.requests if container.resources is not None else {}
    return any(seen and seen != asked for seen in _seen(status))


def _seen(status: objects.ContainerStatus) -> tuple[objects.Quantities, objects.Quantities]:
    """What the kubelet has set aside for the container, and what it runs with."""
    return status.allocated_resources, status.resources.requests if status.resources is not None else {}


def _counted(
    container: objects.Container, status: objects.ContainerStatus | None, in_vain: bool
) -> objects.Container:
    if status is None or not _differs(container, status):
        return container
    old = container.resources or objects.ResourceRequirements()
    allocated, running = map(parse_all, _seen(status))
    counted: Resources = largest(allocated, running)
    asked = parse_all(old.requests)
    counted = asked | counted if in_vain else largest(asked, counted)
    resources = objects.ResourceRequirements(requests={**render_all(counted)}, limits=old.limits)
    return msgspec.structs.replace(container, resources=resources)

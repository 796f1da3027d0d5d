"""Host ports: two pods on a node may not want the same port of the same protocol on overlapping addresses.

Source: Kubernetes API reference, `ContainerPort`; kube-scheduler's NodePorts filter.
"""

from collections.abc import Iterable

from nodeyard.api.selectors import HostPort

_EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::"})


def clash(first: HostPort, second: HostPort) -> bool:
    """Whether the two can't be held on one node."""
    if first.port != second.port or (first.protocol or "TCP") != (second.protocol or "TCP"):
        return False
    return (
        first.host_ip == second.host_ip or first.host_ip in _EVERY_ADDRESS or second.host_ip in _EVERY_ADDRESS
    )


def any_clash(wanted: Iterable[HostPort], taken: Iterable[HostPort]) -> bool:
    held = tuple(taken)
    return any(clash(w, t) for w in wanted for t in held)

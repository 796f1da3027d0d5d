"""What a node class asks of its instances' network, and what of it makes no sense.

The interfaces that an instance is launched with, the IPv4 prefixes on them, how long idle connections are tracked.
Refuses, naming the field, what EC2 would refuse. Neighbour: `nodepool` (the rest of a class's problems).
Source: Karpenter documentation, "NodeClasses"; EC2 API reference, InstanceNetworkInterfaceSpecification and
ConnectionTrackingSpecificationRequest.
"""

from collections.abc import Iterable
from typing import Final

from nodeyard.api.selectors import Value

MAX_INTERFACES: Final = 150
INTERFACE: Final = "interface"
EFA_ONLY: Final = "efa-only"
EFA: Final = "efa"
"""An EFA device with addresses; made where pods ask for EFA and the class names no interfaces."""
_TIMEOUTS: Final = (
    ("tcpEstablishedTimeout", "tcp_established_timeout", 60, 432_000),
    ("udpStreamTimeout", "udp_stream_timeout", 60, 180),
    ("udpTimeout", "udp_timeout", 30, 60),
)


class NetworkInterface(Value, frozen=True):
    """One interface that instances are launched with; the one at card 0, device 0 is the primary."""

    network_card_index: int = 0
    device_index: int = 0
    interface_type: str = INTERFACE

    @property
    def primary(self) -> bool:
        return self.network_card_index == 0 and self.device_index == 0


class ConnectionTracking(Value, frozen=True):
    """Seconds after which idle connections are forgotten; None: EC2's default."""

    tcp_established_timeout: int | None = None
    udp_stream_timeout: int | None = None
    udp_timeout: int | None = None


def network_problems(
    interfaces: tuple[NetworkInterface, ...],
    tracking: ConnectionTracking | None,
    prefixes: int | None,
    public: bool | None,
) -> Iterable[str]:
    """What EC2 would refuse of a class's interfaces, connection tracking, prefix count and public address."""
    at = "spec.networkInterfaces"
    if len(interfaces) > MAX_INTERFACES:
        yield f"{at}: {len(interfaces)} are more than {MAX_INTERFACES}"
    if len({(i.network_card_index, i.device_index) for i in interfaces}) < len(interfaces):
        yield f"{at}: two have the same networkCardIndex and deviceIndex"
    if interfaces and not any(i.primary and i.interface_type == INTERFACE for i in interfaces):
        yield f"{at}: one of type interface is wanted at networkCardIndex 0 and deviceIndex 0"
    for index, one in enumerate(interfaces):
        if one.interface_type not in (INTERFACE, EFA_ONLY):
            yield f"{at}[{index}].interfaceType: {one.interface_type!r} is neither {INTERFACE} nor {EFA_ONLY}"
        if one.network_card_index < 0 or one.device_index < 0:
            yield f"{at}[{index}]: an index is negative"
    if public and len(interfaces) > 1:
        yield "spec.associatePublicIPAddress: can't be true with more than one of networkInterfaces"
    if prefixes is not None and prefixes < 0:
        yield f"spec.ipPrefixCount: {prefixes} is negative"
    for name, field, least, most in _TIMEOUTS if tracking is not None else ():
        seconds = getattr(tracking, field)
        if seconds is not None and not least <= seconds <= most:
            yield f"spec.connectionTracking.{name}: {seconds} is not within {least}..{most} seconds"

"""What a new node is told so that it joins our cluster with our labels and taints.

Pure. How it is told is each provider's own business: user data on EC2.
"""

import msgspec

from nodeyard.api.nodeclass import Kubelet
from nodeyard.api.selectors import Taint


class Boot(msgspec.Struct, frozen=True):
    """What a node needs to join. `ca_bundle` is base64 of PEM, `endpoint` an https URL."""

    cluster: str
    endpoint: str = ""
    ca_bundle: str = ""
    service_cidr: str = ""
    cluster_dns: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    taints: tuple[Taint, ...] = ()
    kubelet: Kubelet = Kubelet()
    instance_store_raid0: bool = False

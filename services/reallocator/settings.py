"""What the reallocator is told by its environment; see docs/architecture.md, "Settings"."""

from typing import Annotated

import msgspec
from msgspec import Meta

from nodeyard.runtime.settings import Addresses, RedisUrl, Seconds, ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True):
    kubeconfig: str = ""
    namespace: str = "nodeyard"
    """Where the Lease with the epoch of `disruption` lives."""
    watcher: Addresses = ("127.0.0.1:7001",)
    pricing: Addresses = ("127.0.0.1:7002",)
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    aws_region: str = msgspec.field(default="", name="AWS_REGION")
    node_charge: float = 0.01
    """USD per node-hour added to the rent when plans are compared."""
    scheduler_config: str = ""
    """The kube-scheduler's configuration, for the cluster's default spread: a path, or the document as JSON."""
    disruption_poll: Seconds = 10.0
    validation_wait: Seconds = 15.0
    gc_interval: Seconds = 120.0
    fast_gc: int = 20
    lease_ttl: Seconds = 5.0
    ec2_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Of the account's published limits on calls to EC2, what this replica may use by itself: for calls that only read,
    and for all while Redis is away.
    """
    ec2_account_share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Of the same limits, what all replicas together may use for calls that change something."""
    interruption_queue: str = ""
    """Name or URL of the SQS queue with EC2's notices about instances; empty: nobody listens."""
    spot_to_spot: bool = False
    eviction_cost: float = 0.001
    """USD that one unit of eviction cost is taken to cost."""
    max_payback: Seconds = 8 * 3600.0
    """Longest time in which a move's saving makes up for its evictions."""
    bind_returning_pods: bool = True
    """Whether many nodes may go at once, for which pods that come back are bound to places kept for them."""
    surge: bool = False
    """Whether a pod that asks for it gets another replica before it is evicted, by scaling its Deployment."""
    mark_leaving_pods: bool = False
    """Whether pods of nodes that go get the lowest deletion cost, so that a ReplicaSet that shrinks gives them up first."""
    no_return: Seconds = 3600.0
    """How long an instance type that was left is not gone back to."""

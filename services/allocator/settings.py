"""The allocator's settings; docs/architecture.md explains each variable."""

from typing import Annotated, Literal

from msgspec import Meta

from nodeyard.runtime.settings import Addresses, RedisUrl, Seconds, ServiceSettings


class AllocatorSettings(ServiceSettings, frozen=True, kw_only=True):
    """Durations in seconds. `cluster_endpoint` and `cluster_ca` (base64 of PEM) are what nodes join by."""

    kubeconfig: str = ""
    namespace: str = "nodeyard"
    """Where the Leases that keep epochs are."""
    watcher: Addresses = ("127.0.0.1:7001",)
    pricing: Addresses = ("127.0.0.1:7002",)
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    batch_idle_duration: Seconds = 1.0
    batch_max_duration: Seconds = 10.0
    placement_mode: Literal["nominate", "bind"] = "nominate"
    node_charge: float = 0.01
    plan_deadline: Seconds = 2.0
    """Longest for planning a batch, and as much again for each thousand pods in it."""
    plan_search: Seconds = 0.5
    """Of that, what may be spent on looking for a cheaper plan once there is one; as much again for each thousand pods."""
    scheduler_config: str = ""
    """The kube-scheduler's configuration, for the cluster's default spread: a path, or the document as JSON."""
    registration_ttl: Seconds = 900.0
    launch_ttl: Seconds = 300.0
    lease_ttl: Seconds = 5.0
    ec2_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Of the account's published limits on calls to EC2, what this replica may use by itself: for calls that only read,
    and for all while Redis is away.
    """
    ec2_account_share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Of the same limits, what all replicas together may use for calls that change something."""
    ec2_consistency_lag: Seconds = 60.0
    """How long EC2 may take to show an instance that it has made."""
    dry_runs: bool = True
    """Whether EC2 is asked, without making anything, if it would let us launch by each node class."""
    cluster_endpoint: str = ""
    cluster_ca: str = ""
    cluster_dns: str = ""
    service_cidr: str = ""

    @property
    def nomination_s(self) -> float:
        """How long a node that pods were counted on to land on is left alone: two batches, at least 10 s.

        Source: Karpenter documentation, "Disruption".
        """
        return max(2.0 * self.batch_max_duration, 10.0)

"""What pricing is told by its environment; see docs/architecture.md, "Settings"."""

import msgspec

from nodeyard.runtime.settings import RedisUrl, Seconds, ServiceSettings

ACCOUNT = "account"
"""In place of an address: what the account's own APIs tell."""


class Settings(ServiceSettings, frozen=True, kw_only=True):
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    region: str = msgspec.field(default="", name="AWS_REGION")
    """Empty: boto3's own."""
    spot_price_interval: Seconds = 45.0
    """Short, so that a price that moves is known, and acted upon, within a minute."""
    on_demand_price_interval: Seconds = 12 * 3600.0
    instance_type_interval: Seconds = 12 * 3600.0
    reservation_interval: Seconds = 60.0
    """How often it is counted what is left of capacity reservations."""
    reserved_interfaces: int = 0
    """Network interfaces of each instance that are kept from pods, as with the VPC CNI's custom networking."""
    price_feed: str = ""
    """file, http(s):// or s3:// address of prices for when AWS can't be asked."""
    price_feed_interval: Seconds = 3600.0
    commitments: str = ""
    """file, http(s):// or s3:// address of Savings Plans, Reserved Instances and discounts, or "account"."""
    usage_interval: Seconds = 60.0
    """How often it is read what uses them up."""
    zonal_shift: str = ""
    """ARN of the EKS cluster whose zonal shifts are followed; empty: none are."""
    catalogue_directory: str = ""
    """Where the last known catalogue is kept besides Redis."""
    refusal_ttl: Seconds = 180.0
    """How long an offering stays out after the cloud refused it once; twice as long each time in a row, up to 1 h."""
    aws_threads: int = 4

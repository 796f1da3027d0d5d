"""CreateFleet of type `instant`: which pool gives which instance, and which pools refuse and why.

moto takes the first override whatever the strategy and never refuses. Here every override becomes a pool (type,
zone, capacity type); configuration errors are listed up front, then pools are tried in the order of the allocation
strategy until the target is met, and each that has no capacity leaves an error, while others still give. Source:
"Use launch templates … allocation strategies" and CreateFleet in the EC2 API reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moto.core.exceptions import ServiceException
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.utils import convert_tag_spec, random_fleet_id

from nodeyard.local.account import catalogue
from nodeyard.local.account.account import Account
from nodeyard.local.account.launch import Order, launch, profile_arn
from nodeyard.local.account.prices import depth
from nodeyard.local.account.reserved import BLOCK, Reserved

_SHALLOW = 0.25


@dataclass
class Pool:
    """One override of one template: where an instance could come from. `weight` units per instance."""

    instance_type: str
    subnet: Any
    zone: str
    spot: bool
    price: float
    priority: float
    weight: float
    max_price: float | None
    order: Order
    shown: dict[str, Any]
    into: Reserved | None = None
    """The reservation that its template names."""

    @property
    def capacity_type(self) -> str:
        """`spot` or `on-demand`."""
        return "spot" if self.spot else "on-demand"


class RefusedError(Exception):
    """An override that can never launch as it is: EC2's error code and message."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def create_instant_fleet(account: Account, params: dict[str, Any]) -> dict[str, Any]:
    """The result of CreateFleet (FleetId, Instances, Errors). Hold the account's lock.

    Raises EC2ClientError for what EC2 refuses as a whole (no such template, no target).
    """
    target = params.get("TargetCapacitySpecification") or {}
    total = target.get("TotalTargetCapacity")
    if total is None:
        raise EC2ClientError("MissingParameter", "The request must contain the parameter TotalTargetCapacity")
    spot = float(target.get("SpotTargetCapacity") or 0)
    on_demand = float(target.get("OnDemandTargetCapacity") or 0)
    rest = max(0.0, total - spot - on_demand)
    kind = target.get("DefaultTargetCapacityType", "on-demand")
    if kind == "spot":
        spot += rest
    else:
        on_demand += rest
    result: dict[str, Any] = {"FleetId": random_fleet_id(), "Instances": [], "Errors": []}
    for is_spot, wanted in ((False, on_demand), (True, spot)):
        if wanted > 0:
            _fill(account, params, is_spot, wanted, result, block=kind == BLOCK)
    return result


def _fill(
    account: Account,
    params: dict[str, Any],
    spot: bool,
    wanted: float,
    result: dict[str, Any],
    *,
    block: bool,
) -> None:
    options = params.get("SpotOptions" if spot else "OnDemandOptions") or {}
    pools, errors = _pools(account, params, spot, result["FleetId"])
    errors += [
        _error(pool.shown, spot, "InvalidFleetConfiguration", "Capacity blocks and other capacity don't mix.")
        for pool in pools
        if block != (pool.into is not None and pool.into.wish.kind == BLOCK)
    ]
    pools = [pool for pool in pools if block == (pool.into is not None and pool.into.wish.kind == BLOCK)]
    chosen, refused = _allot(
        account, _in_order(account, pools, options.get("AllocationStrategy"), spot), wanted, options
    )
    result["Errors"].extend([*errors, *refused])
    if sum(pool.weight * count for pool, count in chosen) < float(options.get("MinTargetCapacity") or 0):
        return
    for pool, count in chosen:
        instances = launch(account, pool.order, count, spot=spot)
        if pool.into is None:
            account.dials.take(pool.instance_type, pool.zone, pool.capacity_type, count)
        for instance in instances:
            _seat(account, pool, instance.id)
        result["Instances"].append(
            {
                "LaunchTemplateAndOverrides": pool.shown,
                "Lifecycle": pool.capacity_type,
                "InstanceIds": [instance.id for instance in instances],
                "InstanceType": pool.instance_type,
            }
        )


# -- what could launch


def _pools(
    account: Account, params: dict[str, Any], spot: bool, fleet_id: str
) -> tuple[list[Pool], list[dict[str, Any]]]:
    pools: list[Pool] = []
    errors: list[dict[str, Any]] = []
    for config in params.get("LaunchTemplateConfigs") or []:
        given = config.get("LaunchTemplateSpecification") or {}
        version = account.backends.ec2._get_template_from_args(given)
        specification = {"LaunchTemplateId": version.template.id, "Version": str(version.number)}
        base = _order(params, version, fleet_id)
        problem = _template_problem(account, base)
        for override in config.get("Overrides") or [{}]:
            shown = {"LaunchTemplateSpecification": specification, "Overrides": override}
            try:
                if problem is not None:
                    raise problem
                pools.append(_pool(account, base, override, spot, shown))
            except RefusedError as refused:
                errors.append(_error(shown, spot, refused.code, str(refused)))
    return pools, errors


def _order(params: dict[str, Any], version: Any, fleet_id: str) -> Order:
    tags = convert_tag_spec(params.get("TagSpecifications") or [])
    template_tags = convert_tag_spec(version.data.get("TagSpecifications") or [])
    instance_tags = {
        **template_tags.get("instance", {}),
        **tags.get("instance", {}),
        "aws:ec2:fleet-id": fleet_id,
        "aws:ec2launchtemplate:id": version.template.id,
        "aws:ec2launchtemplate:version": str(version.number),
    }
    volume_tags = {**template_tags.get("volume", {}), **tags.get("volume", {})}
    return Order(
        data=version.data,
        image_id=version.data.get("ImageId", ""),
        instance_type=version.data.get("InstanceType", ""),
        subnet_id=_template_subnet(version.data),
        tags={"instance": instance_tags, "volume": volume_tags},
        client_token=params.get("ClientToken"),
    )


def _template_subnet(data: dict[str, Any]) -> str | None:
    for interface in data.get("NetworkInterfaces") or []:
        if interface.get("SubnetId"):
            return str(interface["SubnetId"])
    return None


def _template_problem(account: Account, order: Order) -> RefusedError | None:
    """What is wrong with the template itself, so that none of its overrides can launch."""
    try:
        profile_arn(account, order.data.get("IamInstanceProfile"))
        order.check_security_groups(account)
    except ServiceException as error:
        return RefusedError(str(error.code), error.message)
    return None


def _pool(account: Account, base: Order, override: dict[str, Any], spot: bool, shown: dict[str, Any]) -> Pool:
    if "InstanceRequirements" in override:
        raise RefusedError(
            "UnsupportedOperation", "Attribute-based instance type selection is not simulated."
        )
    instance_type = override.get("InstanceType") or base.instance_type
    found = catalogue.description(instance_type)
    if found is None:
        raise RefusedError("InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType.")
    subnet = _subnet(account, override, base)
    zone = str(subnet.availability_zone)
    if not catalogue.offered(instance_type, account.region, zone):
        raise RefusedError(
            "InvalidFleetConfiguration",
            f"Your requested instance type ({instance_type}) is not supported in your requested Availability Zone "
            f"({zone}).",
        )
    if spot and "spot" not in found.get("SupportedUsageClasses", []):
        raise RefusedError(
            "InvalidFleetConfiguration", f"The instance type {instance_type} is not available as Spot."
        )
    _check_interfaces(found, base.data)
    _check_processor(found, base.data)
    try:
        account.groups.check(base.placement, found)
    except ServiceException as error:
        raise RefusedError(str(error.code), error.message) from error
    image_id = override.get("ImageId") or base.image_id
    _check_image(account, image_id, instance_type)
    now = account.clock()
    price = account.spot.price(instance_type, zone, now) if spot else account.on_demand_price(instance_type)
    return Pool(
        instance_type=instance_type,
        subnet=subnet,
        zone=zone,
        spot=spot,
        price=price,
        priority=float(override["Priority"]) if "Priority" in override else float("inf"),
        weight=float(override.get("WeightedCapacity") or 1),
        max_price=float(override["MaxPrice"]) if override.get("MaxPrice") else None,
        order=base.at(instance_type, subnet.id, image_id),
        shown=shown,
        into=_named_reservation(account, base, instance_type, zone),
    )


def _named_reservation(account: Account, base: Order, instance_type: str, zone: str) -> Reserved | None:
    """The reservation that the template names. Raises RefusedError where it can't take such an instance."""
    data = base.data
    asked = data.get("CapacityReservationSpecification") or {}
    wanted = (asked.get("CapacityReservationTarget") or {}).get("CapacityReservationId")
    market = (data.get("InstanceMarketOptions") or {}).get("MarketType")
    if not wanted:
        return None
    try:
        one = account.reserved.get(wanted)
    except ServiceException as error:
        raise RefusedError(str(error.code), error.message) from error
    if one.state(account.clock()) != "active":
        message = f"The capacity reservation '{wanted}' is not active"
        raise RefusedError("InvalidCapacityReservationState", message)
    if (one.wish.instance_type, one.wish.zone) != (instance_type, zone):
        raise RefusedError(
            "InvalidParameterValue",
            f"The capacity reservation '{wanted}' is not for {instance_type} in {zone}",
        )
    group = account.groups.of(base.placement)
    if one.wish.placement_group not in ("", group.name if group is not None else ""):
        message = f"The capacity reservation '{wanted}' is in placement group '{one.wish.placement_group}'"
        raise RefusedError("InvalidParameterValue", message)
    if (market == BLOCK) != (one.wish.kind == BLOCK):
        raise RefusedError("InvalidParameterValue", f"'{market}' is not the market of '{wanted}'")
    return one


def _seat(account: Account, pool: Pool, instance_id: str) -> None:
    """Put a fresh instance into the reservation that was named, or an open one that it matches by itself."""
    asked = pool.order.data.get("CapacityReservationSpecification") or {}
    into = pool.into
    if into is None and not pool.spot and asked.get("CapacityReservationPreference", "open") == "open":
        into = account.reserved.open_for(pool.instance_type, pool.zone)
    entry = account.ledger.get(instance_id)
    if into is not None and entry is not None:
        entry.capacity_reservation = into.id


def _subnet(account: Account, override: dict[str, Any], base: Order) -> Any:
    subnet_id = override.get("SubnetId") or base.subnet_id
    if subnet_id:
        try:
            return account.backends.ec2.get_subnet(subnet_id)
        except ServiceException as error:
            raise RefusedError("InvalidSubnetID.NotFound", error.message) from error
    subnets = account.backends.ec2.get_default_subnets()
    zone = override.get("AvailabilityZone") or min(subnets)
    if zone not in subnets:
        raise RefusedError("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
    return subnets[zone]


def _check_interfaces(found: dict[str, Any], data: dict[str, Any]) -> None:
    """Raises RefusedError for interfaces that the type does not have, in about EC2's words."""
    name, interfaces = found["InstanceType"], data.get("NetworkInterfaces") or []
    cards = {c["NetworkCardIndex"]: c for c in found["NetworkInfo"]["NetworkCards"]}
    if len(interfaces) > 1 and any(i.get("AssociatePublicIpAddress") for i in interfaces):
        raise RefusedError(
            "InvalidParameterCombination",
            "The associatePublicIPAddress parameter cannot be specified when launching with multiple network interfaces.",
        )
    on_card: dict[int, int] = {}
    for one in interfaces:
        index, kind = int(one.get("NetworkCardIndex") or 0), one.get("InterfaceType") or "interface"
        on_card[index] = on_card.get(index, 0) + 1
        card = cards.get(index)
        if card is None or on_card[index] > card["MaximumNetworkInterfaces"]:
            raise RefusedError(
                "AttachmentLimitExceeded",
                f"Interface count exceeds the limit for {name} on network card {index}",
            )
        if kind not in card.get("InterfaceTypes", ["interface"]):
            raise RefusedError("UnsupportedOperation", f"{kind} interfaces are not supported on {name}.")


def _check_processor(found: dict[str, Any], data: dict[str, Any]) -> None:
    """Raises RefusedError where nested virtualization is asked of a type that has none."""
    asked = (data.get("CpuOptions") or {}).get("NestedVirtualization")
    features = found.get("ProcessorInfo", {}).get("SupportedFeatures", [])
    if asked == "enabled" and "nested-virtualization" not in features:
        raise RefusedError(
            "UnsupportedOperation",
            f"The instance type {found['InstanceType']} does not support nested virtualization.",
        )


def _check_image(account: Account, image_id: str, instance_type: str) -> None:
    image = account.backends.ec2.amis.get(image_id)
    if image is None:
        raise RefusedError("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
    if image.architecture not in catalogue.architectures(instance_type):
        raise RefusedError(
            "InvalidParameterValue",
            f"The architecture '{','.join(catalogue.architectures(instance_type))}' of the specified instance type "
            f"does not match the architecture '{image.architecture}' of the specified AMI. Specify an instance type "
            "and an AMI that have matching architectures, and try again.",
        )


# -- who launches


def _in_order(account: Account, pools: list[Pool], strategy: str | None, spot: bool) -> list[Pool]:
    """The pools in the order in which the allocation strategy tries them; ties keep the request's order."""
    seed = account.spot.seed
    strategy = strategy or "lowest-price"

    def deep(pool: Pool) -> float:
        return depth(seed, pool.instance_type, pool.zone)

    if not spot:
        if strategy == "prioritized":
            return sorted(pools, key=lambda pool: (pool.priority, pool.price))
        return sorted(pools, key=lambda pool: pool.price / pool.weight)
    if strategy == "capacity-optimized":
        return sorted(pools, key=lambda pool: -round(deep(pool), 1))
    if strategy == "capacity-optimized-prioritized":
        return sorted(pools, key=lambda pool: (deep(pool) < _SHALLOW, pool.priority, pool.price))
    if strategy == "price-capacity-optimized":
        return sorted(pools, key=lambda pool: (deep(pool) < _SHALLOW, pool.price / pool.weight))
    if strategy == "diversified":
        return list(pools)
    return sorted(pools, key=lambda pool: pool.price / pool.weight)


def _allot(
    account: Account, pools: list[Pool], wanted: float, options: dict[str, Any]
) -> tuple[list[tuple[Pool, int]], list[dict[str, Any]]]:
    """How many instances each pool gives, in order, and the errors of the pools that were tried in vain."""
    chosen: list[tuple[Pool, int]] = []
    errors: list[dict[str, Any]] = []
    diversified = options.get("AllocationStrategy") == "diversified" and bool(pools)
    share = -(-wanted // len(pools)) if diversified else wanted
    missing = wanted
    for pool in pools:
        if missing <= 0:
            break
        count = int(-(-min(share, missing) // pool.weight))
        refusal, given = _given(account, pool, count, chosen)
        if given:
            chosen.append((pool, given))
            missing -= given * pool.weight
        if refusal is not None and given < count:
            errors.append(_error(pool.shown, pool.spot, *refusal))
    return chosen, errors


def _given(
    account: Account, pool: Pool, count: int, chosen: list[tuple[Pool, int]]
) -> tuple[tuple[str, str] | None, int]:
    """(why not more, how many) the pool gives of `count` instances, besides what others give that were `chosen`."""
    if pool.max_price is not None and pool.price > pool.max_price:
        return (
            "SpotMaxPriceTooLow",
            f"Your Spot request price of {pool.max_price} is lower than the minimum.",
        ), 0
    free = int(pool.subnet.available_ip_address_count)
    free -= sum(taken for other, taken in chosen if other.subnet.id == pool.subnet.id)
    if free < count:
        message = f"There are not enough free addresses in subnet '{pool.subnet.id}' to satisfy the request."
        return ("InsufficientFreeAddressesInSubnet", message), max(0, free)
    zones: dict[str, int] = {}
    for other, taken in chosen:
        zones[other.zone] = zones.get(other.zone, 0) + taken
    in_group, words = account.groups.room(pool.order.placement, pool.zone, zones)
    if in_group is not None and in_group < count:
        return ("UnfulfillableCapacity", words), in_group
    if pool.into is not None:
        left = account.reserved.available(pool.into)
        left -= sum(taken for other, taken in chosen if other.into is pool.into)
        message = f"The capacity reservation '{pool.into.id}' has not enough capacity for the request."
        return (None, count) if left >= count else (("ReservationCapacityExceeded", message), max(0, left))
    promised = [(other.instance_type, other.zone, other.capacity_type, taken) for other, taken in chosen]
    room = account.dials.room(pool.instance_type, pool.zone, pool.capacity_type, promised)
    if room is None or room >= count:
        return None, count
    return insufficient_capacity(pool.instance_type, pool.zone, pool.spot), room


def insufficient_capacity(instance_type: str, zone: str, spot: bool) -> tuple[str, str]:
    """EC2's code and words for a pool that has nothing to give."""
    if spot:
        return (
            "InsufficientInstanceCapacity",
            "There is no Spot capacity available that matches your request.",
        )
    return (
        "InsufficientInstanceCapacity",
        f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested ({zone}). "
        "Our system will be working on provisioning additional capacity.",
    )


def _error(shown: dict[str, Any], spot: bool, code: str, message: str) -> dict[str, Any]:
    return {
        "LaunchTemplateAndOverrides": shown,
        "Lifecycle": "spot" if spot else "on-demand",
        "ErrorCode": code,
        "ErrorMessage": message,
    }

"""The EC2 API: moto's, with the actions overridden whose behaviour or speed the product depends on.

Overridden: CreateFleet (instant), RunInstances, TerminateInstances, DescribeInstances, DescribeInstanceTypes,
DescribeInstanceTypeOfferings, DescribeSpotPriceHistory, and capacity reservations and placement groups, which moto has
none of; the rest is moto's own. Works over moto's internals and is
pinned to the version in pyproject.toml; the contract tests hold each action against a real boto3 client.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import moto.core.responses
from moto.core.request import Request
from moto.core.responses import ActionResult
from moto.core.utils import method_names_from_class
from moto.ec2.exceptions import EC2ClientError, InvalidInstanceIdError
from moto.ec2.responses import EC2Response

from nodeyard.local.account import catalogue, described, reserved, wire
from nodeyard.local.account.account import Account
from nodeyard.local.account.book import Rented
from nodeyard.local.account.fleet import create_instant_fleet, insufficient_capacity
from nodeyard.local.account.launch import profile_arn
from nodeyard.local.account.reserved import ReservationWish


class ServerRequest(Request):
    """A request that came over a socket, as moto wants to know."""

    from_wsgi_server = True


class MendedEC2(EC2Response):
    """EC2's actions over one account. `account` is set by `mended` on a subclass of this; `facts` go to the call log."""

    account: Account

    def __init__(self) -> None:
        super().__init__()
        self.facts: dict[str, Any] = {}

    def parse_parameters(self, request: Any) -> None:
        """Read the request by our own reader; moto's is quadratic."""
        self.params = wire.parsed(self._get_action(), request.values.items())

    # -- launching

    def create_fleet(self) -> Any:
        """CreateFleet; types other than `instant` are moto's."""
        if self.params.get("Type") != "instant":
            return super().create_fleet()
        self.error_on_dryrun()
        result = self._once("CreateFleet", lambda: create_instant_fleet(self.account, self.params))
        self.facts = {
            "client_token": self.params.get("ClientToken"),
            "fleet_id": result["FleetId"],
            "instance_ids": [i for group in result["Instances"] for i in group["InstanceIds"]],
            "error_codes": sorted({error["ErrorCode"] for error in result["Errors"]}),
        }
        return wire.answer("CreateFleet", result)

    def run_instances(self) -> Any:
        """RunInstances: moto's, behind a check of capacity, once per ClientToken, and into the books."""
        self.error_on_dryrun()
        reservation = self._once("RunInstances", self._run)
        self.facts = {"instance_ids": [instance.id for instance in reservation.instances]}
        return ActionResult(reservation)

    def _run(self) -> Any:
        instance_type = self.params.get("InstanceType")
        if instance_type and catalogue.description(instance_type) is None:
            raise EC2ClientError(
                "InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType."
            )
        spot = (self.params.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"
        zone = self._zone()
        room = self.account.dials.room(instance_type or "", zone, "spot" if spot else "on-demand")
        if room is not None and room < int(self.params.get("MinCount") or 1):
            raise EC2ClientError(*insufficient_capacity(str(instance_type), zone, spot))
        result = super().run_instances()
        assert isinstance(result, ActionResult)
        reservation: Any = result.result
        profile = profile_arn(self.account, self._template_data().get("IamInstanceProfile"))
        for instance in reservation.instances:
            instance.iam_instance_profile = instance.iam_instance_profile or profile
            self.account.enter(
                instance,
                spot=spot,
                reservation_id=reservation.id,
                client_token=self.params.get("ClientToken"),
            )
        return reservation

    def _zone(self) -> str:
        subnet = self.params.get("SubnetId")
        if subnet:
            return str(self.account.backends.ec2.get_subnet(subnet).availability_zone)
        return str((self.params.get("Placement") or {}).get("AvailabilityZone") or f"{self.region}a")

    def _template_data(self) -> dict[str, Any]:
        given = self.params.get("LaunchTemplate")
        data: dict[str, Any] = self.account.backends.ec2._get_template_from_args(given).data if given else {}
        return data

    def _once(self, action: str, run: Any) -> Any:
        """`run()`, or the answer it gave before under the same ClientToken and parameters."""
        token = self.params.get("ClientToken")
        if not token:
            return run()
        given = {name: value for name, value in self.params.items() if name not in ("ClientToken", "DryRun")}
        fingerprint = json.dumps(given, sort_keys=True, default=str)
        key = (self.region, action, str(token))
        if key in self.account.answers:
            before, result = self.account.answers[key]
            if before != fingerprint:
                raise EC2ClientError(
                    "IdempotentParameterMismatch",
                    f"Arguments on this idempotent request are inconsistent with arguments used in previous request(s) "
                    f"with the client token {token}.",
                )
            return result
        result = run()
        self.account.answers[key] = (fingerprint, result)
        return result

    # -- placement groups

    def create_placement_group(self) -> Any:
        """CreatePlacementGroup."""
        self.error_on_dryrun()
        return wire.answer("CreatePlacementGroup", self.account.groups.create(self.params))

    def describe_placement_groups(self) -> Any:
        """DescribePlacementGroups."""
        self.error_on_dryrun()
        return wire.answer("DescribePlacementGroups", self.account.groups.describe(self.params))

    def delete_placement_group(self) -> Any:
        """DeletePlacementGroup."""
        self.error_on_dryrun()
        self.account.groups.delete(str(self.params.get("GroupName")))
        return wire.enveloped("DeletePlacementGroup", "<return>true</return>")

    # -- ending

    def terminate_instances(self) -> Any:
        """TerminateInstances: all or none; an instance ends by way of shutting-down."""
        ids = self.params.get("InstanceIds") or []
        self.error_on_dryrun()
        if not ids:
            raise EC2ClientError("MissingParameter", "The request must contain the parameter InstanceId")
        missing = [i for i in ids if self.account.ledger.get(i) is None]
        if missing:
            raise InvalidInstanceIdError(missing)
        changes = []
        for instance_id in dict.fromkeys(ids):
            previous, current = self.account.terminate(instance_id)
            changes.append(
                {
                    "InstanceId": instance_id,
                    "PreviousState": described.state(previous),
                    "CurrentState": described.state(current),
                }
            )
        self.facts = {"instance_ids": ids}
        return wire.answer("TerminateInstances", {"TerminatingInstances": changes})

    # -- reserving

    def create_capacity_reservation(self) -> Any:
        """CreateCapacityReservation, of the default kind."""
        self.error_on_dryrun()
        given = self.params
        tags = {
            t["Key"]: t["Value"] for s in given.get("TagSpecifications") or [] for t in s.get("Tags") or []
        }
        ends = given.get("EndDate")
        wish = ReservationWish(
            instance_type=str(given.get("InstanceType")),
            zone=str(given.get("AvailabilityZone")),
            count=int(given.get("InstanceCount") or 1),
            match="targeted" if given.get("InstanceMatchCriteria") == "targeted" else "open",
            ends_in_seconds=None if ends is None else max(0.0, ends.timestamp() - self.account.clock()),
            tags=tags,
        )
        desk = self.account.reserved
        return wire.answer("CreateCapacityReservation", {"CapacityReservation": desk.shown(desk.make(wish))})

    def cancel_capacity_reservation(self) -> Any:
        """CancelCapacityReservation."""
        self.error_on_dryrun()
        self.account.reserved.cancel(str(self.params.get("CapacityReservationId")))
        return wire.answer("CancelCapacityReservation", {"Return": True})

    def describe_capacity_reservations(self) -> Any:
        """DescribeCapacityReservations, paged, with the filters that are of use."""
        self.error_on_dryrun()
        desk, ids = self.account.reserved, self.params.get("CapacityReservationIds") or []
        found = [desk.get(i) for i in ids] if ids else desk.all()
        shown = [desk.shown(one) for one in found]
        wanted = [one for one in shown if reserved.passes(one, self.params.get("Filters") or [])]
        page, token = catalogue.paged(wanted, self.params, least=1, most=1000, default=1000)
        result = {"CapacityReservations": page, "NextToken": token}
        return wire.answer("DescribeCapacityReservations", result)

    # -- describing

    def describe_instances(self) -> Any:
        """DescribeInstances, with EC2's filters, paging and its eventual consistency."""
        self.error_on_dryrun()
        ids = self.params.get("InstanceIds") or []
        if ids and self.params.get("MaxResults"):
            raise EC2ClientError(
                "InvalidParameterCombination",
                "The parameter instancesSet cannot be used with the parameter maxResults",
            )
        entries = [
            entry for entry in self._visible(ids) if described.passes(entry, self.params.get("Filters") or [])
        ]
        page, token = catalogue.paged(entries, self.params, least=5, most=1000, default=1000)
        result = {"Reservations": described.reservations(page, self.account.account_id), "NextToken": token}
        return wire.answer("DescribeInstances", result)

    def _visible(self, ids: list[str]) -> list[Rented]:
        now = self.account.clock()
        if not ids:
            return [entry for entry in self.account.ledger.all() if entry.visible_at <= now]
        found = {i: self.account.ledger.get(i) for i in ids}
        missing = [i for i, entry in found.items() if entry is None or entry.visible_at > now]
        if missing:
            raise InvalidInstanceIdError(missing)
        return [entry for entry in found.values() if entry is not None]

    def describe_instance_types(self) -> Any:
        """DescribeInstanceTypes, from XML kept per type."""
        self.error_on_dryrun()
        return catalogue.describe_instance_types(self.params)

    def describe_instance_type_offerings(self) -> Any:
        """DescribeInstanceTypeOfferings, from XML kept per question."""
        self.error_on_dryrun()
        return catalogue.describe_offerings(self.params, self.region)

    def describe_spot_price_history(self) -> Any:
        """DescribeSpotPriceHistory, newest first, from the market's walk."""
        self.error_on_dryrun()
        return described.spot_price_history(self.account, self.params, self.region)


def mended(account: Account) -> type[MendedEC2]:
    """The EC2 API over `account`."""
    # moto lists a class's methods by reflection on every request (0.7 ms of each EC2 call).
    vars(moto.core.responses)["method_names_from_class"] = cache(method_names_from_class)
    return type("EC2", (MendedEC2,), {"account": account})

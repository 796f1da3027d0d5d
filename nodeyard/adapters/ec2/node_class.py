"""What a node class names in the account: subnets, security groups, images, an instance profile, a placement group.

Selector terms are ORed, tags within a term ANDed with `*` as wildcard; aliases go through SSM's public parameters.
What was found is remembered for a while, per selector (subnets 1 min, groups of both kinds and images 5 min, what an SSM
parameter stands for half an hour, profiles 15 min; a minute when nothing was found; a quarter of an hour longer while AWS
throttles or can't be reached), and each part's outcome becomes a condition.
Source: Karpenter documentation, "NodeClasses".
"""

import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from nodeyard.adapters.ec2.dry_runs import DryRuns
from nodeyard.adapters.ec2.images import alias_parameters, described_images, image_terms
from nodeyard.adapters.ec2.launch_templates import tag_list
from nodeyard.adapters.ec2.placement import find_group
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.ec2.user_data import UserDataError, user_data
from nodeyard.api import labels as keys
from nodeyard.api.node import READY, Condition
from nodeyard.api.nodeclass import Image, NodeClass, SecurityGroup, SelectorTerm, Subnet
from nodeyard.api.placement import PlacementGroup
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import CloudError, Conflict, NotFound, Unauthorized
from nodeyard.provisioning.addresses import Addresses
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.lifecycle import kill_point

SUBNETS_S: Final = 60.0
GROUPS_S: Final = 300.0
IMAGES_S: Final = 300.0
ALIAS_S: Final = 1800.0
PROFILE_S: Final = 900.0
EMPTY_S: Final = 60.0
STALE_S: Final = 900.0
"""For how much longer what was found counts while AWS can't be asked again."""


class Resolver:
    """Resolves node classes of one cluster. Owns the memory of what was found."""

    def __init__(
        self,
        session: Ec2Session,
        clock: Clock,
        *,
        cluster: str,
        cluster_uid: str,
        kubernetes_version: str,
        addresses: Addresses | None = None,
        dry_runs: DryRuns | None = None,
    ) -> None:
        """`kubernetes_version`: "1.36", as SSM's parameters name it. `addresses`: told how many are free. `dry_runs`:
        asked whether the account lets us launch by a class that has everything."""
        self._session = session
        self._clock = clock
        self._cluster = cluster
        self._cluster_uid = cluster_uid
        self._version = kubernetes_version
        self._addresses = addresses or Addresses()
        self._dry_runs = dry_runs
        self._memory: dict[tuple[str, bytes], tuple[float, Any]] = {}

    async def resolve(self, node_class: NodeClass) -> NodeClass:
        """The class with what was found and its conditions; a failure is a condition, never raised."""
        subnets, subnets_ready = await self._part("SubnetsReady", node_class, self._subnets)
        groups, groups_ready = await self._part("SecurityGroupsReady", node_class, self._groups)
        images, images_ready = await self._part("AMIsReady", node_class, self._images)
        profile, profile_ready = await self._part("InstanceProfileReady", node_class, self._profile)
        placement_group, placement = await self._placement(node_class)
        valid = Condition("ValidationSucceeded", "True", "ValidationSucceeded")
        problems = (*node_class.problems, *_unbootable(node_class, self._cluster))
        if problems:
            valid = Condition("ValidationSucceeded", "False", "InvalidSpec", "; ".join(problems))
        parts = (subnets_ready, groups_ready, images_ready, profile_ready, *placement, valid)
        found = msgspec.structs.replace(
            node_class,
            subnets=subnets or (),
            security_groups=groups or (),
            images=images or (),
            resolved_profile=profile or "",
            placement_group=placement_group,
            problems=problems,
        )
        if self._dry_runs is not None and all(part.status == "True" for part in parts):
            denied = await self._dry_runs.denied(found)
            if denied is not None:
                found = msgspec.structs.replace(found, problems=(denied.message,))
                failed = Condition(valid.type, "False", denied.reason, denied.message)
                parts = tuple(failed if part is valid else part for part in parts)
        return msgspec.structs.replace(found, conditions=self._timed(node_class, (*parts, _ready(parts))))

    def forget(self, key: str) -> None:
        """Ask again for this class's parts at the next resolve (a subnet or image turned out to be gone)."""
        self._memory = {k: v for k, v in self._memory.items() if k[0] != key}

    def _timed(self, node_class: NodeClass, conditions: Iterable[Condition]) -> tuple[Condition, ...]:
        before = {c.type: c for c in node_class.conditions}
        out = []
        for new in conditions:
            old = before.get(new.type)
            same = old is not None and old.status == new.status
            since = old.since if same and old is not None and old.since else self._clock.now()
            out.append(msgspec.structs.replace(new, since=since, observed_generation=node_class.generation))
        return tuple(sorted(out, key=lambda c: c.type))

    async def _part(
        self, kind: str, node_class: NodeClass, find: Callable[[NodeClass], Awaitable[tuple[Any, str]]]
    ) -> tuple[Any, Condition]:
        """(what was found, its condition)."""
        try:
            found, missing = await find(node_class)
        except CloudError as error:
            return None, Condition(
                kind, "Unknown" if error.retryable else "False", type(error).__name__, str(error)
            )
        if not found:
            return None, Condition(kind, "False", kind.replace("Ready", "NotFound"), missing)
        return found, Condition(kind, "True", kind)

    async def _remembered(
        self, key: str, what: object, keep_s: float, ask: Callable[[], Awaitable[Any]]
    ) -> Any:
        now = self._clock.monotonic()
        known = (key, msgspec.json.encode(what))
        kept = self._memory.get(known)
        if kept is not None and now < kept[0]:
            return kept[1]
        try:
            found = await ask()
        except CloudError as error:
            if kept is None or not error.retryable or now >= kept[0] + STALE_S:
                raise
            return kept[1]
        self._memory[known] = (now + (keep_s if found else min(keep_s, EMPTY_S)), found)
        return found

    async def _subnets(self, node_class: NodeClass) -> tuple[tuple[Subnet, ...], str]:
        async def ask() -> tuple[Subnet, ...]:
            asked_at = self._clock.monotonic()
            rows = await self._described("describe_subnets", "Subnets", "subnet-id", node_class.subnet_terms)
            free = {str(s["SubnetId"]): int(s.get("AvailableIpAddressCount", 0)) for s in rows}
            self._addresses.described(free, asked_at)
            rows.sort(key=lambda s: (-int(s.get("AvailableIpAddressCount", 0)), s["SubnetId"]))
            return tuple(
                Subnet(s["SubnetId"], s["AvailabilityZone"], s.get("AvailabilityZoneId", "")) for s in rows
            )

        found = await self._remembered(node_class.key, ("subnets", node_class.subnet_terms), SUBNETS_S, ask)
        return found, "no subnet matches spec.subnetSelectorTerms"

    async def _groups(self, node_class: NodeClass) -> tuple[tuple[SecurityGroup, ...], str]:
        async def ask() -> tuple[SecurityGroup, ...]:
            rows = await self._described(
                "describe_security_groups",
                "SecurityGroups",
                "group-id",
                node_class.security_group_terms,
                "group-name",
            )
            rows.sort(key=lambda g: str(g["GroupId"]))
            return tuple(SecurityGroup(g["GroupId"], g.get("GroupName", "")) for g in rows)

        found = await self._remembered(
            node_class.key, ("groups", node_class.security_group_terms), GROUPS_S, ask
        )
        return found, "no security group matches spec.securityGroupSelectorTerms"

    async def _described(
        self, operation: str, rows: str, id_filter: str, terms: Iterable[SelectorTerm], name_filter: str = ""
    ) -> list[dict[str, Any]]:
        """All that any of the terms selects, each once."""
        out: dict[str, dict[str, Any]] = {}
        for term in terms:
            filters = _filters(term, id_filter, name_filter)
            if filters:
                for page in await self._session.pages("ec2", operation, Filters=filters):
                    for row in page.get(rows, []):
                        out[str(row.get("SubnetId") or row.get("GroupId") or row.get("ImageId"))] = row
        return list(out.values())

    async def _images(self, node_class: NodeClass) -> tuple[tuple[Image, ...], str]:
        async def ask() -> tuple[Image, ...]:
            out: list[Image] = []
            for term in image_terms(node_class):
                out += await (self._alias(term.alias) if term.alias else self._own_images(term))
            return tuple({(i.id, i.requirements): i for i in out}.values())

        what = ("images", node_class.ami_terms, node_class.ami_family)
        found = await self._remembered(node_class.key, what, IMAGES_S, ask)
        return found, "no image matches spec.amiSelectorTerms"

    async def _alias(self, alias: str) -> list[Image]:
        """Images of `family@version`, each with what it boots; variants that do not exist are left out."""
        family, _, version = alias.partition("@")
        out = []
        for path, requirements in alias_parameters(family, version or "latest", self._version):
            if image_id := await self._parameter(path):
                out.append(Image(image_id, path, requirements))
        return out

    async def _parameter(self, path: str) -> str:
        async def ask() -> str:
            try:
                answer = await self._session.call("ssm", "get_parameter", Name=path)
            except NotFound:
                return ""
            return str(answer["Parameter"]["Value"])

        return str(await self._remembered("", ("ssm", path), ALIAS_S, ask))

    async def _own_images(self, term: SelectorTerm) -> list[Image]:
        if term.ssm_parameter:
            term = SelectorTerm(id=await self._parameter(term.ssm_parameter))
            if not term.id:
                return []
        filters = _filters(term, "image-id", "name")
        params: dict[str, Any] = {"Filters": filters, "IncludeDeprecated": True}
        if not term.id:
            params["Owners"] = [term.owner] if term.owner else ["self", "amazon"]
        pages = await self._session.pages("ec2", "describe_images", **params)
        rows = [row for page in pages for row in page.get("Images", [])]
        return described_images(rows, datetime.fromtimestamp(self._clock.now(), UTC).isoformat())

    async def _placement(self, node_class: NodeClass) -> tuple[PlacementGroup | None, tuple[Condition, ...]]:
        """The placement group and its condition; neither for a class that names none."""
        selector = node_class.placement_group_selector
        if selector is None:
            return None, ()

        async def find(node_class: NodeClass) -> tuple[PlacementGroup | None, str]:
            what = ("placement", selector)
            found = await self._remembered(
                node_class.key, what, GROUPS_S, lambda: find_group(self._session, selector)
            )
            return found, f"placement group {selector.name or selector.id} does not exist"

        found, condition = await self._part("PlacementGroupReady", node_class, find)
        return found, (condition,)

    async def _profile(self, node_class: NodeClass) -> tuple[str, str]:
        if node_class.instance_profile:
            return node_class.instance_profile, ""
        if not node_class.role:
            return "", "neither spec.role nor spec.instanceProfile is set"
        what = ("profile", node_class.role)
        found = await self._remembered(
            node_class.key, what, PROFILE_S, lambda: self._managed_profile(node_class)
        )
        return str(found), "the instance profile could not be made"

    async def _managed_profile(self, node_class: NodeClass) -> str:
        """The profile that we keep for a class that names a role: made if missing, holding that role."""
        name = managed_profile(self._cluster, node_class)
        tags = {keys.CLUSTER_UID_TAG: self._cluster_uid, keys.NODECLASS_LABEL: node_class.key}
        try:
            answer = await self._session.call("iam", "get_instance_profile", InstanceProfileName=name)
            roles = [r["RoleName"] for r in answer["InstanceProfile"].get("Roles", [])]
        except NotFound:
            roles = []
            kill_point("allocator.before-instance-profile")
            with contextlib.suppress(Conflict):  # the other replica made it just now
                await self._session.call(
                    "iam", "create_instance_profile", InstanceProfileName=name, Tags=tag_list(tags)
                )
            kill_point("allocator.after-instance-profile")
        role = node_class.role.rpartition("/")[2]
        for other in roles:
            if other != role:
                await self._session.call(
                    "iam", "remove_role_from_instance_profile", InstanceProfileName=name, RoleName=other
                )
        if role not in roles:
            kill_point("allocator.before-profile-role")
            await self._session.call(
                "iam", "add_role_to_instance_profile", InstanceProfileName=name, RoleName=role
            )
            kill_point("allocator.after-profile-role")
        return name

    async def delete_profile(self, node_class: NodeClass) -> None:
        """Removes the profile kept for a class that goes away, or from when it named a role. Raises CloudError; not for
        lack of the permission where the class has a profile of its own.
        """
        name = managed_profile(self._cluster, node_class)
        try:
            answer = await self._session.call("iam", "get_instance_profile", InstanceProfileName=name)
            for role in answer["InstanceProfile"].get("Roles", []):
                await self._session.call(
                    "iam",
                    "remove_role_from_instance_profile",
                    InstanceProfileName=name,
                    RoleName=role["RoleName"],
                )
            await self._session.call("iam", "delete_instance_profile", InstanceProfileName=name)
        except NotFound:
            return
        except Unauthorized:
            if not node_class.instance_profile:
                raise


def _unbootable(node_class: NodeClass, cluster: str) -> Iterable[str]:
    """Why no instance of the class could be made and told how to join."""
    if node_class.launch_template:
        yield (
            f"spec.provider.launchTemplate: launch template {node_class.launch_template!r} can't be used; put its image, "
            "security groups, disks and user data into an EC2NodeClass and refer to that"
        )
    raid0 = node_class.instance_store_policy == "RAID0"
    boot = Boot(cluster, kubelet=node_class.kubelet, instance_store_raid0=raid0)
    try:
        user_data(node_class.ami_family, boot, node_class.user_data)
    except UserDataError as error:
        yield str(error)


def managed_profile(cluster: str, node_class: NodeClass) -> str:
    """The name of the profile that we keep for a class."""
    digest = hashlib.blake2b((node_class.uid or node_class.key).encode(), digest_size=8).hexdigest()
    return f"nodeyard-{cluster[:80]}-{digest}"


def _filters(term: SelectorTerm, id_filter: str, name_filter: str) -> list[dict[str, Any]]:
    if term.id:
        return [{"Name": id_filter, "Values": [term.id]}]
    filters: list[dict[str, Any]] = []
    if term.name and name_filter:
        filters.append({"Name": name_filter, "Values": [term.name]})
    for key, value in sorted(term.tags.items()):
        wanted = (
            {"Name": "tag-key", "Values": [key]}
            if value == "*"
            else {"Name": f"tag:{key}", "Values": [value]}
        )
        filters.append(wanted)
    return filters


def _ready(parts: Iterable[Condition]) -> Condition:
    waiting = [c for c in parts if c.status != "True"]
    if not waiting:
        return Condition(READY, "True", READY)
    status = "False" if any(c.status == "False" for c in waiting) else "Unknown"
    message = "; ".join(f"{c.type}: {c.message or c.reason}" for c in waiting)
    return Condition(READY, status, "NodeClassNotReady", message)

"""NodeClaims as they are written: created, annotated, their status, their finalizer, their end.

Every change of an existing claim is read, changed and written under its resourceVersion and UID, and read again when
somebody else was first, so that two services that each own some conditions never undo one another. Answers are the
claim as it now is; None or False where it is gone. Raises KubernetesError for everything that is not about a race.
Used by the allocator and the reallocator; who writes which field is in docs/architecture.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import AlreadyExists, Conflict, NotFound, Unavailable
from nodeyard.api import labels as keys
from nodeyard.api.convert import node_claim_manifest, node_claim_of, node_claim_status
from nodeyard.api.node import Condition, NodeClaim
from nodeyard.api.pool import Pool
from nodeyard.provisioning.lifecycle import with_condition
from nodeyard.runtime.lifecycle import kill_point

_TRIES: Final = 5
Change = Callable[[NodeClaim], NodeClaim]


class NodeClaims:
    """The claims of one cluster, as one service writes them (`service` names its kill points)."""

    def __init__(self, client: KubernetesClient, service: str = "allocator") -> None:
        self._client = client
        self._service = service

    async def create(self, claim: NodeClaim, owner: Pool | None = None) -> NodeClaim:
        """Creates the claim, owned by its pool where given. A create whose answer was lost is found again by its
        plan id. Raises AlreadyExists for another's claim of that name.
        """
        manifest = node_claim_manifest(claim)
        if owner is not None and owner.uid:
            manifest["metadata"]["ownerReferences"] = [pool_owner(owner)]
        kill_point(f"{self._service}.before-create-claim")
        try:
            created = await self._created(manifest)
        except AlreadyExists:
            found = await self.get(claim.name)
            if found is None or not _same_plan(found, claim):
                raise
            created = found
        kill_point(f"{self._service}.after-create-claim")
        return created

    async def _created(self, manifest: dict[str, Any]) -> NodeClaim:
        try:
            return node_claim_of(await self._client.create(paths.nodeclaims(), manifest))
        except Unavailable:
            return node_claim_of(await self._client.create(paths.nodeclaims(), manifest))

    async def get(self, name: str) -> NodeClaim | None:
        """The claim as the API server has it now."""
        try:
            return node_claim_of(await self._client.get(paths.nodeclaim(name)))
        except NotFound:
            return None

    async def list(self) -> list[NodeClaim]:
        """All claims, as new as the API server knows: what a new planner must see before it plans."""
        out: list[NodeClaim] = []
        async for page in self._client.list_pages(paths.nodeclaims()):
            out += [node_claim_of(item) for item in page.items or ()]
        return out

    async def patch_status(self, claim: NodeClaim, change: Change) -> NodeClaim | None:
        """Writes the status of `change(claim)`, and again on a newer claim if it had changed meanwhile."""

        def body(now: NodeClaim) -> dict[str, Any] | None:
            changed = change(now)
            return None if changed == now else {"status": node_claim_status(changed)}

        return await self._write(claim, body, "status", "status")

    async def set_conditions(
        self, claim: NodeClaim, conditions: Sequence[Condition], now: float
    ) -> NodeClaim | None:
        """Puts these conditions among the others and keeps Ready true to them; nothing is written if nothing changes.
        `now`: seconds since the epoch.
        """

        def change(claim: NodeClaim) -> NodeClaim:
            for condition in conditions:
                claim = msgspec.structs.replace(claim, conditions=with_condition(claim, condition, now))
            return claim

        return await self.patch_status(claim, change)

    async def drop_conditions(self, claim: NodeClaim, kinds: Sequence[str]) -> NodeClaim | None:
        """Removes conditions of these types."""

        def change(claim: NodeClaim) -> NodeClaim:
            kept = tuple(c for c in claim.conditions if c.type not in kinds)
            return msgspec.structs.replace(claim, conditions=kept)

        return await self.patch_status(claim, change)

    async def annotate(
        self,
        claim: NodeClaim,
        annotations: Mapping[str, str | None] = {},
        labels: Mapping[str, str | None] = {},
        *,
        unless: str = "",
        replacing: str = "",
    ) -> NodeClaim | None:
        """Sets annotations and labels (None removes). With `unless`, a claim that has that annotation already, with
        any value but `replacing`, is left as it is and returned: the first writer wins.
        """

        def body(now: NodeClaim) -> dict[str, Any] | None:
            if unless and now.annotations.get(unless, replacing) != replacing:
                return None
            new_annotations = _differing(now.annotations, annotations)
            new_labels = _differing(now.labels, labels)
            if not new_annotations and not new_labels:
                return None
            return {"metadata": {"annotations": new_annotations, "labels": new_labels}}

        return await self._write(claim, body, "", "annotate")

    async def add_finalizer(self, claim: NodeClaim) -> NodeClaim | None:
        """Puts our finalizer on a claim that a user wrote without it."""

        def body(now: NodeClaim) -> dict[str, Any] | None:
            if now.deleting or keys.TERMINATION_FINALIZER in now.finalizers:
                return None
            return {"metadata": {"finalizers": [*now.finalizers, keys.TERMINATION_FINALIZER]}}

        return await self._write(claim, body, "", "add-finalizer")

    async def remove_finalizer(self, claim: NodeClaim) -> NodeClaim | None:
        """Lets a deleted claim go; None once it is gone."""

        def body(now: NodeClaim) -> dict[str, Any] | None:
            if keys.TERMINATION_FINALIZER not in now.finalizers:
                return None
            return {
                "metadata": {"finalizers": [f for f in now.finalizers if f != keys.TERMINATION_FINALIZER]}
            }

        return await self._write(claim, body, "", "remove-finalizer")

    async def delete(self, name: str, uid: str = "") -> bool:
        """Asks for its deletion; False if the claim with that uid is gone already."""
        kill_point(f"{self._service}.before-delete-claim")
        try:
            await self._client.delete(paths.nodeclaim(name), uid=uid)
        except (NotFound, Conflict):
            return False
        kill_point(f"{self._service}.after-delete-claim")
        return True

    async def _write(
        self,
        claim: NodeClaim,
        body: Callable[[NodeClaim], dict[str, Any] | None],
        subresource: str,
        what: str,
    ) -> NodeClaim | None:
        """Writes `body(claim)`, if any, with the claim's UID and resourceVersion as preconditions."""
        now: NodeClaim | None = claim
        for attempt in range(_TRIES):
            if now is None or (claim.uid and now.uid != claim.uid):
                return None
            patch = body(now)
            if patch is None:
                return now
            preconditions = {"uid": now.uid, "resourceVersion": now.resource_version}
            patch["metadata"] = {**patch.get("metadata", {}), **{k: v for k, v in preconditions.items() if v}}
            kill_point(f"{self._service}.before-{what}-claim")
            try:
                answer = await self._client.merge_patch(
                    paths.nodeclaim(now.name), patch, subresource=subresource
                )
            except NotFound:
                return None
            except Conflict:
                if attempt == _TRIES - 1:
                    raise
                now = await self.get(now.name)
                continue
            kill_point(f"{self._service}.after-{what}-claim")
            return node_claim_of(answer)
        return now


def pool_owner(pool: Pool) -> dict[str, Any]:
    """The owner reference of a pool's claims."""
    kind, _, name = pool.key.rpartition("/")
    provisioner = kind == "provisioner"
    return {
        "apiVersion": "karpenter.sh/v1alpha5" if provisioner else "karpenter.sh/v1",
        "kind": "Provisioner" if provisioner else "NodePool",
        "name": name,
        "uid": pool.uid,
        "blockOwnerDeletion": True,
    }


def _same_plan(found: NodeClaim, wanted: NodeClaim) -> bool:
    plan_id = wanted.annotations.get(keys.PLAN_ID)
    return plan_id is not None and found.annotations.get(keys.PLAN_ID) == plan_id


def _differing(have: Mapping[str, str], wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    return {key: value for key, value in wanted.items() if have.get(key) != value}

"""The Kubernetes API as a cloud's: nodes and config maps made, found, marked and deleted, errors as a cloud's errors.

The official client's asyncio half does it, which is slow at decoding and good enough for a provider that serves tests
and demonstrations. Neighbours: the other modules here, which decide what the objects mean.
"""

from collections.abc import Awaitable, Mapping
from typing import Any, Final, TypeVar

import aiohttp
from kubernetes.aio import client as kube
from kubernetes.aio import config
from kubernetes.aio.client.exceptions import ApiException

from nodeyard.cloudprovider import errors

T = TypeVar("T")
Manifest = dict[str, Any]
CLUSTER: Final = "kwok.nodeyard.dev/cluster"
"""Label of everything that is made here: the UID of the cluster it was made for."""
_BY_STATUS: Final[Mapping[int, type[errors.CloudError]]] = {
    404: errors.NotFound,
    409: errors.Conflict,
    429: errors.Throttled,
}
_config: Final[Any] = config  # the package says it is typed, but its loaders are not


class Objects:
    """One cluster's nodes, and config maps in one namespace. Every method raises CloudError."""

    def __init__(self, api: kube.ApiClient, *, namespace: str) -> None:
        self._api: Any = api  # not all of its methods are typed
        self._core = kube.CoreV1Api(api)
        self._namespace = namespace

    @classmethod
    async def connect(cls, kubeconfig: str, *, namespace: str) -> "Objects":
        """For the cluster of a kubeconfig (path), or of the pod we run in where that is empty. Asks nothing yet."""
        configuration = kube.Configuration()
        if kubeconfig:
            await _config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        else:
            _config.load_incluster_config(client_configuration=configuration)
        return cls(kube.ApiClient(configuration), namespace=namespace)

    async def close(self) -> None:
        """Closes the connections."""
        await self._api.close()

    # --- nodes --------------------------------------------------------------------------------------------------------
    async def make_node(self, node: Manifest) -> None:
        """Creates a node; one of its name that is there already is taken for it."""
        await _unless_there(self._core.create_node(node), "kwok:CreateNode")  # type: ignore[arg-type]

    async def nodes(self, **labels: str) -> list[Manifest]:
        """The nodes with these labels."""
        found = await _translated(
            self._core.list_node(label_selector=",".join(f"{k}={v}" for k, v in labels.items())),
            "kwok:ListNodes",
        )
        return [self._plain(one) for one in found.items]

    async def node(self, name: str) -> Manifest | None:
        """The node of that name, if there is one."""
        try:
            return self._plain(await _translated(self._core.read_node(name), "kwok:GetNode"))
        except errors.NotFound:
            return None

    async def annotate_node(self, name: str, annotations: Mapping[str, str]) -> None:
        """Sets annotations. Raises NotFound where the node is gone."""
        body = {"metadata": {"annotations": dict(annotations)}}
        await _translated(self._core.patch_node(name, body), "kwok:PatchNode")

    async def delete_node(self, name: str) -> None:
        """Deletes the node; one that is gone is no error."""
        await _unless_gone(self._core.delete_node(name), "kwok:DeleteNode")

    # --- config maps --------------------------------------------------------------------------------------------------
    async def keep(self, name: str, labels: Mapping[str, str], data: Mapping[str, str]) -> bool:
        """Creates a config map; False where one of its name is there already, which stays as it is."""
        body = {"metadata": {"name": name, "labels": dict(labels)}, "data": dict(data)}
        making = self._core.create_namespaced_config_map(self._namespace, body)  # type: ignore[arg-type]
        return await _unless_there(making, "kwok:CreateConfigMap")

    async def amend(self, name: str, data: Mapping[str, str]) -> None:
        """Sets keys of a config map."""
        changing = self._core.patch_namespaced_config_map(name, self._namespace, {"data": dict(data)})
        await _translated(changing, "kwok:PatchConfigMap")

    async def kept(self, name: str) -> Manifest:
        """The config map. Raises NotFound."""
        reading = self._core.read_namespaced_config_map(name, self._namespace)
        return self._plain(await _translated(reading, "kwok:GetConfigMap"))

    async def all_kept(self, **labels: str) -> list[Manifest]:
        """The config maps with these labels."""
        selector = ",".join(f"{k}={v}" for k, v in labels.items())
        listing = self._core.list_namespaced_config_map(self._namespace, label_selector=selector)
        return [self._plain(one) for one in (await _translated(listing, "kwok:ListConfigMaps")).items]

    async def drop(self, name: str) -> None:
        """Deletes a config map; one that is gone is no error."""
        await _unless_gone(
            self._core.delete_namespaced_config_map(name, self._namespace), "kwok:DeleteConfigMap"
        )

    def _plain(self, one: Any) -> Manifest:
        found: Manifest = self._api.sanitize_for_serialization(one)
        return found


async def _unless_there(making: Awaitable[Any], operation: str) -> bool:
    try:
        await _translated(making, operation)
    except errors.Conflict:
        return False
    return True


async def _unless_gone(deleting: Awaitable[Any], operation: str) -> None:
    try:
        await _translated(deleting, operation)
    except errors.NotFound:
        return


async def _translated(asking: Awaitable[T], operation: str) -> T:
    try:
        return await asking
    except ApiException as error:
        code, message = str(error.reason or error.status), str(error.body or error.reason)
        if error.status in (401, 403):
            raise errors.Unauthorized(operation, message, code=code) from error
        if (error.status or 500) >= 500:
            raise errors.Unreachable(
                message, code=code, operation=operation, may_have_taken_effect=True
            ) from error
        kind = _BY_STATUS.get(error.status or 0, errors.InvalidRequest)
        raise kind(message, code=code, operation=operation) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise errors.Unreachable(
            str(error) or type(error).__name__, operation=operation, may_have_taken_effect=True
        ) from error

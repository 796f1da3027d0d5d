"""Installing Nodeyard into a cluster as the chart does: custom resources, service accounts, rights.

Custom resource definitions, service accounts and rights come from the chart under `deploy/chart`, the latter
rendered by `nodeyard.local.chart`; so that services run here with exactly the rights that the chart gives
them, each under its own ServiceAccount with a token from the TokenRequest API.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from nodeyard.local import chart, kubeconfig
from nodeyard.local.errors import StandError
from nodeyard.local.kubeapi import KubeApi, Manifest
from nodeyard.local.kubeconfig import Access

NAMESPACE = "nodeyard"
TOKEN_SECONDS = 30 * 24 * 3600


def definitions(directory: Path | None = None) -> list[dict[str, Any]]:
    """The custom resource definitions that Helm installs with the chart (or those of the given directory).

    Raises StandError, naming the file, when one is not a list of Kubernetes objects.
    """
    found: list[dict[str, Any]] = []
    for path in sorted((directory or chart.chart_root() / "crds").glob("*.yaml")):
        try:
            documents = [each for each in yaml.safe_load_all(path.read_text()) if each is not None]
        except yaml.YAMLError as error:
            raise StandError(f"{path} is not YAML: {error}") from error
        for document in documents:
            if not isinstance(document, dict) or not {"apiVersion", "kind", "metadata"} <= document.keys():
                raise StandError(f"{path} holds something that is not a Kubernetes object")
            found.append(document)
    return found


def rights(
    namespace: str = NAMESPACE,
    *,
    placement_mode: str = "nominate",
    reallocator: Mapping[str, bool] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """The chart's ServiceAccounts and RBAC objects, rendered for one namespace and for what the services are to do."""
    return chart.render_rbac(namespace=namespace, placement_mode=placement_mode, reallocator=reallocator)


def install(api: KubeApi, manifests: Iterable[Manifest], *, namespace: str = NAMESPACE) -> None:
    """Makes the namespace and applies the manifests to it. Raises KubeError for the first that is refused."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    api.apply([space, *manifests], namespace=namespace)


def account_of(service: str, manifests: Sequence[Manifest]) -> str:
    """The name of the ServiceAccount that the chart gives to a service.

    It is the one labelled with the service as its component, else the one named after it. Raises StandError.
    """
    accounts = [each["metadata"] for each in manifests if each["kind"] == "ServiceAccount"]
    for metadata in accounts:
        if metadata.get("labels", {}).get("app.kubernetes.io/component") == service:
            return str(metadata["name"])
    for metadata in accounts:
        if metadata["name"] == service or str(metadata["name"]).endswith(f"-{service}"):
            return str(metadata["name"])
    raise StandError(f"the chart has no ServiceAccount for {service}")


def service_kubeconfig(api: KubeApi, path: Path, *, account: str, namespace: str = NAMESPACE) -> Path:
    """Writes a kubeconfig for a ServiceAccount, with a token of its own, and returns its path."""
    token = api.token(namespace, account, seconds=TOKEN_SECONDS)
    access = Access(api.access.server, api.access.authority, token=token)
    return kubeconfig.write(path, access, user=account, namespace=namespace)

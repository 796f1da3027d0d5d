"""A small blocking client of the Kubernetes API for what bringing up a stand takes.

It applies manifests (server-side apply), waits until custom resources are served, requests service account
tokens, and lets tests read and write any object by path. It is not what the services use: they have their
own adapters.
"""

from __future__ import annotations

import ssl
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from nodeyard.local import kubeconfig
from nodeyard.local.errors import StandError
from nodeyard.local.kubeconfig import Access

Manifest = Mapping[str, Any]
_FIELD_MANAGER = "nodeyard-local"
# Other objects refer to these: they go first, in this order.
_FIRST = ("Namespace", "CustomResourceDefinition", "ServiceAccount")


class KubeError(StandError):
    """The API server answered with an error; `status` is its HTTP status code, `reason` Kubernetes' word."""

    def __init__(self, method: str, path: str, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(f"{method} {path}: {status} {reason}: {message}")


class KubeApi:
    """Blocking requests to one API server as one user. Close it (or use it in a `with`) when done."""

    def __init__(self, access: Access | Path, *, timeout_s: float = 30.0) -> None:
        self.access = kubeconfig.read(access) if isinstance(access, Path) else access
        headers = {"Authorization": f"Bearer {self.access.token}"} if self.access.token else {}
        self._client = httpx.Client(
            base_url=self.access.server,
            verify=_tls(self.access),
            headers=headers,
            timeout=timeout_s,
            trust_env=False,
        )
        self._resources: dict[str, dict[str, tuple[str, bool]]] = {}

    def __enter__(self) -> KubeApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Sends one request and returns the decoded answer.

        Raises KubeError for an error answer, StandError when the server cannot be reached.
        """
        try:
            response = self._client.request(
                method, path, json=body, params=params, headers={"Content-Type": content_type}
            )
        except httpx.HTTPError as error:
            raise StandError(
                f"{method} {self.access.server}{path}: {type(error).__name__}: {error}"
            ) from error
        if response.is_success:
            json_answer = response.headers.get("content-type", "").startswith("application/json")
            return response.json() if json_answer else response.text
        raise _error(method, path, response)

    def get(self, path: str, **params: str) -> Any:
        """GET of a path."""
        return self.request("GET", path, params=params)

    def create(self, path: str, body: Manifest) -> Any:
        """POST of an object to a collection."""
        return self.request("POST", path, dict(body))

    def delete(self, path: str, **params: str) -> Any:
        """DELETE of a path; an object that is not there is no error."""
        try:
            return self.request("DELETE", path, params=params)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def patch(self, path: str, body: Any, *, kind: str = "merge") -> Any:
        """PATCH with a "merge", "strategic-merge" or "json" patch."""
        return self.request("PATCH", path, body, content_type=f"application/{kind}-patch+json")

    def ready(self) -> bool:
        """Whether the API server says that it is ready (and proves to be the one whose authority we know)."""
        try:
            return self._client.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def watch(self, path: str, **params: str) -> Iterator[tuple[str, Any]]:
        """(type, object) of a collection's changes, from now or `resourceVersion` on, until the server ends it."""
        query = {"watch": "true", **params}
        with self._client.stream("GET", path, params=query, timeout=httpx.Timeout(10.0, read=None)) as answer:
            for line in answer.iter_lines():
                event = msgspec.json.decode(line)
                yield event["type"], event["object"]

    def apply(self, manifests: Iterable[Manifest], *, namespace: str = "default") -> None:
        """Applies manifests server-side, those that others depend on first, and waits for custom resources.

        `namespace` is for namespaced objects that name none. Raises KubeError for the first that is refused.
        """
        ordered = sorted(manifests, key=lambda each: _rank(str(each.get("kind", ""))))
        waited = False
        for manifest in ordered:
            if not waited and _rank(str(manifest["kind"])) > _FIRST.index("CustomResourceDefinition"):
                self._wait_established(ordered)
                waited = True
            self.request(
                "PATCH",
                self.path_of(manifest, namespace=namespace),
                dict(manifest),
                content_type="application/apply-patch+yaml",
                params={"fieldManager": _FIELD_MANAGER, "force": "true"},
            )
        if not waited:
            self._wait_established(ordered)

    def path_of(self, manifest: Manifest, *, namespace: str = "default") -> str:
        """The path of the object that a manifest describes, found by discovery."""
        version, kind = str(manifest["apiVersion"]), str(manifest["kind"])
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if kind not in self._resources.get(root, {}):
            listing = self.get(root)["resources"]
            self._resources[root] = {
                each["kind"]: (each["name"], each["namespaced"])
                for each in listing
                if "/" not in each["name"]
            }
        try:
            plural, namespaced = self._resources[root][kind]
        except KeyError:
            raise StandError(f"the API server does not serve {kind} in {version}") from None
        metadata = manifest["metadata"]
        scope = f"/namespaces/{metadata.get('namespace', namespace)}" if namespaced else ""
        return f"{root}{scope}/{plural}/{metadata['name']}"

    def token(self, namespace: str, account: str, *, seconds: int) -> str:
        """A token of a ServiceAccount through the TokenRequest API, valid for `seconds` seconds."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        answer = self.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)
        return str(answer["status"]["token"])

    def _wait_established(self, manifests: Iterable[Manifest], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        for manifest in manifests:
            if manifest["kind"] != "CustomResourceDefinition":
                continue
            path = self.path_of(manifest)
            while not _established(self.get(path)):
                if time.monotonic() > deadline:
                    raise StandError(f"{path} is not served after {timeout_s} s")
                time.sleep(0.05)


def _rank(kind: str) -> int:
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)


def _established(definition: Mapping[str, Any]) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def _error(method: str, path: str, response: httpx.Response) -> KubeError:
    try:
        status = response.json()
        reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    except ValueError:
        reason, message = response.reason_phrase, response.text[:500]
    return KubeError(method, path, response.status_code, reason, message)


def _tls(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=access.authority.decode())
    if access.certificate:
        # The ssl module loads client certificates from files only.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(access.certificate + b"\n" + access.key)
            file.flush()
            context.load_cert_chain(file.name)
    return context

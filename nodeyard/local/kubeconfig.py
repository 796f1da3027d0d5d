"""Kubeconfig files: written for the stand's components and services, and read back by our small client.

Two kinds of user: one with a client certificate (the control plane's own parts, the admin), one with a
bearer token (each service, through its ServiceAccount). Certificates are embedded, so that a file can be
copied away on its own.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nodeyard.local.certificates import KeyPair
from nodeyard.local.errors import StandError


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an API server: its URL, its authority (PEM) and either a client certificate or a token."""

    server: str
    authority: bytes
    certificate: bytes = b""
    key: bytes = b""
    token: str = ""


def by_certificate(server: str, authority: Path, pair: KeyPair) -> Access:
    """Access with a client certificate."""
    return Access(server, authority.read_bytes(), pair.certificate.read_bytes(), pair.key.read_bytes())


def write(path: Path, access: Access, *, user: str, namespace: str = "default") -> Path:
    """Writes a kubeconfig with one context, readable by us only, and returns its path."""
    credentials: dict[str, str] = {"token": access.token} if access.token else {}
    if access.certificate:
        credentials["client-certificate-data"] = _encoded(access.certificate)
        credentials["client-key-data"] = _encoded(access.key)
    cluster = {"server": access.server, "certificate-authority-data": _encoded(access.authority)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "nodeyard", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [
            {"name": "nodeyard", "context": {"cluster": "nodeyard", "user": user, "namespace": namespace}}
        ],
        "current-context": "nodeyard",
    }
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_text(yaml.safe_dump(content, sort_keys=False))
    os.replace(temporary, path)
    return path


def read(path: Path) -> Access:
    """Reads the current context of a kubeconfig.

    Understands embedded and file certificates and bearer tokens. Raises StandError for anything else.
    """
    try:
        content = yaml.safe_load(path.read_text())
        context = _named(content, "contexts", content["current-context"])["context"]
        cluster = _named(content, "clusters", context["cluster"])["cluster"]
        user = _named(content, "users", context["user"])["user"]
        return Access(
            server=str(cluster["server"]),
            authority=_data(cluster, "certificate-authority", path),
            certificate=_data(user, "client-certificate", path),
            key=_data(user, "client-key", path),
            token=str(user.get("token", "")),
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, StopIteration) as error:
        raise StandError(f"{path} is not a kubeconfig that can be used: {error!r}") from error


def _named(content: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    return next(entry for entry in content[section] if entry["name"] == name)


def _data(entry: dict[str, Any], field: str, path: Path) -> bytes:
    if embedded := entry.get(f"{field}-data"):
        return base64.b64decode(str(embedded))
    if file := entry.get(field):
        return (path.parent / str(file)).read_bytes()
    return b""


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()

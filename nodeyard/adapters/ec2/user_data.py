"""User data: what an instance is told at boot so that its kubelet joins our cluster with our labels and taints.

One function per image family, chosen by table; the user's own user data is merged as each family's boot agent
expects (MIME parts for AL2 and AL2023, TOML for Bottlerocket), ours last so that the unregistered taint stays.
Refuses user data that cannot be merged, naming the node class's field.
Source: EKS documentation "Amazon Linux 2023 nodeadm", "bootstrap.sh"; Bottlerocket documentation "settings.kubernetes".
"""

import email
import email.policy
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import yaml

from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import Kubelet
from nodeyard.api.selectors import Taint

_BOUNDARY: Final = "//"
_NODE_CONFIG: Final = "application/node.eks.aws"
_SHELL: Final = 'text/x-shellscript; charset="us-ascii"'
_KUBELET_DOMAINS: Final = ("kubelet.kubernetes.io", "node.kubernetes.io")
_KUBELET_OWN: Final = frozenset(
    {keys.HOSTNAME, keys.ARCH, keys.OS, keys.INSTANCE_TYPE, keys.ZONE, keys.REGION}
)


class UserDataError(ValueError):
    """User data of the user's that can't be merged; the message says why."""


class Boot(msgspec.Struct, frozen=True):
    """What a node needs to join. `ca_bundle` is base64 of PEM, `endpoint` an https URL."""

    cluster: str
    endpoint: str = ""
    ca_bundle: str = ""
    service_cidr: str = ""
    cluster_dns: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    taints: tuple[Taint, ...] = ()
    kubelet: Kubelet = Kubelet()
    instance_store_raid0: bool = False


def user_data(family: str, boot: Boot, custom: str = "") -> str:
    """The text for instances of an image family (AL2023, AL2, Bottlerocket, Custom). Raises UserDataError."""
    make = _FAMILIES.get(family)
    if make is None:
        raise UserDataError(f"amiFamily {family!r} is not one of {', '.join(sorted(_FAMILIES))}")
    return make(boot, custom)


def _al2023(boot: Boot, custom: str) -> str:
    config: dict[str, Any] = {
        **_kubelet_fields(boot.kubelet, boot.cluster_dns),
        "registerWithTaints": [_taint_fields(t) for t in boot.taints],
    }
    cluster = {
        "name": boot.cluster,
        "apiServerEndpoint": boot.endpoint,
        "certificateAuthority": boot.ca_bundle,
        "cidr": boot.service_cidr,
    }
    spec: dict[str, Any] = {
        "cluster": {key: value for key, value in cluster.items() if value},
        "kubelet": {
            "config": config,
            "flags": [f"--node-labels={_labels(boot.labels)}"] if boot.labels else [],
        },
    }
    if boot.instance_store_raid0:
        spec["instance"] = {"localStorage": {"strategy": "RAID0"}}
    document = {"apiVersion": "node.eks.aws/v1alpha1", "kind": "NodeConfig", "spec": spec}
    return _mime([*_parts(custom, nodeadm=True), (_NODE_CONFIG, yaml.safe_dump(document, sort_keys=False))])


def _al2(boot: Boot, custom: str) -> str:
    kubelet_args = []
    if boot.labels:
        kubelet_args.append(f"--node-labels={_labels(boot.labels)}")
    if boot.taints:
        kubelet_args.append("--register-with-taints=" + ",".join(_taint(t) for t in boot.taints))
    kubelet_args += _kubelet_flags(boot.kubelet)
    args = [f"'{boot.cluster}'"]
    if boot.endpoint:
        args.append(f"--apiserver-endpoint '{boot.endpoint}'")
    if boot.ca_bundle:
        args.append(f"--b64-cluster-ca '{boot.ca_bundle}'")
    dns = boot.kubelet.cluster_dns or boot.cluster_dns
    if dns:
        args.append(f"--dns-cluster-ip '{dns[0]}'")
    if boot.kubelet.max_pods is not None:
        args.append("--use-max-pods false")
    if boot.instance_store_raid0:
        args.append("--local-disks raid0")
    args.append(f"--kubelet-extra-args '{' '.join(kubelet_args)}'")
    script = "#!/bin/bash -xe\n/etc/eks/bootstrap.sh " + " \\\n  ".join(args) + "\n"
    return _mime([*_parts(custom, nodeadm=False), (_SHELL, script)])


def _bottlerocket(boot: Boot, custom: str) -> str:
    try:
        document = tomllib.loads(custom)
    except tomllib.TOMLDecodeError as error:
        raise UserDataError(f"spec.userData is not TOML: {error}") from None
    settings = _table(_table(document, "settings"), "kubernetes")
    settings["cluster-name"] = boot.cluster
    for key, value in (("api-server", boot.endpoint), ("cluster-certificate", boot.ca_bundle)):
        if value:
            settings[key] = value
    _table(settings, "node-labels").update(boot.labels)
    taints = _table(settings, "node-taints")
    for taint in boot.taints:
        effects = taints.setdefault(taint.key, [])
        if (text := f"{taint.value}:{taint.effect}") not in effects:
            effects.append(text)
    if boot.kubelet.max_pods is not None:
        settings["max-pods"] = boot.kubelet.max_pods
    if dns := boot.kubelet.cluster_dns or boot.cluster_dns:
        settings["cluster-dns-ip"] = dns[0]
    for key, reserved in (
        ("kube-reserved", boot.kubelet.kube_reserved),
        ("system-reserved", boot.kubelet.system_reserved),
        ("eviction-hard", boot.kubelet.eviction_hard),
    ):
        if reserved:
            _table(settings, key).update(reserved)
    return "\n".join(_toml(document)) + "\n"


def _custom(boot: Boot, custom: str) -> str:
    return custom


_FAMILIES: Final[Mapping[str, Callable[[Boot, str], str]]] = {
    "AL2023": _al2023,
    "AL2": _al2,
    "Bottlerocket": _bottlerocket,
    "Custom": _custom,
}


def kubelet_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Those of the labels that a kubelet may give its own node; it refuses to start with any other of the Kubernetes
    domains. The rest comes at registration. Source: kubelet reference, `--node-labels`.
    """
    return {key: value for key, value in labels.items() if _allowed(key)}


def _allowed(label: str) -> bool:
    domain = label.rpartition("/")[0]
    if not any(domain == d or domain.endswith(f".{d}") for d in ("kubernetes.io", "k8s.io")):
        return True
    return label in _KUBELET_OWN or any(domain == d or domain.endswith(f".{d}") for d in _KUBELET_DOMAINS)


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _taint(taint: Taint) -> str:
    return f"{taint.key}={taint.value}:{taint.effect}"


def _taint_fields(taint: Taint) -> dict[str, str]:
    return {"key": taint.key, **({"value": taint.value} if taint.value else {}), "effect": taint.effect}


def _kubelet_fields(kubelet: Kubelet, cluster_dns: tuple[str, ...]) -> dict[str, Any]:
    """The kubelet configuration's own fields, for agents that take them as such."""
    fields = msgspec.to_builtins(kubelet)
    if cluster_dns and not kubelet.cluster_dns:
        fields["clusterDNS"] = list(cluster_dns)
    return {key: value for key, value in fields.items() if value not in (None, {}, [], ())}


def _kubelet_flags(kubelet: Kubelet) -> list[str]:
    flags = []
    if kubelet.max_pods is not None:
        flags.append(f"--max-pods={kubelet.max_pods}")
    for flag, values, joint in (
        ("--kube-reserved", kubelet.kube_reserved, "="),
        ("--system-reserved", kubelet.system_reserved, "="),
        ("--eviction-hard", kubelet.eviction_hard, "<"),
        ("--eviction-soft", kubelet.eviction_soft, "<"),
    ):
        if values:
            flags.append(f"{flag}={','.join(f'{k}{joint}{v}' for k, v in sorted(values.items()))}")
    if kubelet.cpu_cfs_quota is not None:
        flags.append(f"--cpu-cfs-quota={str(kubelet.cpu_cfs_quota).lower()}")
    return flags


def _parts(custom: str, *, nodeadm: bool) -> list[tuple[str, str]]:
    """The user's user data as (content type, text): a MIME archive's parts, a NodeConfig, or a script."""
    text = custom.strip()
    if not text:
        return []
    if text.startswith(("MIME-Version", "Content-Type")):
        message = email.message_from_string(text, policy=email.policy.default)
        if not message.is_multipart():
            raise UserDataError("spec.userData says it is MIME but is not a multipart archive")
        return [(str(part["Content-Type"]), str(part.get_payload())) for part in message.iter_parts()]
    if nodeadm and not text.startswith("#!"):
        return [(_NODE_CONFIG, _node_config(text))]
    return [(_SHELL, text + "\n")]


def _node_config(text: str) -> str:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserDataError(f"spec.userData is neither a script, a MIME archive nor YAML: {error}") from None
    if not isinstance(document, dict) or document.get("kind") != "NodeConfig":
        raise UserDataError("spec.userData is neither a script, a MIME archive nor a NodeConfig")
    return text + "\n"


def _mime(parts: list[tuple[str, str]]) -> str:
    lines = ["MIME-Version: 1.0", f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"', ""]
    for content_type, text in parts:
        lines += [f"--{_BOUNDARY}", f"Content-Type: {content_type}", "", text.rstrip("\n"), ""]
    return "\n".join([*lines, f"--{_BOUNDARY}--", ""])


def _table(parent: dict[str, Any], key: str) -> dict[str, Any]:
    table = parent.setdefault(key, {})
    if not isinstance(table, dict):
        raise UserDataError(f"spec.userData: {key} is not a table")
    return table


def _toml(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[str]:
    """TOML of nested tables, plain values and arrays of plain values, values before the tables inside."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = []
    if plain and path:
        lines.append("[" + ".".join(_toml_key(p) for p in path) + "]")
    lines += [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in plain.items()]
    if plain:
        lines.append("")
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _toml(value, (*path, key))
    return lines


def _toml_key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isascii() and bare.isalnum() else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return str(value).lower() if isinstance(value, bool) else str(value)

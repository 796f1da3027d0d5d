"""User data: what an instance is told at boot so that its kubelet joins our cluster with our labels and taints.

One function per image family, chosen by table; the user's own user data is merged as each family's boot agent
expects (MIME parts for AL2 and AL2023, TOML for Bottlerocket, PowerShell for Windows), ours last so that the
unregistered taint stays. Refuses user data that cannot be merged, and kubelet settings that a family's agent has no
place for, naming the node class's field.
Source: EKS documentation "Amazon Linux 2023 nodeadm", "bootstrap.sh", "Start-EKSBootstrap.ps1"; Bottlerocket
documentation "settings.kubernetes".
"""

import email
import email.policy
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
import yaml

from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import Kubelet
from nodeyard.api.selectors import Taint
from nodeyard.cloudprovider.boot import Boot

_BOUNDARY: Final = "//"
_NODE_CONFIG: Final = "application/node.eks.aws"
_SHELL: Final = 'text/x-shellscript; charset="us-ascii"'
_KUBELET_DOMAINS: Final = ("kubelet.kubernetes.io", "node.kubernetes.io")
_KUBELET_OWN: Final = frozenset(
    {keys.HOSTNAME, keys.ARCH, keys.OS, keys.INSTANCE_TYPE, keys.ZONE, keys.REGION}
)


class UserDataError(ValueError):
    """User data of the user's that can't be merged; the message says why."""


def user_data(family: str, boot: Boot, custom: str = "") -> str:
    """The text for instances of an image family (`amiFamily`). Raises UserDataError."""
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
    kubelet_args = _kubelet_args(boot)
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
    apart = frozenset({"maxPods", "clusterDNS"})
    for _, name, value in _renamed(
        boot.kubelet, _BOTTLEROCKET, apart, "has no place in Bottlerocket's settings"
    ):
        if isinstance(value, dict):
            _table(settings, name).update(value)
        else:
            settings[name] = value
    return "\n".join(_toml(document)) + "\n"


_BOTTLEROCKET: Final = {
    "kubeReserved": "kube-reserved",
    "systemReserved": "system-reserved",
    "evictionHard": "eviction-hard",
    "evictionSoft": "eviction-soft",
    "evictionSoftGracePeriod": "eviction-soft-grace-period",
    "evictionMaxPodGracePeriod": "eviction-max-pod-grace-period",
    "imageGCHighThresholdPercent": "image-gc-high-threshold-percent",
    "imageGCLowThresholdPercent": "image-gc-low-threshold-percent",
    "cpuCFSQuota": "cpu-cfs-quota-enforced",
    "cpuManagerPolicy": "cpu-manager-policy",
    "cpuManagerReconcilePeriod": "cpu-manager-reconcile-period",
    "topologyManagerPolicy": "topology-manager-policy",
    "topologyManagerScope": "topology-manager-scope",
    "podPidsLimit": "pod-pids-limit",
    "registryPullQPS": "registry-qps",
    "registryBurst": "registry-burst",
    "eventRecordQPS": "event-qps",
    "eventBurst": "event-burst",
    "kubeAPIQPS": "kube-api-qps",
    "kubeAPIBurst": "kube-api-burst",
    "containerLogMaxSize": "container-log-max-size",
    "containerLogMaxFiles": "container-log-max-files",
    "allowedUnsafeSysctls": "allowed-unsafe-sysctls",
    "shutdownGracePeriod": "shutdown-grace-period",
    "shutdownGracePeriodCriticalPods": "shutdown-grace-period-for-critical-pods",
}
"""The kubelet's fields -> Bottlerocket's settings; podsPerCore has none there."""


def _windows(boot: Boot, custom: str) -> str:
    if boot.instance_store_raid0:
        raise UserDataError("spec.instanceStorePolicy RAID0 is not for Windows")
    arguments = [f"-EKSClusterName {_quoted(boot.cluster)}"]
    if boot.endpoint:
        arguments.append(f"-APIServerEndpoint {_quoted(boot.endpoint)}")
    if boot.ca_bundle:
        arguments.append(f"-Base64ClusterCA {_quoted(boot.ca_bundle)}")
    if kubelet_args := _kubelet_args(boot):
        arguments.append(f"-KubeletExtraArgs {_quoted(' '.join(kubelet_args))}")
    if dns := boot.kubelet.cluster_dns or boot.cluster_dns:
        arguments.append(f"-DNSClusterIP {_quoted(dns[0])}")
    own = custom.strip()
    if own.startswith("<powershell>"):
        own = own.removeprefix("<powershell>").partition("</powershell>")[0].strip()
    elif own.startswith("<"):
        raise UserDataError("spec.userData for Windows is neither PowerShell nor within <powershell> tags")
    script = r'[string]$EKSBootstrapScriptFile = "$env:ProgramFiles\Amazon\EKS\Start-EKSBootstrap.ps1"'
    lines = [*([own] if own else []), script, f"& $EKSBootstrapScriptFile {' '.join(arguments)}"]
    return "\n".join(["<powershell>", *lines, "</powershell>"]) + "\n"


def _quoted(text: str) -> str:
    """A PowerShell string that nothing is read into."""
    return "'" + text.replace("'", "''") + "'"


def _custom(boot: Boot, custom: str) -> str:
    return custom


_FAMILIES: Final[Mapping[str, Callable[[Boot, str], str]]] = {
    "AL2023": _al2023,
    "AL2": _al2,
    "Bottlerocket": _bottlerocket,
    "Custom": _custom,
    "Windows2019": _windows,
    "Windows2022": _windows,
    "Windows2025": _windows,
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


def _set_fields(kubelet: Kubelet) -> dict[str, Any]:
    """Those of the kubelet's fields that the class sets, under their own names."""
    fields = msgspec.to_builtins(kubelet)
    fields = {**fields.pop("other", {}), **fields}
    return {key: value for key, value in fields.items() if value not in (None, {}, [], ())}


def _renamed(
    kubelet: Kubelet, names: Mapping[str, str], apart: frozenset[str], refusal: str
) -> Iterator[tuple[str, str, Any]]:
    """(field, its name in the family's own settings, value) of all that are set but those given `apart`.

    Raises UserDataError, in the words of `refusal`, for a field that has no name there.
    """
    for field, value in _set_fields(kubelet).items():
        if field in apart:
            continue
        if field not in names:
            raise UserDataError(f"spec.kubelet.{field} {refusal}")
        yield field, names[field], value


def _kubelet_fields(kubelet: Kubelet, cluster_dns: tuple[str, ...]) -> dict[str, Any]:
    """The kubelet configuration's own fields, for agents that take them as such."""
    fields = _set_fields(kubelet)
    if cluster_dns and not kubelet.cluster_dns:
        fields["clusterDNS"] = list(cluster_dns)
    return fields


def _kubelet_args(boot: Boot) -> list[str]:
    """Labels, taints and settings as flags of the kubelet."""
    args = []
    if boot.labels:
        args.append(f"--node-labels={_labels(boot.labels)}")
    if boot.taints:
        args.append("--register-with-taints=" + ",".join(_taint(t) for t in boot.taints))
    refusal = "can't be given to this image family's kubelet"
    for field, flag, value in _renamed(boot.kubelet, _FLAGS, frozenset({"clusterDNS"}), refusal):
        args.append(f"--{flag}={_flag_value(value, '<' if field in _THRESHOLDS else '=')}")
    return args


_THRESHOLDS: Final = frozenset({"evictionHard", "evictionSoft"})
_FLAGS: Final = {
    "maxPods": "max-pods",
    "podsPerCore": "pods-per-core",
    "kubeReserved": "kube-reserved",
    "systemReserved": "system-reserved",
    "evictionHard": "eviction-hard",
    "evictionSoft": "eviction-soft",
    "evictionSoftGracePeriod": "eviction-soft-grace-period",
    "evictionMaxPodGracePeriod": "eviction-max-pod-grace-period",
    "imageGCHighThresholdPercent": "image-gc-high-threshold",
    "imageGCLowThresholdPercent": "image-gc-low-threshold",
    "cpuCFSQuota": "cpu-cfs-quota",
    "cpuManagerPolicy": "cpu-manager-policy",
    "topologyManagerPolicy": "topology-manager-policy",
    "topologyManagerScope": "topology-manager-scope",
    "podPidsLimit": "pod-max-pids",
    "registryPullQPS": "registry-qps",
    "registryBurst": "registry-burst",
    "containerLogMaxSize": "container-log-max-size",
    "containerLogMaxFiles": "container-log-max-files",
}
"""The kubelet's configuration fields -> its flags, in the order of its reference."""


def _flag_value(value: Any, joint: str) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}{joint}{one}" for key, one in sorted(value.items()))
    return str(value).lower() if isinstance(value, bool) else str(value)


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

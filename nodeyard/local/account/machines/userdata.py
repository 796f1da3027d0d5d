"""Reads user data as the images do: AL2023's NodeConfig, AL2's bootstrap.sh, Bottlerocket's TOML, MIME around them.

The answer is what the kubelet would be started with: labels, taints, reservations, pod limit. Bad user data raises
`BootError`, and the machine never joins, as in the cloud; so does a label in kubernetes.io or k8s.io that a kubelet
may not give itself. Sources: nodeadm's API reference; the EKS AMI's bootstrap script; Bottlerocket's settings
reference; the kubelet's `--node-labels` documentation. Pure.
"""

from __future__ import annotations

import email
import re
import shlex
import tomllib
from dataclasses import dataclass, field
from typing import Any

import yaml

_NODE_CONFIG = "node.eks.aws/"
_KUBELET_OWN = (
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)
_KUBELET_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


class BootError(Exception):
    """The machine cannot start its kubelet; the message says what in the user data is wrong."""


@dataclass(frozen=True)
class Taint:
    """A taint that the node registers with."""

    key: str
    value: str
    effect: str

    def manifest(self) -> dict[str, str]:
        """As in a Node's spec."""
        shown = {"key": self.key, "value": self.value, "effect": self.effect}
        return {name: text for name, text in shown.items() if text}


@dataclass
class Boot:
    """What the kubelet is started with. Reservations and thresholds are as written (quantities or percentages)."""

    cluster: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[Taint] = field(default_factory=list)
    max_pods: int | None = None
    pods_per_core: int | None = None
    kube_reserved: dict[str, str] = field(default_factory=dict)
    system_reserved: dict[str, str] = field(default_factory=dict)
    eviction_hard: dict[str, str] = field(default_factory=dict)
    raid0: bool = False


def read(text: str) -> Boot:
    """The boot settings in `text` (decoded user data). Raises BootError."""
    boot = Boot()
    if not text.strip():
        raise BootError("there is no user data, so nothing starts a kubelet")
    found = [_read_part(kind, part, boot) for kind, part in _parts(text)]
    if not any(found):
        raise BootError("the user data holds no NodeConfig, no bootstrap.sh and no Bottlerocket settings")
    for label in boot.labels:
        _check_label(label)
    return boot


def _parts(text: str) -> list[tuple[str, str]]:
    """(content type, text) of each part; a plain document is its own only part, its kind guessed as cloud-init does."""
    head = text.lstrip()
    if re.match(r"(?i)(mime-version|content-type):", head):
        message = email.message_from_string(head)
        parts = [part for part in message.walk() if not part.is_multipart()]
        return [(part.get_content_type(), _payload(part)) for part in parts]
    if head.startswith("#!"):
        return [("text/x-shellscript", text)]
    if re.search(rf"(?m)^apiVersion:\s*['\"]?{re.escape(_NODE_CONFIG)}", text):
        return [("application/node.eks.aws", text)]
    return [("application/toml", text)]


def _payload(part: Any) -> str:
    raw = part.get_payload(decode=True)
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


def _read_part(kind: str, text: str, boot: Boot) -> bool:
    """Read one part into `boot`; whether it starts a kubelet."""
    if kind == "application/node.eks.aws":
        return _read_node_configs(text, boot)
    if kind == "application/toml":
        return _read_bottlerocket(text, boot)
    if kind.startswith("text/"):
        return _read_script(text, boot)
    return False


# -- AL2023: NodeConfig


def _read_node_configs(text: str, boot: Boot) -> bool:
    try:
        documents = [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        raise BootError(f"NodeConfig is not YAML: {error}") from error
    for document in documents:
        if not isinstance(document, dict) or document.get("kind") != "NodeConfig":
            raise BootError("a part of type application/node.eks.aws is no NodeConfig")
        spec = document.get("spec") or {}
        cluster = (spec.get("cluster") or {}).get("name")
        boot.cluster = cluster or boot.cluster
        strategy = ((spec.get("instance") or {}).get("localStorage") or {}).get("strategy")
        boot.raid0 = boot.raid0 or str(strategy).lower() == "raid0"
        kubelet = spec.get("kubelet") or {}
        _read_kubelet_config(kubelet.get("config") or {}, boot)
        for flag in kubelet.get("flags") or []:
            _read_flags(str(flag), boot)
    return bool(documents)


def _read_kubelet_config(config: dict[str, Any], boot: Boot) -> None:
    if config.get("maxPods") is not None:
        boot.max_pods = _count(config["maxPods"], "maxPods")
    if config.get("podsPerCore") is not None:
        boot.pods_per_core = _count(config["podsPerCore"], "podsPerCore")
    for name, target in (
        ("kubeReserved", boot.kube_reserved),
        ("systemReserved", boot.system_reserved),
        ("evictionHard", boot.eviction_hard),
    ):
        target.update({str(key): str(value) for key, value in (config.get(name) or {}).items()})
    for taint in config.get("registerWithTaints") or []:
        boot.taints.append(_taint(str(taint["key"]), str(taint.get("value") or ""), str(taint.get("effect"))))


# -- AL2: bootstrap.sh


def _read_script(text: str, boot: Boot) -> bool:
    """The arguments of bootstrap.sh, wherever in the script it is called."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        if "bootstrap.sh" not in line or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise BootError(f"the call of bootstrap.sh cannot be read: {error}") from error
        at = next((i for i, word in enumerate(words) if word.endswith("bootstrap.sh")), None)
        if at is not None:
            _read_bootstrap(words[at + 1 :], boot)
            return True
    return False


def _read_bootstrap(words: list[str], boot: Boot) -> None:
    index = 0
    while index < len(words):
        word = words[index]
        following = words[index + 1] if index + 1 < len(words) else ""
        if word.startswith("--kubelet-extra-args"):
            _read_flags(word.partition("=")[2] or following, boot)
        elif word == "--local-disks":
            boot.raid0 = boot.raid0 or following.lower() == "raid0"
        elif not word.startswith("-") and boot.cluster is None:
            boot.cluster = word
            index += 1
            continue
        index += 1 if "=" in word or following.startswith("--") else 2


def _read_flags(text: str, boot: Boot) -> None:
    """The kubelet's command line flags that make a difference here."""
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        if name == "--node-labels":
            for pair in filter(None, value.split(",")):
                key, _, label = pair.partition("=")
                boot.labels[key] = label
        elif name == "--register-with-taints":
            boot.taints.extend(_flag_taint(pair) for pair in filter(None, value.split(",")))
        elif name == "--max-pods":
            boot.max_pods = _count(value, "--max-pods")
        elif name == "--pods-per-core":
            boot.pods_per_core = _count(value, "--pods-per-core")
        elif name in ("--kube-reserved", "--system-reserved", "--eviction-hard"):
            _read_reservation(name, value, boot)


def _read_reservation(name: str, value: str, boot: Boot) -> None:
    target = {
        "--kube-reserved": boot.kube_reserved,
        "--system-reserved": boot.system_reserved,
        "--eviction-hard": boot.eviction_hard,
    }[name]
    sign = "<" if name == "--eviction-hard" else "="
    for pair in filter(None, value.split(",")):
        key, _, quantity = pair.partition(sign)
        target[key] = quantity


def _flag_taint(text: str) -> Taint:
    """`key=value:Effect` or `key:Effect`."""
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return _taint(key, value, effect)


# -- Bottlerocket


def _read_bottlerocket(text: str, boot: Boot) -> bool:
    try:
        settings = tomllib.loads(text).get("settings", {})
    except tomllib.TOMLDecodeError as error:
        raise BootError(f"the user data is neither MIME, shell, NodeConfig nor TOML: {error}") from error
    kubernetes = settings.get("kubernetes")
    if not isinstance(kubernetes, dict):
        return False
    boot.cluster = kubernetes.get("cluster-name") or boot.cluster
    boot.labels.update({str(k): str(v) for k, v in kubernetes.get("node-labels", {}).items()})
    for key, values in kubernetes.get("node-taints", {}).items():
        for each in values if isinstance(values, list) else [values]:
            value, _, effect = str(each).rpartition(":")
            boot.taints.append(_taint(key, value, effect))
    if "max-pods" in kubernetes:
        boot.max_pods = _count(kubernetes["max-pods"], "max-pods")
    boot.kube_reserved.update({str(k): str(v) for k, v in kubernetes.get("kube-reserved", {}).items()})
    boot.system_reserved.update({str(k): str(v) for k, v in kubernetes.get("system-reserved", {}).items()})
    boot.eviction_hard.update({str(k): str(v) for k, v in kubernetes.get("eviction-hard", {}).items()})
    commands = settings.get("bootstrap-commands", {})
    boot.raid0 = boot.raid0 or "ephemeral-storage" in str(commands)
    return True


# -- checks


def _taint(key: str, value: str, effect: str) -> Taint:
    if not key or effect not in _EFFECTS:
        raise BootError(f"taint {key!r}: {effect!r} is no effect ({', '.join(_EFFECTS)})")
    return Taint(key, value, effect)


def _count(value: Any, name: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise BootError(f"{name}: {value!r} is no whole number") from error


def _check_label(label: str) -> None:
    """The kubelet refuses to start with labels in the reserved domains that are not its own."""
    prefix = label.partition("/")[0] if "/" in label else ""
    reserved = any(
        prefix == domain or prefix.endswith(f".{domain}") for domain in ("kubernetes.io", "k8s.io")
    )
    own = any(prefix == allowed or prefix.endswith(f".{allowed}") for allowed in _KUBELET_PREFIXES)
    if reserved and label not in _KUBELET_OWN and not own:
        raise BootError(f"the kubelet refuses the label {label!r} in --node-labels")

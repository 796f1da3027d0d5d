"""What KWOK is told to play.

Nodes annotated `kwok.x-k8s.io/node=fake` get their lease renewed and become Ready, unless their machine says
otherwise with the annotation `machines.nodeyard.dev/ready: "false"` (not up yet, or gone). Pods are played
only on plain nodes, whose names start with `kwok-`: there any pod runs, and ends at once when deleted. Pods
on machines of the simulated account are the machines' own business. There is no stage that repeats a node's
status: a lease is enough for the node controller, as with a real kubelet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nodeyard.local.ports import LOOPBACK

NODE_ANNOTATION = "kwok.x-k8s.io/node"
READY_ANNOTATION = "machines.nodeyard.dev/ready"
PLAIN_NODE_PREFIX = "kwok-"
LEASE_SECONDS = 40

_NODE_STATUS = """
{{ $now := Now }}
phase: Running
conditions:
- {type: Ready, status: "True", reason: KubeletReady, message: kubelet is posting ready status,
   lastHeartbeatTime: {{ $now | Quote }}, lastTransitionTime: {{ $now | Quote }}}
{{ range $type := list "MemoryPressure" "DiskPressure" "PIDPressure" }}
- {type: {{ $type }}, status: "False", reason: KubeletHasSufficientResources, message: no pressure,
   lastHeartbeatTime: {{ $now | Quote }}, lastTransitionTime: {{ $now | Quote }}}
{{ end }}
"""

_POD_STATUS = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
conditions:
{{ range $type := list "Initialized" "PodReadyToStartContainers" "ContainersReady" "Ready" }}
- {type: {{ $type }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
{{ range .spec.readinessGates }}
- {type: {{ .conditionType | Quote }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- {name: {{ .name | Quote }}, image: {{ .image | Quote }}, imageID: "", ready: true, started: true,
   restartCount: 0, state: {running: {startedAt: {{ $now | Quote }}}}}
{{ end }}
"""


def _stage(
    name: str,
    kind: str,
    expressions: list[tuple[str, str, list[str]]],
    then: dict[str, Any],
) -> dict[str, Any]:
    matches = [
        {"key": key, "operator": operator, **({"values": values} if values else {})}
        for key, operator, values in expressions
    ]
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": matches},
            "next": then,
        },
    }


def documents() -> list[dict[str, Any]]:
    """KWOK's options and Stage objects, as the documents of its configuration file."""
    options = {
        "manageAllNodes": False,
        "manageNodesWithAnnotationSelector": f"{NODE_ANNOTATION}=fake",
        "nodeLeaseDurationSeconds": LEASE_SECONDS,
        "nodeLeaseParallelism": 8,
        "podPlayStageParallelism": 16,
        "nodePlayStageParallelism": 8,
    }
    plain = (f'.spec.nodeName | startswith("{PLAIN_NODE_PREFIX}") | tostring', "In", ["true"])
    return [
        {
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokConfiguration",
            "metadata": {"name": "stand"},
            "options": options,
        },
        _stage(
            "node-ready",
            "Node",
            [
                (f'.metadata.annotations["{READY_ANNOTATION}"]', "NotIn", ["false"]),
                ('.status.conditions.[] | select( .type == "Ready" ) | .status', "NotIn", ["True"]),
            ],
            {"statusTemplate": _NODE_STATUS},
        ),
        _stage(
            "pod-running",
            "Pod",
            [
                plain,
                (".metadata.deletionTimestamp", "DoesNotExist", []),
                (".status.phase", "In", ["Pending"]),
            ],
            {"statusTemplate": _POD_STATUS},
        ),
        _stage(
            "pod-gone",
            "Pod",
            [(".metadata.deletionTimestamp", "Exists", []), plain],
            {"delete": True},
        ),
    ]


def arguments(directory: Path, kubeconfig: Path, port: int) -> list[str]:
    """Writes KWOK's configuration file into `directory` and returns the arguments that KWOK is started with.

    It reaches the cluster through `kubeconfig` and answers /healthz on `port` of loopback.
    """
    config = directory / "kwok.yaml"
    config.write_text(yaml.safe_dump_all(documents(), sort_keys=False))
    return [f"--kubeconfig={kubeconfig}", f"--config={config}", f"--server-address={LOOPBACK}:{port}"]

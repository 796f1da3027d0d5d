"""Pods as a real API server writes them, in bulk: what a watcher really has to read."""

import json
from typing import Any

Json = dict[str, Any]

_MANAGED: Json = {
    "manager": "kube-controller-manager",
    "operation": "Update",
    "apiVersion": "v1",
    "time": "2026-08-01T10:00:00Z",
    "fieldsType": "FieldsV1",
    "fieldsV1": {
        "f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:app": {}, "f:pod-template-hash": {}}},
        "f:spec": {
            "f:containers": {
                'k:{"name":"main"}': {
                    ".": {},
                    "f:image": {},
                    "f:imagePullPolicy": {},
                    "f:name": {},
                    "f:resources": {".": {}, "f:requests": {".": {}, "f:cpu": {}, "f:memory": {}}},
                    "f:terminationMessagePath": {},
                    "f:terminationMessagePolicy": {},
                }
            },
            "f:dnsPolicy": {},
            "f:enableServiceLinks": {},
            "f:restartPolicy": {},
            "f:schedulerName": {},
            "f:securityContext": {},
            "f:terminationGracePeriodSeconds": {},
        },
    },
}
_FOR_300_S = [
    {
        "key": f"node.kubernetes.io/{key}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 300,
    }
    for key in ("not-ready", "unreachable")
]


def written_pod(number: int, workloads: int = 45, *, node: str = "", version: int = 1) -> Json:
    """Pod `number` of as many deployments: pending and unschedulable, or running on `node`."""
    workload = number % workloads
    token = f"kube-api-access-{number:05d}"
    conditions = [
        {
            "type": "PodScheduled",
            "status": "True" if node else "False",
            "reason": None if node else "Unschedulable",
            "message": None if node else "0/3 nodes are available: 3 Insufficient cpu.",
            "lastProbeTime": None,
            "lastTransitionTime": "2026-08-01T10:00:01Z",
        }
    ]
    return {
        "metadata": {
            "name": f"app-{workload}-7d4b9c-{number:05d}",
            "generateName": f"app-{workload}-7d4b9c-",
            "namespace": f"team-{workload % 7}",
            "uid": f"00000000-0000-4000-8000-{number:012d}",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-08-01T10:00:00Z",
            "labels": {"app": f"app-{workload}", "pod-template-hash": "7d4b9c"},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"app-{workload}-7d4b9c",
                    "uid": f"00000000-0000-4000-9000-{workload:012d}",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [_MANAGED],
        },
        "spec": {
            "volumes": [
                {
                    "name": token,
                    "projected": {
                        "sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}],
                        "defaultMode": 420,
                    },
                }
            ],
            "containers": [
                {
                    "name": "main",
                    "image": "registry.k8s.io/pause:3.10",
                    "resources": {
                        "requests": {
                            "cpu": f"{100 + 50 * workload}m",
                            "memory": f"{128 * (1 + workload % 8)}Mi",
                        }
                    },
                    "volumeMounts": [
                        {
                            "name": token,
                            "readOnly": True,
                            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                        }
                    ],
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "imagePullPolicy": "IfNotPresent",
                }
            ],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "serviceAccount": "default",
            "nodeName": node,
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "tolerations": _FOR_300_S,
            "priority": 0,
            "enableServiceLinks": True,
            "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {
            "phase": "Running" if node else "Pending",
            "conditions": conditions,
            "qosClass": "Burstable",
        },
    }


def written_pods(count: int, workloads: int = 45) -> list[bytes]:
    """So many pods as JSON, four in five of them running on a hundred nodes."""
    return [
        json.dumps(written_pod(n, workloads, node=f"node-{n % 100}" if n % 5 else "", version=n + 1)).encode()
        for n in range(count)
    ]

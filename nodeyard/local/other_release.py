"""The Go module of another Kubernetes release than the pinned one, made from what the release says of itself.

`NODEYARD_KUBERNETES=1.31.13` asks for it. Only where no official release can be had: it is resolved without a `go.sum`
of ours, so that Go's checksum database, not this repository, says that what comes is what everybody gets.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Final

from nodeyard.local.errors import StandError
from nodeyard.local.versions import KUBERNETES, KUBERNETES_BINARIES

_STAGING: Final = re.compile(r"^\s*(k8s\.io/\S+) v0\.0\.0(?:\s|$)", re.MULTILINE)
_LANGUAGE: Final = re.compile(r"^go (1\.\d+)", re.MULTILINE)
_DEBUG: Final = re.compile(r"^godebug default=go(1\.\d+)", re.MULTILINE)
_TOOLS_SINCE: Final = "1.24.0"
"""The language version that knows `tool` lines."""


def module(go: Path, to: Path) -> Path:
    """The directory `to` with a go.mod and go.sum that build KUBERNETES. Raises StandError when the module proxy does
    not have it.
    """
    to.mkdir(parents=True, exist_ok=True)
    (to / "go.mod").write_text(f"module nodeyard.dev/controlplane/kubernetes\n\ngo {_TOOLS_SINCE}\n")
    said = _go(go, to, "mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES}")
    own = Path(json.loads(said)["GoMod"]).read_text()
    (to / "go.mod").write_text(text(own))
    _go(go, to, "mod", "tidy")
    return to


def text(own: str) -> str:
    """The go.mod for a release whose own go.mod is `own`: it asks for its staging modules at v0.0.0, which are published
    under the release's number.
    """
    published = "v0." + KUBERNETES.split(".", 1)[1]
    lines = ["module nodeyard.dev/controlplane/kubernetes", "", f"go {_TOOLS_SINCE}", ""]
    if behaves := _DEBUG.search(own) or _LANGUAGE.search(own):
        lines += [f"godebug default=go{behaves.group(1)}", ""]
    lines += ["tool (", *(f"\tk8s.io/kubernetes/cmd/{binary}" for binary in KUBERNETES_BINARIES), ")", ""]
    lines += [f"require k8s.io/kubernetes v{KUBERNETES}", "", "replace ("]
    lines += [f"\t{name} => {name} {published}" for name in sorted(set(_STAGING.findall(own)))]
    return "\n".join([*lines, ")", ""])


def _go(go: Path, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    done = subprocess.run(
        [str(go), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        why = (done.stderr.strip() or done.stdout.strip())[-800:]
        raise StandError(f"Kubernetes {KUBERNETES} can't be built from the Go module proxy:\n{why}")
    return done.stdout

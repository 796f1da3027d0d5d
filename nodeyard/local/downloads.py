"""Official releases over the internet, each checked against its published SHA-256 before it is used.

Kubernetes publishes `<binary>.sha256` beside each binary on dl.k8s.io; GitHub gives the digest of each
release asset in its API. Where neither can be reached within a few seconds we say so at once and the caller
goes on to build from source. A file whose checksum is unknown or differs is never kept.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import httpx

from nodeyard.local.errors import UnavailableError
from nodeyard.local.progress import Progress
from nodeyard.local.versions import ETCD, KUBERNETES, KUBERNETES_BINARIES, KWOK, Platform

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where official releases are; tests put a server of their own here."""

    kubernetes: str = "https://dl.k8s.io"
    github: str = "https://github.com"
    github_api: str = "https://api.github.com"


class Downloads:
    """Fetches release binaries for one platform. Close it (or use it in a `with`) when done."""

    def __init__(
        self, platform: Platform, *, hosts: Hosts | None = None, connect_s: float = 3.0, read_s: float = 30.0
    ) -> None:
        self._platform = platform
        self._hosts = hosts if hosts is not None else Hosts()
        self._client = httpx.Client(
            timeout=httpx.Timeout(read_s, connect=connect_s), follow_redirects=True, http2=False
        )

    def __enter__(self) -> Downloads:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fetch(self, binary: str, to: Path, progress: Progress) -> None:
        """Downloads `binary` to the file `to`, checked and executable.

        Raises UnavailableError when the internet cannot be reached, the release has no such file, or the
        checksum is missing or wrong; `to` is then not written.
        """
        try:
            url, expected = self._release(binary)
            self._download(binary, url, expected, to, progress)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"{binary} cannot be downloaded: {type(error).__name__}: {error}"
            ) from error

    def _release(self, binary: str) -> tuple[str, str]:
        """The URL of a release file and its published SHA-256."""
        if binary in KUBERNETES_BINARIES:
            path = f"bin/{self._platform.os}/{self._platform.arch}/{binary}"
            url = f"{self._hosts.kubernetes}/release/v{KUBERNETES}/{path}"
            return url, self._published_sum(binary, self._get(f"{url}.sha256").text)
        if binary == "kwok":
            return self._github("kubernetes-sigs/kwok", KWOK, f"kwok-{self._platform}")
        if binary == "etcd":
            return self._github("etcd-io/etcd", ETCD, f"etcd-v{ETCD}-{self._platform}.tar.gz")
        raise UnavailableError(f"no official release of {binary} is known")

    def _github(self, repository: str, version: str, asset: str) -> tuple[str, str]:
        release = self._get(f"{self._hosts.github_api}/repos/{repository}/releases/tags/v{version}").json()
        url = f"{self._hosts.github}/{repository}/releases/download/v{version}/{asset}"
        return url, self._published_sum(asset, _digest_of(release, asset))

    def _get(self, url: str) -> httpx.Response:
        return self._client.get(url).raise_for_status()

    @staticmethod
    def _published_sum(binary: str, text: str) -> str:
        found = _SHA256.search(text)
        if found is None:
            raise UnavailableError(f"no SHA-256 is published for {binary}, so it is not downloaded")
        return found.group()

    def _download(self, binary: str, url: str, expected: str, to: Path, progress: Progress) -> None:
        partial = to.with_name(to.name + ".part")
        digest = hashlib.sha256()
        try:
            with self._client.stream("GET", url) as response, partial.open("wb") as file:
                response.raise_for_status()
                total = int(response.headers.get("content-length", "0"))
                done = 0
                for block in response.iter_bytes(1 << 18):
                    file.write(block)
                    digest.update(block)
                    done += len(block)
                    share = done / total if total else None
                    progress(f"download {binary}", f"{done / 1e6:.1f} of {total / 1e6:.1f} MB", share)
            if digest.hexdigest() != expected:
                raise UnavailableError(
                    f"{url} has SHA-256 {digest.hexdigest()}, but {expected} is published: not used"
                )
            if url.endswith(".tar.gz"):
                _unpack(partial, binary)
            partial.chmod(0o755)
            partial.replace(to)
        finally:
            partial.unlink(missing_ok=True)


def _unpack(archive: Path, program: str) -> None:
    """Replaces an archive by the one file in it that is called `program`."""
    with tarfile.open(archive, "r:gz") as tar:
        member = next((each for each in tar if each.isfile() and Path(each.name).name == program), None)
        content = tar.extractfile(member) if member is not None else None
        if content is None:
            raise UnavailableError(f"the release archive has no {program} in it")
        data = content.read()
    archive.write_bytes(data)


def _digest_of(release: object, asset: str) -> str:
    assets = release.get("assets", []) if isinstance(release, dict) else []
    for entry in assets:
        if isinstance(entry, dict) and entry.get("name") == asset:
            return str(entry.get("digest") or "")
    return ""

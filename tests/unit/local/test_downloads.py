"""Official releases are used only when they can be reached and their published checksum fits."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeyard.local.downloads import Downloads, Hosts
from nodeyard.local.errors import UnavailableError
from nodeyard.local.ports import free_port
from nodeyard.local.progress import silent
from nodeyard.local.versions import ETCD, KUBERNETES, KWOK, Platform
from tests.support.releases import Releases, releases

__all__ = ["releases"]

LINUX = Platform("linux", "amd64")
PROGRAM = b"\x7fELF a program" * 1000


@pytest.fixture
def downloads(releases: Releases) -> Iterator[Downloads]:
    with Downloads(LINUX, hosts=Hosts(releases.url, releases.url, releases.url)) as opened:
        yield opened


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _kubernetes_path(binary: str) -> str:
    return f"/release/v{KUBERNETES}/bin/linux/amd64/{binary}"


def test_a_release_whose_checksum_fits_is_kept_and_executable(
    releases: Releases, downloads: Downloads, tmp_path: Path
) -> None:
    path = _kubernetes_path("kube-scheduler")
    releases.files |= {path: PROGRAM, f"{path}.sha256": _sha(PROGRAM).encode()}
    shares: list[float | None] = []
    to = tmp_path / "kube-scheduler"
    downloads.fetch("kube-scheduler", to, lambda step, detail="", fraction=None: shares.append(fraction))
    assert to.read_bytes() == PROGRAM
    assert to.stat().st_mode & 0o111
    assert shares[-1] == 1.0


def test_a_release_with_another_checksum_is_refused_and_leaves_nothing(
    releases: Releases, downloads: Downloads, tmp_path: Path
) -> None:
    path = _kubernetes_path("kube-scheduler")
    releases.files |= {path: PROGRAM + b"!", f"{path}.sha256": _sha(PROGRAM).encode()}
    with pytest.raises(UnavailableError, match="not used"):
        downloads.fetch("kube-scheduler", tmp_path / "kube-scheduler", silent)
    assert not list(tmp_path.iterdir())


def test_a_release_without_a_checksum_is_not_downloaded(
    releases: Releases, downloads: Downloads, tmp_path: Path
) -> None:
    releases.publish_on_github("kubernetes-sigs/kwok", KWOK, "kwok-linux-amd64", PROGRAM, None)
    with pytest.raises(UnavailableError, match="no SHA-256 is published"):
        downloads.fetch("kwok", tmp_path / "kwok", silent)
    assert not list(tmp_path.iterdir())


def test_a_github_asset_is_checked_by_its_digest(
    releases: Releases, downloads: Downloads, tmp_path: Path
) -> None:
    digest = f"sha256:{_sha(PROGRAM)}"
    releases.publish_on_github("kubernetes-sigs/kwok", KWOK, "kwok-linux-amd64", PROGRAM, digest)
    downloads.fetch("kwok", tmp_path / "kwok", silent)
    assert (tmp_path / "kwok").read_bytes() == PROGRAM


def test_etcd_is_taken_out_of_its_archive(releases: Releases, downloads: Downloads, tmp_path: Path) -> None:
    folder, packed = f"etcd-v{ETCD}-linux-amd64", io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in (("README.md", b"etcd"), ("etcd", PROGRAM)):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archive = packed.getvalue()
    releases.publish_on_github("etcd-io/etcd", ETCD, f"{folder}.tar.gz", archive, f"sha256:{_sha(archive)}")
    downloads.fetch("etcd", tmp_path / "etcd", silent)
    assert (tmp_path / "etcd").read_bytes() == PROGRAM
    assert [path.name for path in tmp_path.iterdir()] == ["etcd"]


def test_a_file_that_is_not_there_is_unavailable(downloads: Downloads, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="404"):
        downloads.fetch("kubectl", tmp_path / "kubectl", silent)


def test_no_way_out_is_said_at_once(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with (
        Downloads(LINUX, hosts=Hosts(nowhere, nowhere, nowhere)) as downloads,
        pytest.raises(UnavailableError, match="ConnectError"),
    ):
        downloads.fetch("kube-apiserver", tmp_path / "kube-apiserver", silent)

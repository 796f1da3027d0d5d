"""The small parts of the stand: certificates, kubeconfigs, KWOK's stages, manifests, progress, options, kind."""

from __future__ import annotations

import datetime as dt
import io
import ssl
import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from nodeyard.local import install, kubeconfig, kwok
from nodeyard.local.certificates import Authority
from nodeyard.local.errors import StandError
from nodeyard.local.kind import KindCluster
from nodeyard.local.kubeapi import KubeApi
from nodeyard.local.kubeconfig import Access
from nodeyard.local.ports import free_port
from nodeyard.local.processes import Processes
from nodeyard.local.progress import LineProgress
from nodeyard.local.stand import Options, Stand, default_directory, read_endpoints

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates", now=NOW)


def test_a_client_certificate_names_user_and_groups_and_is_signed_by_the_authority(
    authority: Authority,
) -> None:
    pair = authority.client("me", user="me", groups=("system:masters",))
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    issuer = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    certificate.verify_directly_issued_by(issuer)
    assert certificate.subject.rfc4514_string() == "CN=me,O=system:masters"
    assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc


def test_private_keys_are_readable_by_us_only(authority: Authority) -> None:
    for key in (authority.client("me", user="me").key, authority.token_keys("tokens").key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_server_certificate_is_accepted_for_its_names_by_who_trusts_the_authority(
    authority: Authority,
) -> None:
    pair = authority.server("api", names=["localhost"], addresses=["127.0.0.1"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certificate, pair.key)
    client = ssl.create_default_context(cafile=str(authority.certificate))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ours.getpeercert()


def test_a_kubeconfig_is_read_as_it_was_written(authority: Authority, tmp_path: Path) -> None:
    pair = authority.client("me", user="me")
    access = kubeconfig.by_certificate("https://127.0.0.1:1", authority.certificate, pair)
    path = kubeconfig.write(tmp_path / "deep" / "config", access, user="me")
    assert kubeconfig.read(path) == access
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_kubeconfig_may_point_to_files(tmp_path: Path) -> None:
    access = Access("https://x", b"authority", token="secret")
    content = yaml.safe_load(kubeconfig.write(tmp_path / "config", access, user="me").read_text())
    (tmp_path / "ca.crt").write_bytes(b"authority")
    content["clusters"][0]["cluster"] = {"server": "https://x", "certificate-authority": "ca.crt"}
    (tmp_path / "config").write_text(yaml.safe_dump(content))
    assert kubeconfig.read(tmp_path / "config") == access


@pytest.mark.parametrize("content", ["", "[]", "{", "current-context: none", "apiVersion: v1\nclusters: 3"])
def test_what_is_no_kubeconfig_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken"
    path.write_text(content)
    with pytest.raises(StandError, match="broken is not a kubeconfig"):
        kubeconfig.read(path)


def test_an_api_server_that_is_not_there_is_named(authority: Authority) -> None:
    server = f"https://127.0.0.1:{free_port()}"
    with (
        KubeApi(Access(server, authority.certificate.read_bytes(), token="x")) as api,
        pytest.raises(StandError, match=f"GET {server}/version: ConnectError"),
    ):
        api.get("/version")


def test_kwok_manages_annotated_nodes_only_and_plays_pods_on_plain_nodes_only() -> None:
    options, *stages = kwok.documents()
    assert options["options"]["manageNodesWithAnnotationSelector"] == "kwok.x-k8s.io/node=fake"
    assert not options["options"]["manageAllNodes"]
    pods = [stage for stage in stages if stage["spec"]["resourceRef"]["kind"] == "Pod"]
    assert pods
    for stage in pods:
        keys = [each["key"] for each in stage["spec"]["selector"]["matchExpressions"]]
        assert any('startswith("kwok-")' in key for key in keys)


def test_kwoks_configuration_is_one_document_per_object(tmp_path: Path) -> None:
    arguments = kwok.arguments(tmp_path, tmp_path / "kubeconfig", 12345)
    documents = list(yaml.safe_load_all((tmp_path / "kwok.yaml").read_text()))
    assert documents == kwok.documents()
    assert "--server-address=127.0.0.1:12345" in arguments


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [", "is not YAML"), ("- 1", "not a Kubernetes object"), ("kind: X", "not a Kube")],
)
def test_a_broken_definition_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "broken.yaml").write_text(content)
    with pytest.raises(StandError, match=rf"broken\.yaml.*{message}"):
        install.definitions(tmp_path)


def _account(name: str, **labels: str) -> dict[str, object]:
    named = {key.replace("_", "/"): value for key, value in labels.items()}
    return {"kind": "ServiceAccount", "metadata": {"name": name, "labels": named}}


def test_a_services_account_is_the_one_labelled_for_it_else_the_one_named_after_it() -> None:
    labelled = _account("one", **{"app.kubernetes.io/component": "watcher"})
    named = _account("release-allocator")
    assert install.account_of("watcher", [named, labelled]) == "one"
    assert install.account_of("allocator", [named, labelled]) == "release-allocator"
    with pytest.raises(StandError, match="no ServiceAccount for pricing"):
        install.account_of("pricing", [named, labelled])


def test_progress_is_thinned_out_while_only_the_fraction_grows() -> None:
    now, out = [0.0], io.StringIO()
    progress = LineProgress(out, every_s=10.0, clock=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        progress("build", f"{second} of 25", second / 25)
    progress("build", "done", 1.0)
    progress("start")
    lines = out.getvalue().splitlines()
    assert [line.split("] ")[1] for line in lines] == [
        "build:   0 % 0 of 25",
        "build:  40 % 10 of 25",
        "build:  80 % 20 of 25",
        "build: 100 % done",
        "start",
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parts": "everything"}, "no such parts"),
        ({"replicas": 0}, "at least one replica"),
        ({"services": ("watcher", "barista")}, "no such service: barista"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(StandError, match=message):
        Options(**wrong)  # type: ignore[arg-type]


def test_a_stand_that_was_not_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(StandError, match="not started"):
        _ = Stand(tmp_path).admin_kubeconfig


def test_state_goes_where_the_environment_says() -> None:
    assert default_directory("x", {"XDG_STATE_HOME": "/s"}) == Path("/s/nodeyard/x")
    assert default_directory("x", {}) == Path.home() / ".local" / "state" / "nodeyard" / "x"


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_without_readable_endpoints_nothing_is_up(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "endpoints.json").write_text(content)
    assert read_endpoints(tmp_path) is None


def _tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def _kind(tmp_path: Path) -> KindCluster:
    return KindCluster("x", tmp_path, Processes(tmp_path), {})


def test_kind_without_kind_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tool(tmp_path / "bin", "docker", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(StandError, match="--kind needs kind, which is not on PATH"):
        _kind(tmp_path).prepare()


def test_kind_with_a_docker_that_does_not_answer_says_what_docker_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tool(tmp_path / "bin", "docker", "echo is the daemon running? >&2; exit 1")
    _tool(tmp_path / "bin", "kind", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(StandError, match=r"Docker does not answer.*is the daemon running"):
        _kind(tmp_path).prepare()


def test_kind_makes_a_cluster_with_our_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tool(tmp_path / "bin", "docker", "exit 0")
    _tool(tmp_path / "bin", "kind", f'echo "$@" >> {tmp_path}/calls')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    _kind(tmp_path).prepare()
    deleted, created = (tmp_path / "calls").read_text().splitlines()
    assert deleted == "delete cluster --name nodeyard-x"
    assert created.startswith("create cluster --name nodeyard-x --config ")
    assert Path(created.split("--config ")[1].split()[0]).exists()

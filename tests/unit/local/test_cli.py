"""The command line: sub-commands load when called, and failures are one clear message."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nodeyard.cli import main
from nodeyard.local.binaries import WANTED, Binaries
from nodeyard.local.processes import Processes, is_running

runner = CliRunner()


def test_commands_that_this_installation_lacks_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.COMMANDS, "absent", ("nodeyard.cli.absent", "Not there."))
    result = runner.invoke(main.app, ["--help"])
    assert "local" in result.output
    assert "absent" not in result.output


def test_a_command_whose_package_is_not_installed_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(main.COMMANDS, "needy", ("needy", "Needs much."))
    result = runner.invoke(main.app, ["needy", "--any", "thing"])
    assert result.exit_code == 1
    assert "needs the Python package a_package_that_is_not_there" in result.output


def test_status_of_nothing_says_so_and_fails(tmp_path: Path) -> None:
    result = runner.invoke(main.app, ["local", "status", "--dir", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "nothing runs under" in result.output


def test_status_shows_what_runs_and_what_ended(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("redis", ["sleep", "60"])
    processes.start("account", ["true"])
    processes.wait_gone("account", timeout_s=60)
    result = runner.invoke(main.app, ["local", "status", "--dir", str(tmp_path)])
    processes.stop(["redis", "account"])
    assert result.exit_code == 1
    rows = {line.split("│")[1].strip(): line for line in result.output.splitlines() if line.count("│") > 3}
    assert "running" in rows["redis"]
    assert "ended" in rows["account"]


def test_down_stops_what_runs_and_again_finds_nothing(tmp_path: Path) -> None:
    record = Processes(tmp_path).start("redis", ["sleep", "60"])
    first = runner.invoke(main.app, ["local", "down", "--dir", str(tmp_path)])
    assert not is_running(record)
    assert "stopped redis" in first.output
    second = runner.invoke(main.app, ["local", "down", "--dir", str(tmp_path)])
    assert second.exit_code == 0
    assert "nothing was running" in second.output


def test_down_all_stops_every_stand_of_the_place(tmp_path: Path) -> None:
    records = [Processes(tmp_path / name).start("redis", ["sleep", "60"]) for name in ("one", "two")]
    result = runner.invoke(main.app, ["local", "down", "--all", "--dir", str(tmp_path / "any")])
    assert result.exit_code == 0
    assert not any(is_running(record) for record in records)


def test_logs_show_the_last_lines_and_name_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "redis.log").write_text("one\ntwo\nthree\n")
    arguments = ["local", "logs", "--dir", str(tmp_path)]
    assert runner.invoke(main.app, arguments).output == "redis\n"
    assert runner.invoke(main.app, [*arguments, "redis", "-n", "2"]).output == "two\nthree\n"
    wrong = runner.invoke(main.app, [*arguments, "etcd"])
    assert wrong.exit_code == 1
    assert "no log of etcd" in wrong.output
    assert "there are: redis" in wrong.output


def test_kind_without_docker_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NODEYARD_CACHE_DIR", str(tmp_path / "cache"))
    cached = Binaries().directory
    cached.mkdir(parents=True)
    for name in WANTED:
        (cached / name).touch(mode=0o755)
    result = runner.invoke(main.app, ["local", "up", "--kind", "--dir", str(tmp_path / "stand")])
    assert result.exit_code == 1
    assert "error: --kind needs docker" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("wanted", ["latest", "1", "1.29.0"])
def test_a_kubernetes_that_can_not_be_is_one_clear_line(wanted: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from nodeyard.cli.main import app; app()", "local", "fetch"],
        env={**os.environ, "NODEYARD_KUBERNETES": wanted},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: NODEYARD_KUBERNETES={wanted}: ")

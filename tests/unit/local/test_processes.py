"""Processes are found again by pid and start time, stopped gently first, and never outlive their stand."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nodeyard.local.errors import StandError, StartError
from nodeyard.local.processes import (
    Processes,
    ProcessRecord,
    is_running,
    log_tail,
    read_record,
    send_signal,
    start_marker,
)

IDLE = ["sleep", "60"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def test_a_started_process_runs_until_it_is_stopped(processes: Processes) -> None:
    record = processes.start("idle", IDLE)
    assert processes.running("idle")
    processes.stop(["idle"])
    assert not is_running(record)
    assert processes.record("idle") is None


def test_another_program_finds_and_stops_what_this_one_started(processes: Processes, tmp_path: Path) -> None:
    record = processes.start("idle", IDLE)
    other = Processes(tmp_path)
    assert [each.name for each in other.records()] == ["idle"]
    other.stop(["idle"])
    assert not is_running(record)


def test_a_process_that_does_not_listen_is_killed(processes: Processes) -> None:
    record = processes.start("stubborn", STUBBORN)
    processes.wait_answering(
        "stubborn", lambda: "up" in log_tail(processes.log_path("stubborn")), timeout_s=60
    )
    processes.stop(["stubborn"], grace_s=0.1)
    assert not is_running(record)


def test_a_recycled_pid_is_left_alone(processes: Processes) -> None:
    record = processes.start("idle", IDLE)
    stale = dataclasses.replace(record, started="ticks:1")
    assert not is_running(stale)
    assert not send_signal(stale, signal.SIGKILL)
    assert is_running(record)
    processes.stop(["idle"])


def test_a_process_that_ended_unreaped_counts_as_gone() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_marker(child.pid) is None
    child.wait()


def test_a_second_process_of_the_same_name_is_refused(processes: Processes) -> None:
    processes.start("idle", IDLE)
    with pytest.raises(StandError, match="idle already runs as pid"):
        processes.start("idle", IDLE)
    processes.stop(["idle"])


def test_a_process_that_dies_while_we_wait_is_reported_with_its_last_words(processes: Processes) -> None:
    processes.start("broken", ["sh", "-c", "echo cannot find my keys; exit 3"])
    with pytest.raises(StartError, match="cannot find my keys"):
        processes.wait_answering("broken", lambda: False, timeout_s=60)


def test_a_process_that_never_answers_is_reported(processes: Processes) -> None:
    processes.start("mute", IDLE)
    with pytest.raises(StartError, match="does not answer within 0 s"):
        processes.wait_answering("mute", lambda: False, timeout_s=0)
    processes.stop(["mute"])


def test_a_program_that_is_not_there_is_reported(processes: Processes, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be executed"):
        processes.start("ghost", [str(tmp_path / "ghost")])


def test_a_process_gets_exactly_the_environment_it_is_given(processes: Processes) -> None:
    processes.start("env", ["/usr/bin/env"], env={"ONLY": "this"})
    processes.wait_gone("env", timeout_s=60)
    assert processes.log_path("env").read_text() == "ONLY=this\n"


def test_signalling_what_does_not_run_says_so(processes: Processes) -> None:
    with pytest.raises(StandError, match="nobody does not run"):
        processes.signal("nobody", signal.SIGTERM)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}', '{"name": "x", "pid": "no"}'])
def test_an_unreadable_record_is_no_record(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert read_record(path) is None


def test_the_guard_stops_everything_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from nodeyard.local.processes import Processes; "
        "p = Processes(Path(sys.argv[1])); p.guard(); p.start('idle', ['sleep', '60']); "
        "print('up', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    record = Processes(tmp_path).record("idle")
    assert isinstance(record, ProcessRecord)
    assert is_running(record)
    parent.kill()
    parent.wait()
    Processes(tmp_path).wait_gone("idle", timeout_s=60)
    assert not is_running(record)


def test_a_guard_whose_parent_stopped_everything_ends_quietly(processes: Processes) -> None:
    processes.guard()
    record = processes.start("idle", IDLE)
    processes.stop(["idle"])
    processes.release_guard()
    assert not is_running(record)

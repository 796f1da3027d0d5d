"""The stand's processes: started, watched, remembered and stopped by process id.

Every process gets a session of its own (so that Ctrl-C reaches the stand first), a log file, and a record in
the state directory with its pid and start time. A pid is only ever signalled while its start time is still
the recorded one, so that a recycled pid is left alone. While a stand is attached to the process that started
it, a small guard process holds the other end of a pipe and stops whatever is still recorded when that
process goes, however it goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nodeyard.local.errors import StandError, StartError

_POLL_S = 0.03


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process that we started: enough to find it again, and to know that it is still the same one."""

    name: str
    pid: int
    started: str
    argv: tuple[str, ...]
    log: str


def start_marker(pid: int) -> str | None:
    """What tells this process from a later one with the same pid; None when it is gone (or a zombie)."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else f"ticks:{fields[19]}"
    import psutil  # only where there is no /proc: the guard starts faster without it

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"at:{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def is_running(record: ProcessRecord) -> bool:
    """Whether the very process of this record still runs."""
    return start_marker(record.pid) == record.started


def send_signal(record: ProcessRecord, number: int) -> bool:
    """Signals the process of this record; False when it was gone already."""
    if not is_running(record):
        return False
    try:
        os.kill(record.pid, number)
    except ProcessLookupError:
        return False
    return True


def stop_all(records: Iterable[ProcessRecord], *, grace_s: float = 5.0) -> None:
    """Asks each process to end, waits up to `grace_s` seconds for all of them, then kills the rest."""
    left = [record for record in records if send_signal(record, signal.SIGTERM)]
    left = _wait_gone(left, grace_s)
    for record in left:
        send_signal(record, signal.SIGKILL)
    left = _wait_gone(left, 5.0)
    if left:
        names = ", ".join(f"{record.name} (pid {record.pid})" for record in left)
        raise StandError(f"these processes of the stand cannot be killed: {names}")


def _wait_gone(records: list[ProcessRecord], seconds: float) -> list[ProcessRecord]:
    deadline = time.monotonic() + seconds
    while True:
        records = [record for record in records if is_running(record)]
        if not records or time.monotonic() >= deadline:
            return records
        time.sleep(_POLL_S)


def log_tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log file; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


class Processes:
    """The processes of one stand, recorded under its state directory.

    Records live in `<directory>/run/<name>.json`, logs in `<directory>/logs/<name>.log`; another program
    (`nodeyard local down`) can open the same directory and stop what this one started.
    """

    def __init__(self, directory: Path) -> None:
        self._run = directory / "run"
        self._logs = directory / "logs"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        for path in (self._run, self._logs):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        append_log: bool = False,
    ) -> ProcessRecord:
        """Starts a process under a name of its own.

        `env` is the whole environment of the process (ours where None). Raises StandError when a process of that name already runs, and
        StartError when the program cannot be executed.
        """
        known = self.record(name)
        if known is not None and is_running(known):
            raise StandError(f"{name} already runs as pid {known.pid} ({known.log})")
        log = self.log_path(name)
        with log.open("ab" if append_log else "wb") as output:
            try:
                child = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=None if env is None else dict(env),
                    cwd=cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise StartError(name, f"{argv[0]} cannot be executed: {error}") from error
        self._children[name] = child
        record = ProcessRecord(name, child.pid, start_marker(child.pid) or "gone", tuple(argv), str(log))
        self._write(record)
        return record

    def _write(self, record: ProcessRecord) -> None:
        path = self._run / f"{record.name}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(record)))
        temporary.replace(path)

    def log_path(self, name: str) -> Path:
        """Where the process of this name writes what it says."""
        return self._logs / f"{name}.log"

    def record(self, name: str) -> ProcessRecord | None:
        """The record of the process last started under this name, running or not."""
        return read_record(self._run / f"{name}.json")

    def records(self) -> list[ProcessRecord]:
        """All records, oldest first."""
        paths = sorted(self._run.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [record for record in map(read_record, paths) if record is not None]

    def running(self, name: str) -> bool:
        """Whether the process last started under this name still runs."""
        self._reap(name)
        record = self.record(name)
        return record is not None and is_running(record)

    def signal(self, name: str, number: int) -> None:
        """Signals a process by name. Raises StandError when it does not run."""
        record = self.record(name)
        if record is None or not send_signal(record, number):
            raise StandError(f"{name} does not run")

    def wait_gone(self, name: str, *, timeout_s: float) -> None:
        """Waits until the process of this name has ended; StandError when it has not within the time."""
        record = self.record(name)
        if record is not None and _wait_gone([record], timeout_s):
            raise StandError(f"{name} (pid {record.pid}) still runs after {timeout_s} s")
        self._reap(name)

    def stop(self, names: Sequence[str], *, grace_s: float = 5.0) -> None:
        """Stops the named processes together and forgets their records."""
        records = [record for record in map(self.record, names) if record is not None]
        stop_all(records, grace_s=grace_s)
        for record in records:
            self._reap(record.name)
            (self._run / f"{record.name}.json").unlink(missing_ok=True)

    def require(self, name: str) -> None:
        """Raises StartError with the end of its log when the process of this name has ended."""
        if not self.running(name):
            raise StartError(name, "it ended", log_tail(self.log_path(name)))

    def wait_answering(self, name: str, check: Callable[[], bool], *, timeout_s: float) -> None:
        """Waits until `check` holds while the process of this name lives.

        Raises StartError with the end of its log when the process ends or the time is up.
        """
        deadline = time.monotonic() + timeout_s
        while not check():
            self.require(name)
            if time.monotonic() > deadline:
                reason = f"it does not answer within {timeout_s:g} s"
                raise StartError(name, reason, log_tail(self.log_path(name)))
            time.sleep(_POLL_S)
        self.require(name)

    def _reap(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None and child.poll() is not None:
            del self._children[name]

    def guard(self) -> None:
        """Starts the process that stops everything recorded here once this process is gone."""
        if self._guard is not None and self._guard.poll() is None:
            return
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "nodeyard.local.guard", str(self._run)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release_guard(self) -> None:
        """Ends the guard; call it after everything has been stopped."""
        if self._guard is None:
            return
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        self._guard.wait(timeout=20)
        self._guard = None


def read_record(path: Path) -> ProcessRecord | None:
    """Reads a record from a file; None when there is none or it is unreadable."""
    try:
        fields = json.loads(path.read_text())
        return ProcessRecord(
            str(fields["name"]),
            int(fields["pid"]),
            str(fields["started"]),
            tuple(map(str, fields["argv"])),
            str(fields["log"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None

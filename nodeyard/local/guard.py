"""The guard: a process that outlives its parent just long enough to stop what the parent had started.

Its standard input is a pipe whose other end only the parent holds, so that end-of-file means that the parent
is gone, whether it returned, crashed or was killed. It then stops every process recorded in the given
directory. A parent that stopped everything itself leaves it nothing to do.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from nodeyard.local.processes import read_record, stop_all


def main(run_directory: str) -> None:
    """Waits for the parent's end, then stops what `run_directory` records."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(4096):
        pass
    paths = sorted(Path(run_directory).glob("*.json"))
    stop_all([record for record in map(read_record, paths) if record is not None], grace_s=5.0)
    for path in paths:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1])

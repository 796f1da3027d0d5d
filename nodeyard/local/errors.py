"""What can go wrong with the stand, said once and plainly.

Every failure of this room that a person has to read is a StandError: one sentence with what and where, and,
where a process died, the end of its log. Nothing else of ours escapes from `nodeyard.local`.
"""

from __future__ import annotations


class StandError(Exception):
    """The stand cannot be brought to where it was asked to be; the message says what and where."""


class StartError(StandError):
    """A process of the stand did not come up.

    `component` names it, `reason` says what was seen, and `log_tail` holds the last lines it wrote.
    """

    def __init__(self, component: str, reason: str, log_tail: str = "") -> None:
        self.component = component
        self.reason = reason
        self.log_tail = log_tail
        tail = f"\n--- last lines of {component}'s log ---\n{log_tail}" if log_tail else ""
        super().__init__(f"{component} did not start: {reason}{tail}")


class UnavailableError(StandError):
    """A source has not got what was asked of it (no such binary, no way out, no checksum); try the next."""

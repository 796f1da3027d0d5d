"""One entry of the decision journal: what was decided about what, why, and the numbers behind it.

The allocator and the reallocator write entries; people read them through the admin API and `nodeyard`.
"""

from nodeyard.api.selectors import Value


class Decision(Value, frozen=True):
    """`kind`: planned, refused, launched, registered, initialized, nominated, bound, proposed, blocked, disrupting,
    interrupted, terminated, collected, paused, measured. `subject`: `<kind>/<name>` of the object it is about, e.g.
    `nodeclaim/default-x7k2p`.
    `reason`: one word of a closed set per kind, fit for a metric label. `at`: seconds since the epoch.
    """

    at: float
    service: str
    replica: str
    kind: str
    subject: str
    reason: str
    message: str = ""
    facts: dict[str, str | int | float | bool] = {}

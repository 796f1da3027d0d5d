"""What users may write into pools, checked where the API server's schema can't: each problem is one line that names
the field and what is wrong with it.

Owns the rules for label keys, label values, requirements, taints, durations and cron schedules; refuses to raise.
NodePools and Provisioners share it. Sources: kubernetes.io "Labels and Selectors", Karpenter documentation
"NodePools" (restricted labels, operators, minValues, budgets).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from croniter import croniter

from nodeyard.api import labels as keys
from nodeyard.api.duration import DurationError, parse_duration
from nodeyard.api.quantity import QuantityError, Resources, parse
from nodeyard.api.selectors import Requirement, Taint

OPERATORS: Final = frozenset({"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Gte", "Lte"})
EFFECTS: Final = frozenset({keys.NO_SCHEDULE, keys.PREFER_NO_SCHEDULE, keys.NO_EXECUTE})
MAX_MIN_VALUES: Final = 50

WELL_KNOWN: Final = frozenset(
    {
        keys.ARCH, keys.OS, keys.INSTANCE_TYPE, keys.ZONE, keys.REGION, keys.WINDOWS_BUILD, keys.CAPACITY_TYPE,
        keys.ZONE_ID, keys.NODECLASS_LABEL, *keys.ALIASES,
    }
)  # fmt: skip
"""Keys in restricted domains that pools may constrain all the same; AWS's instance labels besides (`_AWS_PREFIXES`)."""
_AWS_PREFIXES: Final = (
    "karpenter.k8s.aws/instance-",
    "karpenter.k8s.aws/capacity-reservation-",
    "karpenter.k8s.aws/placement-group-",
)
_RESTRICTED_DOMAINS: Final = ("kubernetes.io", "k8s.io", "karpenter.sh", "karpenter.k8s.aws", "k8s.aws")
_OPEN_DOMAINS: Final = ("kops.k8s.io", "node.kubernetes.io", "node-restriction.kubernetes.io")
_NEVER: Final = frozenset({keys.HOSTNAME, keys.NODEPOOL, keys.PROVISIONER, keys.REGISTERED, keys.INITIALIZED})

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_NODES: Final = re.compile(r"(100|[0-9]{1,2})%|[0-9]+")
_MACROS: Final = frozenset({"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"})


# --- labels ---------------------------------------------------------------------------------------------------------
def label_key_problem(key: str) -> str:
    """What keeps `key` from being a label of our nodes; empty if nothing."""
    domain, slash, name = key.rpartition("/")
    if not _NAME.fullmatch(name) or (slash and (len(domain) > 253 or not _DOMAIN.fullmatch(domain))):
        return "is not a valid label key"
    if key in _NEVER:
        return "is set by the system and can't be chosen"
    if key in WELL_KNOWN or key.startswith(_AWS_PREFIXES):
        return ""
    if any(_within(domain, open_) for open_ in _OPEN_DOMAINS):
        return ""
    if closed := next((one for one in _RESTRICTED_DOMAINS if _within(domain, one)), ""):
        return f"is in the restricted domain {closed}"
    return ""


def _within(domain: str, parent: str) -> bool:
    return domain == parent or domain.endswith(f".{parent}")


def label_value_problem(value: str) -> str:
    """What keeps `value` from being a label value; empty if nothing."""
    return "" if value == "" or _NAME.fullmatch(value) else "is not a valid label value"


def label_problems(labels: Mapping[str, str], where: str) -> list[str]:
    """Problems of labels that nodes shall have."""
    out: list[str] = []
    for key, value in labels.items():
        if problem := label_key_problem(key):
            out.append(f"{where}[{key}]: {problem}")
        if problem := label_value_problem(value):
            out.append(f"{where}[{key}]: {value!r} {problem}")
    return out


# --- requirements, taints ---------------------------------------------------------------------------------------------
def requirement_problems(requirements: Iterable[Requirement], where: str) -> list[str]:
    """Problems of a pool's requirements, `where` naming the list."""
    out: list[str] = []
    for index, requirement in enumerate(requirements):
        at = f"{where}[{index}] ({requirement.key})"
        out.extend(f"{at}: {problem}" for problem in _requirement_problems(requirement))
    return out


def _requirement_problems(requirement: Requirement) -> Iterable[str]:
    operator, values = requirement.operator, requirement.values
    if problem := label_key_problem(requirement.key):
        yield f"the key {problem}"
    if operator not in OPERATORS:
        yield f"operator {operator!r} is none of {', '.join(sorted(OPERATORS))}"
    elif operator in ("In", "NotIn"):
        if not values:
            yield f"{operator} needs at least one value"
        yield from (f"{value!r} {problem}" for value in values if (problem := label_value_problem(value)))
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            yield f"{operator} takes no values"
    elif len(values) != 1 or not values[0].isascii() or not values[0].isdigit():
        yield f"{operator} needs exactly one whole number that is not negative, not {list(values)}"
    yield from _min_values_problems(requirement)


def _min_values_problems(requirement: Requirement) -> Iterable[str]:
    least = requirement.min_values
    if least is None:
        return
    if not 1 <= least <= MAX_MIN_VALUES:
        yield f"minValues {least} is not within 1..{MAX_MIN_VALUES}"
    elif requirement.operator == "In" and len(requirement.values) < least:
        yield f"minValues is {least}, but only {len(requirement.values)} values are given"


def taint_problems(taints: Iterable[Taint], where: str, *, effects: frozenset[str] = EFFECTS) -> list[str]:
    """Problems of taints that nodes shall have."""
    out: list[str] = []
    for index, taint in enumerate(taints):
        at = f"{where}[{index}]"
        domain, slash, name = taint.key.rpartition("/")
        if not _NAME.fullmatch(name) or (slash and not _DOMAIN.fullmatch(domain)):
            out.append(f"{at}: {taint.key!r} is not a valid taint key")
        if problem := label_value_problem(taint.value):
            out.append(f"{at}: {taint.value!r} {problem}")
        if taint.effect not in effects:
            out.append(f"{at}: effect {taint.effect!r} is none of {', '.join(sorted(filter(None, effects)))}")
    return out


# --- amounts and times ------------------------------------------------------------------------------------------------
def read_quantities(quantities: Mapping[str, str | int | float], where: str) -> tuple[Resources, list[str]]:
    """The resource list as far as it can be read, and the problems of the rest."""
    out: Resources = {}
    problems: list[str] = []
    for name, text in quantities.items():
        try:
            amount = parse(name, str(text))
        except QuantityError:
            problems.append(f"{where}.{name}: {str(text)!r} is not a quantity")
            continue
        if amount < 0:
            problems.append(f"{where}.{name}: {str(text)!r} is negative")
        else:
            out[name] = amount
    return out, problems


def read_duration(text: str | None, where: str, *, default_s: float | None) -> tuple[float | None, list[str]]:
    """Seconds, None for "Never"; `default_s` where the field is absent or can't be read."""
    if text is None or text == "":
        return default_s, []
    if text == "Never":
        return None, []
    try:
        seconds = parse_duration(text)
    except DurationError as error:
        return default_s, [f"{where}: {error}"]
    return (seconds, []) if seconds >= 0 else (default_s, [f"{where}: {text!r} is negative"])


def cron_problem(schedule: str) -> str:
    """What keeps `schedule` from being a cron schedule of five fields; empty if nothing."""
    if schedule in _MACROS or (len(schedule.split()) == 5 and croniter.is_valid(schedule)):
        return ""
    return f"{schedule!r} is not a cron schedule of five fields"


def nodes_problem(nodes: str) -> str:
    """What keeps a budget's `nodes` from being a count or a percentage; empty if nothing."""
    return "" if _NODES.fullmatch(nodes) else f"{nodes!r} is neither a count nor a percentage up to 100%"

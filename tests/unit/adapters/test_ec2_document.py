"""docs/ec2.md says what the code does: every error code in its table, and no permission too many or too few."""

import ast
import re
from pathlib import Path

import msgspec
import pytest
from botocore import exceptions as aws
from botocore import xform_name

from nodeyard.adapters.ec2 import errors as table
from nodeyard.adapters.ec2.errors import translated

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/ec2.md").read_text()
CALLERS = ("nodeyard/adapters/ec2", "nodeyard/adapters/pricing", "services")
BATCHES = {"sqs:DeleteMessageBatch": "sqs:DeleteMessage"}
"""Calls that another action's permission allows."""
IMPLIED = {
    "ec2:RunInstances": "what CreateFleet does on the caller's behalf",
    "iam:PassRole": "an instance gets its profile's role",
    "iam:TagInstanceProfile": "a profile is made with tags",
}
ROWS = [
    (code, row[1].strip())
    for line in TEXT.splitlines()
    if line.startswith("| `") and len(row := line.strip("|").split("|")) == 3
    for code in re.findall(r"`([\w.]+)`", row[0])
    if row[1].strip()[:1].isupper()
]


@pytest.mark.parametrize(("code", "kind"), ROWS)
def test_a_code_in_the_table_becomes_the_error_beside_it(code: str, kind: str) -> None:
    answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    cause = aws.ClientError(answer, "CreateFleet")  # type: ignore[arg-type]
    assert type(translated(cause, "ec2:CreateFleet")).__name__ == kind


def test_every_code_that_is_told_apart_is_in_the_table() -> None:
    known = (
        table._THROTTLED | table._UNAUTHORIZED | table.CAPACITY_CODES | table._NOT_FOUND | table._CONFLICT
        | table._UNREACHABLE | {"IdempotentParameterMismatch"}
    )  # fmt: skip
    codes = [code for code, _ in ROWS]
    assert sorted(codes) == sorted(known)


def _policy() -> list[dict[str, object]]:
    text = TEXT.split("```json\n")[1].split("```")[0]
    document = msgspec.json.decode(text)
    return list(document["Statement"])


def _actions() -> set[str]:
    found: set[str] = set()
    for statement in _policy():
        actions = statement["Action"]
        found |= {actions} if isinstance(actions, str) else set(actions)  # type: ignore[call-overload]
    return found


def _called() -> set[str]:
    """Every AWS action that the code names, found by reading it."""
    found: set[str] = set()
    for folder in CALLERS:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    found |= _action_of(node)
    return found


def _action_of(call: ast.Call) -> set[str]:
    words = [a.value for a in call.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("call", "pages", "each_page") and len(words) == 2:
        return {f"{words[0]}:{_camel(words[1])}"}
    service = {"_described": "ec2", "_every": "savingsplans"}.get(name)
    return {f"{service}:{_camel(words[0])}"} if service and words else set()


def _camel(operation: str) -> str:
    name = "".join(part.capitalize() for part in operation.split("_"))
    assert xform_name(name) == operation
    return name


def test_the_policy_allows_what_is_called_and_nothing_else() -> None:
    assert _actions() - set(IMPLIED) == {BATCHES.get(action, action) for action in _called()}
    assert set(IMPLIED) <= _actions()


def test_whatever_changes_something_is_bound_to_the_clusters_tag_or_to_a_name() -> None:
    for statement in _policy():
        resources = statement["Resource"]
        everything = resources == "*"
        reads = statement["Sid"] in ("Read", "ReadImageParameters")
        assert not everything or reads
        named = statement["Sid"] in ("KeepProfilesForRoles", "LaunchFromWhatIsThere", "HearOfInterruptions")
        assert reads or named or "Condition" in statement

"""The chart under `deploy/chart`, rendered without Helm: for the stand's service accounts and rights, and for tests.

It understands the few constructs that the chart keeps to: values (`{{ .Values.a.b }}`, `.Release`, `.Chart`) with
`quote`, `toJson`, `default` and `required`, and `if` blocks over a value, `not` or `eq`, each on a line of its own.
Anything else is an error that names file and line, so that the chart cannot grow beyond what is tested here.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from nodeyard.local.binaries import source_root
from nodeyard.local.errors import StandError

NAMESPACE: Final = "nodeyard"
_ACTION: Final = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")
_BLOCK: Final = re.compile(r"^\s*\{\{-?\s*(if\b.*?|end)\s*-?\}\}\s*$")
_WORD: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\||[^\s|"]+')


class ChartError(StandError):
    """A chart that can't be rendered; the message says where and why."""


def chart_root() -> Path:
    """The chart's directory in the source tree."""
    return source_root() / "deploy" / "chart"


def render(
    namespace: str = NAMESPACE,
    *,
    values: Mapping[str, Any] | None = None,
    release: str = "nodeyard",
    files: str = "*.yaml",
    chart: Path | None = None,
) -> list[dict[str, Any]]:
    """The chart's objects, in the order of its files. `values` overrides the chart's own, key by key.

    `files` is a pattern of template names. Raises ChartError.
    """
    root = chart or chart_root()
    scope = _scope(root, namespace, release, values or {})
    found: list[dict[str, Any]] = []
    for path in sorted((root / "templates").glob(files)):
        text = _render(path.read_text(), path.name, scope)
        try:
            documents = list(yaml.safe_load_all(text))
        except yaml.YAMLError as error:
            raise ChartError(f"{path.name}: what it renders to is not YAML: {error}") from error
        found += [document for document in documents if document is not None]
    return found


def render_rbac(
    namespace: str = NAMESPACE,
    *,
    placement_mode: str = "nominate",
    reallocator: Mapping[str, bool] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Service accounts, roles and bindings of the services, exactly as the chart installs them. `reallocator`: its
    values that rights hang on (`bindReturningPods`, `surge`, `markLeavingPods`) where they are not the chart's own.
    """
    values = {"placementMode": placement_mode, "reallocator": dict(reallocator)}
    return render(namespace, values=values, files="rbac-*.yaml")


def _scope(root: Path, namespace: str, release: str, values: Mapping[str, Any]) -> dict[str, Any]:
    about = yaml.safe_load((root / "Chart.yaml").read_text())
    own = yaml.safe_load((root / "values.yaml").read_text())
    return {
        "Values": _merged(own, values, "values"),
        "Release": {"Name": release, "Namespace": namespace, "Service": "Helm"},
        "Chart": {"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]},
    }


def _merged(own: Mapping[str, Any], over: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`own` with `over` laid on it. Maps that are empty in the chart are open; other keys must be known."""
    merged = copy.deepcopy(dict(own))
    for key, value in over.items():
        if own and key not in own:
            raise ChartError(f"{where}.{key}: the chart has no such value")
        if isinstance(value, Mapping) and isinstance(own.get(key), Mapping):
            merged[key] = _merged(own[key], value, f"{where}.{key}")
        else:
            merged[key] = value
    return merged


def _render(text: str, name: str, scope: Mapping[str, Any]) -> str:
    out: list[str] = []
    open_blocks: list[bool] = []
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name}:{number}"
        block = _BLOCK.match(line)
        if block is None:
            if all(open_blocks):
                out.append(_ACTION.sub(lambda found: _text(_value(found[1], scope, where)), line))  # noqa: B023
        elif block[1] == "end":
            if not open_blocks:
                raise ChartError(f"{where}: an end without an if")
            open_blocks.pop()
        else:
            open_blocks.append(all(open_blocks) and _holds(block[1].removeprefix("if").strip(), scope, where))
    if open_blocks:
        raise ChartError(f"{name}: an if without its end")
    return "\n".join(out) + "\n"


def _holds(condition: str, scope: Mapping[str, Any], where: str) -> bool:
    words = _WORD.findall(condition)
    if words[:1] == ["not"] and len(words) == 2:
        return not _operand(words[1], scope, where)
    if words[:1] == ["eq"] and len(words) == 3:
        return bool(_operand(words[1], scope, where) == _operand(words[2], scope, where))
    if len(words) == 1:
        return bool(_operand(words[0], scope, where))
    raise ChartError(f"{where}: the condition {condition!r} is not understood")


def _value(action: str, scope: Mapping[str, Any], where: str) -> Any:
    words = _WORD.findall(action)
    head, filters = _split(words)
    if head[:1] == ["required"] and len(head) == 3:
        value = _operand(head[2], scope, where)
        if not value:
            raise ChartError(f"{where}: {_operand(head[1], scope, where)}")
    elif len(head) == 1:
        value = _operand(head[0], scope, where)
    else:
        raise ChartError(f"{where}: {action!r} is not understood")
    for part in filters:
        value = _filtered(value, part, scope, where)
    return value


def _split(words: list[str]) -> tuple[list[str], list[list[str]]]:
    """The words before the first bar, and those of each filter after it."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts[0], parts[1:]


def _filtered(value: Any, part: list[str], scope: Mapping[str, Any], where: str) -> Any:
    if part in (["quote"], ["toJson"]):
        return json.dumps(_text(value) if part == ["quote"] else value)
    if part[:1] == ["default"] and len(part) == 2:
        return value or _operand(part[1], scope, where)
    raise ChartError(f"{where}: the filter {' '.join(part)!r} is not understood")


def _operand(word: str, scope: Mapping[str, Any], where: str) -> Any:
    if word.startswith('"'):
        return json.loads(word)
    if not word.startswith("."):
        raise ChartError(f"{where}: {word!r} is not understood")
    value: Any = scope
    for key in word[1:].split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise ChartError(f"{where}: {word} is not a value of the chart")
        value = value[key]
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)

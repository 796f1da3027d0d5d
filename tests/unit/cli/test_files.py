"""Objects from files: every form that people write them in, and complaints that say where."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeyard.cli.files import InputError, read_catalogue_file, read_objects

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "x"}}
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}


def names(paths: list[str]) -> list[str]:
    return [f"{f.object['kind']} {f.object['metadata']['name']}" for f in read_objects(paths)]


def written(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"kind": "List", "items": [POD, NODE]}),
        json.dumps([POD, NODE]),
        json.dumps(POD) + "\n" + json.dumps(NODE).replace("}", "} "),
        "kind: Pod\nmetadata: {name: a, namespace: x}\n---\n---\n# nothing\n---\nkind: Node\nmetadata: {name: n}\n",
        json.dumps({"kind": "List", "items": [{"kind": "List", "items": [POD]}, NODE]}),
        json.dumps({"items": [POD, NODE]}),
    ],
    ids=["list", "array", "json documents", "yaml documents", "nested lists", "list without a kind"],
)
def test_all_forms_give_the_same_objects(text: str, tmp_path: Path) -> None:
    if text.startswith('{"apiVersion"'):
        text = text.replace("\n", "\n---\n")
    assert names([written(tmp_path, "objects", text)]) == ["Pod a", "Node n"]


def test_items_of_one_kinds_list_take_its_kind(tmp_path: Path) -> None:
    bare = {"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "a"}}]}
    (found,) = read_objects([written(tmp_path, "pods.json", json.dumps(bare))])
    assert found.object == {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}


def test_an_empty_list_holds_nothing(tmp_path: Path) -> None:
    assert read_objects([written(tmp_path, "none.yaml", "kind: List\nitems:\n")]) == []


def test_a_folder_gives_its_files_in_order_and_zipped_ones_are_unpacked(tmp_path: Path) -> None:
    written(tmp_path, "2.json", json.dumps(NODE))
    written(tmp_path, "1.yaml.gz", gzip.compress(json.dumps(POD).encode()))
    written(tmp_path, "notes.txt", "not an object")
    assert names([str(tmp_path)]) == ["Pod a", "Node n"]


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(json.dumps(POD).encode())))
    assert names(["-"]) == ["Pod a"]


def test_dates_stay_strings(tmp_path: Path) -> None:
    text = "kind: Pod\nmetadata: {name: a, creationTimestamp: 2026-08-01T10:00:00Z}\n"
    (found,) = read_objects([written(tmp_path, "a.yaml", text)])
    assert found.object["metadata"]["creationTimestamp"] == "2026-08-01T10:00:00Z"


def test_an_object_that_stands_there_twice_is_refused_with_both_files(tmp_path: Path) -> None:
    first, second = (written(tmp_path, name, json.dumps(POD)) for name in ("1.json", "2.json"))
    with pytest.raises(InputError, match=r"2\.json: Pod x/a: stands there twice, first in .*1\.json"):
        read_objects([first, second])


def test_the_same_name_in_another_namespace_or_kind_is_another_object(tmp_path: Path) -> None:
    other: list[dict[str, Any]] = [
        {**POD, "metadata": {"name": "a", "namespace": "y"}},
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "a", "namespace": "x"}},
    ]
    assert len(read_objects([written(tmp_path, "a.json", json.dumps([POD, *other]))])) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: Pod\n  metadata: x: y", "mapping values are not allowed in this context.*line 2"),
        ("just words", "document 1: not a Kubernetes object but a string"),
        ('{"kind": "List", "items": {"a": 1}}', "document 1: items: a list is wanted, not a mapping"),
        ('{"kind": "List", "items": [1]}', "document 1, item 0: not a Kubernetes object but a number"),
        (b"\x1f\x8bnot gzip", "objects"),
        (b"\xff\xfe\x00", "objects"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_cant_be_read_is_named_with_its_place(text: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read_objects([written(tmp_path, "objects", text)])


def test_a_file_or_folder_without_anything_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent: No such file or directory"):
        read_objects([str(tmp_path / "absent")])
    with pytest.raises(InputError, match=r"no \.yaml, \.yml or \.json file in it"):
        read_objects([str(tmp_path)])


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "holds no instance type"), ('{"name": "a"}', "line 1: .*capacity"), ("{", "line 1: not JSON")],
)
def test_a_catalogue_that_cant_be_used_is_named_with_line_and_field(
    text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        read_catalogue_file(written(tmp_path, "catalogue.jsonl", text))

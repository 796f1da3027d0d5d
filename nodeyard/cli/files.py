"""Reading Kubernetes objects and catalogues from files: YAML or JSON, one document, many, or a list; gzipped too.

Every complaint names the file, and the document, line or object in it, so that the person can go there. Nothing is
guessed: an object that stands there twice is refused. Neighbour: `cluster` reads the same objects from an API server.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from nodeyard.cloudprovider.jsonl import CatalogueError, read_catalogue
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.state.manifests import subject_of

Json = dict[str, Any]
TOO_DEEP = "nested too deeply"
_SUFFIXES = (".yaml", ".yml", ".json")


class InputError(Exception):
    """Input that can't be used; the message names the file and what is wrong where."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object and the file it stands in, or the address of the cluster it was read from (`live`)."""

    object: Json
    file: str
    live: bool = False


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Kubernetes reads it: a date is a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def read_text(path: str) -> bytes:
    """The bytes of a file, `-` for standard input, unpacked where gzipped. Raises InputError."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{path}: {reason}") from error


def read_objects(paths: Iterable[str]) -> list[Found]:
    """All Kubernetes objects of these files (directories: their .yaml, .yml and .json files, gzipped ones too).

    Raises InputError, also for an object that is there twice.
    """
    found = [item for path in paths for file in _files(path) for item in _objects(file)]
    _refuse_twins(found)
    return found


def _files(path: str) -> list[str]:
    folder = Path(path)
    if path == "-" or not folder.is_dir():
        return [path]
    found = sorted(str(p) for p in folder.iterdir() if p.name.removesuffix(".gz").endswith(_SUFFIXES))
    if not found:
        raise InputError(f"{path}: no .yaml, .yml or .json file in it")
    return found


def _refuse_twins(found: Sequence[Found]) -> None:
    seen: dict[tuple[str, str, str, str], str] = {}
    for item in found:
        meta = item.object.get("metadata")
        if not isinstance(meta, dict) or not meta.get("name"):
            continue  # whoever converts it says what is missing
        group = str(item.object.get("apiVersion") or "").rpartition("/")[0]
        key = (
            group,
            str(item.object.get("kind")),
            str(meta.get("namespace") or "default"),
            str(meta["name"]),
        )
        if key in seen:
            where = f", first in {seen[key]}" if seen[key] != item.file else ""
            raise InputError(f"{item.file}: {subject_of(item.object)}: stands there twice{where}")
        seen[key] = item.file


def _objects(path: str) -> Iterator[Found]:
    for number, document in enumerate(_documents(path, read_text(path)), 1):
        if document is not None:
            yield from (Found(item, path) for item in _flat(document, f"{path}: document {number}"))


def _flat(document: Any, where: str) -> Iterator[Json]:
    """The object itself, or those of a list: `List`, or one kind's (`PodList`), whose items may leave out their kind."""
    if not isinstance(document, dict):
        raise InputError(f"{where}: not a Kubernetes object but a {_called(document)}")
    kind = document.get("kind")
    if "items" not in document or not (kind is None or str(kind).endswith("List")):
        yield document
        return
    items = document["items"]
    if items is None:
        return
    if not isinstance(items, list):
        raise InputError(f"{where}: items: a list is wanted, not a {_called(items)}")
    implied = {} if kind in (None, "List") else {"kind": str(kind).removesuffix("List")}
    if implied and document.get("apiVersion"):
        implied["apiVersion"] = str(document["apiVersion"])
    for index, item in enumerate(items):
        at = f"{where}, item {index}"
        yield from _flat({**implied, **item} if isinstance(item, dict) else item, at)


def _called(value: Any) -> str:
    names = {
        dict: "mapping",
        list: "list",
        str: "string",
        int: "number",
        float: "number",
        bool: "truth value",
    }
    return names.get(type(value), type(value).__name__)


def _documents(path: str, data: bytes) -> list[Any]:
    if data.lstrip()[:1] in (b"{", b"["):
        try:
            decoded = msgspec.json.decode(data)
            return decoded if isinstance(decoded, list) else [decoded]
        except RecursionError as error:
            raise InputError(f"{path}: {TOO_DEEP}") from error
        except msgspec.DecodeError:
            pass  # several JSON documents, or YAML in flow style: YAML reads both
    try:
        return list(yaml.load_all(data, Loader=_Loader))  # a safe loader in either case
    except RecursionError as error:
        raise InputError(f"{path}: {TOO_DEEP}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error


def read_catalogue_file(path: str) -> Catalogue:
    """The catalogue of a JSON Lines file. Raises InputError naming line and field."""
    try:
        catalogue = read_catalogue(read_text(path).splitlines(), revision=path)
    except CatalogueError as error:
        raise InputError(f"{path}: {error}") from error
    if not len(catalogue):
        raise InputError(f"{path}: holds no instance type")
    return catalogue

"""EC2's wire format, both ways, driven by botocore's model of each action.

moto reads a request by scanning every key for every member (quadratic: a CreateFleet with 180 overrides takes 200 ms)
and writes through generic serializers (DescribeInstanceTypes takes 2–3 s). Here a request is split into a tree once
and both directions run on plans compiled per shape. Source: the `ec2` protocol in Smithy's AWS documentation.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any
from xml.sax.saxutils import escape

from moto.core.parse import default_timestamp_parser
from moto.core.utils import get_service_model
from moto.ec2.exceptions import EC2ClientError

_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"

Reader = Callable[[Any], Any]
Writer = Callable[[Any], str]


@cache
def _operation(action: str) -> Any:
    return get_service_model("ec2").operation_model(action)


def parsed(action: str, form: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The request's parameters, shaped as boto3's caller gave them.

    Raises EC2ClientError (InvalidParameterValue) naming the parameter whose value has the wrong type.
    """
    shape = _operation(action).input_shape
    if shape is None:
        return {}
    tree: dict[str, Any] = {}
    for key, value in form:
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            below = node.get(part)
            if not isinstance(below, dict):
                below = node[part] = {}
            node = below
        node.setdefault(leaf, value)
    result: dict[str, Any] = _reader(shape)(tree)
    return result


def answer(action: str, result: Mapping[str, Any]) -> str:
    """The XML document for a successful answer."""
    return enveloped(action, _writer(_operation(action).output_shape)(result))


def enveloped(action: str, inner: str) -> str:
    """`inner` XML as the answer to `action`, with a request id."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{_NAMESPACE}">'
        f"<requestId>{uuid.uuid4()}</requestId>{inner}</{action}Response>"
    )


def item_writer(action: str, member: str) -> Writer:
    """Writes one element of the answer's list `member`, `<item>` included; for caching elements."""
    shape = _operation(action).output_shape.members[member].member
    write = _writer(shape)
    return lambda value: f"<item>{write(value)}</item>"


# -- reading


@cache
def _reader(shape: Any) -> Reader:
    match shape.type_name:
        case "structure":
            return _structure_reader(shape)
        case "list":
            return _list_reader(shape)
        case "integer" | "long":
            return _checked(shape, int)
        case "float" | "double":
            return _checked(shape, float)
        case "boolean":
            return lambda text: str(text).lower() == "true"
        case "timestamp":
            return _checked(shape, default_timestamp_parser)
        case "blob":
            return _checked(shape, base64.b64decode)
    return lambda text: text


def _checked(shape: Any, read: Callable[[str], Any]) -> Reader:
    def reader(text: Any) -> Any:
        try:
            return read(text)
        except (ValueError, TypeError) as error:
            raise EC2ClientError(
                "InvalidParameterValue", f"Value ({text}) for {shape.name} is invalid."
            ) from error

    return reader


def _structure_reader(shape: Any) -> Reader:
    plan: list[tuple[str, str, Any]] = []

    def reader(tree: Any) -> dict[str, Any]:
        if not plan:
            plan.extend((_request_name(member, name), name, member) for name, member in shape.members.items())
        if not isinstance(tree, dict):
            return {}
        return {name: _reader(member)(tree[wire]) for wire, name, member in plan if wire in tree}

    return reader


def _list_reader(shape: Any) -> Reader:
    member = shape.member

    def reader(tree: Any) -> list[Any]:
        if not isinstance(tree, dict):
            return []
        read = _reader(member)
        return [read(tree[key]) for key in sorted((k for k in tree if k.isdigit()), key=int)]

    return reader


def _request_name(shape: Any, default: str) -> str:
    if "queryName" in shape.serialization:
        return str(shape.serialization["queryName"])
    name = str(shape.serialization.get("name", default))
    return name[0].upper() + name[1:]


# -- writing


@cache
def _writer(shape: Any) -> Writer:
    match shape.type_name:
        case "structure":
            return _structure_writer(shape)
        case "list":
            return _list_writer(shape)
        case "boolean":
            return lambda value: "true" if value else "false"
        case "timestamp":
            return _timestamp
        case "blob":
            return lambda value: base64.b64encode(value).decode()
        case "string":
            return lambda value: escape(str(value))
    return str


def _timestamp(value: Any) -> str:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"
    return str(value)


def _structure_writer(shape: Any) -> Writer:
    plan: dict[str, tuple[str, Writer]] = {}

    def writer(value: Mapping[str, Any]) -> str:
        if not plan:
            for name, member in shape.members.items():
                plan[name] = (str(member.serialization.get("name", name)), _writer(member))
        parts = []
        for name, found in value.items():
            if found is not None and name in plan:
                tag, write = plan[name]
                parts.append(f"<{tag}>{write(found)}</{tag}>")
        return "".join(parts)

    return writer


def _list_writer(shape: Any) -> Writer:
    member = shape.member

    def writer(values: Iterable[Any]) -> str:
        write = _writer(member)
        return "".join(f"<item>{write(value)}</item>" for value in values)

    return writer

"""The one HTTP port: a WSGI application that lets each AWS call meet its faults, answers it and enters it in the log.

EC2, Pricing and ARC's zonal shift are answered here; SSM, SQS, IAM and STS go on to moto's own applications; `/healthz` and `/dials` go
to the board. An error is worded in the protocol of its service. A connection is cut by shutting its socket, after the
effect took place, which is what a client sees when a load balancer dies. Neighbours: `server` runs it.
"""

from __future__ import annotations

import io
import json
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import structlog
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from nodeyard.local.account import catalogue, products
from nodeyard.local.account.account import Account
from nodeyard.local.account.board import Board
from nodeyard.local.account.ec2 import ServerRequest, mended
from nodeyard.local.account.faults import Faults

log = structlog.get_logger(__name__)

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_ZONAL_SHIFT = "arc-zonal-shift"
_MAX_BODY = 16 * 1024 * 1024


@dataclass
class Call:
    """One request, read. `service` is the signing name: ec2, pricing, ssm, sqs, iam, sts, arc-zonal-shift."""

    service: str
    region: str
    action: str
    json_protocol: bool
    body: bytes


@dataclass
class Answer:
    """What goes back."""

    status: int
    body: bytes
    content_type: str
    error: str | None = None
    facts: dict[str, Any] | None = None


class Front:
    """The WSGI application over one account."""

    def __init__(self, account: Account, board: Board) -> None:
        self._account = account
        self._board = board
        self._faults = Faults(account.dials)
        self._ec2 = mended(account)
        self._others = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        body = _read(environ)
        if path == "/healthz" or path == "/dials" or path.startswith("/dials/"):
            status, document = self._board.answer(
                environ["REQUEST_METHOD"], path, environ.get("QUERY_STRING", ""), body
            )
            return _send(start_response, Answer(status, document, "application/json"))
        call = _call(environ, body)
        if call is None:
            text = "Not an AWS request (no signature), nor /healthz or /dials.\n"
            return _send(start_response, Answer(400, text.encode(), "text/plain"))
        return _send(start_response, self._meet(call, environ))

    def _meet(self, call: Call, environ: dict[str, Any]) -> Answer:
        arrived, started = self._account.clock(), time.monotonic()
        verdict = self._faults.meet(call.service, call.action, started)
        if verdict.wait_seconds:
            time.sleep(verdict.wait_seconds)
        if verdict.refusal is not None:
            refusal = verdict.refusal
            found = _refused(call, refusal.code, refusal.message, refusal.status)
        else:
            found = self._answered(call, environ)
        self._account.calls.add(
            at=arrived,
            seconds=round(time.monotonic() - started, 6),
            service=call.service,
            action=call.action,
            status=0 if verdict.cut_after else found.status,
            error="ConnectionCut" if verdict.cut_after else found.error,
            facts=found.facts or {},
        )
        if verdict.cut_after:
            _cut(environ)
        return found

    def _answered(self, call: Call, environ: dict[str, Any]) -> Answer:
        try:
            if call.service == "ec2":
                return self._ec2_answer(environ)
            if call.service == "pricing":
                return _pricing(call)
            if call.service == _ZONAL_SHIFT:
                return self._zonal_shift(call)
            return self._other(call, environ)
        except NotImplementedError as error:
            return _refused(call, "UnsupportedOperation", f"Not simulated: {error}", 400)
        except Exception as error:
            log.exception("an AWS call could not be answered", service=call.service, action=call.action)
            return _refused(call, "InternalError", f"{type(error).__name__}: {error}", 500)

    def _ec2_answer(self, environ: dict[str, Any]) -> Answer:
        handler = self._ec2()
        with self._account.lock:
            status, _, text = handler._dispatch(ServerRequest(environ))
        body = text.encode() if isinstance(text, str) else bytes(text)
        error = _error_code(body) if int(status) >= 400 else None
        return Answer(int(status), body, "text/xml;charset=UTF-8", error, handler.facts)

    def _zonal_shift(self, call: Call) -> Answer:
        """Whatever resource is asked about: the weight of each zone by the dial."""
        if call.action != "GetManagedResource":
            raise NotImplementedError(call.action or "an action of ARC's")
        zones = [zone.zone_id for zone in RegionsAndZonesBackend.zones.get(call.region, [])]
        weights = {zone: 0.0 if zone in self._account.dials.shifted else 1.0 for zone in zones}
        body = json.dumps({"appliedWeights": weights, "zonalShifts": []})
        return Answer(200, body.encode(), "application/json")

    def _other(self, call: Call, environ: dict[str, Any]) -> Answer:
        """moto's own application. SQS waits inside (long polls), so it may not hold the account's lock."""
        caught: dict[str, Any] = {}

        def catch(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], object]:
            caught.update(status=int(status.split()[0]), headers=dict(headers))
            return lambda _data: None

        application = self._others.get_application(environ)
        body = b"".join(application(environ, catch))
        error = _error_code(body) if caught["status"] >= 400 else None
        kind = "application/x-amz-json-1.0" if call.json_protocol else "text/xml"
        return Answer(caught["status"], body, caught["headers"].get("Content-Type", kind), error)


def _read(environ: dict[str, Any]) -> bytes:
    """The whole body, put back for whoever reads the request next."""
    length = min(int(environ.get("CONTENT_LENGTH") or 0), _MAX_BODY)
    body: bytes = environ["wsgi.input"].read(length) if length else b""
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    return body


def _call(environ: dict[str, Any], body: bytes) -> Call | None:
    match = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    if match is None:
        return None
    if match["service"].lower() == _ZONAL_SHIFT:
        asks = environ.get("PATH_INFO", "").startswith("/managedresources/")
        return Call(_ZONAL_SHIFT, match["region"], "GetManagedResource" if asks else "", True, body)
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        action = target.rsplit(".", 1)[-1]
    else:
        text = body.decode("utf-8", "replace") or environ.get("QUERY_STRING", "")
        action = dict(parse_qsl(text)).get("Action", "")
    return Call(match["service"].lower(), match["region"], action, bool(target), body)


def _pricing(call: Call) -> Answer:
    try:
        request = json.loads(call.body or b"{}")
        result = products.answer(call.action, request, catalogue.description)
    except (ValueError, KeyError, TypeError) as error:
        return _refused(call, "InvalidParameterException", str(error), 400)
    except products.PricingError as error:
        return _refused(call, error.code, str(error), 400)
    return Answer(200, json.dumps(result).encode(), "application/x-amz-json-1.1")


def _refused(call: Call, code: str, message: str, status: int) -> Answer:
    if call.json_protocol:
        body = json.dumps({"__type": code, "message": message})
        return Answer(status, body.encode(), "application/x-amz-json-1.1", code)
    error = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    request_id = uuid.uuid4()
    if call.service == "ec2":
        body = (
            f"<Response><Errors><Error>{error}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
        )
    else:
        body = f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    return Answer(status, body.encode(), "text/xml;charset=UTF-8", code)


def _error_code(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    found = _CODE.search(text)
    if found:
        return found.group(1)
    try:
        return str(json.loads(text).get("__type", "Error")).rsplit("#", 1)[-1]
    except (ValueError, AttributeError):
        return "Error"


def _cut(environ: dict[str, Any]) -> None:
    connection = environ.get("werkzeug.socket")
    if connection is not None:
        connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("cut by a dial")


def _send(start_response: StartResponse, answer: Answer) -> Iterable[bytes]:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("x-amzn-RequestId", str(uuid.uuid4())),
    ]
    start_response(f"{answer.status} {'OK' if answer.status < 400 else 'Error'}", headers)
    return [answer.body]

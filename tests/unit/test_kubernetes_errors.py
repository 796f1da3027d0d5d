"""Answers of the API server become the right errors, also when they are cut short or are not the API server's."""

import json

import pytest

from nodeyard.adapters.kubernetes import errors
from nodeyard.adapters.kubernetes.errors import KubernetesError, TooManyRequests, error_of


def status(code: int, reason: str, message: str = "no", **details: object) -> bytes:
    return json.dumps(
        {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
    ).encode()


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", errors.NotFound),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (410, "Expired", errors.Gone),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (504, "Timeout", errors.Unavailable),
        (500, "InternalError", errors.Unavailable),
        (503, "", errors.Unavailable),
        (400, "BadRequest", KubernetesError),
    ],
)
def test_each_answer_has_its_error(code: int, reason: str, kind: type[KubernetesError]) -> None:
    error = error_of(code, status(code, reason), where="GET /x")
    assert type(error) is kind
    assert (error.status, error.message, str(error)) == (code, "no", "GET /x: no")


@pytest.mark.parametrize(
    ("field", "kind"), [("metadata.uid", errors.Conflict), ("spec.containers", errors.Invalid)]
)
def test_a_patch_for_an_object_made_anew_is_a_conflict(field: str, kind: type[KubernetesError]) -> None:
    """The API server calls another UID in a patch an invalid change of an immutable field."""
    causes = [{"reason": "FieldValueInvalid", "message": "field is immutable", "field": field}]
    assert type(error_of(422, status(422, "Invalid", causes=causes), where="PATCH /x")) is kind


def test_an_answer_that_is_no_status_object_is_quoted() -> None:
    error = error_of(502, b"<html>Bad Gateway</html>", where="GET /x")
    assert isinstance(error, errors.Unavailable)
    assert error.message == "<html>Bad Gateway</html>"


def test_an_error_event_of_a_watch_brings_its_own_status() -> None:
    error = error_of(0, status(410, "Expired", "too old"), where="WATCH /x")
    assert isinstance(error, errors.Gone)
    assert error.status == 410


def test_a_status_object_without_its_kind_is_understood() -> None:
    body = b'{"metadata":{},"status":"Failure","message":"did not complete","reason":"Timeout","code":504}'
    assert error_of(504, body, where="x").message == "did not complete"


@pytest.mark.parametrize(
    ("header", "details", "seconds"),
    [("7", {}, 7.0), ("", {"retryAfterSeconds": 3}, 3.0), ("soon", {}, 1.0), ("", {}, 1.0)],
)
def test_throttling_says_how_long_to_wait(header: str, details: dict[str, object], seconds: float) -> None:
    error = error_of(429, status(429, "TooManyRequests", **details), where="x", retry_after=header)
    assert isinstance(error, TooManyRequests)
    assert error.retry_after_s == seconds


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    retryable = {
        code
        for code in (400, 401, 403, 404, 409, 410, 422, 429, 500, 503)
        if error_of(code, b"", where="x").retryable
    }
    assert retryable == {410, 429, 500, 503}

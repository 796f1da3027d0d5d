"""What can go wrong at the API server, translated once from its answers by table.

A `KubernetesError` carries the Status object's reason and message; the subclasses are the ones that somebody
handles. Source: Kubernetes API conventions, "HTTP Status codes"; apimachinery `metav1.StatusReason`.
"""

from typing import Any, Final

import msgspec


class KubernetesError(Exception):
    """The API server refused. `status`: HTTP code, 0 where there was no answer; `reason`: Kubernetes' word;
    `details`: the Status object's details.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        *,
        where: str = "",
    ) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.where = where
        """Method and path."""

    @property
    def retryable(self) -> bool:
        """The same request may succeed later, unchanged."""
        return False


class NotFound(KubernetesError):
    """No such object, or no such resource (its CRD is not installed)."""


class AlreadyExists(KubernetesError):
    """An object of that name is there."""


class Conflict(KubernetesError):
    """The object changed since it was read, or a precondition does not hold."""


class Gone(KubernetesError):
    """The resourceVersion or continue token is too old."""

    @property
    def retryable(self) -> bool:
        return True


class Unauthorized(KubernetesError):
    """The credentials are not valid (any more)."""


class Forbidden(KubernetesError):
    """RBAC or admission does not allow it."""


class Invalid(KubernetesError):
    """The object is not valid; the message says which field."""


class TooManyRequests(KubernetesError):
    """Throttled, or a disruption budget refuses an eviction. `retry_after_s`: how long the server asks to wait."""

    retry_after_s: float = 1.0

    @property
    def retryable(self) -> bool:
        return True


class Unavailable(KubernetesError):
    """No answer, or one that says the server can't serve now. A write may have been done all the same."""

    @property
    def retryable(self) -> bool:
        return True


class BadConfiguration(KubernetesError):
    """The kubeconfig (or the pod's service account) can't be used."""


class _StatusObject(msgspec.Struct):
    kind: str = ""
    reason: str | None = None
    message: str | None = None
    code: int | None = None
    details: dict[str, Any] | None = None


_BY_REASON: Final[dict[str, type[KubernetesError]]] = {
    "AlreadyExists": AlreadyExists,
    "Conflict": Conflict,
    "NotFound": NotFound,
    "Gone": Gone,
    "Expired": Gone,
    "Unauthorized": Unauthorized,
    "Forbidden": Forbidden,
    "Invalid": Invalid,
    "TooManyRequests": TooManyRequests,
    "ServerTimeout": Unavailable,
    "Timeout": Unavailable,
    "ServiceUnavailable": Unavailable,
    "InternalError": Unavailable,
}
_BY_STATUS: Final[dict[int, type[KubernetesError]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}
_status_decoder: Final = msgspec.json.Decoder(_StatusObject)


def error_of(status: int, body: bytes, *, where: str, retry_after: str = "") -> KubernetesError:
    """The error that an answer of `status` with `body` (a Status object, or anything) means.

    `where`: method and path; `retry_after`: that header, in seconds.
    """
    try:
        said = _status_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = _StatusObject()
    if said.kind != "Status" and not said.reason:  # a server that gives up in the middle leaves the kind out
        said = _StatusObject(message=body[:300].decode(errors="replace").strip())
    # An ERROR event of a watch comes without an HTTP status of its own.
    status = status if status >= 400 else (said.code or status)
    kind = _BY_REASON.get(said.reason or "") or _BY_STATUS.get(status)
    if kind is None:
        kind = Unavailable if status >= 500 else KubernetesError
    if kind is Invalid and _another_uid(said.details):
        kind = Conflict  # how a patch with the UID of an object that was made anew is refused
    message = said.message or f"answered {status}"
    error = kind(status, said.reason or "", message, said.details, where=where)
    if isinstance(error, TooManyRequests):
        error.retry_after_s = _seconds(retry_after, error.details)
    return error


def _another_uid(details: dict[str, Any] | None) -> bool:
    causes = (details or {}).get("causes") or []
    return any(cause.get("field") == "metadata.uid" for cause in causes if isinstance(cause, dict))


def _seconds(header: str, details: dict[str, Any]) -> float:
    asked = header or details.get("retryAfterSeconds") or 1.0
    try:
        return max(0.0, float(asked))
    except (TypeError, ValueError):
        return 1.0

"""How a cloud says no: the tree that every provider's errors are translated into, once, at its edge.

`retryable` says whether the very same request may be sent again and succeed by itself; `may_have_taken_effect`
whether the outcome is unknown, so that the request must be repeated with the same token or looked up before anything
else is bought. Who meets which error does what is in the documentation of the service that meets it.
"""

from collections.abc import Sequence
from typing import ClassVar

from nodeyard.cloudprovider.refusals import Refusal


class CloudError(Exception):
    """Base. `code` is the cloud's own error code, `operation` the call that met it (e.g. "ec2:CreateFleet")."""

    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, code: str = "", operation: str = "", may_have_taken_effect: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.operation = operation
        self.may_have_taken_effect = may_have_taken_effect

    def __str__(self) -> str:
        where = f"{self.operation}: " if self.operation else ""
        what = f" ({self.code})" if self.code else ""
        return f"{where}{self.message}{what}"


class InsufficientCapacity(CloudError):
    """None of the offerings asked for can be had now; `refusals` says which, so that others are tried."""

    def __init__(
        self, refusals: Sequence[Refusal] = (), message: str = "", *, code: str = "", operation: str = ""
    ) -> None:
        text = message or f"no capacity in any of {len(refusals)} offerings"
        super().__init__(text, code=code or (refusals[0].code if refusals else ""), operation=operation)
        self.refusals = tuple(refusals)


class Throttled(CloudError):
    """Too many requests; the call had no effect. The session has already waited and repeated it several times."""

    retryable = True


class Unauthorized(CloudError):
    """The account's permissions do not allow `action`, or the credentials are missing, expired or wrong."""

    def __init__(self, action: str, message: str = "", *, code: str = "", operation: str = "") -> None:
        super().__init__(message or f"no permission for {action}", code=code, operation=operation or action)
        self.action = action


class NotFound(CloudError):
    """The object named in the request does not exist (any more)."""


class Conflict(CloudError):
    """The object exists already, or its state forbids the change."""


class IdempotencyMismatch(Conflict):
    """The client token was used before with other parameters: the earlier request may have taken effect."""

    def __init__(self, message: str, *, code: str = "", operation: str = "") -> None:
        super().__init__(message, code=code, operation=operation, may_have_taken_effect=True)


class InvalidRequest(CloudError):
    """The request can never succeed as it is; a person or another request is needed."""


class Unreachable(CloudError):
    """No answer, or a failure on the cloud's side. Look at `may_have_taken_effect` before doing anything else."""

    retryable = True


class NodeClassNotReady(CloudError):
    """The node class lacks something that launching needs (`reason`): subnets, images, a profile."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason, code=reason)
        self.reason = reason

"""EC2's, IAM's, SSM's, SQS's and Pricing's error codes -> our error tree, once, by table.

Codes are matched whole first, then by ending or beginning; an unknown code of a 5xx answer is Unreachable, any other
unknown one InvalidRequest, because repeating what AWS does not want would loop. The cause is kept (`__cause__`).
Source: EC2 API reference, "Error codes"; botocore's exceptions.
"""

from typing import Final

from botocore import exceptions as aws

from nodeyard.cloudprovider import errors

_THROTTLED: Final = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "EC2ThrottledException",
        "BandwidthLimitExceeded",
        "SlowDown",
        "PriorRequestNotComplete",
        "LimitExceededException",
    }
)
_UNAUTHORIZED: Final = frozenset(
    {
        "UnauthorizedOperation",
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "AuthorizationError",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "ExpiredToken",
        "ExpiredTokenException",
        "SignatureDoesNotMatch",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "NotAuthorized",
        "OptInRequired",
        "Blocked",
    }
)
CAPACITY_CODES: Final = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
        "InsufficientFreeAddressesInSubnet",
        "InsufficientCapacityOnOutpost",
        "ReservationCapacityExceeded",
        "InvalidCapacityReservationState",
        "InvalidCapacityReservationId.NotFound",
        "UnfulfillableCapacity",
        "MaxSpotInstanceCountExceeded",
        "MaxSpotFleetRequestCountExceeded",
        "SpotMaxPriceTooLow",
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
        "Unsupported",
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
    }
)
"""Codes, in an answer's error list too, that speak of one offering rather than of the request."""
RESERVATION_CODES: Final = frozenset(
    {
        "ReservationCapacityExceeded",
        "InvalidCapacityReservationState",
        "InvalidCapacityReservationId.NotFound",
    }
)
"""Those of a capacity reservation that is full or gone, wherever in it the instance was to be."""
_NOT_FOUND: Final = frozenset(
    {
        "ParameterNotFound",
        "NoSuchEntity",
        "NoSuchBucket",
        "NoSuchKey",
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
        "NotFoundException",
        "InvalidPlacementGroup.Unknown",
    }
)
_CONFLICT: Final = frozenset(
    {
        "EntityAlreadyExists",
        "DependencyViolation",
        "IncorrectState",
        "IncorrectInstanceState",
        "DeleteConflict",
    }
)
_UNREACHABLE: Final = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "ServiceUnavailable",
        "Unavailable",
        "RequestTimeout",
    }
)
DRY_RUN_OK: Final = "DryRunOperation"


def translated(error: Exception, operation: str) -> errors.CloudError:
    """Our error for what botocore raised while `operation` (e.g. "ec2:CreateFleet") was called."""
    if isinstance(error, aws.ClientError):
        return _answered(error, operation)
    if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError | aws.TokenRetrievalError):
        return errors.Unauthorized(operation, str(error), code=type(error).__name__)
    if isinstance(error, aws.EndpointConnectionError | aws.ConnectTimeoutError | aws.ProxyConnectionError):
        return errors.Unreachable(str(error), code=type(error).__name__, operation=operation)
    if isinstance(error, aws.HTTPClientError):
        return errors.Unreachable(
            str(error), code=type(error).__name__, operation=operation, may_have_taken_effect=True
        )
    return errors.InvalidRequest(str(error), code=type(error).__name__, operation=operation)


def _answered(error: aws.ClientError, operation: str) -> errors.CloudError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message", "")) or code
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in CAPACITY_CODES:
        return errors.InsufficientCapacity((), message, code=code, operation=operation)
    if code in _UNAUTHORIZED:
        return errors.Unauthorized(operation, message, code=code)
    if code == "IdempotentParameterMismatch":
        return errors.IdempotencyMismatch(message, code=code, operation=operation)
    if code in _UNREACHABLE or (status >= 500 and code not in _THROTTLED):
        return errors.Unreachable(message, code=code, operation=operation, may_have_taken_effect=True)
    return _class_of(code)(message, code=code, operation=operation)


def _class_of(code: str) -> type[errors.CloudError]:
    if code in _THROTTLED:
        return errors.Throttled
    if code in _NOT_FOUND or code.endswith((".NotFound", ".NotFoundException", "NotFound")):
        return errors.NotFound
    if code in _CONFLICT or code.endswith(
        ("AlreadyExists", "AlreadyExistsException", ".Duplicate", ".InUse")
    ):
        return errors.Conflict
    return errors.InvalidRequest

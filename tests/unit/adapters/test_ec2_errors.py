"""AWS error codes -> our error tree."""

from __future__ import annotations

import pytest
from botocore import exceptions as aws

from nodeyard.adapters.ec2.errors import translated
from nodeyard.cloudprovider import errors


def refused(code: str, status: int = 400) -> errors.CloudError:
    answer = {"Error": {"Code": code, "Message": "said AWS"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translated(aws.ClientError(answer, "CreateFleet"), "ec2:CreateFleet")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("RequestLimitExceeded", errors.Throttled),
        ("Throttling", errors.Throttled),
        ("ThrottlingException", errors.Throttled),
        ("UnauthorizedOperation", errors.Unauthorized),
        ("AccessDeniedException", errors.Unauthorized),
        ("ExpiredToken", errors.Unauthorized),
        ("InsufficientInstanceCapacity", errors.InsufficientCapacity),
        ("InsufficientFreeAddressesInSubnet", errors.InsufficientCapacity),
        ("MaxSpotInstanceCountExceeded", errors.InsufficientCapacity),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", errors.InsufficientCapacity),
        ("InvalidInstanceID.NotFound", errors.NotFound),
        ("InvalidLaunchTemplateName.NotFoundException", errors.NotFound),
        ("ParameterNotFound", errors.NotFound),
        ("NoSuchEntity", errors.NotFound),
        ("InvalidLaunchTemplateName.AlreadyExistsException", errors.Conflict),
        ("EntityAlreadyExists", errors.Conflict),
        ("IdempotentParameterMismatch", errors.IdempotencyMismatch),
        ("InvalidParameterValue", errors.InvalidRequest),
        ("MissingParameter", errors.InvalidRequest),
        ("NeverHeardOfIt", errors.InvalidRequest),
        ("InternalError", errors.Unreachable),
        ("ServiceUnavailable", errors.Unreachable),
    ],
)
def test_a_code_becomes_its_class(code: str, kind: type[errors.CloudError]) -> None:
    error = refused(code)
    assert type(error) is kind
    assert error.code == code
    assert error.operation == "ec2:CreateFleet"
    assert "said AWS" in str(error)


def test_an_unknown_failure_of_the_cloud_is_retried_and_may_have_taken_effect() -> None:
    error = refused("NeverHeardOfIt", status=503)
    assert isinstance(error, errors.Unreachable)
    assert error.retryable
    assert error.may_have_taken_effect


def test_throttling_is_retryable_and_had_no_effect_even_as_a_503() -> None:
    error = refused("RequestLimitExceeded", status=503)
    assert isinstance(error, errors.Throttled)
    assert error.retryable
    assert not error.may_have_taken_effect


@pytest.mark.parametrize(
    ("raised", "kind", "unknown"),
    [
        (aws.EndpointConnectionError(endpoint_url="http://x"), errors.Unreachable, False),
        (aws.ConnectTimeoutError(endpoint_url="http://x"), errors.Unreachable, False),
        (aws.ReadTimeoutError(endpoint_url="http://x"), errors.Unreachable, True),
        (aws.ConnectionClosedError(endpoint_url="http://x"), errors.Unreachable, True),
        (aws.NoCredentialsError(), errors.Unauthorized, False),
        (aws.ParamValidationError(report="bad"), errors.InvalidRequest, False),
    ],
)
def test_no_answer_says_whether_the_outcome_is_known(
    raised: Exception, kind: type[errors.CloudError], unknown: bool
) -> None:
    error = translated(raised, "ec2:CreateFleet")
    assert type(error) is kind
    assert error.may_have_taken_effect is unknown


def test_a_mismatched_token_means_that_the_first_request_may_have_taken_effect() -> None:
    assert refused("IdempotentParameterMismatch").may_have_taken_effect

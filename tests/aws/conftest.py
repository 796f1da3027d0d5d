"""A person's own AWS account, asked only where that is chosen (`make test-aws`): reading calls and dry runs.

Without `-m aws` these tests are left out of every run. Chosen without credentials or a region, the run ends at once
and says what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from botocore.exceptions import BotoCoreError

from nodeyard.adapters.ec2.budget import CallBudget
from nodeyard.adapters.ec2.session import Ec2Session

HERE: Final = Path(__file__).parent
_READING: Final = ("describe_", "get_", "list_")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if ours and config.option.markexpr != "aws":
        items[:] = [item for item in items if item not in ours]
        config.hook.pytest_deselected(items=ours)
    elif ours and (missing := what_is_missing()):
        pytest.exit(f"make test-aws: {missing}", returncode=2)


def what_is_missing() -> str:
    """Why AWS can't be asked; empty where it can."""
    try:
        session = boto3.Session(region_name=os.environ.get("AWS_REGION") or None)
        if session.get_credentials() is None:
            return "no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    except BotoCoreError as error:
        return f"AWS credentials can't be read: {error}"
    return "" if session.region_name else "no AWS region: set AWS_REGION"


class DryRunning(Ec2Session):
    """The session that the services have, except that what would change something is asked as a dry run of EC2's."""

    async def call(self, service: str, operation: str, **params: Any) -> dict[str, Any]:
        if not operation.startswith(_READING):
            assert service == "ec2", f"{service} has no dry runs"
            params["DryRun"] = True
        return await super().call(service, operation, **params)


@pytest.fixture
def session() -> Iterator[Ec2Session]:
    session = DryRunning(budget=CallBudget(share=0.1))
    yield session
    session.close()

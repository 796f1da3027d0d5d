"""Whether the account would let us launch by a node class, asked of EC2 without making anything.

CreateLaunchTemplate, CreateFleet and RunInstances are called as dry runs with what the class resolved to. EC2 looks at
permissions first, so only a refusal of those counts; any other answer means that we may. What was allowed is asked
again after half an hour, what was refused after ten minutes or when the class changes; no answer is asked again next
time. Neighbour: `node_class`, which makes a condition of it.
Source: EC2 API reference, "DryRun"; Karpenter documentation, "NodeClasses" (ValidationSucceeded).
"""

from collections.abc import Mapping
from typing import Any, Final

from nodeyard.adapters.ec2.launch_templates import PREFIX, tag_list, template_data
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import CloudError, Unauthorized
from nodeyard.runtime.clock import Clock

ALLOWED_S: Final = 1800.0
REFUSED_S: Final = 600.0
_SAMPLE: Final = {"amd64": "m5.large", "arm64": "m6g.large"}


class Denied(Value, frozen=True):
    """A call that the account does not let us make: a condition's reason and message."""

    reason: str
    message: str


class DryRuns:
    """Asks for one cluster, and remembers. `tags` mark what is the cluster's, as in real launches."""

    def __init__(self, session: Ec2Session, clock: Clock, *, cluster: str, tags: Mapping[str, str]) -> None:
        self._session = session
        self._clock = clock
        self._cluster = cluster
        self._tags = tag_list(tags)
        self._memory: dict[str, tuple[int, float, Denied | None]] = {}

    async def denied(self, found: NodeClass) -> Denied | None:
        """The first call that is refused; None where all are allowed, or EC2 can't be asked now. `found` is complete:
        it has subnets, groups, images and a profile.
        """
        known = self._memory.get(found.key)
        if known is not None and known[0] == found.generation and self._clock.monotonic() < known[1]:
            return known[2]
        outcome = None
        for operation, params in self._requests(found).items():
            try:
                await self._session.call("ec2", operation, DryRun=True, **params)
            except Unauthorized as error:
                outcome = Denied(f"{_named(operation)}AuthCheckFailed", str(error))
                break
            except CloudError as error:
                if error.retryable:
                    return None
        keep_s = ALLOWED_S if outcome is None else REFUSED_S
        self._memory[found.key] = (found.generation, self._clock.monotonic() + keep_s, outcome)
        return outcome

    def _requests(self, found: NodeClass) -> dict[str, dict[str, Any]]:
        """Operation -> its parameters, of the kind that a launch by the class has."""
        name = f"{PREFIX}-{self._cluster[:60]}-dry-run"
        data = template_data(found, found.images[0], Boot(self._cluster, kubelet=found.kubelet))
        arch = next((r.values[0] for r in found.images[0].requirements if r.key == keys.ARCH), "amd64")
        sample, subnet = _SAMPLE.get(arch, _SAMPLE["amd64"]), found.subnets[0].id
        template = {"LaunchTemplateName": name, "Version": "$Latest"}
        return {
            "create_launch_template": {
                "LaunchTemplateName": name, "LaunchTemplateData": data, "TagSpecifications": self._tagged("launch-template"),
            },
            "create_fleet": {
                "Type": "instant",
                "LaunchTemplateConfigs": [
                    {"LaunchTemplateSpecification": template, "Overrides": [{"InstanceType": sample, "SubnetId": subnet}]}
                ],
                "TargetCapacitySpecification": {"DefaultTargetCapacityType": "on-demand", "TotalTargetCapacity": 1},
                "TagSpecifications": self._tagged("instance", "volume", "fleet"),
            },
            "run_instances": {
                "ImageId": data["ImageId"], "InstanceType": sample, "SubnetId": subnet, "MinCount": 1, "MaxCount": 1,
                "SecurityGroupIds": [g.id for g in found.security_groups],
                "IamInstanceProfile": data["IamInstanceProfile"], "MetadataOptions": data["MetadataOptions"],
                "TagSpecifications": self._tagged("instance", "volume"),
            },
        }  # fmt: skip

    def _tagged(self, *kinds: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": self._tags} for kind in kinds]


def _named(operation: str) -> str:
    return "".join(word.capitalize() for word in operation.split("_"))

"""What a node class asks of its instances' processors, and what of it makes no sense.

Nested virtualization is a feature of few types; a class that enables it gets only those. Refuses, naming the field, a
value that EC2 does not know. Neighbour: `cloudprovider/eligibility`, which leaves the other types out.
Source: Karpenter documentation, "NodeClasses" (cpuOptions); EC2 API reference, CpuOptionsRequest.
"""

from collections.abc import Iterable
from typing import Final

from nodeyard.api.selectors import Value

ENABLED: Final = "enabled"
_VALUES: Final = ("", ENABLED, "disabled")


class CpuOptions(Value, frozen=True):
    """`nested_virtualization`: enabled, disabled, or empty for EC2's default."""

    nested_virtualization: str = ""


def cpu_problems(options: CpuOptions | None) -> Iterable[str]:
    """What is wrong with a class's options."""
    if options is not None and options.nested_virtualization not in _VALUES:
        yield f"spec.cpuOptions.nestedVirtualization: {options.nested_virtualization!r} is neither enabled nor disabled"

"""The cluster's default topology spread, out of a kube-scheduler configuration.

Only the `PodTopologySpread` plugin's `defaultConstraints` of one profile are read; they hold for pods that have no
spread of their own. Selectors are deduced from whatever selects the pod, so that the configuration must not bring any.
Source: kubernetes.io, "Pod Topology Spread Constraints", cluster-level default constraints; kubescheduler.config.k8s.io.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from nodeyard.api.reading import ConversionError, Source, read
from nodeyard.api.selectors import TopologySpreadConstraint

DEFAULT_PROFILE = "default-scheduler"
_PLUGIN = "PodTopologySpread"
_KIND = "KubeSchedulerConfiguration"


class _Plugin(msgspec.Struct, rename="camel"):
    name: str
    args: dict[str, Any] = {}


class _Profile(msgspec.Struct, rename="camel"):
    scheduler_name: str = DEFAULT_PROFILE
    plugin_config: tuple[_Plugin, ...] = ()


class _Configuration(msgspec.Struct, rename="camel"):
    kind: str = ""
    profiles: tuple[_Profile, ...] = ()


class _Args(msgspec.Struct, rename="camel"):
    default_constraints: tuple[TopologySpreadConstraint, ...] = ()
    defaulting_type: str = "System"


def default_spread_of(source: Source, profile: str = DEFAULT_PROFILE) -> tuple[TopologySpreadConstraint, ...]:
    """The default constraints of the profile (a scheduler's name); none where it names none. Raises ConversionError."""
    configuration = read(source, _Configuration)
    if configuration.kind != _KIND:
        raise ConversionError(f"kind: {configuration.kind!r} is not {_KIND}")
    for number, found in enumerate(configuration.profiles):
        if found.scheduler_name == profile:
            for index, plugin in enumerate(found.plugin_config):
                if plugin.name == _PLUGIN:
                    return _constraints(plugin.args, f"profiles[{number}].pluginConfig[{index}].args")
    return ()


def _constraints(args: Mapping[str, Any], where: str) -> tuple[TopologySpreadConstraint, ...]:
    try:
        told = read(args, _Args)
    except ConversionError as error:
        raise ConversionError(f"{where}.{error}") from error
    if told.default_constraints and told.defaulting_type != "List":
        raise ConversionError(f"{where}.defaultingType: must be List where there are defaultConstraints")
    for index, constraint in enumerate(told.default_constraints):
        at = f"{where}.defaultConstraints[{index}]"
        if constraint.label_selector is not None:
            raise ConversionError(f"{at}.labelSelector: must not be set; it is deduced")
        if constraint.match_label_keys:
            raise ConversionError(f"{at}.matchLabelKeys: must not be set")
        if constraint.max_skew < 1:
            raise ConversionError(f"{at}.maxSkew: {constraint.max_skew} is not above 0")
        if constraint.when_unsatisfiable not in ("DoNotSchedule", "ScheduleAnyway"):
            raise ConversionError(
                f"{at}.whenUnsatisfiable: {constraint.when_unsatisfiable!r} is neither DoNotSchedule nor ScheduleAnyway"
            )
    return told.default_constraints

"""The kube-scheduler's configuration as services are told of it: a file, or the document itself.

Services plan by the cluster's default topology spread, which no API tells. Neighbour: `api.scheduler_config` reads it.
"""

from pathlib import Path

import yaml

from nodeyard.api.reading import ConversionError
from nodeyard.api.scheduler_config import default_spread_of
from nodeyard.api.selectors import TopologySpreadConstraint
from nodeyard.runtime.lifecycle import StartError

_VARIABLE = "NODEYARD_SCHEDULER_CONFIG"


def default_spread_told(setting: str) -> tuple[TopologySpreadConstraint, ...]:
    """The default constraints in the file of this path, or in the JSON object that the setting is; none where it is
    empty. Raises StartError naming what is wrong.
    """
    if not setting:
        return ()
    inline = setting.lstrip().startswith("{")
    where = _VARIABLE if inline else f"{_VARIABLE}: {setting}"
    try:
        document = yaml.safe_load(setting if inline else Path(setting).read_text())
        return default_spread_of(document)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ConversionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StartError(f"{where}: {' '.join(reason.split())}") from error

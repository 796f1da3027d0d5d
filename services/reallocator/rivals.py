"""Whether Karpenter itself works on this cluster; while it does, or while that is not known, nothing is touched."""

from collections.abc import Awaitable, Callable
from typing import Final

from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.logging import get_logger

_EVERY_S: Final = 10.0

log = get_logger("services.reallocator.rivals")


class Rivals:
    """`active` gives the reason not to act, None where there is none."""

    def __init__(self, active: Callable[[], Awaitable[str | None]], clock: Clock) -> None:
        self._active = active
        self._clock = clock
        self.reason: str | None = "not looked for another autoscaler yet"

    @property
    def permitted(self) -> bool:
        """Whether we may act."""
        return self.reason is None

    async def run(self) -> None:
        """Looks every ten seconds, until cancelled; what could not be asked leaves the last answer."""
        while True:
            try:
                found = await self._active()
            except KubernetesError as error:
                log.warning("could not look for another autoscaler", error=str(error))
            else:
                if found is not None and found != self.reason:
                    log.warning("another autoscaler is at work and nothing is done here", reason=found)
                self.reason = found
            await self._clock.sleep(_EVERY_S)

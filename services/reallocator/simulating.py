"""What-if questions of people, answered by the functions that decide for real, of the cluster as it is now.

One question at a time and off the event loop, so that passes and drains are not held up; nothing is written, and
nothing of an answer is kept. Neighbours: `nodeyard.disruption.asking` (finds the answer), `servicer` (who asks).
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from nodeyard.disruption.asking import asked, question_of
from nodeyard.disruption.judgement import Clock
from nodeyard.disruption.model import Planner, View


class Simulator:
    """`view` gives the cluster as a pass would see it."""

    def __init__(self, view: Callable[[], Awaitable[View]], planner: Planner, clock: Clock) -> None:
        self._view = view
        self._planner = planner
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def answer(self, question_json: bytes) -> bytes:
        """The answer as JSON. Raises UnusableQuestion and StoreUnavailableError."""
        question = question_of(question_json)
        async with self._one_at_a_time:
            view = await self._view()
            found = await asyncio.to_thread(asked, view, question, self._planner, self._clock)
        return msgspec.json.encode(found)

"""A batch opens with its first key and closes after a pause in new keys, or at the limit."""

import asyncio

from nodeyard.runtime.batcher import Batcher
from tests.support.clock import FakeClock


async def test_a_batch_closes_one_idle_window_after_its_last_new_key() -> None:
    clock = FakeClock()
    batcher = Batcher(1.0, 10.0, clock)
    taking = asyncio.create_task(batcher.next())
    await clock.advance(5.0)
    batcher.add(["a"])
    await clock.advance(0.9)
    batcher.add(["b"])
    await clock.advance(0.9)
    assert not taking.done()
    await clock.advance(0.125)
    assert await taking == {"a", "b"}


async def test_the_same_key_twice_does_not_keep_it_open() -> None:
    clock = FakeClock()
    batcher = Batcher(1.0, 10.0, clock)
    batcher.add(["a"])
    taking = asyncio.create_task(batcher.next())
    for _ in range(7):
        await clock.advance(0.125)
        batcher.add(["a"])
    assert not taking.done()
    await clock.advance(0.125)
    assert taking.done()


async def test_a_stream_of_keys_is_cut_at_the_limit() -> None:
    clock = FakeClock()
    batcher = Batcher(1.0, 10.0, clock)
    batcher.add(["0"])
    taking = asyncio.create_task(batcher.next())
    for number in range(1, 20):
        await clock.advance(0.5)
        batcher.add([str(number)])
        if number < 20 and clock.monotonic() < 10.0:
            assert not taking.done()
    await clock.advance(0.5)
    assert len(await taking) == 20


async def test_what_came_while_the_consumer_was_busy_has_waited_enough() -> None:
    clock = FakeClock()
    batcher = Batcher(1.0, 10.0, clock)
    batcher.add(["a"])
    await clock.advance(3.0)
    taking = asyncio.create_task(batcher.next())
    await clock.advance(0.0)
    assert taking.done()


async def test_the_next_batch_starts_empty() -> None:
    clock = FakeClock()
    batcher = Batcher(0.0, 0.0, clock)
    batcher.add(["a"])
    assert await batcher.next() == {"a"}
    assert batcher.pending == 0
    batcher.add(["a"])
    assert await batcher.next() == {"a"}

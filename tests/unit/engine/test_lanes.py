"""One at a time, first come, first served, whoever leaves in between."""

import asyncio

import pytest

from protocol.errors import ErrorCode, Refused
from server.engine.lanes import Lanes

KEY = ("t", "c1")
OTHER = ("t", "c2")


async def visit(lanes: Lanes, name: str, log: list[str], leave: asyncio.Event) -> None:
    async with lanes.hold(KEY):
        log.append(name)
        await leave.wait()


async def turns() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_comes_first_is_first() -> None:
    lanes, log = Lanes(64), list[str]()
    events = [asyncio.Event() for _ in "abc"]
    tasks = [asyncio.create_task(visit(lanes, n, log, e)) for n, e in zip("abc", events, strict=True)]
    for count, event in enumerate(events, start=1):
        await turns()
        assert log == list("abc")[:count]
        event.set()
    await asyncio.gather(*tasks)


async def test_lanes_do_not_wait_for_one_another() -> None:
    lanes = Lanes(1)
    async with lanes.hold(KEY), lanes.hold(OTHER):
        pass


async def test_who_gives_up_waiting_is_passed_over() -> None:
    lanes, log = Lanes(64), list[str]()
    leave = asyncio.Event()
    first, second, third = (asyncio.create_task(visit(lanes, n, log, leave)) for n in "abc")
    await turns()
    second.cancel()
    leave.set()
    await asyncio.gather(first, third)
    assert log == ["a", "c"]
    assert second.cancelled()


async def test_who_is_cancelled_when_it_is_its_turn_lets_the_next_one_in() -> None:
    lanes, log = Lanes(64), list[str]()
    hold, leave = asyncio.Event(), asyncio.Event()
    leave.set()
    first = asyncio.create_task(visit(lanes, "a", log, hold))
    second, third = (asyncio.create_task(visit(lanes, n, log, leave)) for n in "bc")
    await turns()
    hold.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the first has left: the lane is the second's, which has not run yet
    second.cancel()
    await asyncio.wait_for(asyncio.gather(first, third), 5)
    assert log[-1] == "c"


async def test_who_is_cancelled_just_before_it_is_its_turn_is_only_cancelled() -> None:
    lanes, log = Lanes(64), list[str]()
    async with lanes.hold(KEY):
        waiting = asyncio.create_task(visit(lanes, "a", log, asyncio.Event()))
        await turns()
        waiting.cancel()  # it has not run yet when the lane is left
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert log == []


async def test_an_error_inside_leaves_the_lane() -> None:
    lanes = Lanes(1)
    with pytest.raises(RuntimeError):
        async with lanes.hold(KEY):
            raise RuntimeError
    async with lanes.hold(KEY):
        pass


async def test_a_full_lane_refuses_and_an_unbounded_stay_is_let_in() -> None:
    lanes, log = Lanes(2), list[str]()
    leave = asyncio.Event()
    tasks = [asyncio.create_task(visit(lanes, n, log, leave)) for n in "ab"]
    await turns()
    with pytest.raises(Refused) as refused:
        lanes.hold(KEY)
    assert refused.value.code is ErrorCode.OVERLOADED
    stay = lanes.hold(KEY, bounded=False)
    leave.set()
    async with stay:
        assert log == ["a", "b"]
    await asyncio.gather(*tasks)

"""What waits at the same moment goes together, and each gets its own outcome."""

import asyncio
from collections.abc import Sequence

import pytest

from storage.base import StoreUnavailable
from storage.mongo.lanes import Lane


class Work:
    """Runs groups when it is told to, and remembers them."""

    def __init__(self, *, groups: int = 1, items: int = 3, size: int = 100, linger_s: float = 0) -> None:
        self.groups: list[list[str]] = []
        self._gates: list[asyncio.Future[Exception | None]] = []
        self.lane: Lane[str, str] = Lane(self._run, groups=groups, items=items, size=size, linger_s=linger_s)

    async def _run(self, group: Sequence[str]) -> Sequence[str | Exception]:
        self.groups.append(list(group))
        gate: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._gates.append(gate)
        error = await gate
        if error is not None:
            raise error
        return [ValueError(item) if item.startswith("bad") else item.upper() for item in group]

    def submit(self, *items: str, size: int = 1) -> list[asyncio.Future[str]]:
        return [self.lane.submit(item, item[-1], size) for item in items]

    async def go_on(self, error: Exception | None = None) -> None:
        """Let the oldest group end, and everything that follows from it happen."""
        await settle()
        self._gates.pop(0).set_result(error)
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_burst_goes_together_and_what_comes_meanwhile_goes_next() -> None:
    work = Work()
    first = work.submit("a", "b")
    await settle()
    second = work.submit("c") + work.submit("d")
    await settle()
    assert work.groups == [["a", "b"]]
    await work.go_on()
    assert work.groups == [["a", "b"], ["c", "d"]]
    await work.go_on()
    assert [future.result() for future in first + second] == ["A", "B", "C", "D"]


async def test_a_group_has_its_limits() -> None:
    work = Work(items=2)
    work.submit("a", "b", "c")
    await work.go_on()
    assert work.groups == [["a", "b"], ["c"]]
    work = Work(size=10)
    work.submit("a", "b", "c", size=6)
    for _ in range(2):
        await work.go_on()
    assert work.groups == [["a"], ["b"], ["c"]]


async def test_what_is_larger_than_a_group_goes_alone() -> None:
    work = Work(size=10)
    work.submit("a", size=50)
    work.submit("b", size=1)
    await work.go_on()
    assert work.groups == [["a"], ["b"]]


async def test_two_of_one_key_are_never_in_one_group_and_keep_their_order() -> None:
    work = Work()
    work.submit("1a", "2a", "1b", "3a")
    for _ in range(2):
        await work.go_on()
    assert work.groups == [["1a", "1b"], ["2a"], ["3a"]]


async def test_several_groups_are_under_way_at_once() -> None:
    work = Work(groups=2, items=1)
    work.submit("a", "b", "c")
    await settle()
    assert work.groups == [["a"], ["b"]]
    await work.go_on()
    assert work.groups == [["a"], ["b"], ["c"]]


async def test_each_gets_its_own_outcome_and_what_a_group_raises_all_get() -> None:
    work = Work()
    good, bad = work.submit("a", "bad")
    await work.go_on()
    assert good.result() == "A"
    assert isinstance(bad.exception(), ValueError)
    both = work.submit("b", "c")
    await work.go_on(ConnectionError())
    assert all(isinstance(future.exception(), ConnectionError) for future in both)
    (after,) = work.submit("d")
    await work.go_on()
    assert after.result() == "D"


async def test_who_no_longer_waits_changes_nothing() -> None:
    work = Work()
    gone, there = work.submit("a", "b")
    await settle()
    gone.cancel()
    await work.go_on()
    assert there.result() == "B"


async def test_what_has_no_turn_by_its_deadline_is_not_run() -> None:
    work = Work(items=1)
    work.submit("a")
    await settle()
    now = asyncio.get_running_loop().time()
    late = work.lane.submit("b", "b", 1, deadline=now)
    timely = work.lane.submit("c", "c", 1, deadline=now + 3600)
    await work.go_on()
    assert isinstance(late.exception(), StoreUnavailable)
    await work.go_on()
    assert timely.result() == "C"
    assert work.groups == [["a"], ["c"]]
    assert work.lane.queued_bytes == 0
    last = work.lane.submit("d", "d", 1, deadline=now)
    await work.lane.drained()
    assert isinstance(last.exception(), StoreUnavailable)


async def test_a_group_lingers_until_somebody_is_in_a_hurry() -> None:
    work = Work(items=2, linger_s=3600)
    work.submit("a")
    await settle()
    work.submit("b", "c")
    await settle()
    assert work.groups == []
    work.lane.hurry()
    await settle()
    assert work.groups == [["a", "b"]]
    work.lane.hurry()  # for which there is no room yet
    await work.go_on()
    assert work.groups == [["a", "b"], ["c"]]
    work.submit("d")
    await work.go_on()  # of the group under way; the next goes with its end
    assert work.groups == [["a", "b"], ["c"], ["d"]]
    await work.go_on()
    work.submit("e")
    drained = asyncio.ensure_future(work.lane.drained())
    await work.go_on()
    await drained
    assert work.groups[-1] == ["e"]


async def test_a_group_lingers_no_longer_than_it_should() -> None:
    work = Work(linger_s=0.001)
    (told,) = work.submit("a")
    while not work.groups:
        await asyncio.sleep(0)
    await work.go_on()
    assert told.result() == "A"


async def test_drained_waits_for_all_there_is() -> None:
    work = Work(items=1)
    futures = work.submit("a", "b")
    assert work.lane.queued_bytes == 2
    drained = asyncio.ensure_future(work.lane.drained())
    await work.go_on()
    assert not drained.done()
    await work.go_on()
    await drained
    assert all(future.done() for future in futures)
    assert work.lane.queued_bytes == 0
    await work.lane.drained()


@pytest.mark.parametrize("size", [0, 3])
async def test_the_queue_knows_its_bytes(size: int) -> None:
    work = Work(items=1)
    work.submit("a", "b", "c", size=size)
    await settle()
    assert work.lane.queued_bytes == 2 * size
    for _ in range(3):
        await work.go_on()

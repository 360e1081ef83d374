"""What is due is found and done, whatever stands in the way, and nobody is kept waiting by the others."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from server.engine.sweeper import SET_ASIDE_MS, UNHURRIED_A_SECOND, Pace, Sweeper
from storage.base import Commit, Expected, StoreUnavailable
from storage.memory import MemoryStore
from storage.models import Conversation
from tests.support.world import VirtualClock

TENANT = "t"
HOUR_MS = 3_600_000


class Waker:
    """An engine that cannot wake the conversations whose id begins with ``bad``."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.asked: list[str] = []
        self.live_commits = 0
        self.overtaken = 0
        self.away = False

    async def wake(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Exception]:
        if self.away:
            return dict.fromkeys(keys, StoreUnavailable("away"))
        self.asked += [conversation_id for _, conversation_id in keys]
        for key in keys:
            if not key[1].startswith("bad"):
                await self._done(await self._store.load(*key))
        return {key: RuntimeError("a step is broken") for key in keys if key[1].startswith("bad")}

    async def _done(self, record: Conversation | None) -> None:
        assert record is not None
        revision = record.revision + 1
        awake = replace(record, revision=revision, commit_id=f"c{revision}", wake_at=None)
        await self._store.commit(Commit(Expected(record.revision, 0), awake, None))


class CountingStore(MemoryStore):
    """A memory store that counts the calls of a sweep."""

    def __init__(self, clock: Callable[[], int]) -> None:
        super().__init__(clock)
        self.calls: list[str] = []

    async def due(self, now: int, limit: int) -> Any:
        self.calls.append("due")
        return await super().due(now, limit)

    async def expire_tombstones(self, now: int, limit: int) -> int:
        self.calls.append("expire_tombstones")
        return await super().expire_tombstones(now, limit)


class Scene:
    """A store, a clock, a waker and the sweeper between them."""

    def __init__(self, *, embedded: bool = True, backlog: int = 1_000) -> None:
        self.clock = VirtualClock()
        self.store = CountingStore(self.clock.now)
        self.store.embedded = embedded
        self.waker = Waker(self.store)
        self.sweeper = Sweeper(self.store, self.clock, self.waker, backlog=backlog)

    async def put(self, conversation_id: str, due_in_ms: int, tenant_id: str = TENANT) -> None:
        record = Conversation(
            tenant_id,
            conversation_id,
            "u",
            epoch="e",
            revision=1,
            commit_id="c1",
            wake_at=self.clock.now() + due_in_ms,
        )
        await self.store.commit(Commit(Expected(None), record, None))


async def test_conversations_that_cannot_be_woken_do_not_starve_the_rest() -> None:
    scene = Scene(backlog=50)
    for number in range(50):
        await scene.put(f"bad{number}", -1_000)
    await scene.put("good", -1)
    assert await scene.sweeper.sweep() == 50
    assert "good" not in scene.waker.asked
    assert await scene.sweeper.sweep() == 1
    assert scene.waker.asked[-1] == "good"
    assert await scene.sweeper.sweep() == 0
    scene.clock.advance(SET_ASIDE_MS)
    assert await scene.sweeper.sweep() == 50


async def test_nothing_is_set_aside_for_longer_because_the_clock_was_turned_back() -> None:
    scene = Scene()
    await scene.put("bad", -2 * HOUR_MS)
    assert await scene.sweeper.sweep() == 1
    scene.clock.jump(-HOUR_MS)
    assert await scene.sweeper.sweep() == 1


async def test_what_fell_due_first_is_done_first() -> None:
    scene = Scene()
    for place in (3, 1, 4, 0, 2):
        await scene.put(f"c{place}", place - 1_000)
    assert await scene.sweeper.sweep() == 5
    assert scene.waker.asked == [f"c{place}" for place in range(5)]


async def test_tenants_take_turns() -> None:
    """One tenant's thousands do not keep another's single deadline waiting behind them."""
    scene = Scene()
    for number in range(200):
        await scene.put(f"many{number}", -2_000 + number, tenant_id="big")
    await scene.put("single", -1, tenant_id="small")
    await scene.sweeper.sweep()
    assert scene.waker.asked[:3] == ["many0", "single", "many1"]
    assert len(scene.waker.asked) == 201


async def test_instances_do_not_all_begin_at_the_same_conversation() -> None:
    """Where others sweep, too, each begins somewhere; all is done whoever does it."""
    firsts = set()
    for _ in range(20):
        scene = Scene(embedded=False)
        for number in range(100):
            await scene.put(f"c{number}", -1_000 + number)
        assert await scene.sweeper.sweep() == 100
        assert len(set(scene.waker.asked)) == 100
        firsts.add(scene.waker.asked[0])
    assert len(firsts) > 1


async def test_an_idle_sweep_is_one_read() -> None:
    scene = Scene()
    await scene.put("later", HOUR_MS)
    for _ in range(30):
        await scene.sweeper.sweep()
        scene.clock.advance(1_000)
    assert scene.store.calls.count("due") == 30
    assert scene.store.calls.count("expire_tombstones") == 1


async def rest() -> None:
    """Let everything run that needs no time to pass."""
    for _ in range(40):
        await asyncio.sleep(0)


async def test_what_comes_within_the_second_is_done_in_time() -> None:
    """The look that finds nothing due sees what will be, and the next look is then."""
    scene = Scene()
    await scene.put("soon", 300)
    await scene.sweeper.start()
    await rest()
    scene.clock.advance(299)
    await rest()
    assert scene.waker.asked == []
    scene.clock.advance(1)
    await rest()
    assert scene.waker.asked == ["soon"]
    await scene.sweeper.stop()


async def test_what_is_expected_is_done_in_time() -> None:
    scene = Scene()
    await scene.sweeper.start()
    await rest()
    await scene.put("soon", 300)
    scene.sweeper.expect(scene.clock.now() + 300)
    await rest()
    scene.clock.advance(300)
    await rest()
    assert scene.waker.asked == ["soon"]
    await scene.sweeper.stop()


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
async def test_a_clock_that_is_set_does_not_stop_the_sweeper(jump_ms: int) -> None:
    scene = Scene()
    await scene.sweeper.start()
    await rest()
    scene.clock.jump(jump_ms)
    await scene.put("soon", 500)
    scene.sweeper.expect(scene.clock.now() + 500)
    await rest()
    for _ in range(2):
        scene.clock.advance(1_000)
        await rest()
    assert scene.waker.asked == ["soon"]
    await scene.sweeper.stop()


async def test_a_store_that_is_away_ends_the_sweep_and_sets_nothing_aside() -> None:
    scene = Scene()
    await scene.put("c", -1)
    scene.waker.away = True
    with pytest.raises(StoreUnavailable):
        await scene.sweeper.sweep()
    scene.waker.away = False
    assert await scene.sweeper.sweep() == 1
    assert scene.waker.asked == ["c"]


STEADY = 16 / UNHURRIED_A_SECOND


def test_without_live_turns_there_is_no_rest() -> None:
    pace = Pace()
    pace.begin(5.0, 7)
    assert pace.rest_seconds(5.0, 16, 7) == 0
    assert pace.rest_seconds(5.001, 16, 8) > 0
    assert pace.rest_seconds(6.0, 16, 8) == 0


def test_live_turns_are_left_most_of_the_time() -> None:
    """A steady pace, and on a machine that is fast enough a share of what it does."""
    pace = Pace()
    pace.begin(0.0, 0)
    assert pace.rest_seconds(0.0, 16, 1) == pytest.approx(STEADY)
    assert pace.rest_seconds(STEADY, 16, 2) == pytest.approx(STEADY)
    assert pace.rest_seconds(1.0, 16, 40_000) == 0
    assert pace.rest_seconds(1.0, 1_000, 40_001) == pytest.approx(0.1, abs=0.06)


def test_a_rest_that_took_too_long_is_made_up_for() -> None:
    """A busy loop wakes late who sleeps, and yet the pace is kept; but a stall is not made up for."""
    pace = Pace()
    pace.begin(0.0, 0)
    pace.rest_seconds(0.0, 16, 1)
    assert pace.rest_seconds(STEADY + 0.005, 16, 2) == pytest.approx(STEADY - 0.005)
    rests = [pace.rest_seconds(60.0, 16, live) for live in range(3, 10)]
    assert rests[0] == 0
    assert rests[-1] > 0

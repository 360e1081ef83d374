"""What every bus owes: the same tests over the one in the process and the one over Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from storage.base import EventBus
from storage.memory import BusHub, MemoryBus
from storage.open import open_bus

MakeBus = Callable[[], EventBus]


class Heard(list[bytes]):
    """What a receiver got; ``until`` waits for so much."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def __call__(self, payload: bytes) -> None:
        self.append(payload)
        self._more.set()

    async def until(self, count: int) -> "Heard":
        """Return once ``count`` payloads are there."""
        async with asyncio.timeout(10):
            while len(self) < count:
                self._more.clear()
                await self._more.wait()
        return self


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.needs("redis"))])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[MakeBus]:
    """Make buses that reach each other, not yet opened; they are closed at the end."""
    made: list[EventBus] = []
    hub = BusHub()
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""

    def bus() -> EventBus:
        made.append(open_bus(url) if url else MemoryBus(hub))
        return made[-1]

    yield bus
    for each in made:
        await each.close()


async def opened(make: MakeBus) -> EventBus:
    bus = make()
    await bus.open()
    return bus


async def test_the_others_hear_what_one_publishes_and_it_does_not_itself(make: MakeBus) -> None:
    buses = [await opened(make) for _ in range(3)]
    heard = [Heard() for _ in buses]
    for bus, receiver in zip(buses, heard, strict=True):
        await bus.subscribe("parley:c:t:1", receiver)
    buses[0].publish("parley:c:t:1", b'{"v":1}')
    buses[1].publish("parley:c:t:1", b"\x00\r\nany bytes\xff")
    assert await heard[0].until(1) == [b"\x00\r\nany bytes\xff"]
    assert await heard[1].until(1) == [b'{"v":1}']
    assert sorted(await heard[2].until(2)) == [b"\x00\r\nany bytes\xff", b'{"v":1}']


async def test_only_the_channel_that_was_subscribed_to_is_heard(make: MakeBus) -> None:
    here, there = await opened(make), await opened(make)
    heard = Heard()
    await there.subscribe("parley:c:t:1", heard)
    here.publish("parley:c:t:2", b"2")
    here.publish("parley:c:t:1", b"1")
    assert await heard.until(1) == [b"1"]


async def test_what_was_left_is_heard_no_more_and_can_be_heard_again(make: MakeBus) -> None:
    here, there = await opened(make), await opened(make)
    left, stays, again = Heard(), Heard(), Heard()
    await there.subscribe("parley:c:t:1", left)
    await there.subscribe("parley:c:t:2", stays)
    await there.unsubscribe("parley:c:t:1")
    await there.unsubscribe("parley:c:t:unknown")
    here.publish("parley:c:t:1", b"1")
    here.publish("parley:c:t:2", b"2")
    assert await stays.until(1) == [b"2"]
    assert left == []
    await there.subscribe("parley:c:t:1", again)
    here.publish("parley:c:t:1", b"3")
    assert await again.until(1) == [b"3"]
    assert left == []


async def test_a_quick_leave_and_return_ends_subscribed(make: MakeBus) -> None:
    here, there = await opened(make), await opened(make)
    heard = Heard()
    for _ in range(20):
        await there.subscribe("parley:c:t:1", Heard())
        await there.unsubscribe("parley:c:t:1")
    await there.subscribe("parley:c:t:1", heard)
    here.publish("parley:c:t:1", b"1")
    assert await heard.until(1) == [b"1"]


async def test_a_channel_has_one_receiver_an_instance(make: MakeBus) -> None:
    here, there = await opened(make), await opened(make)
    first, second = Heard(), Heard()
    await there.subscribe("parley:c:t:1", first)
    await there.subscribe("parley:c:t:1", second)
    here.publish("parley:c:t:1", b"1")
    assert await second.until(1) == [b"1"]
    assert first == []


async def test_many_subscribe_at_once_and_all_hear(make: MakeBus) -> None:
    here, there = await opened(make), await opened(make)
    heard = Heard()
    await asyncio.gather(*(there.subscribe(f"parley:c:t:{n}", heard) for n in range(500)))
    for n in range(500):
        here.publish(f"parley:c:t:{n}", b"%d" % n)
    assert sorted(await heard.until(500), key=int) == [b"%d" % n for n in range(500)]


async def test_a_subscriber_that_gives_up_takes_nobody_with_it(make: MakeBus) -> None:
    here, there = await opened(make), await opened(make)
    heard = Heard()
    impatient = asyncio.create_task(there.subscribe("parley:c:t:1", heard))
    patient = asyncio.create_task(there.subscribe("parley:c:t:2", heard))
    await asyncio.sleep(0)
    impatient.cancel()
    await patient
    here.publish("parley:c:t:2", b"2")
    assert await heard.until(1) == [b"2"]


async def test_a_closed_bus_neither_publishes_nor_hears(make: MakeBus) -> None:
    here, there, third = await opened(make), await opened(make), await opened(make)
    closed, heard = Heard(), Heard()
    await there.subscribe("parley:c:t:1", closed)
    await third.subscribe("parley:c:t:1", heard)
    await there.close()
    await there.close()
    there.publish("parley:c:t:1", b"closed")
    here.publish("parley:c:t:1", b"1")
    assert await heard.until(1) == [b"1"]
    assert closed == []


async def test_what_was_published_before_closing_still_arrives(make: MakeBus) -> None:
    here, there = await opened(make), await opened(make)
    heard = Heard()
    await there.subscribe("parley:c:t:1", heard)
    here.publish("parley:c:t:1", b"last words")
    await here.close()
    assert await heard.until(1) == [b"last words"]


async def test_payloads_of_one_publisher_arrive_in_their_order(make: MakeBus) -> None:
    here, there = await opened(make), await opened(make)
    heard = Heard()
    await there.subscribe("parley:c:t:1", heard)
    for n in range(2000):
        here.publish("parley:c:t:1", b"%d" % n)
    assert await heard.until(2000) == [b"%d" % n for n in range(2000)]


async def test_an_open_bus_is_up_and_says_since_when(make: MakeBus) -> None:
    bus = await opened(make)
    health = bus.health()
    assert (health.up, health.reason) == (True, None)
    assert health.since_ms > 1_600_000_000_000


async def test_a_bus_that_was_never_away_is_never_restored(make: MakeBus) -> None:
    bus, restored = make(), list[bool]()
    await bus.open(lambda: restored.append(True))
    await bus.subscribe("parley:c:t:1", Heard())
    assert restored == []


@pytest.mark.needs("redis")
def test_it_works_on_the_event_loop_that_serves(redis_url: str) -> None:
    """uvloop's transports are not asyncio's."""

    async def talk() -> None:
        speaks, hears = open_bus(redis_url), open_bus(redis_url)
        heard = Heard()
        try:
            for bus in (speaks, hears):
                await bus.open()
                assert bus.health().up
            await hears.subscribe("parley:c:t:1", heard)
            speaks.publish("parley:c:t:1", b"hello")
            assert await heard.until(1) == [b"hello"]
        finally:
            await speaks.close()
            await hears.close()

    uvloop.run(talk())

"""The one clockwork of all connections."""

import structlog

from server.delivery.outbox import SEND_DEADLINE_MS, Outbox
from server.gateway.wheel import SLICE, Wheel
from tests.support.delivery import FakeWire, ManualTime


class Item:
    """Says when it wants to be looked at, and notes when it was."""

    def __init__(self, *next_due_ms: int | None) -> None:
        self.due_s = -1
        self.looked: list[int] = []
        self._next = list(next_due_ms)

    def tick(self, now_ms: int) -> int | None:
        self.looked.append(now_ms)
        return self._next.pop(0) if self._next else None


async def turn_until(wheel: Wheel, time: ManualTime, until_ms: int) -> None:
    while time.now < until_ms:
        time.now += 1000
        await wheel.turn()


async def test_an_item_is_looked_at_in_the_second_it_is_due() -> None:
    time = ManualTime()
    wheel, item, start = Wheel(time), Item(), time.now
    wheel.add(item, start + 3500)
    await turn_until(wheel, time, start + 10_000)
    assert item.looked == [start + 4000]


async def test_an_item_comes_back_when_it_says() -> None:
    time = ManualTime()
    start = time.now
    wheel, item = Wheel(time), Item(start + 5000, start + 5001, None)
    wheel.add(item, start + 1000)
    await turn_until(wheel, time, start + 20_000)
    assert item.looked == [start + 1000, start + 5000, start + 6000]


async def test_what_is_overdue_is_looked_at_on_the_next_turn() -> None:
    time = ManualTime()
    wheel, item = Wheel(time), Item()
    await turn_until(wheel, time, time.now + 5000)
    wheel.add(item, time.now - 3000)
    time.now += 1000
    await wheel.turn()
    assert item.looked == [time.now]


async def test_seconds_that_were_slept_through_are_made_up_for() -> None:
    time = ManualTime()
    wheel, items = Wheel(time), [Item() for _ in range(5)]
    for number, item in enumerate(items):
        wheel.add(item, time.now + 1000 * number)
    time.now += 60_000
    await wheel.turn()
    assert [item.looked for item in items] == [[time.now]] * 5


async def test_adding_again_moves_an_item_and_removing_forgets_it() -> None:
    time = ManualTime()
    start = time.now
    wheel, moved, removed = Wheel(time), Item(), Item()
    for item in (moved, removed):
        wheel.add(item, start + 2000)
    wheel.add(moved, start + 5000)
    wheel.remove(removed)
    wheel.remove(removed)
    await turn_until(wheel, time, start + 10_000)
    assert moved.looked == [start + 5000]
    assert removed.looked == []


async def test_many_items_in_one_second_are_all_looked_at() -> None:
    time = ManualTime()
    wheel, items = Wheel(time), [Item() for _ in range(3 * SLICE)]
    for item in items:
        wheel.add(item, time.now + 1000)
    time.now += 1000
    await wheel.turn()
    assert all(len(item.looked) == 1 for item in items)


async def test_one_item_s_fault_stops_neither_the_others_nor_itself() -> None:
    class Faulty(Item):
        def tick(self, now_ms: int) -> int | None:
            super().tick(now_ms)
            raise RuntimeError("boom")

    time = ManualTime()
    start = time.now
    wheel, faulty, sound = Wheel(time), Faulty(), Item()
    for item in (faulty, sound):
        wheel.add(item, start + 1000)
    with structlog.testing.capture_logs() as lines:
        await turn_until(wheel, time, start + 3000)
    assert len(sound.looked) == 1
    assert len(faulty.looked) > 1
    assert {line["event"] for line in lines} == {"tick_failed"}


async def test_stalled_outboxes_and_listeners_are_served_each_turn() -> None:
    time = ManualTime()
    ticks: list[int] = []
    wheel = Wheel(time, ticks.append)
    wire = FakeWire()
    wire.outbox = Outbox(wire, wheel.stalled)
    wire.stop_reading()
    wire.outbox.put(b"{}")
    await turn_until(wheel, time, time.now + SEND_DEADLINE_MS + 1000)
    assert wire.closed is not None
    assert wire.closed[0] == 4003
    assert len(ticks) == SEND_DEADLINE_MS // 1000 + 1
    assert not wheel.stalled


async def test_it_can_be_stopped_twice() -> None:
    wheel = Wheel(ManualTime())
    await wheel.start()
    await wheel.stop()
    await wheel.stop()

"""What may wait for one socket, and for how long."""

import asyncio

from server.delivery.outbox import OUTBOX_MAX_BYTES, SEND_DEADLINE_MS, Outbox
from tests.support.delivery import FakeWire


def outbox_with_wire() -> tuple[Outbox, FakeWire, set[Outbox]]:
    wire, stalled = FakeWire(), set[Outbox]()
    wire.outbox = Outbox(wire, stalled)
    return wire.outbox, wire, stalled


def frame(size: int = 10, mark: int = 0) -> bytes:
    return b'{"n":%d,"x":"%s"}' % (mark, b"x" * size)


def test_a_socket_that_takes_frames_gets_them_at_once() -> None:
    outbox, wire, stalled = outbox_with_wire()
    assert outbox.put(frame())
    assert len(wire.raw) == 1
    assert not stalled


def test_what_waits_is_sent_in_order_when_the_socket_takes_frames_again() -> None:
    outbox, wire, stalled = outbox_with_wire()
    wire.stop_reading()
    for mark in range(5):
        assert outbox.put(frame(mark=mark))
    assert wire.raw == []
    assert stalled == {outbox}
    wire.read_on()
    assert [sent["n"] for sent in wire.frames] == [0, 1, 2, 3, 4]
    assert not stalled


def test_a_socket_that_pauses_again_keeps_the_rest_waiting() -> None:
    outbox, wire, _ = outbox_with_wire()
    wire.stop_reading()
    for mark in range(4):
        outbox.put(frame(40_000, mark))
    wire.unsent = 0
    outbox.on_resumed()  # the transport drained, but the peer still does not read
    assert [sent["n"] for sent in wire.frames] == [0, 1]
    outbox.put(frame(mark=9))
    wire.read_on()
    assert [sent["n"] for sent in wire.frames] == [0, 1, 2, 3, 9]


def test_more_than_a_mebibyte_waiting_closes_4003_and_frees_it() -> None:
    outbox, wire, stalled = outbox_with_wire()
    wire.stop_reading()
    while outbox.put(frame(60_000)):
        assert outbox.waiting_bytes <= OUTBOX_MAX_BYTES
    assert wire.closed is not None
    assert wire.closed[0] == 4003
    assert outbox.waiting_bytes == wire.unsent
    assert not stalled
    assert not outbox.put(frame())


def test_a_peer_that_takes_nothing_for_the_deadline_is_closed_4003() -> None:
    outbox, wire, _ = outbox_with_wire()
    wire.stop_reading()
    outbox.put(frame())
    outbox.check(1000)
    outbox.check(1000 + SEND_DEADLINE_MS - 1)
    assert not outbox.closed
    outbox.check(1000 + SEND_DEADLINE_MS)
    assert wire.closed is not None
    assert wire.closed[0] == 4003


def test_a_slow_peer_that_takes_something_stays() -> None:
    outbox, wire, _ = outbox_with_wire()
    wire.stop_reading()
    for second in range(0, 10 * SEND_DEADLINE_MS, SEND_DEADLINE_MS // 2):
        wire.unsent -= 10
        outbox.check(second)
    assert wire.closed is None


async def test_room_waits_until_the_next_frame_would_be_sent_at_once() -> None:
    outbox, wire, _ = outbox_with_wire()
    await outbox.room()
    wire.stop_reading()
    waiting = asyncio.create_task(outbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    wire.read_on()
    await waiting


async def test_room_ends_when_the_connection_does() -> None:
    outbox, wire, _ = outbox_with_wire()
    wire.stop_reading()
    waiting = asyncio.create_task(outbox.room())
    await asyncio.sleep(0)
    outbox.discard()
    await waiting
    assert not outbox.put(frame())


def test_closing_drops_what_waits_and_closes_once() -> None:
    outbox, wire, _ = outbox_with_wire()
    wire.stop_reading()
    outbox.put(frame())
    outbox.close(4001, "shutdown")
    outbox.close(4000, "again")
    assert wire.closed == (4001, "shutdown")
    assert wire.raw == []
    outbox.on_paused()
    outbox.on_resumed()
    assert wire.raw == []

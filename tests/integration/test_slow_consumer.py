"""A peer that does not read: bounded, cut off, and no burden to others."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

import orjson
import pytest

from server.delivery.outbox import OUTBOX_MAX_BYTES, SEND_DEADLINE_MS
from server.gateway.wire import CLOSE_TIMEOUT_S
from tests.support.raw import CLOSE, PING, PONG, TEXT, RawSocket, frame, raw_socket
from tests.support.rest import streamed
from tests.support.server import RunningServer, ServerProcess, running_server, server_process, token

RECEIVE_BYTES = 65_536
"""What the operating system may keep for a peer; smaller makes TCP crawl, larger hides the stall."""

LOUD = """
flow: loud
default: true
variables: {text: "%s"}
steps:
  - {id: a, say: "${variables.text}"}
  - {id: done, end: completed}
""" % ("x" * 15_000)


@pytest.fixture
async def loud(tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A server whose every answer has 15 KB."""
    async with running_server(tmp_path, flows={"loud": LOUD}) as running:
        yield running


@asynccontextmanager
async def stalled(
    server: RunningServer | ServerProcess, conversation_id: str = "c1"
) -> AsyncIterator[RawSocket]:
    """A watcher of ``conversation_id`` with small buffers that reads nothing after ``welcome``."""
    async with raw_socket(*server.address) as peer:
        raw = peer.writer.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        hello = {"type": "hello", "id": "h", "token": token(), "conversation_id": conversation_id}
        await peer.send(frame(TEXT, orjson.dumps(hello)))
        assert (await peer.read_json())["type"] == "welcome"
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined] # both ways are one transport
        yield peer


async def until(condition: object, seconds: float = 10) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_who_reads_nothing_is_cut_off_and_its_memory_freed(loud: RunningServer) -> None:
    gateway = loud.application.gateway
    speaker = await loud.connect()
    async with stalled(loud):
        victim = next(c for c in gateway.connections if c.subscriptions)
        most = 0
        while not victim.outbox.closed:
            await speaker.say("c1", "go on")
            most = max(most, victim.outbox.waiting_bytes)
        assert OUTBOX_MAX_BYTES / 2 < most <= OUTBOX_MAX_BYTES
        await until(lambda: victim not in gateway.connections, 2)
        transport = victim._wire.transport
        # It still does not read, so the close frame cannot reach it: the socket is aborted.
        await until(lambda: victim._wire.disconnected, CLOSE_TIMEOUT_S + 2)
        assert transport.is_closing()
        assert loud.application.metrics.closes["4003"] == 1
    assert not loud.application.wheel.stalled
    assert (await speaker.say("c1", "still here"))["type"] == "ack"


async def test_who_was_cut_off_but_reads_in_the_end_learns_why(loud: RunningServer) -> None:
    speaker = await loud.connect()
    async with stalled(loud) as peer:
        victim = next(c for c in loud.application.gateway.connections if c.subscriptions)
        while not victim.outbox.closed:
            await speaker.say("c1", "go on")
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await peer.ended() == 4003


async def test_who_takes_nothing_for_twenty_seconds_is_cut_off(loud: RunningServer) -> None:
    """The deadline, on the outbox's own time: the wheel looks at what is stalled."""
    speaker = await loud.connect()
    async with stalled(loud):
        victim = next(c for c in loud.application.gateway.connections if c.subscriptions)
        while not loud.application.wheel.stalled:
            await speaker.say("c1", "go on")
        now = loud.application.gateway.now_ms()
        victim.outbox.check(now)
        victim.outbox.check(now + SEND_DEADLINE_MS - 1)
        assert not victim.outbox.closed
        victim.outbox.check(now + SEND_DEADLINE_MS)
        assert victim.outbox.closed


async def test_stalled_readers_hurt_nobody(loud: RunningServer) -> None:
    async with (
        stalled(loud),
        stalled(loud),
        stalled(loud),
    ):
        reader = await loud.connect(conversation_id="c1")
        for _ in range(30):
            assert (await reader.say("c1", "go on"))["type"] == "ack"
        offsets = [(f["from"], f["to"]) for f in reader.seen if f["type"] == "events"]
        assert [first for first, _ in offsets[1:]] == [last + 1 for _, last in offsets[:-1]]


async def test_who_asks_without_reading_is_read_no_further(loud: RunningServer) -> None:
    """Answers cannot pile up: the next frame is taken when the last answer was."""
    speaker = await loud.connect()
    for _ in range(20):
        await speaker.say("c1", "go on")
    async with raw_socket(*loud.address, token()) as peer:
        peer.writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES
        )
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        question = {"type": "history", "conversation_id": "c1", "limit": 100}
        for number in range(200):
            peer.writer.write(frame(TEXT, orjson.dumps({**question, "id": f"q{number}"})))
        await asyncio.sleep(1)
        connections = list(loud.application.gateway.connections)
        assert all(not connection.outbox.closed for connection in connections)
        assert max(connection.outbox.waiting_bytes for connection in connections) < OUTBOX_MAX_BYTES
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        answers = [await peer.read_json() for _ in range(200)]
        assert [answer["id"] for answer in answers] == [f"q{number}" for number in range(200)]


async def test_pongs_do_not_pile_up(server: RunningServer) -> None:
    """uvicorn answers each ping at once; a peer that never reads would fill the memory."""
    async with stalled(server) as peer:
        victim = next(iter(server.application.gateway.connections))
        for _ in range(200):
            peer.writer.write(frame(PING, b"x" * 125) * 500)
            await asyncio.sleep(0)
        await asyncio.sleep(0.5)
        assert victim._wire.unsent_bytes() < 512 * 1024
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        opcode, payload = await peer.read()
        assert (opcode, payload) == (PONG, b"x" * 125)
        assert CLOSE not in [seen for seen, _ in peer.frames]


async def test_a_peer_that_vanishes_while_it_is_stalled_leaves_nothing_behind(loud: RunningServer) -> None:
    speaker = await loud.connect()
    async with stalled(loud) as peer:
        victim = next(c for c in loud.application.gateway.connections if c.subscriptions)
        while not loud.application.wheel.stalled:
            await speaker.say("c1", "go on")
        peer.writer.write(frame(TEXT, b'{"type":"state","id":"x","conversation_id":"c1"}'))
        await until(lambda: victim.is_busy)
        peer.writer.transport.abort()
        await until(lambda: victim not in loud.application.gateway.connections)
    assert not loud.application.wheel.stalled
    assert loud.application.hub.watched == 0


def number(metrics: str, name: str) -> float:
    """Read one number of a ``/metrics`` page."""
    return next((float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name)), 0.0)


async def test_a_hundred_stalled_readers_cost_a_bounded_amount_of_memory(tmp_path: Path) -> None:
    """The same on uvloop, in a process whose memory can be seen."""

    async def metrics() -> str:
        with await asyncio.to_thread(urlopen, f"{server.url}/metrics") as answer:
            return str(answer.read().decode())

    with server_process(tmp_path, flows={"loud": LOUD}, PARLEY_STORE="memory:") as server:
        async with AsyncExitStack() as stack:
            for _ in range(50):
                await stack.enter_async_context(stalled(server))
            speaker = await stack.enter_async_context(raw_socket(*server.address, token()))
            before = number(await metrics(), "process_resident_memory_bytes")
            for count in range(400):
                await speaker.send(frame(TEXT, orjson.dumps({
                    "type": "process", "id": f"f{count}", "conversation_id": "c1",
                    "content": {"type": "text", "text": "go on"},
                })))  # fmt: skip
                assert (await speaker.read_json())["type"] == "ack"
                if number(await metrics(), 'parley_closes_total{code="4003"}') == 50:
                    break
            after = await metrics()
            assert number(after, 'parley_closes_total{code="4003"}') == 50
            assert number(after, "process_resident_memory_bytes") - before < 50 * 2 * OUTBOX_MAX_BYTES
        assert "Traceback" not in server.log.read_text()


async def test_a_stream_that_nobody_reads_is_cut_off_like_a_socket(loud: RunningServer) -> None:
    """More than 1 MiB waits; the connection is dropped at once, not when somebody reads it."""
    gateway = loud.application.gateway
    talker = await loud.connect(token("u1"))
    await talker.say("c1", "hi")
    async with streamed(loud, "/conversations/c1/events") as events:
        raw = events.writer.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        events.writer.transport.pause_reading()  # type: ignore[attr-defined] # both ways are one transport
        sent = 0
        while gateway.counter.count == 2 and sent < 2000:
            await talker.say("c1", "more")
            sent += 1
        assert gateway.counter.count == 1
        assert loud.application.hub.watched == 0
        assert not loud.application.wheel.stalled
        assert sent * 15_000 > OUTBOX_MAX_BYTES

"""Bounds on what is left to an HTTP peer: its head, what belongs to no request, and how it reads."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from server.gateway.http import HEAD_MAX_BYTES, HEAD_TIMEOUT_S, PIPELINED_MAX, SEND_TIMEOUT_S, BoundedHttp

HEAD = b"GET /livez HTTP/1.1\r\nHost: x\r\n"


class FakeTransport:
    """The server's end of a socket."""

    def __init__(self) -> None:
        self.written = b""
        self.unsent = 0
        self.closed = self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, _name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Timer:
    def __init__(self, loop: "FakeLoop", seconds: float, call: Callable[[], None]) -> None:
        self.loop, self.seconds, self.call = loop, seconds, call

    def cancel(self) -> None:
        if self in self.loop.timers:
            self.loop.timers.remove(self)


class FakeLoop:
    """Keeps timers instead of running them; ``wait`` lets them come."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, seconds: float, call: Callable[..., None], *args: Any) -> Timer:
        self.timers.append(Timer(self, seconds, partial(call, *args)))
        return self.timers[-1]

    def create_task(self, work: Any, **_: Any) -> asyncio.Future[None]:
        work.close()
        return asyncio.get_event_loop().create_future()

    def wait(self, seconds: float) -> None:
        for timer in list(self.timers):
            if timer.seconds <= seconds:
                timer.cancel()
                timer.call()


@pytest.fixture
async def connection() -> tuple[BoundedHttp, FakeTransport, FakeLoop]:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        return None

    config = Config(app, interface="asgi3", lifespan="off", log_config=None)
    config.load()
    loop, transport = FakeLoop(), FakeTransport()
    protocol = BoundedHttp(config, ServerState(), {}, cast(asyncio.AbstractEventLoop, loop))
    protocol.connection_made(cast(asyncio.Transport, transport))
    return protocol, transport, loop


Connection = tuple[BoundedHttp, FakeTransport, FakeLoop]


async def answer(protocol: BoundedHttp) -> None:
    """Answer the request that is served."""
    await protocol.cycle.send({"type": "http.response.start", "status": 204, "headers": []})
    await protocol.cycle.send({"type": "http.response.body", "body": b"", "more_body": False})


async def test_who_connects_and_says_nothing_is_dropped(connection: Connection) -> None:
    _, transport, loop = connection
    loop.wait(HEAD_TIMEOUT_S - 1)
    assert not transport.aborted
    loop.wait(HEAD_TIMEOUT_S)
    assert transport.aborted


async def test_who_sends_a_head_drop_by_drop_is_dropped(connection: Connection) -> None:
    protocol, transport, loop = connection
    for position in range(len(HEAD)):
        protocol.data_received(HEAD[position : position + 1])
    loop.wait(HEAD_TIMEOUT_S)
    assert transport.aborted


async def test_a_whole_head_ends_the_wait(connection: Connection) -> None:
    protocol, transport, loop = connection
    protocol.data_received(HEAD + b"\r\n")
    loop.wait(HEAD_TIMEOUT_S)
    assert not transport.aborted


async def test_the_next_request_of_a_connection_is_waited_for_as_long(connection: Connection) -> None:
    protocol, transport, loop = connection
    protocol.data_received(HEAD + b"\r\n")
    protocol.data_received(HEAD)
    loop.wait(HEAD_TIMEOUT_S)
    assert transport.aborted


async def test_a_head_that_is_too_large_is_refused(connection: Connection) -> None:
    protocol, transport, _ = connection
    protocol.data_received(HEAD)
    protocol.data_received(b"X-Long: " + b"x" * (HEAD_MAX_BYTES - len(HEAD) - 8))
    assert transport.written == b""
    protocol.data_received(b"x" * 10)
    assert transport.is_closing()
    assert transport.written.startswith(b"HTTP/1.1 431 ")


async def test_a_large_body_is_not_taken_for_a_head(connection: Connection) -> None:
    protocol, transport, _ = connection
    protocol.data_received(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(10):
        protocol.data_received(b"x" * 10_000)
    assert not transport.closed


@pytest.mark.parametrize(
    ("request_", "behind"),
    [
        (HEAD + b"\r\n", b"\r\n"),
        (HEAD + b"Content-Length: 100\r\n\r\n", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"5;x"),
    ],
    ids=["line-break", "body", "chunk"],
)
async def test_what_is_sent_behind_an_answer_keeps_nothing_open(
    connection: Connection, request_: bytes, behind: bytes
) -> None:
    protocol, transport, loop = connection
    protocol.data_received(request_)
    await answer(protocol)
    protocol.data_received(behind)
    protocol.data_received(behind)
    loop.wait(HEAD_TIMEOUT_S - 1)
    assert not transport.is_closing()
    loop.wait(HEAD_TIMEOUT_S)
    assert transport.aborted


@pytest.mark.parametrize("before", [b"5;", b"0\r\nX: "], ids=["chunk-extension", "trailer"])
@pytest.mark.parametrize("answered", [True, False])
async def test_chunks_and_trailers_are_bounded_like_a_head(
    connection: Connection, before: bytes, answered: bool
) -> None:
    protocol, transport, _ = connection
    protocol.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    if answered:
        await answer(protocol)
    protocol.data_received(before)
    for _ in range(HEAD_MAX_BYTES // 1000):
        protocol.data_received(b"x" * 1000)
    assert not transport.is_closing()
    protocol.data_received(b"x" * 1000)
    assert transport.is_closing()


async def test_a_trailer_is_no_header(connection: Connection) -> None:
    protocol, transport, _ = connection
    protocol.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nOrigin: y\r\n\r\n")
    names = [name for name, _ in protocol.cycle.scope["headers"]]
    assert names == [b"host", b"transfer-encoding"]
    assert not transport.is_closing()


async def test_so_many_requests_wait_for_an_answer_and_no_more(connection: Connection) -> None:
    protocol, transport, _ = connection
    protocol.data_received((HEAD + b"\r\n") * (1 + PIPELINED_MAX))
    assert not transport.is_closing()
    protocol.data_received((HEAD + b"\r\n") * 1000)
    assert transport.aborted
    assert len(protocol.pipeline) == PIPELINED_MAX + 1


async def test_who_reads_nothing_of_an_answer_is_dropped(connection: Connection) -> None:
    protocol, transport, loop = connection
    protocol.data_received(HEAD + b"Connection: close\r\n\r\n")
    transport.unsent = 1000
    await answer(protocol)
    assert transport.closed  # politely; which waits for the reader
    transport.unsent = 500
    loop.wait(SEND_TIMEOUT_S)
    assert not transport.aborted
    loop.wait(SEND_TIMEOUT_S)
    assert transport.aborted


async def test_who_reads_an_answer_is_not(connection: Connection) -> None:
    protocol, transport, loop = connection
    protocol.data_received(HEAD + b"\r\n")
    transport.unsent = 1000
    await answer(protocol)
    protocol._unset_keepalive_if_required()
    transport.unsent = 0
    loop.wait(SEND_TIMEOUT_S)
    assert not transport.is_closing()
    assert loop.timers == []


async def test_a_lost_connection_leaves_no_timer(connection: Connection) -> None:
    protocol, transport, loop = connection
    protocol.data_received(HEAD + b"\r\n")
    transport.unsent = 1000
    await answer(protocol)
    protocol.data_received(HEAD)
    assert loop.timers != []
    protocol.connection_lost(None)
    assert loop.timers == []

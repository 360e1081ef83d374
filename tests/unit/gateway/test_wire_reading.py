"""How a socket's bytes become texts: the short way, and the one through websockets' parser."""

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState
from websockets.http11 import Request
from websockets.server import ServerProtocol

from server.gateway.wire import Cork, WebSocketWire, _waits_for_a_frame


def test_the_parser_of_websockets_still_stands_where_we_look_for_it() -> None:
    conn = ServerProtocol()
    conn.receive_data(UPGRADE)
    (request,) = conn.events_received()
    assert isinstance(request, Request)
    conn.send_response(conn.accept(request))
    frame = masked(0x81, b"whole")
    for cut in range(1, len(frame)):
        conn.receive_data(frame[:cut])
        assert not _waits_for_a_frame(conn.parser), cut
        conn.receive_data(frame[cut:])
        assert _waits_for_a_frame(conn.parser), cut


class FakeTransport(asyncio.Transport):
    """A socket that keeps what is written, and says whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_read = True

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.is_read = False


UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASK = b"\x01\x02\x03\x04"


def masked(first: int, payload: bytes) -> bytes:
    size = len(payload)
    head = bytes((first, 0x80 | size)) if size < 126 else bytes((first, 0xFE)) + size.to_bytes(2, "big")
    return head + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


async def upgraded(*, max_size: int = 1000) -> tuple[WebSocketWire, FakeTransport]:
    """Return a wire behind its handshake, whose application leaves reading to the test."""

    async def accept(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        accepted.set()
        await asyncio.Event().wait()

    accepted = asyncio.Event()
    config = uvicorn.Config(accept, ws_max_size=max_size, ws_per_message_deflate=False, lifespan="off")
    config.load()
    wire, transport = WebSocketWire(config, ServerState(), {}), FakeTransport()
    wire.cork = Cork()
    wire.connection_made(transport)
    wire.data_received(UPGRADE)
    await accepted.wait()
    transport.written = b""
    return wire, transport


async def read(wire: WebSocketWire, count: int) -> list[Any]:
    return [await asyncio.wait_for(wire.receive(), 5) for _ in range(count)]


LONG = b"z" * 300
STREAM = b"".join(
    (
        masked(0x81, b"one"),
        masked(0x89, b"ping"),
        masked(0x01, b"in "),
        masked(0x8A, b"an unasked pong"),
        masked(0x80, b"parts"),
        masked(0x81, LONG),
        masked(0x81, b""),
        masked(0x81, "é".encode()),
    )
)
PONG = b"\x8a\x04ping"


async def test_texts_are_the_same_however_their_bytes_are_cut() -> None:
    """A chunk that is one whole frame takes the short way, all others go through websockets' parser."""
    for cut in range(1, len(STREAM)):
        wire, transport = await upgraded()
        wire.data_received(STREAM[:cut])
        wire.data_received(STREAM[cut:])
        assert await read(wire, 5) == [b"one", b"in parts", LONG, b"", "é".encode()], cut
        assert transport.written == PONG, cut


async def test_whole_frames_and_cut_ones_alternate() -> None:
    wire, _ = await upgraded()
    whole, other = masked(0x81, b"whole"), masked(0x81, b"cut")
    for _ in range(3):
        for chunk in (whole, other[:3], other[3:], whole, masked(0x01, b"cut"), masked(0x80, b"")):
            wire.data_received(chunk)
    assert await read(wire, 12) == [b"whole", b"cut", b"whole", b"cut"] * 3


async def test_a_text_inside_a_fragmented_message_is_no_frame_of_its_own() -> None:
    wire, transport = await upgraded()
    wire.data_received(masked(0x01, b"begun"))
    wire.data_received(masked(0x81, b"another"))
    (ended,) = await read(wire, 1)
    assert (ended["type"], ended["code"]) == ("websocket.disconnect", 1002)
    assert transport.written[2:4] == (1002).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("frame", "code"),
    [(masked(0x81, b"z" * 201), 1009), (b"\x81\x02hi????", 1002), (masked(0xC1, b"compressed"), 1002)],
    ids=["too large", "not masked", "a reserved bit"],
)
async def test_what_is_wrong_with_a_whole_frame_closes_by_its_code(frame: bytes, code: int) -> None:
    wire, transport = await upgraded(max_size=200)
    wire.data_received(frame)
    (ended,) = await read(wire, 1)
    assert ended["code"] == code
    assert transport.written[2:4] == code.to_bytes(2, "big")


async def test_nothing_is_taken_any_more_once_we_have_closed() -> None:
    wire, _ = await upgraded()
    wire.close(4001, "shutdown")
    wire.data_received(masked(0x81, b"late"))
    assert [message["type"] for message in await read(wire, 1)] == ["websocket.disconnect"]
    assert wire.queue.empty()


async def test_the_socket_is_read_only_as_fast_as_its_frames_are_taken() -> None:
    """One frame may come while the one before is worked on; the next waits in the kernel."""
    wire, transport = await upgraded()
    reading = asyncio.ensure_future(wire.receive())
    await asyncio.sleep(0)
    wire.data_received(masked(0x81, b"1"))
    wire.data_received(masked(0x81, b"2"))
    waits_in_the_kernel = [not transport.is_read]
    assert await reading == b"1"
    waits_in_the_kernel.append(not transport.is_read)
    assert await wire.receive() == b"2"
    assert waits_in_the_kernel == [True, True]
    assert transport.is_read

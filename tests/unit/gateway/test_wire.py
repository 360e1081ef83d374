"""What our wire relies on in uvicorn (an upgrade that changes it must fail here, not in production), and how
what is written leaves."""

import asyncio
import inspect
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from server.gateway.http import BoundedHttp
from server.gateway.wire import CORKED_A_TURN, Cork, WebSocketWire

OURS = {"write", "uncork", "unsent_bytes", "close", "reject", "forget_handshake"}


@pytest.mark.parametrize(
    ("ours", "theirs"), [(WebSocketWire, WebSocketsSansIOProtocol), (BoundedHttp, HttpToolsProtocol)]
)
def test_each_hook_overrides_one_that_exists_with_the_same_parameters(ours: type, theirs: type) -> None:
    hooks = {
        name: method
        for name, method in vars(ours).items()
        if inspect.isfunction(method) and not name.startswith("_") and name not in OURS
    }
    assert hooks
    for name, method in hooks.items():
        base = getattr(theirs, name)
        assert list(inspect.signature(method).parameters) == list(inspect.signature(base).parameters), name


STATE = (
    "queue conn close_sent disconnected handshake_initiated handshake_complete close_timer read_paused "
    "frames curr_msg_data_type"
)


@pytest.mark.parametrize("attribute", STATE.split())
def test_the_state_that_we_read_is_still_there(attribute: str) -> None:
    assert f"self.{attribute}" in inspect.getsource(WebSocketsSansIOProtocol.__init__)


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Transport(asyncio.Transport):
    """Keeps each write; ``journal`` is common to several."""

    def __init__(self, journal: list[Any]) -> None:
        super().__init__()
        self.journal = journal
        self.broken = self.closing = False

    def write(self, data: Any) -> None:
        if self.broken:
            raise RuntimeError("the handler is closed")
        self.journal.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


async def application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


async def opened(count: int) -> tuple[list[WebSocketWire], list[Transport], list[Any]]:
    """Return sockets whose handshake is done, their transports, and what all of these are given from now."""
    config, state, journal = Config(application), ServerState(), list[Any]()
    cork, wires, transports = Cork(), list[WebSocketWire](), list[Transport]()
    for _ in range(count):
        transports.append(Transport(journal))
        wires.append(WebSocketWire(config, state, {}))
        wires[-1].cork = cork
        wires[-1].connection_made(transports[-1])
        wires[-1].data_received(HANDSHAKE)
    while not all(wire.handshake_complete for wire in wires):
        await asyncio.sleep(0)
    journal.clear()
    return wires, transports, journal


async def a_step() -> None:
    await asyncio.sleep(0)


def text(payload: bytes) -> bytes:
    return bytes((0x81, len(payload))) + payload


async def test_what_one_step_writes_on_a_socket_leaves_in_one_write_and_in_order() -> None:
    (wire,), _, journal = await opened(1)
    wire.write(b"events")
    wire.write(b"ack")
    assert journal == []
    assert wire.unsent_bytes() == len(text(b"events") + text(b"ack"))
    await a_step()
    assert journal == [text(b"events") + text(b"ack")]


async def test_payloads_of_every_length_are_framed_as_the_standard_says() -> None:
    (wire,), _, journal = await opened(1)
    for size, header in ((125, b"\x81\x7d"), (126, b"\x81\x7e\x00\x7e"), (65_535, b"\x81\x7e\xff\xff"),
                         (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00")):  # fmt: skip
        wire.write(b"x" * size)
        await a_step()
        assert journal.pop() == header + b"x" * size


async def test_a_burst_to_many_leaves_room_for_who_writes_meanwhile() -> None:
    """Somebody's ack does not wait until everybody else has the events of another conversation."""
    wires, _, journal = await opened(3 * CORKED_A_TURN)
    payload = b"events"
    for wire in wires[1:]:
        wire.write(payload)
    await a_step()
    assert journal == [text(payload)] * CORKED_A_TURN
    wires[0].write(b"ack")
    wires[-1].write(b"ack, too")
    for _ in range(3):
        await a_step()
    assert journal.index(text(b"ack")) < len(journal) - 1
    assert journal.count(text(payload)) == len(wires) - 2
    assert journal[-1] == text(payload) + text(b"ack, too"), "what was written first leaves first"


async def test_a_socket_that_fails_keeps_nothing_from_the_others() -> None:
    wires, transports, journal = await opened(3)
    transports[1].broken = True
    for wire in wires:
        wire.write(b"events")
    await a_step()
    assert journal == [text(b"events")] * 2


async def test_more_than_a_socket_may_gather_is_handed_over_at_once() -> None:
    (wire,), _, journal = await opened(1)
    wire.write(b"x" * 70_000)
    assert len(journal) == 1
    wire.write(b"next")
    await a_step()
    assert journal[1:] == [text(b"next")]


async def test_nothing_follows_a_close_frame() -> None:
    for peer_is_first in (False, True):
        (wire,), _, journal = await opened(1)
        wire.write(b"before")
        if peer_is_first:
            wire.data_received(b"\x88\x82\0\0\0\0\x03\xe8")
        else:
            wire.close(1000, "")
        wire.write(b"behind")
        await a_step()
        assert journal[-1][:2] == b"\x88\x02"
        assert journal[:-1] == ([] if peer_is_first else [text(b"before")])


async def test_sockets_share_the_layout_of_their_attributes() -> None:
    """Beyond 30 each would have a dict of its own, of 1.5 KiB."""
    (wire,), _, _ = await opened(1)
    assert len(vars(wire)) <= 30

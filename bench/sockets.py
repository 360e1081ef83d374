"""WebSockets made by hand: cheap to open, for counting handshakes and weighing idle connections."""

import asyncio
import time
from typing import Final, NamedTuple, cast

from bench.servers import Server, token

CLOSE: Final = b"\x88\x82\x00\x00\x00\x00\x03\xe8"
"""Close 1000. All frames here are masked with zeros, which leaves their payload as it is (RFC 6455, 5.3)."""
OPEN_SECONDS: Final = 20.0


def text_frame(payload: bytes) -> bytes:
    """Return a whole client frame for up to 64 KiB of text."""
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


def upgrade(path: str = "/v1/ws", subprotocol: str | None = "parley.v1") -> bytes:
    """Return the request that opens a WebSocket."""
    offer = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
    ).encode()


def server_frame(payload: bytes) -> bytes:
    """Return a whole server frame for up to 64 KiB of text."""
    size = len(payload)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")) + payload


def frame_size(data: bytes, at: int) -> tuple[int, int]:
    """Return how long the frame that begins ``at`` is: its head, and with its payload.

    Both are more than there is where not even the head has come.
    """
    second = data[at + 1] if len(data) - at > 1 else 0
    length, mask = second & 0x7F, 4 if second & 0x80 else 0
    head = {126: 4, 127: 10}.get(length, 2)
    if len(data) - at < head:
        return head, head
    size = length if head == 2 else int.from_bytes(data[at + 2 : at + head], "big")
    return head + mask, head + mask + size


def hello(number: int) -> bytes:
    """Return the frame with which a user of its own greets a conversation of its own."""
    return text_frame(
        f'{{"type":"hello","id":"1","token":"{token(f"idle-{number}")}",'
        f'"conversation_id":"idle-{number}"}}'.encode()
    )


class Socket(asyncio.Protocol):
    """One connection; ``ready`` is done when the upgrade, or the answer to ``greeting``, has come."""

    def __init__(self, greeting: bytes | None) -> None:
        self._greeting = greeting
        self._awaited = b"101 Switching"
        self._seen = b""
        self.ready = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self.transport.write(upgrade())

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self.ready.done() or b"\r\n\r\n" not in self._seen or self._awaited not in self._seen:
            return
        if self._greeting is None:
            self.ready.set_result(None)
        else:
            self.transport.write(self._greeting)
            self._greeting, self._awaited = None, b'"welcome"'

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(RuntimeError(f"closed before it was open: {self._seen[-300:]!r}"))


async def open_socket(port: int, greeting: bytes | None) -> Socket:
    """Return a connection that is open, and greeted if there is a greeting."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Socket(greeting), "127.0.0.1", port)
    await asyncio.wait_for(connection.ready, OPEN_SECONDS)
    return connection


class Handshakes(NamedTuple):
    """Connections opened a second, and the server's processor time for one in µs."""

    rate: float
    cpu_us: float


async def shake_hands(server: Server, greetings: list[bytes] | None, seconds: float) -> Handshakes:
    """Open and close connections for some seconds, 20 at a time."""
    until = time.perf_counter() + seconds
    count = 0

    async def worker(number: int) -> None:
        nonlocal count
        while time.perf_counter() < until:
            greeting = greetings[(number + count) % len(greetings)] if greetings else None
            connection = await open_socket(server.port, greeting)
            connection.transport.write(CLOSE)
            connection.transport.close()
            count += 1

    began, cpu = time.perf_counter(), server.cpu_seconds()
    await asyncio.gather(*(worker(number) for number in range(20)))
    rate = count / (time.perf_counter() - began)
    return Handshakes(rate, (server.cpu_seconds() - cpu) / count * 1e6)

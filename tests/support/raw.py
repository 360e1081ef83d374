"""A TCP socket that has shaken hands and then sends whatever bytes a test likes (RFC 6455)."""

import asyncio
import base64
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import orjson

from protocol.frames import SUBPROTOCOL

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK: Final = b"\x01\x02\x03\x04"


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """Return one client frame; ``length``, ``width`` (0, 2 or 8 bytes of length) and ``mask`` may lie."""
    size = len(payload) if length is None else length
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    flag = 0x80 if mask is not None else 0
    if width == 0:
        head = struct.pack("!BB", first, flag | size)
    elif width == 2:
        head = struct.pack("!BBH", first, flag | 126, size)
    else:
        head = struct.pack("!BBQ", first, flag | 127, size)
    return head + (mask + masked(payload, mask) if mask is not None else payload)


def close_frame(code: int | None, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


@dataclass
class RawSocket:
    """The client's end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: list[tuple[int, bytes]] = field(default_factory=list)

    async def send(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.writer.write(chunk)
        await self.writer.drain()

    async def read(self, timeout: float = 5) -> tuple[int, bytes]:
        """Return the next server frame as (opcode, payload)."""
        async with asyncio.timeout(timeout):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            assert not second & 0x80, "a server never masks"
            if size == 126:
                size = struct.unpack("!H", await self.reader.readexactly(2))[0]
            elif size == 127:
                size = struct.unpack("!Q", await self.reader.readexactly(8))[0]
            payload = await self.reader.readexactly(size)
        self.frames.append((first & 0x0F, payload))
        return self.frames[-1]

    async def read_json(self, timeout: float = 5) -> dict[str, object]:
        opcode, payload = await self.read(timeout)
        assert opcode == TEXT, (opcode, payload)
        value: dict[str, object] = orjson.loads(payload)
        return value

    async def ended(self, timeout: float = 8) -> int:
        """Read to the end; return the close code, 1006 if the socket just ended."""
        try:
            while True:
                opcode, payload = await self.read(timeout)
                if opcode == CLOSE:
                    return struct.unpack("!H", payload[:2])[0] if payload else 1005
        except (asyncio.IncompleteReadError, ConnectionError):
            return 1006


def handshake_request(*headers: str, path: str = "/v1/ws", key: str | None = None) -> bytes:
    """Return the bytes of a handshake."""
    key = base64.b64encode(os.urandom(16)).decode() if key is None else key
    lines = [
        f"GET {path} HTTP/1.1", "Host: test", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        *headers,
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


async def handshake(
    host: str, port: int, *headers: str, path: str = "/v1/ws", key: str | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """Send a handshake; return the streams and the response's head."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(handshake_request(*headers, path=path, key=key))
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    return reader, writer, head


@asynccontextmanager
async def raw_socket(host: str, port: int, token: str | None = None) -> AsyncIterator[RawSocket]:
    """Open a socket; with a ``token`` say ``hello`` and read ``welcome`` too."""
    reader, writer, head = await handshake(host, port)
    assert b" 101 " in head, head
    socket = RawSocket(reader, writer)
    if token is not None:
        await socket.send(frame(TEXT, orjson.dumps({"type": "hello", "id": "h", "token": token})))
        assert (await socket.read_json())["type"] == "welcome"
    try:
        yield socket
    finally:
        writer.close()

"""What this machine can do: one process passes on what somebody says to everybody else, and nothing more.

No bus, no store, no second instance, no JSON: the system calls that the deliveries take, and Python's way to
them.
"""

import asyncio
import base64
import hashlib
import re
from typing import cast

import uvloop

from bench.peers.serve import arguments
from bench.sockets import frame_size, server_frame

ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, 1.3."""
KEY = re.compile(rb"Sec-WebSocket-Key: (\S+)")


class Line(asyncio.Protocol):
    """One connection."""

    everybody: set["Line"] = set()  # noqa: RUF012 - all share it

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.everybody.discard(self)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if self not in self.everybody:
            data = self._shake_hands(data)
        while data:
            head, size = frame_size(data, 0)
            if len(data) < size:
                break
            self._pass_on(data[head:size])  # the clients here mask with zeros
            data = data[size:]
        self._rest = data

    def _shake_hands(self, data: bytes) -> bytes:
        request, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return data
        key = KEY.search(request)
        if key is None:  # somebody asks whether anybody is there
            self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            self.transport.close()
            return b""
        self.everybody.add(self)
        accept = base64.b64encode(hashlib.sha1(key[1] + ACCEPT_SALT).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        return rest

    def _pass_on(self, payload: bytes) -> None:
        frame = server_frame(payload)
        for line in self.everybody:
            line.transport.write(server_frame(b"taken") if line is self else frame)


async def main(port: int) -> None:
    """Serve until the process is told to stop."""
    server = await asyncio.get_running_loop().create_server(Line, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(arguments()[0]))

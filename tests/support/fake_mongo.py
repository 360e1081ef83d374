"""A server that speaks MongoDB's wire protocol and answers as a test wants it to.

For what the server of ``mongo.py`` cannot show: it has no authentication.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import bson

Answer = Callable[[str], Mapping[str, Any]]
"""From the name of a command to its reply."""

HELLO: Final[Mapping[str, Any]] = {
    "ismaster": True,
    "isWritablePrimary": True,
    "maxBsonObjectSize": 16 * 1024 * 1024,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "ok": 1.0,
}
_HEADER: Final = struct.Struct("<iiii")
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013


def refuses_credentials(command: str) -> Mapping[str, Any]:
    """Answer as a server whose user has another password."""
    if command.lower() in ("hello", "ismaster"):
        return {**HELLO, "saslSupportedMechs": ["SCRAM-SHA-256"]}
    return {
        "ok": 0.0, "code": 18, "codeName": "AuthenticationFailed", "errmsg": "Authentication failed.",
    }  # fmt: skip


@asynccontextmanager
async def fake_mongo(answer: Answer) -> AsyncIterator[str]:
    """Serve; the value is ``HOST:PORT``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(_reply(*await _read(reader), answer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}"
    finally:
        server.close()


async def _read(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    length, number, _, kind = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    return number, kind, await reader.readexactly(length - _HEADER.size)


def _reply(number: int, kind: int, message: bytes, answer: Answer) -> bytes:
    if kind == _OP_QUERY:  # how a driver greets: flags, name of a collection, skip, limit, document
        document = message[message.index(b"\0", 4) + 9 :]
        opcode, before = _OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1)
    else:
        document = message[5:]  # behind the flags and the kind of the first section
        opcode, before = _OP_MSG, struct.pack("<iB", 0, 0)
    size = int.from_bytes(document[:4], "little")
    command = next(iter(bson.decode(document[:size])))
    body = before + bson.encode(answer(command))
    return _HEADER.pack(_HEADER.size + len(body), 0, number, opcode) + body

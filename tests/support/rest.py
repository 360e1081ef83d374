"""HTTP requests to a test server: one connection each, in a thread."""

import asyncio
import contextlib
import http.client
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import orjson

from tests.support.server import RemoteServer, token


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


def _ask(server: RemoteServer, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection(*server.address, timeout=10)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


async def ask(
    server: RemoteServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> Answer:
    """One request; header names take ``_`` for ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await asyncio.to_thread(_ask, server, method, path, body, named)


async def call(
    server: RemoteServer,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    who: str | None = None,
    **headers: str,
) -> Answer:
    """One authenticated JSON request below ``/v1``; ``who`` is a token, the plain user's where left out."""
    headers = {"Authorization": f"Bearer {who or token()}", **headers}
    if body is None:
        return await ask(server, method, f"/v1{path}", None, **headers)
    headers.setdefault("Content_Type", "application/json")
    return await ask(server, method, f"/v1{path}", orjson.dumps(body), **headers)


class Told(NamedTuple):
    """One event of a stream; ``name`` is ``message`` where it has none, ``end`` when the stream is over."""

    name: str
    data: Any = None
    id: str | None = None


class EventReader:
    """An open event stream, read event by event."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)
        }
        self.reader = reader
        self.writer = writer
        self.last_id: str | None = None

    async def next(self, timeout: float = 15) -> Told:
        """Return the next event. Raises TimeoutError."""
        name, event_id = "message", None
        while True:
            async with asyncio.timeout(timeout):
                line = (await self.reader.readline()).decode().rstrip("\r\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("id: "):
                event_id = self.last_id = line.removeprefix("id: ")
            elif line.startswith("data: "):
                return Told(name, orjson.loads(line.removeprefix("data: ")), event_id)
            elif self.reader.at_eof() or line == "0":
                return Told("end")

    async def until(self, name: str) -> Told:
        """Return the next event of that name, or ``end``."""
        while True:
            told = await self.next()
            if told.name in (name, "end"):
                return told

    async def rest(self) -> list[Told]:
        """Return all events up to the end."""
        found = []
        while (told := await self.next()).name != "end":
            found.append(told)
        return found


@contextlib.asynccontextmanager
async def streamed(
    server: RemoteServer,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    who: str | None = None,
    **headers: str,
) -> AsyncIterator[EventReader]:
    """Open an event stream below ``/v1``: a POST where there is a body."""
    sent = b"" if body is None else orjson.dumps(body)
    lines = [
        f"{'GET' if body is None else 'POST'} /v1{path} HTTP/1.1",
        "Host: test",
        f"Authorization: Bearer {who or token()}",
        "Accept: text/event-stream",
        "Content-Type: application/json",
        f"Content-Length: {len(sent)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write("\r\n".join([*lines, "", ""]).encode() + sent)
    try:
        yield EventReader(reader, writer, await reader.readuntil(b"\r\n\r\n"))
    finally:
        writer.close()

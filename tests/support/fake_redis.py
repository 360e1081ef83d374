"""A server that speaks RESP and answers what a test wants: an old one, a deaf one, one that stutters."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import hiredis

INFO: Final = (
    b"# Server\r\nredis_version:%s\r\n# Replication\r\nrole:%s\r\n# Cluster\r\ncluster_enabled:0\r\n"
)

Answer = Callable[[list[bytes]], bytes]


def bulk(data: bytes) -> bytes:
    """Return a string as RESP."""
    return b"$%d\r\n%s\r\n" % (len(data), data)


def array(*items: bytes) -> bytes:
    """Return a list of strings as RESP."""
    return b"*%d\r\n" % len(items) + b"".join(bulk(item) for item in items)


class FakeRedis:
    """Answers each command with the bytes that ``answers`` has for it, or makes; else as an empty Redis does.

    It takes subscriptions and delivers nothing.
    """

    def __init__(
        self,
        *,
        version: bytes = b"7.0.15",
        role: bytes = b"master",
        answers: Mapping[bytes, Answer] | None = None,
    ) -> None:
        self.info = INFO % (version, role)
        self.answers = answers or {}
        self.commands: list[list[bytes]] = []
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Its URL for ``PARLEY_BUS``."""
        return f"redis://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeRedis"]:
        """Serve inside this block."""
        tasks: set[asyncio.Task[Any]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self.connections += 1
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._serve(reader, writer)
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                self.commands.append(command)
                writer.write(self._answer(command))

    def _answer(self, command: list[bytes]) -> bytes:
        verb = command[0].upper()
        if verb in self.answers:
            return self.answers[verb](command)
        match verb:
            case b"INFO":
                return bulk(self.info)
            case b"SUBSCRIBE" | b"UNSUBSCRIBE":
                return b"".join(
                    b"*3\r\n" + bulk(verb.lower()) + bulk(channel) + b":1\r\n" for channel in command[1:]
                )
            case b"PING":
                return array(b"pong", b"")
            case b"PUBLISH":
                return b":0\r\n"
            case _:
                return b"+OK\r\n"

"""What is published on one server: by one worker, over one connection of redis-py, from a bounded queue."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from storage.redis.link import Link
from storage.redis.server import Visit, hang_up

QUEUE_MESSAGES: Final = 10_000
QUEUE_BYTES: Final = 16 * 1024 * 1024


class Publisher(Link):
    """Publishes in order. What is posted while the server is away waits; the oldest is dropped.

    Attributes:
        dropped: how many messages were dropped.
        refused: the latest error that the server answered.
        on_error: called with each.
    """

    role = "publisher"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dropped = 0
        self.refused: ResponseError | None = None
        self.on_error: Callable[[ResponseError], None] = lambda error: None
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._queued_bytes = 0
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def post(self, channel: bytes, payload: bytes) -> None:
        """Publish soon; returns at once, never raises."""
        self._queue.append((channel, payload))
        self._queued_bytes += len(payload)
        while len(self._queue) > QUEUE_MESSAGES or self._queued_bytes > QUEUE_BYTES:
            _, oldest = self._queue.popleft()
            self._queued_bytes -= len(oldest)
            self.dropped += 1
        self._more.set()
        self._idle.clear()

    def ask(self) -> None:
        """See at once whether the connection still works."""
        self._more.set()

    async def flushed(self, seconds: float) -> None:
        """Return once everything posted was taken, or after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def _live(self, visit: Visit) -> None:
        connection: AbstractConnection = visit.pool().make_connection()  # type: ignore[no-untyped-call]
        try:
            self._came(await visit.begin(_ping(connection)))
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.pace.ask_after):
                        await self._more.wait()
                self._more.clear()
                async with asyncio.timeout(self.pace.dead_after):
                    await (self._publish(connection) if self._queue else _ping(connection))
        finally:
            await hang_up(connection)

    async def _publish(self, connection: AbstractConnection) -> None:
        """Send what has come together, with one write."""
        verb = "SPUBLISH" if self.server.cluster else "PUBLISH"
        commands = [(verb, *message) for message in self._queue]
        self._queue.clear()
        self._queued_bytes = 0
        await connection.send_packed_command(connection.pack_commands(commands))
        for _ in commands:
            try:
                await connection.read_response()
            except ResponseError as error:
                self.refused = error
                self.on_error(error)
        if not self._queue:
            self._idle.set()


async def _ping(connection: AbstractConnection) -> None:
    """Ask whether somebody is there, connecting first if need be. Raises what is answered instead."""
    await connection.send_command("PING")
    await connection.read_response()

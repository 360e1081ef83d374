"""What is published on one server: by one worker, through redis-py's pipelines, from a bounded queue."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from storage.redis.link import Link
from storage.redis.server import Visit

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
        redis = Redis.from_pool(visit.pool(max_connections=1))
        try:
            self._came(await visit.begin(redis.ping()))
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.pace.ask_after):
                        await self._more.wait()
                self._more.clear()
                async with asyncio.timeout(self.pace.dead_after):
                    await (self._publish(redis) if self._queue else redis.ping())
        finally:
            await redis.aclose()

    async def _publish(self, redis: Redis) -> None:
        """Send what has come together, with one write."""
        pipeline = redis.pipeline(transaction=False)
        verb = "SPUBLISH" if self.server.cluster else "PUBLISH"
        while self._queue:
            pipeline.execute_command(verb, *self._queue.popleft())
        self._queued_bytes = 0
        for reply in await pipeline.execute(raise_on_error=False):
            if isinstance(reply, ResponseError):
                self.refused = reply
                self.on_error(reply)
        if not self._queue:
            self._idle.set()

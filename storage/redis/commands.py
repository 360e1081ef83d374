"""Commands to one server, many in flight on one connection, in order.

Whoever stops waiting leaves its place in the line, so its reply is read and thrown away: no reply can
ever be taken for another's, and nothing needs a pool.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import hiredis

from storage.redis.link import Link
from storage.redis.wire import Arg, Away, pack

QUEUE_MESSAGES: Final = 10_000
QUEUE_BYTES: Final = 16 * 1024 * 1024
CALL_TIMEOUT_S: Final = 1.0


class Commands(Link):
    """One server's commands.

    What is posted while the server is away waits, the oldest is dropped when that is too much; what is
    called fails at once.

    Attributes:
        dropped: how many posted commands were dropped.
        on_error: called with the text of an error that nobody waited for.
    """

    role = "commands"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dropped = 0
        self.on_error: Callable[[str], None] = lambda error: None
        self._queue: deque[tuple[bytes, asyncio.Future[Any] | None]] = deque()
        self._queued_bytes = 0
        self._unanswered: deque[asyncio.Future[Any] | None] = deque()
        self._asked_at = 0.0
        self._stuck = False
        self._flushing = False

    def post(self, *command: Arg) -> None:
        """Send a command whose reply does not matter; returns at once, never raises."""
        self._add(pack(command), None)

    async def call(self, *command: Arg) -> Any:
        """Send a command and return its reply.

        Raises:
            Away: the server is away, or does not answer within a second (once it did not, nobody waits for
                it until it answers again).
            hiredis.ReplyError: it refuses.
        """
        if not self.up or self.wire is None or self.wire.paused or self._stuck:
            raise Away(self.reason or "does not answer")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._add(pack(command), future)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                reply = await future
        except TimeoutError as error:
            self._stuck = self.up
            raise Away("does not answer") from error
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def check(self, now: float) -> None:
        """Drop a connection on which nobody answers; ask an idle one. Call it about once a second."""
        if self.wire is None or not self.up:
            return
        heard_at = max(self.wire.heard_at, self._asked_at)
        if self._unanswered or self.wire.paused:
            if now - heard_at >= self.pace.dead_after:
                self.rebuild("does not answer")
        elif now - heard_at >= self.pace.ask_after:
            self.post("PING")

    async def flushed(self, seconds: float) -> None:
        """Return once what was posted is sent and answered, or after ``seconds``."""
        with_reply = self.call("PING")
        try:
            async with asyncio.timeout(seconds):
                await with_reply
        except (TimeoutError, Away, hiredis.ReplyError):
            return

    # ----------------------------------------------------------------------------------------------

    def _add(self, data: bytes, future: asyncio.Future[Any] | None) -> None:
        queue = self._queue
        queue.append((data, future))
        self._queued_bytes += len(data)
        while len(queue) > QUEUE_MESSAGES or self._queued_bytes > QUEUE_BYTES:
            self._drop_oldest()
        if not self._flushing and self.wire is not None:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _drop_oldest(self) -> None:
        data, future = self._queue.popleft()
        self._queued_bytes -= len(data)
        if future is None:
            self.dropped += 1
        elif not future.done():
            future.set_exception(Away("has too much to do"))

    def _flush(self) -> None:
        """Send what was asked for in this turn of the loop, with one write."""
        self._flushing = False
        wire, queue = self.wire, self._queue
        if wire is None or wire.paused or not self.up or not queue:
            return
        if not self._unanswered:
            self._asked_at = asyncio.get_running_loop().time()
        self._unanswered.extend([future for _, future in queue])
        data = b"".join([data for data, _ in queue])
        queue.clear()
        self._queued_bytes = 0
        wire.write(data)

    def _take(self, reply: Any) -> None:
        self._stuck = False
        if not self._unanswered:
            self.rebuild("answers what was not asked")
            return
        future = self._unanswered.popleft()
        if future is None:
            if isinstance(reply, hiredis.ReplyError):
                self.on_error(str(reply))
        elif not future.done():
            future.set_result(reply)

    def _ready(self) -> None:
        self._flush()

    def _drop(self) -> None:
        """Fail who waits; what was posted and not sent stays for the next connection."""
        self._stuck = False
        waiting = [*self._unanswered, *(future for _, future in self._queue)]
        self._unanswered.clear()
        kept = [(data, future) for data, future in self._queue if future is None]
        self._queue.clear()
        self._queue.extend(kept)
        self._queued_bytes = sum(len(data) for data, _ in kept)
        for future in waiting:
            if future is not None and not future.done():
                future.set_exception(Away("closed the connection"))

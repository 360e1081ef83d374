"""What waits to be sent to one connection: bounded, counted in bytes, with a deadline.

Frames go straight to the socket while it takes them. Only when the transport asks to pause does
anything wait here, and nothing but a callback of the transport empties it: an idle connection has no
task and no timer. A consumer that lets more than ``OUTBOX_MAX_BYTES`` pile up, or takes nothing for
``SEND_DEADLINE_MS``, is cut off with 4003; what waited is dropped at once, the client resumes.
"""

import asyncio
from collections import deque
from collections.abc import MutableSet
from typing import Final, Protocol

from protocol.errors import CloseCode

OUTBOX_MAX_BYTES: Final = 1024 * 1024
SEND_DEADLINE_MS: Final = 20_000


class Wire(Protocol):
    """One socket, as seen from its outbox. Nothing here blocks or raises."""

    def write(self, payload: bytes) -> None:
        """Send one text frame; dropped without a word where the socket is closing."""

    def unsent_bytes(self) -> int:
        """Return how much was written that the operating system has not taken."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and see to it that the socket is gone soon, whatever the peer does."""


class Outbox:
    """The bounded queue of one connection.

    Invariant: while anything waits here, everything goes through here; so order is kept.

    Args:
        wire: where frames go.
        stalled: registry of the outboxes whose socket takes nothing now; ``check`` is due for them.
    """

    __slots__ = ("_least_unsent", "_moved_at_ms", "_paused", "_queue", "_queued_bytes", "_stalled",
                 "_waiters", "_wire", "closed")  # fmt: skip

    def __init__(self, wire: Wire, stalled: MutableSet["Outbox"]) -> None:
        self._wire = wire
        self._stalled = stalled
        self._queue: deque[bytes] | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._queued_bytes = 0
        self._paused = False
        self._least_unsent = 0
        self._moved_at_ms: int | None = None
        self.closed = False

    @property
    def waiting_bytes(self) -> int:
        """How much was put and not taken by the operating system."""
        return self._queued_bytes + self._wire.unsent_bytes()

    @property
    def has_room(self) -> bool:
        """Whether the next frame would be sent at once."""
        return not self._paused or self.closed

    def put(self, payload: bytes) -> bool:
        """Send ``payload``, or keep it until the socket takes it. False: the connection is closing."""
        if self.closed:
            return False
        if not self._paused:
            self._wire.write(payload)
            return True
        if self._queue is None:
            self._queue = deque()
        self._queue.append(payload)
        self._queued_bytes += len(payload)
        if self.waiting_bytes > OUTBOX_MAX_BYTES:
            self._cut("It reads too slowly: more than 1 MiB was waiting.")
            return False
        return True

    async def room(self) -> None:
        """Return as soon as the next frame would be sent at once, or the connection is closing.

        Who sends much (replay, history) waits here first, and so can never overflow the outbox.
        """
        while self._paused and not self.closed:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter

    def on_paused(self) -> None:
        """The transport takes no more for now."""
        if not self.closed:
            self._paused = True
            self._moved_at_ms = None
            self._stalled.add(self)

    def on_resumed(self) -> None:
        """The transport takes frames again: send what waits, until it pauses again."""
        self._paused = False
        while self._queue and not self._paused and not self.closed:
            payload = self._queue.popleft()
            self._queued_bytes -= len(payload)
            self._wire.write(payload)
        if not self._paused:
            self._stalled.discard(self)
            self._queue = None
            self._wake()

    def check(self, now_ms: int) -> None:
        """Cut the consumer off if it has taken nothing for the deadline. Called for stalled outboxes."""
        unsent = self._wire.unsent_bytes()
        if self._moved_at_ms is None or unsent < self._least_unsent:
            self._moved_at_ms = now_ms
        elif now_ms - self._moved_at_ms >= SEND_DEADLINE_MS:
            self._cut("It has read nothing for 20 seconds.")
        self._least_unsent = unsent

    def close(self, code: int, reason: str) -> None:
        """Send the close frame behind what the socket already took; drop what still waits here."""
        if not self.closed:
            self.discard()
            self._wire.close(code, reason)

    def discard(self) -> None:
        """The connection is gone, or will be: free everything and let nothing in any more."""
        self.closed = True
        self._queue = None
        self._queued_bytes = 0
        self._stalled.discard(self)
        self._wake()

    def _cut(self, reason: str) -> None:
        self.close(CloseCode.SLOW_CONSUMER, reason)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

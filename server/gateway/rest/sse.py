"""Server-sent events over plain ASGI: one suspended coroutine a client, and no task beside it.

The request's own coroutine waits in ``receive()`` for the client to leave, under a time-out; whoever has
news moves that time-out to now.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import orjson

from server.gateway.http import ABORT
from server.gateway.rest.envelope import Receive, Scope, Send

SEND_TIMEOUT_S: Final = 20.0
"""A client that takes nothing for so long is cut off; it connects again and is told what waits then."""
HEARTBEAT: Final = b": still here\n\n"


class StreamEnded(Exception):  # noqa: N818
    """The client has gone, or reads nothing."""


def event_bytes(name: str | None, data: Any, event_id: str | None = None) -> bytes:
    """Return one event; JSON holds no line break. Without a name it is a plain message."""
    head = b"" if event_id is None else b"id: %s\n" % event_id.encode()
    if name is not None:
        head += b"event: %s\n" % name.encode()
    return b"%sdata: %s\n\n" % (head, orjson.dumps(data))


def place_bytes(event_id: str) -> bytes:
    """Return what moves the client's ``Last-Event-ID`` on without an event."""
    return b"id: %s\n\n" % event_id.encode()


class EventStream:
    """One client's stream. ``wake`` may be called at any time from the event loop."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._abort: Callable[[], None] | None = scope.get("extensions", {}).get(ABORT)
        self._pause: asyncio.Timeout | None = None
        self._woken = False

    def wake(self) -> None:
        """End the present ``wait``, or the next one."""
        if self._woken:
            return
        self._woken = True
        if self._pause is not None:
            self._pause.reschedule(asyncio.get_running_loop().time())

    async def begin(self) -> None:
        """Send the head."""
        headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
        await self._put({"type": "http.response.start", "status": 200, "headers": headers})

    async def tell(self, data: bytes) -> None:
        """Send whole events. Raises StreamEnded where the client takes nothing."""
        await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Send the end."""
        await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def wait(self, seconds: float, *, rest: float = 0.0) -> bool:
        """Wait until woken or the time is over, but for ``rest`` seconds at least; tell whether it was woken.

        Raises:
            StreamEnded: the client has gone.
        """
        if rest:
            await self._listen(asyncio.timeout(rest))
        if not self._woken:
            self._pause = asyncio.timeout(seconds)
            try:
                await self._listen(self._pause)
            finally:
                self._pause = None
        woken, self._woken = self._woken, False
        return woken

    async def _listen(self, pause: asyncio.Timeout) -> None:
        try:
            async with pause:
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return
        raise StreamEnded

    async def _put(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._send(message)
        except TimeoutError:
            await self.cut()
            raise StreamEnded from None

    def drop(self) -> bool:
        """Drop the connection at once, with what was not read; tell whether that can be done here."""
        if self._abort is not None:
            self._abort()
        return self._abort is not None

    async def cut(self) -> None:
        """Drop the connection of a client that reads nothing; a polite close would wait for its reader."""
        if self.drop():
            while (await self._receive())["type"] != "http.disconnect":
                pass

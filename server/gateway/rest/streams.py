"""Event streams that watch conversations: the hub's frames, through an outbox, into one HTTP response.

A stream is a watcher like a socket, with the same bounds: what its client does not read waits in the outbox,
1 MiB and 20 seconds at most. It counts as a connection of its principal.
"""

import asyncio
from collections.abc import Callable, MutableSet
from types import TracebackType
from typing import Any, Final, Self

from protocol.errors import CloseCode, ErrorCode, Refused
from protocol.frames import Resume
from server.auth.keys import Keys, closing_of
from server.auth.principal import Principal
from server.delivery.hub import Hub, Standing
from server.delivery.outbox import Outbox
from server.delivery.topic import Subscription
from server.gateway.rest.sse import EventStream
from server.limits.connections import ConnectionCounter, ConnectionRefusal

PAUSE_BYTES: Final = 64 * 1024
"""With this much on its way to the client, the rest waits in the outbox."""


def enter(counter: ConnectionCounter, principal: Principal) -> tuple[str, str]:
    """Count a stream as a connection of its principal; return what to close it by. Raises Refused."""
    identity = (principal.tenant_id, principal.user_id)
    refusal = counter.open()
    if refusal is None:
        refusal = counter.identify(identity)
        if refusal is None:
            return identity
        counter.close()
    whose = "you have" if refusal is ConnectionRefusal.PRINCIPAL else "this server has"
    raise Refused(
        ErrorCode.RATE_LIMITED, f"As many connections are open as {whose} at most.", retry_after_ms=5000
    )


class Streams:
    """The open streams of one instance.

    Args:
        hub: what they watch by.
        keys: tells when a key ends that one of them rests on.
        counter: the caps on connections, which they count to.
        stalled: registry of the outboxes whose client takes nothing now.
    """

    def __init__(self, hub: Hub, keys: Keys, counter: ConnectionCounter, stalled: MutableSet[Outbox]) -> None:
        self.hub = hub
        self._keys = keys
        self._counter = counter
        self._stalled = stalled
        self._open: set[StreamWatcher] = set()
        self.closed = False

    def open(self, principal: Principal, stream: EventStream) -> "StreamWatcher":
        """Return a watcher; it is an async context manager. Raises Refused beyond the caps."""
        if self.closed:
            raise Refused(ErrorCode.OVERLOADED, "The server is shutting down.", retry_after_ms=1000)
        identity = enter(self._counter, principal)
        watcher = StreamWatcher(self.hub, principal, stream, self._stalled)
        self._open.add(watcher)
        self._keys.hold(watcher)
        watcher.on_end = lambda: self._leave(watcher, identity)
        return watcher

    def _leave(self, watcher: "StreamWatcher", identity: tuple[str, str]) -> None:
        self._open.discard(watcher)
        self._keys.release(watcher)
        self._counter.close(identity)

    def close(self) -> None:
        """End all of them: the server goes away."""
        self.closed = True
        for watcher in list(self._open):
            watcher.outbox.close(CloseCode.SHUTDOWN, "shutdown")


class StreamWatcher:
    """One stream as the hub sees it (``Watcher``) and as its outbox does (``Wire``).

    Args:
        hub: where it subscribes.
        principal: who watches.
        stream: woken when there is something to take, or it was closed; dropped if it reads too slowly.
        stalled: see ``Outbox``.

    Attributes:
        ended: the close code and reason, once it was closed from inside.
    """

    def __init__(
        self, hub: Hub, principal: Principal, stream: EventStream, stalled: MutableSet[Outbox]
    ) -> None:
        self._hub = hub
        self._stream = stream
        self._wake = stream.wake
        self._written: list[bytes] = []
        self._unsent = 0
        self._paused = False
        self._subscribing: asyncio.Task[None] | None = None
        self.principal = principal
        self.subscriptions: dict[str, Subscription] = {}
        self.outbox = Outbox(self, stalled)
        self.ended: tuple[int, str] | None = None
        self.on_end: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.outbox.discard()
        self._hub.drop(self)
        self.on_end()
        if self._subscribing is not None:
            self._subscribing.cancel()
            await asyncio.gather(self._subscribing, return_exceptions=True)

    async def subscribe(self, conversation_id: str, resume: Resume | None) -> Standing:
        """Begin to watch; return where the conversation stands. Raises Refused, StoreUnavailable.

        What it is told comes by ``take``, which must go on meanwhile: a replay is as fast as its client.
        """
        told: asyncio.Future[Standing] = asyncio.get_running_loop().create_future()

        def reply(standing: Standing) -> bytes:
            if not told.done():
                told.set_result(standing)
            return b""

        begun = self._hub.subscribe(self, conversation_id, resume, reply)
        self._subscribing = asyncio.create_task(begun)
        self._subscribing.add_done_callback(lambda _: self._wake())
        both: set[asyncio.Future[Any]] = {self._subscribing, told}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            self._subscribing.result()
        return await told

    @property
    def watches(self) -> bool:
        """Whether it still watches; no more once the conversation is gone, or another's."""
        subscribing = self._subscribing
        if subscribing is None or not subscribing.done():
            return True
        return bool(self.subscriptions) and subscribing.exception() is None

    def key_ended(self, why: Refused) -> None:
        """End: the key behind the credential does not let it be any more."""
        self.outbox.close(*closing_of(why))

    def take(self) -> list[bytes]:
        """Return the frames to send now; say ``sent`` when they are."""
        written, self._written = self._written, []
        return written

    def sent(self) -> None:
        """All that was taken has left: let the outbox send on."""
        self._unsent = sum(map(len, self._written))
        if self._paused and self._unsent <= PAUSE_BYTES:
            self._paused = False
            self.outbox.on_resumed()

    # --- Wire -------------------------------------------------------------------------------------

    def write(self, payload: bytes) -> None:
        """Keep a frame for ``take``; see ``Wire``."""
        if not payload:
            return  # the place of the answer that a socket gets
        self._written.append(payload)
        self._unsent += len(payload)
        if self._unsent > PAUSE_BYTES and not self._paused:
            self._paused = True
            self.outbox.on_paused()
        self._wake()

    def unsent_bytes(self) -> int:
        """Return what the client has not been sent; see ``Wire``."""
        return self._unsent

    def close(self, code: int, reason: str) -> None:
        """End the stream soon; see ``Wire``."""
        self.ended = (code, reason)
        if code == CloseCode.SLOW_CONSUMER:
            self._written = []
            self._stream.drop()
        self._wake()


__all__ = ["StreamWatcher", "Streams", "enter"]

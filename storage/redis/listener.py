"""The pub/sub connection to one server: which channels are heard, and who takes what comes."""

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import hiredis
import structlog

from storage.redis.link import Link
from storage.redis.wire import Away, Wire, pack

SUBSCRIBE_WAIT_S: Final = 2.0
RESUBSCRIBE_CHUNK: Final = 1000
ENVELOPE_VERSION: Final = "1"
ENVELOPE_BYTES: Final = 13

_log = structlog.get_logger(__name__)

Receive = Callable[[bytes], None]


def envelope() -> bytes:
    """Return what an instance writes before each payload: the format's version, who it is, a space.

    By it an instance knows its own, which Redis sends back to it, without looking into the payload.
    """
    return f"{ENVELOPE_VERSION}{secrets.token_hex(6)[1:]} ".encode()


class Listener(Link):
    """What one server publishes on the channels that somebody here wants.

    The wanted channels are kept here and subscribed to anew with each connection; ``up`` means that all of
    them are heard. Behind each group of requests goes a PING: its answer says that they were all taken.

    Args:
        own: the envelope of this instance; what begins with it is not delivered.

    Attributes:
        messages: how many messages came, own ones included.
        unreadable: how many of them were not from an instance of ours.
        channels: what is wanted, with its receivers.
        refused: the latest error; in a cluster it may say that a channel has moved.
        on_error: called with it.
    """

    role = "listener"

    def __init__(self, *args: Any, own: bytes, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.messages = 0
        self.unreadable = 0
        self.channels: dict[bytes, Receive] = {}
        self.refused: str | None = None
        self.on_error: Callable[[str], None] = lambda error: None
        self._own = own
        self._requests: list[tuple[bytes, bytes]] = []
        self._gathering: asyncio.Future[None] | None = None
        self._asked: deque[asyncio.Future[None]] = deque()
        self._asked_at = 0.0
        self._leaving: Counter[bytes] = Counter()

    async def subscribe(self, channel: bytes, receive: Receive) -> None:
        """Hear ``channel``. Returns once it is heard, or soon where the server is away."""
        known = channel in self.channels
        self.channels[channel] = receive
        if self.wire is None:
            return
        taken = self._newest() if known else self._request(b"SUBSCRIBE", channel)
        if taken is not None:
            # Shared by all who ask in one turn of the loop: one of them giving up must not cancel it.
            await asyncio.wait((taken,), timeout=SUBSCRIBE_WAIT_S)

    def unsubscribe(self, channel: bytes) -> None:
        """Hear ``channel`` no more."""
        if self.channels.pop(channel, None) is not None and self.wire is not None:
            self._request(b"UNSUBSCRIBE", channel)

    def check(self, now: float) -> None:
        """Drop the connection if requests stay unanswered. Call it about once a second."""
        if not self.up or self.wire is None or not self._asked:
            return
        if now - max(self.wire.heard_at, self._asked_at) >= self.pace.dead_after:
            self.rebuild("does not answer")

    # ----------------------------------------------------------------------------------------------

    async def _set_up(self, wire: Wire) -> None:
        """Subscribe to everything that is wanted, in chunks that no output buffer overflows on."""
        self.refused = None
        wanted = list(self.channels)
        for start in range(0, len(wanted), RESUBSCRIBE_CHUNK):
            taken = self._newest()
            for channel in wanted[start : start + RESUBSCRIBE_CHUNK]:
                if channel in self.channels:
                    taken = self._request(b"SUBSCRIBE", channel)
            if taken is not None:
                await asyncio.wait((taken,), timeout=self.pace.dead_after)
                if not taken.done():
                    raise Away("does not answer")
            if wire.closed:
                raise Away("closed the connection")

    def _request(self, verb: bytes, channel: bytes) -> asyncio.Future[None]:
        """Ask for something with the others of this turn of the loop; done when all of it was taken."""
        self._requests.append((verb, channel))
        if self._gathering is None:
            loop = asyncio.get_running_loop()
            self._gathering = loop.create_future()
            loop.call_soon(self._flush)
        return self._gathering

    def _newest(self) -> asyncio.Future[None] | None:
        """Return what is done when everything asked for so far was taken; None where all was."""
        return self._gathering or (self._asked[-1] if self._asked else None)

    def _flush(self) -> None:
        requests, self._requests = self._requests, []
        gathering, self._gathering = self._gathering, None
        if self.wire is None or gathering is None:
            return
        if not self._asked:
            self._asked_at = asyncio.get_running_loop().time()
        self._asked.append(gathering)
        commands = self._sharded(requests) if self.server.cluster else self._merged(requests)
        self.wire.write(b"".join([pack(tuple(c)) for c in (*commands, [b"PING"])]))

    @staticmethod
    def _merged(requests: list[tuple[bytes, bytes]]) -> list[list[bytes]]:
        """Return as few commands as keep the order."""
        commands: list[list[bytes]] = []
        for verb, channel in requests:
            if commands and commands[-1][0] == verb:
                commands[-1].append(channel)
            else:
                commands.append([verb, channel])
        return commands

    def _sharded(self, requests: list[tuple[bytes, bytes]]) -> list[list[bytes]]:
        """Return a command each: the channels of one command would have to share a slot."""
        for verb, channel in requests:
            if verb == b"UNSUBSCRIBE":
                self._leaving[channel] += 1
        return [[b"S" + verb, channel] for verb, channel in requests]

    def _take(self, reply: Any) -> None:
        if type(reply) is not list:
            if isinstance(reply, hiredis.ReplyError):
                self._refuse(str(reply))
            else:
                self._taken()  # a PING's answer where nothing is subscribed to
            return
        kind = reply[0]
        if kind == b"message" or kind == b"smessage":
            self.messages += 1
            payload = reply[2]
            if payload[:ENVELOPE_BYTES] != self._own:
                self._deliver(reply[1], payload)
        elif kind == b"pong":
            self._taken()
        elif kind == b"sunsubscribe":
            self._left(reply[1])

    def _deliver(self, channel: bytes, payload: bytes) -> None:
        receive = self.channels.get(channel)
        if receive is None:
            return  # left meanwhile
        if payload[:1] != ENVELOPE_VERSION.encode() or payload[ENVELOPE_BYTES - 1 : ENVELOPE_BYTES] != b" ":
            self.unreadable += 1
            return
        try:
            receive(payload[ENVELOPE_BYTES:])
        except Exception:  # noqa: BLE001 - one payload must not end the connection
            _log.exception("bus_receiver_failed")

    def _taken(self) -> None:
        if self._asked:
            future = self._asked.popleft()
            if not future.done():
                future.set_result(None)

    def _left(self, channel: bytes) -> None:
        """A node says that we hear a channel no more: because we asked, or because it has moved."""
        if self._leaving[channel] > 0:
            self._leaving[channel] -= 1
            if not self._leaving[channel]:
                del self._leaving[channel]
        elif channel in self.channels:
            self._refuse("MOVED: the node gave the channel away")

    def _refuse(self, error: str) -> None:
        self.refused = error
        self.on_error(error)

    def _drop(self) -> None:
        """Let go on who waits: the channels are heard with the next connection."""
        waiting = [*self._asked, *((self._gathering,) if self._gathering is not None else ())]
        self._asked.clear()
        self._requests.clear()
        self._gathering = None
        self._leaving.clear()
        for future in waiting:
            if not future.done():
                future.set_result(None)

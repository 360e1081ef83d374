"""The pub/sub connection to one server: which channels are heard, and who takes what comes."""

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ResponseError, TryAgainError

from storage.redis.link import Link
from storage.redis.server import Away, Server, Visit, to_its_end

SUBSCRIBE_WAIT_S: Final = 2.0
RESUBSCRIBE_CHUNK: Final = 1000
MESSAGES_A_TURN: Final = 256
"""So many messages are taken before others get the event loop; meanwhile nothing more is read."""
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
        self.refused: ResponseError | None = None
        self.on_error: Callable[[ResponseError], None] = lambda error: None
        self._own = own
        self._requests: list[tuple[str, bytes]] = []
        self._more = asyncio.Event()
        self._heard_at = 0.0
        self._connected = False
        self._gathering: asyncio.Future[None] | None = None
        self._asked: deque[asyncio.Future[None]] = deque()
        self._asked_at = 0.0
        self._leaving: Counter[bytes] = Counter()

    async def subscribe(self, channel: bytes, receive: Receive) -> None:
        """Hear ``channel``. Returns once it is heard, or soon where the server is away."""
        known = channel in self.channels
        self.channels[channel] = receive
        if not self._connected:
            return
        taken = self._newest() if known else self._request("subscribe", channel)
        if taken is not None:
            # Shared by all who ask in one turn of the loop: one of them giving up must not cancel it.
            await asyncio.wait((taken,), timeout=SUBSCRIBE_WAIT_S)

    def unsubscribe(self, channel: bytes) -> None:
        """Hear ``channel`` no more."""
        if self.channels.pop(channel, None) is not None and self._connected:
            self._request("unsubscribe", channel)

    def check(self, now: float) -> None:
        """Drop the connection if requests stay unanswered. Call it about once a second."""
        if self._asked and now - max(self._heard_at, self._asked_at) >= self.pace.dead_after:
            self.rebuild("does not answer")

    # ----------------------------------------------------------------------------------------------

    async def _live(self, visit: Visit) -> None:
        redis = Redis.from_pool(visit.pool(max_connections=1))
        pubsub = redis.pubsub()
        loop = asyncio.get_running_loop()
        try:
            server = await visit.begin(pubsub.connect())  # type: ignore[no-untyped-call]
            self._connected, self._heard_at, self.refused = True, loop.time(), None
            works = [
                loop.create_task(work)
                for work in (self._read(pubsub), self._write(pubsub, server.cluster), self._settle(server))
            ]
            try:
                done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for work in works:
                    work.cancel()
                await asyncio.gather(*works, return_exceptions=True)
            for work in done:
                work.result()
        finally:
            self._connected = False
            self._drop()
            await to_its_end(self._leave(redis, pubsub))

    @staticmethod
    async def _leave(redis: Redis, pubsub: PubSub) -> None:
        await pubsub.aclose()  # type: ignore[no-untyped-call]
        await redis.aclose()

    async def _settle(self, server: Server) -> None:
        """Subscribe to everything that is wanted, in chunks that no output buffer overflows on."""
        wanted = list(self.channels)
        for start in range(0, len(wanted), RESUBSCRIBE_CHUNK):
            taken = self._newest()
            for channel in wanted[start : start + RESUBSCRIBE_CHUNK]:
                if channel in self.channels:
                    taken = self._request("subscribe", channel)
            if taken is not None:
                await asyncio.wait((taken,), timeout=self.pace.dead_after)
                if not taken.done():
                    raise Away("does not answer")
        self._came(server)

    def _request(self, verb: str, channel: bytes) -> asyncio.Future[None]:
        """Ask for something with the others of this turn of the loop; done when all of it was taken."""
        self._requests.append((verb, channel))
        self._more.set()
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().create_future()
        return self._gathering

    def _newest(self) -> asyncio.Future[None] | None:
        """Return what is done when everything asked for so far was taken; None where all was."""
        return self._gathering or (self._asked[-1] if self._asked else None)

    async def _write(self, pubsub: PubSub, sharded: bool) -> None:
        """Send what is asked for, and a PING behind it."""
        while True:
            await self._more.wait()
            self._more.clear()
            requests, self._requests = self._requests, []
            gathering, self._gathering = self._gathering, None
            if gathering is None:
                continue
            if not self._asked:
                self._asked_at = asyncio.get_running_loop().time()
            self._asked.append(gathering)
            for verb, channels in self._commands(requests, sharded):
                await getattr(pubsub, verb)(*channels)
            await pubsub.ping()

    def _commands(self, requests: list[tuple[str, bytes]], sharded: bool) -> list[tuple[str, list[bytes]]]:
        """Return as few commands as keep the order; sharded, those of one would have to share a slot."""
        commands: list[tuple[str, list[bytes]]] = []
        for verb, channel in requests:
            if sharded:
                if verb == "unsubscribe":
                    self._leaving[channel] += 1
                commands.append((f"s{verb}", [channel]))
            elif commands and commands[-1][0] == verb:
                commands[-1][1].append(channel)
            else:
                commands.append((verb, [channel]))
        return commands

    async def _read(self, pubsub: PubSub) -> None:
        """Take what comes, some at a time."""
        now = asyncio.get_running_loop().time
        while True:
            for _ in range(MESSAGES_A_TURN):
                try:
                    message = await pubsub.get_message(timeout=None)
                except ResponseError as error:
                    self._refuse(error)
                else:
                    self._heard_at = now()
                    self._take(message)
            await asyncio.sleep(0)

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "message" | "smessage":
                self.messages += 1
                payload = message["data"]
                if payload[:ENVELOPE_BYTES] != self._own:
                    self._deliver(message["channel"], payload)
            case "pong":
                self._taken()
            case "sunsubscribe":
                self._left(message["channel"])

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
        expected = self._leaving.pop(channel, 0)
        if expected > 1:
            self._leaving[channel] = expected - 1
        elif not expected and channel in self.channels:
            self._refuse(TryAgainError("the node gave the channel away"))

    def _refuse(self, error: ResponseError) -> None:
        self.refused = error
        self.on_error(error)

    def _drop(self) -> None:
        """Let go on who waits: the channels are heard with the next connection."""
        waiting = [*self._asked, *((self._gathering,) if self._gathering is not None else ())]
        self._asked.clear()
        self._requests.clear()
        self._more.clear()
        self._gathering = None
        self._leaving.clear()
        for future in waiting:
            if not future.done():
                future.set_result(None)

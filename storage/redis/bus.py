"""The bus over Redis pub/sub."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog
from redis.exceptions import AskError, ClusterDownError, NoPermissionError, ResponseError, TryAgainError

from storage.base import BusHealth, BusRefused
from storage.redis.address import Address
from storage.redis.cluster import Servers
from storage.redis.link import Pace, Place
from storage.redis.listener import Listener, Receive, envelope
from storage.redis.publisher import Publisher
from storage.redis.server import FAREWELL_S

ACL: Final = "~parley:* &parley:* +@read +@write +@pubsub +@scripting +@connection +time +info +cluster|slots"

_log = structlog.get_logger(__name__)


def _ignore(payload: bytes) -> None:
    """Take nothing: our own probe is known by its envelope."""


class Node:
    """What the bus has at one server: a connection for publishing, one for listening, and the probe.

    A connection that TCP calls healthy may deliver nothing; so after some silence we publish to ourselves.
    """

    def __init__(self, publisher: Publisher, listener: Listener, probe: bytes, own: bytes) -> None:
        self.publisher = publisher
        self.listener = listener
        self._probe = probe
        self._own = own
        self._pace = publisher.pace
        self._messages = 0
        self._heard_at = 0.0
        self._probed_at: float | None = None
        listener.channels[probe] = _ignore

    async def open(self, away: str | None = None) -> None:
        """Connect both, as ``Link.open`` does. Raises BusRefused."""
        await self.publisher.open(away)
        await self.listener.open(away)
        self._heard_at = asyncio.get_running_loop().time()
        await self._try_out()

    @property
    def up(self) -> bool:
        """Whether both connections work."""
        return self.publisher.up and self.listener.up

    @property
    def reason(self) -> str | None:
        """Why one does not."""
        return self.publisher.reason or self.listener.reason

    async def close(self) -> None:
        """Send what waits, then disconnect."""
        if self.publisher.up:
            await self.publisher.flushed(FAREWELL_S)
        await self.listener.close()
        await self.publisher.close()

    def check(self, now: float) -> None:
        """Let time pass: about once a second."""
        self.listener.check(now)
        if not self.listener.up or self.listener.messages != self._messages:
            self._messages = self.listener.messages
            self._heard_at, self._probed_at = now, None
        elif self._probed_at is not None:
            if now - self._probed_at >= self._pace.dead_after:
                self._heard_at, self._probed_at = now, None
                self.listener.rebuild("does not deliver what is published")
        elif now - self._heard_at >= self._pace.probe_after and self.publisher.up:
            self._probed_at = now
            self.publisher.post(self._probe, self._own)

    async def _try_out(self) -> None:
        """Publish once: an account that may not is found at the start, not by a silence."""
        if not self.up:
            return
        self.publisher.post(self._probe, self._own)
        await self.publisher.flushed(self._pace.dead_after)
        for refused in (self.publisher.refused, self.listener.refused):
            if isinstance(refused, NoPermissionError):
                raise BusRefused(
                    "Redis at {}:{} does not let this user publish and subscribe: give it what Parley needs, "
                    "{}".format(*self.publisher.place, ACL)
                )


class RedisBus:
    """An ``EventBus`` over Redis: one connection that publishes, one that listens (in a cluster, a node).

    What has come together leaves in one pipeline; what arrives is handed over as it came, some at a time.
    Redis gives each instance its own messages back, too: they are known by their envelope and dropped.

    Args:
        address: one server, or any node of a cluster; there, sharded pub/sub is used.
        pace: how patient it is.
        random_: for the jitter of reconnecting.
    """

    networked: Final = True

    def __init__(
        self, address: Address, *, pace: Pace | None = None, random_: random.Random | None = None
    ) -> None:
        self._address = address
        self._pace = pace or Pace()
        self._random = random_ or random.Random()  # noqa: S311 - jitter
        self._prefix = address.prefix.encode()
        self._own = envelope()
        self._wanted: dict[bytes, Receive] = {}
        self._servers: Servers[Node] = Servers(address, self._node, self._route)
        self._restored: Callable[[], None] | None = None
        self._opened = False
        self._health = BusHealth(False, "Redis is not connected yet", _now_ms())
        self._checks: asyncio.Task[None] | None = None
        self._moves: set[asyncio.Task[None]] = set()

    # --- EventBus ---------------------------------------------------------------------------------

    async def open(self, restored: Callable[[], None] | None = None) -> None:
        """See ``EventBus.open``."""
        self._restored = restored
        try:
            await self._servers.open()
        except BaseException:
            await self._servers.close()
            raise
        self._look_up()
        self._opened = True
        self._checks = asyncio.get_running_loop().create_task(self._check())

    async def close(self) -> None:
        """See ``EventBus.close``."""
        self._opened = False
        if self._checks is not None:
            self._checks.cancel()
            await asyncio.gather(self._checks, *self._moves, return_exceptions=True)
            self._checks = None
        await self._servers.close()
        self._wanted.clear()

    def health(self) -> BusHealth:
        """See ``EventBus.health``."""
        return self._health

    def publish(self, channel: str, payload: bytes) -> None:
        """See ``EventBus.publish``."""
        name = self._prefix + channel.encode()
        node = self._servers.of(name)
        if node is not None and self._opened:
            node.publisher.post(name, self._own + payload)

    async def subscribe(self, channel: str, receive: Receive) -> None:
        """See ``EventBus.subscribe``."""
        name = self._prefix + channel.encode()
        self._wanted[name] = receive
        node = self._servers.of(name)
        if node is not None:
            await node.listener.subscribe(name, receive)

    async def unsubscribe(self, channel: str) -> None:
        """See ``EventBus.unsubscribe``."""
        name = self._prefix + channel.encode()
        self._wanted.pop(name, None)
        node = self._servers.of(name)
        if node is not None:
            node.listener.unsubscribe(name)

    @property
    def dropped(self) -> int:
        """How many messages were dropped because too much waited to be sent."""
        return sum(node.publisher.dropped for node in self._servers)

    # ----------------------------------------------------------------------------------------------

    def _node(self, place: Place, mine: Callable[[bytes], bool]) -> "Node":
        def changed() -> None:
            if not listener.up:
                publisher.ask()  # what ended one connection has most likely ended both: one outage, not two
            self._changed()

        options: dict[str, Any] = {"pace": self._pace, "random_": self._random}
        publisher = Publisher(self._address, place, changed=self._changed, **options)
        listener = Listener(self._address, place, changed=changed, own=self._own, **options)
        publisher.on_error = listener.on_error = self._refused
        stem = self._prefix + b"parley:probe:" + self._own.strip()
        probe = next(name for n in range(1_000_000) if mine(name := stem + b":%d" % n))
        for name, receive in self._wanted.items():
            if mine(name):
                listener.channels[name] = receive
        return Node(publisher, listener, probe, self._own)

    def _refused(self, error: ResponseError) -> None:
        """A server does not do what was asked: most likely, a slot of a cluster has moved."""
        if isinstance(error, (AskError, ClusterDownError, TryAgainError)):  # MOVED is an ASK to redis-py
            self._servers.refresh_soon()
        else:
            _log.warning("redis_refuses", error=type(error).__name__)

    def _route(self) -> None:
        """Have each channel where it belongs, after it was seen who has what."""
        for node in self._servers:
            listener = node.listener
            for name in [name for name in listener.channels if name in self._wanted]:
                if self._servers.of(name) is not node:
                    listener.unsubscribe(name)
            if listener.refused is not None:
                listener.rebuild("was asked for a channel that it does not serve")
        for name, receive in self._wanted.items():
            home = self._servers.of(name)
            if home is not None and name not in home.listener.channels:
                self._spawn(home.listener.subscribe(name, receive))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    def _changed(self) -> None:
        """A connection came or went."""
        if not self._opened:
            return
        was_up = self._health.up
        self._look_up()
        # Also where only the publishing connection was lost: then others' is likely to have been, too.
        if self._health.up and not was_up and self._restored is not None:
            self._restored()

    def _look_up(self) -> None:
        nodes = list(self._servers)
        if not self._servers.is_cluster and any(node.publisher.server.cluster for node in nodes):
            self._servers.refresh_soon()  # it was away when we looked, and is a cluster
        reason = next((f"Redis {node.reason}" for node in nodes if not node.up), None)
        up = bool(nodes) and reason is None
        if (up, reason) != (self._health.up, self._health.reason):
            since_ms = self._health.since_ms if up == self._health.up else _now_ms()
            self._health = BusHealth(up, reason, since_ms)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(self._pace.check_every)
            now = asyncio.get_running_loop().time()
            for node in self._servers:
                node.check(now)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""Commands to a Redis, or to a cluster, by redis-py: bounded in time, and none while it is away."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from storage.redis.address import Address
from storage.redis.link import Link, Pace, Place
from storage.redis.server import FAREWELL_S, Away, Server, Visit, hang_up, login, pool, to_its_end

CALL_TIMEOUT_S: Final = 1.0
CONNECTIONS: Final = 16
"""So many commands are under way at a time; more wait their turn, within their second."""
CHUNK: Final = 500

T = TypeVar("T")
Commands = Redis | RedisCluster
Command = tuple[str | bytes | int, ...]

_log = structlog.get_logger(__name__)


class Client(Link):
    """One Redis for all: while it is away, one task looks for it and nobody else waits.

    Nothing is tried twice, as it may have been done. A call goes on when its caller stops waiting: so no
    connection is lost with each of them, and no reply is ever taken for another's.

    Args:
        address: one server, or any node of a cluster. Its prefix is the callers' business.
        pace: how patient it is.
        random_: for the jitter of reconnecting.
        tick: called about once a second while Redis is there.
    """

    role = "commands"

    def __init__(
        self,
        address: Address,
        *,
        pace: Pace | None = None,
        random_: random.Random | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            address,
            (address.host, address.port),
            pace=pace or Pace(),
            random_=random_ or random.Random(),  # noqa: S311 - jitter
        )
        self._tick = tick
        self._redis: Commands | None = None
        self._places = [self.place]
        self._refused: str | None = None
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._calls: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Let what is under way end, then disconnect. Idempotent."""
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=FAREWELL_S)
            for call in late:
                call.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await super().close()

    async def call(self, work: Callable[[Commands], Awaitable[T]]) -> T:
        """Have ``work`` done by redis-py and return its reply.

        Raises:
            Away: it cannot be done now, whatever the cause; it may have been done.
            NoScriptError: a script is not known there.
        """
        if self._redis is None or not self.up:
            raise Away(self.reason or "is not connected")
        call = asyncio.get_running_loop().create_task(self._bounded(self._redis, work))
        self._calls.add(call)
        call.add_done_callback(self._ended)
        return await asyncio.shield(call)

    async def tell(self, commands: list[Command]) -> None:
        """Send commands whose replies do not matter, many in one round trip. Raises Away."""
        for start in range(0, len(commands), CHUNK):
            chunk = commands[start : start + CHUNK]

            async def send(redis: Commands, chunk: list[Command] = chunk) -> None:
                pipeline = redis.pipeline(transaction=False)
                for command in chunk:
                    pipeline.execute_command(*command)
                await pipeline.execute()

            await self.call(send)

    # ----------------------------------------------------------------------------------------------

    def _ended(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # somebody may have gone; that is no news

    async def _bounded(self, redis: Commands, work: Callable[[Commands], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S), self._turns:
                return await work(redis)
        except NoScriptError:
            raise
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            raise self._failed(redis, error) from error

    def _failed(self, redis: Commands, error: Exception) -> Away:
        if isinstance(error, ResponseError) and not isinstance(error, (ReadOnlyError, ClusterDownError)):
            code = type(error).__name__
            if code != self._refused:
                self._refused = code
                _log.warning("redis_refuses", error=code)
            return Away("refuses")
        timed_out = isinstance(error, (TimeoutError, RedisTimeoutError))
        reason = "does not answer" if timed_out else "closed the connection"
        if redis is self._redis and self.up:
            self._note(reason)
        return Away(reason)

    def _next_place(self, failures: int) -> Place:
        """Return the address, or a node of the cluster that was there, one after the other."""
        return self._places[failures % len(self._places)]

    async def _live(self, visit: Visit) -> None:
        """Watch one connection on which nothing is asked but whether anybody is there."""
        connection = visit.pool().make_connection()  # type: ignore[no-untyped-call]
        try:
            server = await visit.begin(connection.connect())
            self._redis = redis = self._connect(server)
            try:
                self._came(server)
                await self._watch(connection)
            finally:
                self._redis = None
                await to_its_end(self._leave(redis))
        finally:
            await hang_up(connection)

    async def _watch(self, connection: AbstractConnection) -> None:
        """Return once a call failed, raise once nobody is there."""
        now = asyncio.get_running_loop().time
        heard_at, asked_at = now(), 0.0
        while self.up:
            reply = await connection.read_response(timeout=self.pace.check_every)
            if reply is not None:
                heard_at, asked_at = now(), 0.0
            elif asked_at and now() - asked_at >= self.pace.dead_after:
                raise Away("does not answer")
            elif not asked_at and now() - heard_at >= self.pace.ask_after:
                asked_at = now()
                await connection.send_command("PING")
            self._tick()

    def _connect(self, server: Server) -> Commands:
        address, (host, port) = self.address, self.place
        options: dict[str, Any] = {"max_connections": CONNECTIONS, "socket_timeout": CALL_TIMEOUT_S}
        if not server.cluster:
            return Redis.from_pool(pool(address, host, port, **options))
        options |= {"ssl": address.tls is not None, "require_full_coverage": False}
        return RedisCluster(host, port, **options, **login(address))

    async def _leave(self, redis: Commands) -> None:
        if self._calls:  # each ends within its second; beyond the pool's end it would leave a connection
            await asyncio.wait(self._calls)
        with contextlib.suppress(RedisError, OSError):
            if isinstance(redis, RedisCluster):
                nodes = redis.nodes_manager
                seed = (self.address.host, self.address.port)
                self._places = [seed, *((node.host, int(node.port)) for node in redis.get_nodes())]
                await redis.aclose()
                await nodes.aclose()  # after an error, the former leaves connections open
                await nodes.aclose("startup_nodes")
            else:
                await redis.aclose()

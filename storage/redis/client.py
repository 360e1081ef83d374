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

from storage.base import BusRefused
from storage.redis.address import Address
from storage.redis.link import BACKOFF_FIRST_S, BACKOFF_MOST_S, Pace
from storage.redis.server import Away, Server, login, pool, visiting

CALL_TIMEOUT_S: Final = 1.0
CONNECTIONS: Final = 16
"""So many commands are under way at a time; more wait their turn, within their second."""
CHUNK: Final = 500
FAREWELL_S: Final = 1.0

T = TypeVar("T")
Commands = Redis | RedisCluster
Command = tuple[str | bytes | int, ...]

_log = structlog.get_logger(__name__)


class Client:
    """One Redis for all: while it is away, one task looks for it and nobody else waits.

    Nothing is tried twice, as it may have been done. A call goes on when its caller stops waiting: so no
    connection is lost with each of them, and no reply is ever taken for another's.

    Args:
        address: one server, or any node of a cluster. Its prefix is the callers' business.
        pace: how patient it is.
        random_: for the jitter of reconnecting.
        tick: called about once a second while Redis is there.

    Attributes:
        lives: how often it was found: where this grew, something may have been lost.
    """

    def __init__(
        self,
        address: Address,
        *,
        pace: Pace | None = None,
        random_: random.Random | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.lives = 0
        self._address = address
        self._pace = pace or Pace()
        self._random = random_ or random.Random()  # noqa: S311 - jitter
        self._tick = tick
        self._redis: Commands | None = None
        self._reason: str | None = "is not connected yet"
        self._refused: str | None = None
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._calls: set[asyncio.Task[Any]] = set()
        self._keeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, or go on trying. Raises BusRefused."""
        loop = asyncio.get_running_loop()
        tried: asyncio.Future[None] = loop.create_future()
        self._keeping = loop.create_task(self._keep(tried))
        try:
            await tried
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let what is under way end, then disconnect. Idempotent."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=FAREWELL_S)
            for call in late:
                call.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._reason = "was closed"
        await self._leave()

    async def call(self, work: Callable[[Commands], Awaitable[T]]) -> T:
        """Have ``work`` done by redis-py and return its reply.

        Raises:
            Away: it cannot be done now, whatever the cause; it may have been done.
            NoScriptError: a script is not known there.
        """
        if self._redis is None or self._reason is not None:
            raise Away(self._reason or "is not connected")
        call = asyncio.get_running_loop().create_task(self._bounded(self._redis, work))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
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
        reason = (
            "does not answer"
            if isinstance(error, (TimeoutError, RedisTimeoutError))
            else "closed the connection"
        )
        if redis is self._redis and self._reason is None:
            self._note(reason)
        return Away(reason)

    def _note(self, reason: str) -> None:
        if reason != self._reason:
            _log.warning("redis_away", role="commands", server=str(self._address), reason=reason)
        self._reason = reason

    async def _keep(self, tried: asyncio.Future[None]) -> None:
        """Find the server whenever it is lost, with full jitter: many instances look for it with us."""
        tries, now = 0, asyncio.get_running_loop().time
        while True:
            since = now()
            try:
                host, port = self._place(tries)
                async with visiting(self._address, host, port) as (watch, server):
                    await self._take(host, port, server)
                    if not tried.done():
                        tried.set_result(None)
                    await self._watch(watch)
            except Away as error:
                self._note(str(error))
            except BusRefused as error:
                if not tried.done():
                    tried.set_exception(error)
                    return
                self._note(str(error))
            except Exception:  # noqa: BLE001 - whatever it is, nobody else would try again
                _log.exception("redis_connecting_failed", role="commands")
            if not tried.done():
                tried.set_result(None)
            # One that is lost again and again is waited for longer each time.
            tries = 0 if now() - since >= 2 * BACKOFF_MOST_S else min(tries + 1, 10)
            await asyncio.sleep(self._random.uniform(0, min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**tries)))

    def _place(self, tries: int) -> tuple[str, int]:
        """Return where to look: of a cluster, at one node after the other."""
        places = [(self._address.host, self._address.port)]
        if isinstance(self._redis, RedisCluster):
            places += [(node.host, int(node.port)) for node in self._redis.get_nodes()]
        return places[tries % len(places)]

    async def _take(self, host: str, port: int, server: Server) -> None:
        await self._leave()
        self._redis = self._connect(host, port, server)
        self._reason = None
        self.lives += 1
        _log.info("redis_connected", role="commands", server=f"{host}:{port}")

    async def _watch(self, connection: AbstractConnection) -> None:
        """Return once the server is away; this connection is only for asking whether anybody is there."""
        now = asyncio.get_running_loop().time
        heard_at, asked_at = now(), 0.0
        try:
            while self._reason is None:
                reply = await connection.read_response(timeout=self._pace.check_every)
                if reply is not None:
                    heard_at, asked_at = now(), 0.0
                elif asked_at and now() - asked_at >= self._pace.dead_after:
                    raise Away("does not answer")
                elif not asked_at and now() - heard_at >= self._pace.ask_after:
                    asked_at = now()
                    await connection.send_command("PING")
                self._tick()
        except (RedisError, OSError) as error:
            raise Away("closed the connection") from error

    async def _leave(self) -> None:
        redis, self._redis = self._redis, None
        with contextlib.suppress(RedisError, OSError):
            if redis is not None:
                await redis.aclose()
            if isinstance(redis, RedisCluster):  # after an error its aclose leaves its connections open
                await redis.nodes_manager.aclose()
                await redis.nodes_manager.aclose("startup_nodes")

    def _connect(self, host: str, port: int, server: Server) -> Commands:
        address = self._address
        options: dict[str, Any] = {"max_connections": CONNECTIONS, "socket_timeout": CALL_TIMEOUT_S}
        if not server.cluster:
            return Redis.from_pool(pool(address, host, port, **options))
        options |= {"ssl": address.tls is not None, "require_full_coverage": False}
        return RedisCluster(host, port, **options, **login(address))

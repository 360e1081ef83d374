"""Commands to where their key is: one server, or the node of a cluster."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import hiredis
import structlog

from storage.redis.address import Address
from storage.redis.cluster import Place, Servers
from storage.redis.commands import Commands
from storage.redis.link import Pace
from storage.redis.wire import Arg, Away

FAREWELL_S: Final = 1.0
_ROUTING: Final = frozenset({"MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN"})

_log = structlog.get_logger(__name__)


class Client:
    """Sends commands, many in flight on one connection a server.

    Args:
        address: one server, or any node of a cluster. Its prefix is the callers' business.
        pace: how patient it is.
        random_: for the jitter of reconnecting.
        tick: called about once a second.
    """

    def __init__(
        self,
        address: Address,
        *,
        pace: Pace | None = None,
        random_: random.Random | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._address = address
        self._pace = pace or Pace()
        self._random = random_ or random.Random()  # noqa: S311 - jitter
        self._tick = tick
        self._servers: Servers[Commands] = Servers(address, self._commands)
        self._checks: asyncio.Task[None] | None = None
        self._refused: str | None = None

    @property
    def lives(self) -> int:
        """How many connections were made: where it grew, something may have been lost."""
        return sum(commands.lives for commands in self._servers)

    async def open(self) -> None:
        """Connect, or go on trying. Raises BusRefused."""
        try:
            await self._servers.open()
        except BaseException:
            await self._servers.close()
            raise
        self._checks = asyncio.get_running_loop().create_task(self._check())

    async def close(self) -> None:
        """Send what was posted, then disconnect. Idempotent."""
        if self._checks is not None:
            self._checks.cancel()
            await asyncio.gather(self._checks, return_exceptions=True)
            self._checks = None
        await asyncio.gather(*(commands.flushed(FAREWELL_S) for commands in self._servers))
        await self._servers.close()

    async def call(self, key: bytes, *command: Arg) -> Any:
        """Send a command about ``key`` and return its reply.

        Raises:
            Away: it cannot be done now, whatever the cause; it may have been done.
            hiredis.ReplyError: a script is not known there.
        """
        commands = self._servers.of(key)
        if commands is None:
            raise Away("is a cluster without a node for it")
        try:
            return await commands.call(*command)
        except hiredis.ReplyError as error:
            if str(error).startswith("NOSCRIPT"):
                raise
            self._note(str(error), commands)
            raise Away("refuses") from error

    def post(self, key: bytes, *command: Arg) -> None:
        """Send a command whose reply does not matter; never raises."""
        commands = self._servers.of(key)
        if commands is not None:
            commands.post(*command)

    # ----------------------------------------------------------------------------------------------

    def _commands(self, place: Place, mine: Callable[[bytes], bool]) -> Commands:
        commands = Commands(
            self._address, *place, pace=self._pace, changed=self._changed, random_=self._random
        )
        commands.on_error = lambda error: self._note(error, commands)
        return commands

    def _note(self, error: str, commands: Commands) -> None:
        code = error.partition(" ")[0]
        if code in _ROUTING:
            self._servers.refresh_soon()
        elif code == "READONLY":
            commands.rebuild("is a replica, which takes no writes")
        elif code != self._refused:
            self._refused = code
            _log.warning("redis_refuses", error=code)

    def _changed(self) -> None:
        if not self._servers.is_cluster and any(commands.server.cluster for commands in self._servers):
            self._servers.refresh_soon()  # it was away when we looked, and is a cluster

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(self._pace.check_every)
            now = asyncio.get_running_loop().time()
            for commands in self._servers:
                commands.check(now)
            self._tick()

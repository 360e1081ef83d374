"""A connection that is made anew whenever it is lost: what commands and subscriptions have in common."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from storage.base import BusRefused
from storage.redis.address import Address
from storage.redis.wire import Away, Server, Wire, connect

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 3.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient we are with a Redis, in seconds.

    ``dead_after``: an unanswered command or probe means that the connection is dead. ``ask_after``: an
    idle connection is asked whether anybody is there. ``probe_after``: after so much silence the bus
    publishes to itself. All this is looked at ``check_every`` so long.
    """

    dead_after: float = 5.0
    ask_after: float = 5.0
    probe_after: float = 30.0
    check_every: float = 1.0


class Link:
    """One connection to one server, sought in the background while it is away.

    Args:
        address: how to get in.
        host, port: which server of it.
        changed: called when the link went up or down.

    Attributes:
        up: it works.
        lives: how many connections were made.
        reason: why it does not; the end of a sentence that begins with "Redis".
        server: what the server said of itself when it was last reached.
    """

    role: str = ""

    def __init__(
        self,
        address: Address,
        host: str,
        port: int,
        *,
        pace: Pace,
        changed: Callable[[], None],
        random_: random.Random,
    ) -> None:
        self.address, self.host, self.port = address, host, port
        self.pace = pace
        self.up = False
        self.lives = 0
        self.reason: str | None = "is not connected yet"
        self.server = Server((), cluster=bool(address.cluster))
        self.wire: Wire | None = None
        self._changed = changed
        self._random = random_
        self._task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    async def open(self, away: str | None = None) -> None:
        """Connect once; where that fails for now, go on in the background.

        ``away`` says that it has just failed, and why: then nothing is waited for. Raises BusRefused.
        """
        if away is None:
            await self._attempt()
        else:
            self._note(away)
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Disconnect for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.up = False  # nothing to warn of
        if self.wire is not None:
            self.wire.abort("was closed")

    def rebuild(self, reason: str) -> None:
        """Drop the connection; another is made."""
        if self.wire is not None:
            self.wire.abort(reason)

    async def _set_up(self, wire: Wire) -> None:
        """Make a new connection ready for use. Raises Away, BusRefused."""

    def _take(self, reply: Any) -> None:
        """Take a reply."""
        raise NotImplementedError

    def _ready(self) -> None:
        """The link is up; sends what waited."""

    def _drop(self) -> None:
        """The connection is lost: settle what waited for it."""

    # ----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Connect again whenever the connection is lost, with full jitter: many instances wait with us."""
        failures, now = 0, asyncio.get_running_loop().time
        while True:
            if self.up:
                since = now()
                await self._gone.wait()
                # One that is cut off again and again waits longer each time.
                failures = 0 if now() - since >= BACKOFF_MOST_S else failures
            most = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**failures)
            await asyncio.sleep(self._random.uniform(0, most))
            failures = min(failures + 1, 10)
            try:
                await self._attempt()
            except BusRefused as error:
                self._note(str(error))
            except Exception:  # noqa: BLE001 - whatever it is, nobody else would try again
                _log.exception("redis_connecting_failed", role=self.role)

    async def _attempt(self) -> None:
        """Connect and set up; returns with ``up`` or ``reason`` set. Raises BusRefused."""
        try:
            wire, self.server = await connect(self.address, self.host, self.port)
            self._gone.clear()
            self.wire = wire
            wire.take, wire.lost, wire.drained = self._take, self._on_lost, self._ready
            if wire.closed:
                self._on_lost("closed the connection")
            await self._set_up(wire)
        except Away as error:
            self.rebuild(str(error))
            self._note(str(error))
        except BaseException:
            self.rebuild("was left")
            raise
        else:
            if self.wire is wire:
                self.up, self.reason = True, None
                self.lives += 1
                _log.info("redis_connected", role=self.role, server=f"{self.host}:{self.port}")
                self._changed()
                self._ready()

    def _on_lost(self, reason: str) -> None:
        self.wire = None
        self._gone.set()
        was_up, self.up = self.up, False
        self._drop()
        if was_up:
            self._note(reason)

    def _note(self, reason: str) -> None:
        if reason != self.reason:
            _log.warning("redis_away", role=self.role, server=f"{self.host}:{self.port}", reason=reason)
        self.reason = reason
        self._changed()

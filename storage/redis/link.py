"""What is made anew whenever it is lost: what commands, publishing and listening have in common."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from redis.exceptions import RedisError

from storage.base import BusRefused
from storage.redis.address import Address
from storage.redis.server import Away, Server, Visit

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 3.0

Place = tuple[str, int]
"""Host and port."""

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
    """A connection to a server, sought in the background while it is away.

    Args:
        address: how to get in.
        place: which server of it.
        pace: how patient it is.
        changed: called when the link went up or down.
        random_: for the jitter of reconnecting.

    Attributes:
        up: it works.
        lives: how often it was made: where this grew, something may have been lost.
        reason: why it does not work; the end of a sentence that begins with "Redis".
        server: what the server said of itself when it was last reached.
    """

    role: str = ""

    def __init__(
        self,
        address: Address,
        place: Place,
        *,
        pace: Pace,
        random_: random.Random,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.address, self.place, self.pace = address, place, pace
        self.up = False
        self.lives = 0
        self.reason: str | None = "is not connected yet"
        self.server = Server((), cluster=bool(address.cluster))
        self._changed = changed
        self._random = random_
        self._keeping: asyncio.Task[None] | None = None
        self._life: asyncio.Task[None] | None = None
        self._tried: asyncio.Future[None] | None = None

    async def open(self, away: str | None = None) -> None:
        """Connect once; where that fails for now, go on in the background.

        ``away`` says that it has just failed, and why: then nothing is waited for. Raises BusRefused.
        """
        loop = asyncio.get_running_loop()
        self._tried = tried = loop.create_future()
        if away is not None:
            self._note(away)
            tried.set_result(None)
        self._keeping = loop.create_task(self._keep(tried))
        try:
            await tried
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect for good. Idempotent."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None
        self.up = False  # nothing to warn of

    def rebuild(self, reason: str) -> None:
        """Drop the connection; another is made."""
        if self._life is not None and self.up:
            self._life.cancel()
            self._note(reason)

    async def _live(self, visit: Visit) -> None:
        """Connect, tell ``_came``, and serve until the connection is lost; then disconnect.

        Raises Away, BusRefused, RedisError, OSError, TimeoutError.
        """
        raise NotImplementedError

    def _next_place(self, failures: int) -> Place:
        """Return where to look, after so many failures."""
        return self.place

    def _came(self, server: Server) -> None:
        """It works."""
        self.server, self.up, self.reason = server, True, None
        self.lives += 1
        _log.info("redis_connected", role=self.role, server="{}:{}".format(*self.place))
        if self._tried is not None and not self._tried.done():
            self._tried.set_result(None)
        self._changed()

    # ----------------------------------------------------------------------------------------------

    async def _keep(self, tried: asyncio.Future[None]) -> None:
        """Live again whenever the connection is lost, with full jitter: many instances wait with us."""
        failures, now = 0, asyncio.get_running_loop().time
        if tried.done():
            failures = await self._pause(failures)
        while True:
            since, lives = now(), self.lives
            self.place = self._next_place(failures)
            self._life = asyncio.get_running_loop().create_task(self._try())
            try:
                await asyncio.wait((self._life,))
            finally:
                self._life.cancel()
                await asyncio.gather(self._life, return_exceptions=True)
            refusal = None if self._life.cancelled() else self._life.exception()
            if refusal is not None and not tried.done():
                tried.set_exception(refusal)
                return
            if refusal is not None:
                self._note(str(refusal))
            if not tried.done():
                tried.set_result(None)
            # One that is cut off again and again waits longer each time.
            lasted = self.lives > lives and now() - since >= BACKOFF_MOST_S
            failures = await self._pause(0 if lasted else failures)

    async def _pause(self, failures: int) -> int:
        await asyncio.sleep(self._random.uniform(0, min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**failures)))
        return min(failures + 1, 10)

    async def _try(self) -> None:
        """Live once; raises BusRefused, and of all other ends it says why."""
        visit = Visit(self.address, *self.place)
        try:
            await self._live(visit)
        except Away as error:
            self._note(str(error))
        except BusRefused:
            raise
        except (RedisError, OSError, TimeoutError) as error:
            self._note(str(visit.meaning(error)))
        except Exception:  # noqa: BLE001 - whatever it is, nobody else would try again
            _log.exception("redis_connecting_failed", role=self.role)
            self._note("could not be used")

    def _note(self, reason: str) -> None:
        if reason != self.reason:
            _log.warning("redis_away", role=self.role, server="{}:{}".format(*self.place), reason=reason)
        self.up, self.reason = False, reason
        self._changed()

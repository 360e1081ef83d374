"""Finds what is due and has the engine do it: deadlines, timers, retries, lost leases, ended sessions.

Nothing waits in memory: a conversation that waits is a row with a time, and one indexed query a second
finds the rows whose time has come. The same query tells what comes within the next second, so that the
next look is neither late nor idle. ``docs/decisions/0025`` says how thousands at once are worked off.
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from server.engine.backlog import Backlog, Key
from server.telemetry.seldom import Seldom
from storage.base import Clock, ConversationStore, StoreUnavailable
from storage.models import TimeMs

log = logging.getLogger("parley.sweeper")

BACKLOG: Final = 10_000
"""How many due conversations are held at a time, as pairs of ids; the rest is found by later looks."""
BATCH: Final = 16
IN_HAND: Final = 64
"""How many conversations are worked on at a time."""
UNHURRIED_A_SECOND: Final = 1_150
"""The pace that is kept while commands come in, so that live turns keep most of the processor."""
LIVE_SHARE: Final = 4
"""On a machine that is fast enough, one conversation is woken to so many live commits."""
WATCHED_SECONDS: Final = 0.2
"""For so long after a live commit more are reckoned with; their rate is taken over as much."""
CATCH_UP_SECONDS: Final = 0.05
OVERTAKEN_MOST: Final = 8
"""After so many that others had seen to, an instance goes on somewhere else in its backlog."""
GIVE_WAY_SECONDS: Final = 0.05
ENDGAME: Final = 8
"""Where others sweep, too, at most such a part of what is left is worked on at a time."""
SOONEST_MS: Final = 20
"""Looks are at least so far apart."""
SET_ASIDE_MS: Final = 60_000
SET_ASIDE_MOST: Final = BACKLOG
TOMBSTONES_EVERY_MS: Final = 60_000
TOMBSTONES: Final = 200
AWAY_EVERY_S: Final = 10.0
"""While the store is away it is said so often; it is looked for with each sweep."""
FAR: Final = 1 << 62


class Waker(Protocol):
    """What the sweeper needs of the engine."""

    @property
    def live_commits(self) -> int:
        """How many commits there were that no sweep has caused."""
        ...

    @property
    def overtaken(self) -> int:
        """How many conversations somebody else had seen to when it came to them."""
        ...

    async def wake(self, keys: Sequence[Key]) -> Mapping[Key, Exception]:
        """Do what is due for these conversations; return what went wrong with some of them."""
        ...


class Pace:
    """How long to wait between two batches: not at all where nobody else wants the processor."""

    def __init__(self) -> None:
        self.begin(0.0, 0)

    def begin(self, at_seconds: float, live: int) -> None:
        """Begin to watch; ``live`` counts the live commits so far."""
        self._since, self._live, self._rate = at_seconds, live, float(UNHURRIED_A_SECOND)
        self._seen, self._seen_at = live, -WATCHED_SECONDS
        self._next = at_seconds

    def rest_seconds(self, at_seconds: float, count: int, live: int) -> float:
        """Return how long to wait after a batch of ``count``, begun at ``at_seconds``."""
        if at_seconds - self._since >= WATCHED_SECONDS:
            live_rate = (live - self._live) / (at_seconds - self._since)
            self._since, self._live = at_seconds, live
            self._rate = max(UNHURRIED_A_SECOND, live_rate / LIVE_SHARE)
        if live != self._seen:
            self._seen, self._seen_at = live, at_seconds
        if at_seconds - self._seen_at >= WATCHED_SECONDS:
            self._next = at_seconds
            return 0.0
        # From where the batch was to begin, not from where it did: a busy loop wakes late who sleeps.
        began = max(self._next, at_seconds - CATCH_UP_SECONDS)
        self._next = began + count / self._rate
        return max(0.0, self._next - at_seconds)


class Sweeper:
    """Looks every ``interval_seconds``, or sooner where something is known to be due.

    A conversation that cannot be woken stays due, and the earliest come first: so it is set aside for a
    minute, or a backlog full of such would be all that is ever looked at.
    """

    def __init__(
        self,
        store: ConversationStore,
        clock: Clock,
        engine: Waker,
        interval_seconds: float = 1.0,
        backlog: int = BACKLOG,
    ) -> None:
        self._store = store
        self._clock = clock
        self._engine = engine
        self._interval_ms = max(1, round(interval_seconds * 1000))
        self._task: asyncio.Task[None] | None = None
        self._most = backlog
        self._backlog = Backlog(scattered=not store.embedded)
        self._pace = Pace()
        self._in_hand: set[Key] = set()
        self._batches: set[asyncio.Task[None]] = set()
        self._sweeping = asyncio.Lock()
        self._aside: dict[Key, TimeMs] = {}
        self._looked_at: TimeMs = 0
        self._buried_at: TimeMs | None = None
        self._next_due: TimeMs = FAR
        self._sooner = asyncio.Event()
        self._overtaken = engine.overtaken
        self._away = Seldom(AWAY_EVERY_S)

    async def start(self) -> None:
        """Begin to sweep: at once, with what fell due while no server ran."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop at the next await."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def expect(self, at: TimeMs) -> None:
        """Hear that something falls due at ``at``: look then, if that is sooner than the next look."""
        if at < self._next_due:
            self._next_due = at
            self._sooner.set()

    def expect_now(self) -> None:
        """Hear that another instance has let go of work: look very soon, but not all in the same moment."""
        self.expect(self._clock.now() + round(1000 * random.uniform(0, GIVE_WAY_SECONDS)))  # noqa: S311

    async def sweep(self) -> int:
        """Work off what is due, and what falls due meanwhile; return how many conversations that were.

        Raises StoreUnavailable.
        """
        async with self._sweeping:
            await self._look()
            try:
                count = await self._work_off_all()
            finally:
                await self._drop_batches()
            await self._expire_tombstones()
            return count

    async def _look(self) -> None:
        now = self._looked_at = self._clock.now()
        # A clock that was turned back must not keep anything aside for longer than was meant.
        self._aside = {k: until for k, until in self._aside.items() if now < until <= now + SET_ASIDE_MS}
        self._next_due = FAR  # before the read: what is expected meanwhile may not be in it
        limit = self._most + len(self._aside)
        found = await self._store.due(now + self._interval_ms, limit)
        later = next((place for place, due in enumerate(found) if due.wake_at > now), len(found))
        if later < len(found):
            self._next_due = min(self._next_due, found[later].wake_at)
        elif len(found) == limit:
            self._next_due = now  # there is more
        self._backlog.fill(found[:later], lambda key: key not in self._aside and key not in self._in_hand)

    # --- batches ----------------------------------------------------------------------------------

    async def _work_off_all(self) -> int:
        self._pace.begin(asyncio.get_running_loop().time(), self._engine.live_commits)
        count = 0
        while True:
            while batch := self._backlog.take(BATCH):
                count += len(batch)
                await self._take_in_hand(batch)
                await self._give_way()
                if abs(self._clock.now() - self._looked_at) >= self._interval_ms:
                    await self._look()
            if not self._batches:
                return count
            await self._finish_some()

    async def _take_in_hand(self, batch: list[Key]) -> None:
        """Begin with a batch, and wait for as long as live turns need."""
        began = asyncio.get_running_loop().time()
        self._in_hand.update(batch)
        self._batches.add(asyncio.create_task(self._wake(batch)))
        rest = self._pace.rest_seconds(began, len(batch), self._engine.live_commits)
        if rest:
            await asyncio.sleep(rest)  # the processor's time, not the store's
        while len(self._in_hand) > self._most_in_hand() - BATCH:
            await self._finish_some()

    def _most_in_hand(self) -> int:
        """Where others sweep, too: the less is left, the less is taken at a time, or all take the same."""
        if not self._backlog.scattered:
            return IN_HAND
        return max(BATCH, min(IN_HAND, len(self._backlog) // ENDGAME))

    async def _give_way(self) -> None:
        """Where others were first, look anew and go on at another place, a moment later.

        Who goes through what another has done is faster than that one, catches it up, and would then race it
        for each conversation.
        """
        if self._engine.overtaken - self._overtaken < OVERTAKEN_MOST:
            return
        await asyncio.sleep(random.uniform(0, GIVE_WAY_SECONDS))  # noqa: S311 - no secret
        await self._look()
        self._overtaken = self._engine.overtaken

    async def _wake(self, batch: list[Key]) -> None:
        try:
            failed = await self._engine.wake(batch)
        finally:
            self._in_hand.difference_update(batch)
        for key, error in failed.items():
            if isinstance(error, StoreUnavailable):
                raise error
            log.error("waking a conversation failed", exc_info=error, extra={"conversation_id": key[1]})
            if len(self._aside) < SET_ASIDE_MOST:
                self._aside[key] = self._clock.now() + SET_ASIDE_MS

    async def _finish_some(self) -> None:
        done, self._batches = await asyncio.wait(self._batches, return_when=asyncio.FIRST_COMPLETED)
        errors = [error for batch in done if (error := batch.exception()) is not None]
        if errors:
            raise errors[0]

    async def _drop_batches(self) -> None:
        """Where a sweep ends early: what was begun is not waited for, and is due again if it was not done."""
        for batch in self._batches:
            batch.cancel()
        await asyncio.gather(*self._batches, return_exceptions=True)
        self._batches = set()

    async def _expire_tombstones(self) -> None:
        """A write, so not with every look: they are kept for a month, and another minute does not matter."""
        now = self._clock.now()
        if self._buried_at is not None and abs(now - self._buried_at) < TOMBSTONES_EVERY_MS:
            return
        if await self._store.expire_tombstones(now, TOMBSTONES) < TOMBSTONES:
            self._buried_at = now

    # --- by itself --------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreUnavailable as error:
                if self._away.due():
                    log.warning("the store is away: %s", error)
                self._next_due = FAR
            except Exception:  # nobody else looks for what is due: the next sweep is always tried
                log.exception("a sweep failed")
                self._next_due = FAR
            await self._sleep()

    async def _sleep(self) -> None:
        """Sleep for an interval, a little less each time so that instances do not look in step; or less."""
        end = self._clock.now() + round(self._interval_ms * random.uniform(0.8, 1.0))  # noqa: S311 - no secret
        while True:
            self._sooner.clear()
            left_ms = min(end, self._next_due) - self._clock.now()
            # Between the bounds also where the clock was set meanwhile.
            left_ms = min(max(left_ms, SOONEST_MS), self._interval_ms)
            if await self._slept(left_ms / 1000):
                return

    async def _slept(self, seconds: float) -> bool:
        """Return True after that time, or False as soon as the next look is to be sooner."""
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        sooner = asyncio.ensure_future(self._sooner.wait())
        try:
            await asyncio.wait({sleep, sooner}, return_when=asyncio.FIRST_COMPLETED)
            return sleep.done()
        finally:
            sleep.cancel()
            sooner.cancel()

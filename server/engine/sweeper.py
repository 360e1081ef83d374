"""Finds what is due and has the engine do it: retries, lost leases, waiting inboxes, tombstones."""

import asyncio
import logging
from typing import Final, Protocol

from storage.base import Clock, ConversationStore, StoreUnavailable
from storage.models import TimeMs

log = logging.getLogger("parley.sweeper")

PAGE: Final = 200
AT_ONCE: Final = 16
"""How many conversations a sweep works on at a time, so that live turns are not starved."""

SET_ASIDE_MS: Final = 60_000
SET_ASIDE_MOST: Final = 1_000


class Waker(Protocol):
    """What the sweeper needs of the engine."""

    async def wake(self, tenant_id: str, conversation_id: str) -> None:
        """Do what is due for a conversation."""
        ...


class Sweeper:
    """Asks the store every ``interval_seconds``; a full page is followed by the next at once.

    A conversation that cannot be woken stays due, and the earliest come first: so it is set aside for a
    minute, or a page full of such would be all that is ever looked at.
    """

    def __init__(
        self, store: ConversationStore, clock: Clock, engine: Waker, interval_seconds: float = 1.0
    ) -> None:
        self._store = store
        self._clock = clock
        self._engine = engine
        self._interval_seconds = interval_seconds
        self._task: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._aside: dict[tuple[str, str], TimeMs] = {}

    async def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop at the next await."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep(self) -> int:
        """Do what is due now; return how many conversations were looked at. Raises StoreUnavailable."""
        now = self._clock.now()
        self._aside = {key: until for key, until in self._aside.items() if until > now}
        found = await self._store.due(now, PAGE + len(self._aside))
        due = [key for item in found if (key := (item.tenant_id, item.conversation_id)) not in self._aside]
        await asyncio.gather(*(self._wake(*key) for key in due))
        await self._store.expire_tombstones(now, PAGE)
        return len(due)

    async def _wake(self, tenant_id: str, conversation_id: str) -> None:
        async with self._slots:
            try:
                await self._engine.wake(tenant_id, conversation_id)
            except StoreUnavailable:
                raise
            except Exception:
                log.exception("sweeping a conversation failed", extra={"conversation_id": conversation_id})
                if len(self._aside) < SET_ASIDE_MOST:
                    self._aside[tenant_id, conversation_id] = self._clock.now() + SET_ASIDE_MS

    async def _run(self) -> None:
        while True:
            found = 0
            try:
                found = await self.sweep()
            except StoreUnavailable as error:
                log.warning("the store is away: %s", error)
            except Exception:  # nobody else looks for what is due: the next sweep is always tried
                log.exception("a sweep failed")
            await self._clock.sleep(self._interval_seconds if found < PAGE else 0)

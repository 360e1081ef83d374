"""The one clockwork of all connections: hello time-outs, pings, silence, token expiry, send deadlines.

Connections lie in buckets of one second by when they next need a look; so a tick costs what is due,
not what is connected. One task turns it, for the whole process.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from server.delivery.outbox import Outbox

TICK_S: Final = 1.0
SLICE: Final = 500
"""How many connections are looked at before other work gets its turn."""

_log = structlog.get_logger(__name__)


class Ticking(Protocol):
    """Something that needs a look now and then."""

    due_s: int

    def tick(self, now_ms: int) -> int | None:
        """Do what is due; return when (ms) the next look is needed, None for never."""


class Wheel:
    """Calls ``tick`` of what is due.

    Args:
        now_ms: monotonic milliseconds.
        on_tick: called once a tick with the time, for others who need one.
    """

    def __init__(self, now_ms: Callable[[], int], on_tick: Callable[[int], None] | None = None) -> None:
        self._now_ms = now_ms
        self._on_tick = on_tick
        self._buckets: dict[int, set[Ticking]] = {}
        self._done_s = now_ms() // 1000 - 1
        self._task: asyncio.Task[None] | None = None
        self.stalled: set[Outbox] = set()

    def add(self, item: Ticking, due_ms: int | None) -> None:
        """Look at ``item`` at ``due_ms``, and no more at the time that was said before."""
        self.remove(item)
        if due_ms is not None:
            # Rounded up, so that it is due when its second comes; never into a second that has gone.
            item.due_s = max(-(-due_ms // 1000), self._done_s + 1)
            self._buckets.setdefault(item.due_s, set()).add(item)

    def remove(self, item: Ticking) -> None:
        """Forget ``item``."""
        bucket = self._buckets.get(item.due_s)
        if bucket is not None:
            bucket.discard(item)
            if not bucket:
                del self._buckets[item.due_s]

    async def turn(self) -> None:
        """Look at everything that is due now."""
        now_ms = self._now_ms()
        for outbox in list(self.stalled):
            outbox.check(now_ms)
        if self._on_tick is not None:
            self._on_tick(now_ms)
        looked = 0
        while self._done_s < now_ms // 1000:
            self._done_s += 1
            for item in self._buckets.pop(self._done_s, ()):
                self._look_at(item, now_ms)
                looked += 1
                if looked % SLICE == 0:
                    await asyncio.sleep(0)

    def _look_at(self, item: Ticking, now_ms: int) -> None:
        due_ms: int | None = now_ms + 1000
        try:
            due_ms = item.tick(now_ms)
        except Exception:  # noqa: BLE001 - one connection's fault must not stop the clock of all others
            _log.exception("tick_failed")
        self.add(item, due_ms)

    async def start(self) -> None:
        """Begin to turn."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop turning."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self.turn()
            await asyncio.sleep(TICK_S)

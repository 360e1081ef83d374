"""Time that moves when a test says so."""

import asyncio
from typing import Final

START_MS: Final = 1_894_006_800_000
"""2030-01-07T09:00:00Z, a Monday."""


class VirtualClock:
    """A clock, in ms since the epoch, with sleeps that end when it is moved beyond them."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []
        self.naps = 0

    def now(self) -> int:
        """Return the time."""
        return self._now_ms

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved that far."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.naps += 1
        self._sleepers.append((self._now_ms + max(1, round(seconds * 1000)), future))
        await future

    def next_end(self) -> int | None:
        """Return when the first of those who sleep wants to be woken."""
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]
        return min((end for end, _ in self._sleepers), default=None)

    def move_to(self, now_ms: int) -> None:
        """Move on, never back, and wake whose time has come, the earliest first."""
        self._now_ms = max(now_ms, self._now_ms)
        due = sorted((s for s in self._sleepers if s[0] <= self._now_ms), key=lambda sleeper: sleeper[0])
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._now_ms]
        for _, future in due:
            if not future.done():
                future.set_result(None)

"""The time of an embedded store: this machine's, made steady."""

import time
from collections.abc import Callable
from typing import Final

from storage.models import TimeMs

CHECK_EVERY_MS: Final = 30_000
SLEW_MS: Final = 10_000


class SteadyClock:
    """Wall time carried on by the monotonic clock, so that a corrected system clock cannot turn it back.

    Every 30 s it is compared with the wall clock: a wall clock that is ahead (a laptop woke up) is
    followed at once; one that is behind is approached by waiting, at most 10 s for each 30 s, so that
    deadlines come late rather than never. Safe to read from any thread; the value never falls in one.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._offset_ms = (wall_ns() - monotonic_ns()) // 1_000_000
        self._checked_ms = monotonic_ns() // 1_000_000
        self._latest = 0

    def __call__(self) -> TimeMs:
        """Return milliseconds since the Unix epoch."""
        running_ms = self._monotonic_ns() // 1_000_000
        if running_ms - self._checked_ms >= CHECK_EVERY_MS:
            self._checked_ms = running_ms
            ahead = self._wall_ns() // 1_000_000 - running_ms - self._offset_ms
            self._offset_ms += max(ahead, -SLEW_MS)
        now = running_ms + self._offset_ms
        if now < self._latest:
            return self._latest
        self._latest = now
        return now

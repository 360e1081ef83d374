"""A clock that stands still until the test moves it."""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count


class _Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """Implements ``parley_client.Clock``. What is due at once is called by the event loop."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._due: list[tuple[float, int, _Timer]] = []
        self._numbers = count()

    def now(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(callback)
        if delay <= 0:
            asyncio.get_running_loop().call_soon(self._fire, timer)
        else:
            heapq.heappush(self._due, (self._now + delay, next(self._numbers), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move on, calling what falls due on the way, each at its time."""
        until = self._now + seconds
        while self._due and self._due[0][0] <= until:
            due, _, timer = heapq.heappop(self._due)
            self._now = max(self._now, due)
            self._fire(timer)
        self._now = until

    @property
    def waiting(self) -> list[float]:
        """Seconds until each call that is due, soonest first."""
        return sorted(due - self._now for due, _, timer in self._due if timer.callback is not None)

    @staticmethod
    def _fire(timer: _Timer) -> None:
        callback, timer.callback = timer.callback, None
        if callback is not None:
            callback()

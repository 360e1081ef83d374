"""Saying the same thing seldom: what fails a thousand times a second is one line in the log, now and then."""

import time
from collections.abc import Callable


class Seldom:
    """Lets one line through, and the next one ``seconds`` later at the earliest.

    Args:
        seconds: how long it is silent.
        now_s: monotonic seconds.
    """

    def __init__(self, seconds: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now_s = now_s
        self._next: float | None = None
        self._unsaid = 0

    def due(self) -> int:
        """Return 0 to be silent, else how many lines this one stands for: itself, and those left out."""
        self._unsaid += 1
        now = self._now_s()
        if self._next is not None and now < self._next:
            return 0
        self._next = now + self._seconds
        said, self._unsaid = self._unsaid, 0
        return said

"""A token bucket: a steady rate with a burst."""

from typing import Final

_ONE: Final = 1000


class TokenBucket:
    """Lets ``rate`` things a second pass on average, and at most ``burst`` at once.

    Time is passed in, in milliseconds of any clock that does not run backwards; a clock that does
    gives nothing and takes nothing.
    """

    __slots__ = ("_full", "_level", "_rate", "_seen_ms")

    def __init__(self, *, rate: int, burst: int, now_ms: int) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("a bucket needs a rate above 0 and a burst of at least 1")
        # In thousandths of a thing, of which every millisecond brings `rate`: integers do not drift.
        self._rate = rate
        self._full = self._level = burst * _ONE
        self._seen_ms = now_ms

    def take(self, now_ms: int) -> int:
        """Take one. Return 0 if there was one, else after how many milliseconds there will be."""
        if now_ms > self._seen_ms:
            self._level = min(self._full, self._level + (now_ms - self._seen_ms) * self._rate)
            self._seen_ms = now_ms
        if self._level >= _ONE:
            self._level -= _ONE
            return 0
        return -((self._level - _ONE) // self._rate)

"""A token bucket: a steady rate with a burst."""


class TokenBucket:
    """Lets ``rate`` things a second pass on average, and at most ``burst`` at once.

    Time is passed in, in milliseconds of any clock that does not run backwards; a clock that does
    gives nothing and takes nothing.
    """

    __slots__ = ("_burst", "_level", "_rate_ms", "_seen_ms")

    def __init__(self, *, rate: float, burst: float, now_ms: int) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("a bucket needs a rate above 0 and a burst of at least 1")
        self._rate_ms = rate / 1000
        self._burst = burst
        self._level = float(burst)
        self._seen_ms = now_ms

    def take(self, now_ms: int) -> int:
        """Take one. Return 0 if there was one, else after how many milliseconds there will be."""
        elapsed = max(0, now_ms - self._seen_ms)
        self._seen_ms = max(self._seen_ms, now_ms)
        self._level = min(self._burst, self._level + elapsed * self._rate_ms)
        if self._level >= 1:
            self._level -= 1
            return 0
        return max(1, -int(-(1 - self._level) // self._rate_ms))

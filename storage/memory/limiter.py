"""What this process alone allows; also what counts while a shared limiter is away."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from storage.base import Bucket, LimitStatus, Verdict, Window
from storage.clock import SteadyClock
from storage.models import TimeMs

SLICES: Final = 60
"""A window is counted in so many parts; one more is kept, for the part that is only half out."""
KEYS_MAX: Final = 100_000


class _Sliding:
    """What was taken in the latest slices of a window."""

    __slots__ = ("_counts", "_now", "_slice_ms", "_used", "_window")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # by the slice's number, oldest first
        self._used = 0

    def advance(self, window: Window, now: TimeMs) -> "_Sliding":
        self._window, self._now, self._slice_ms = window, now, slice_ms(window.period_ms)
        oldest = now // self._slice_ms - SLICES
        while self._counts and (first := next(iter(self._counts))) < oldest:
            self._used -= self._counts.pop(first)
        return self

    def wait_ms(self, cost: int) -> int:
        """Return after how long ``cost`` fits; 0 if it does."""
        excess = self._used + cost - self._window.limit
        if excess <= 0:
            return 0
        for number, count in self._counts.items():
            excess -= count
            if excess <= 0:
                return self._leaves_at(number) - self._now
        return self._window.period_ms

    def take(self, cost: int) -> None:
        number = self._now // self._slice_ms
        self._counts[number] = self._counts.get(number, 0) + cost
        self._used += cost

    def status(self) -> LimitStatus:
        window = self._window
        reset_at = self._leaves_at(next(reversed(self._counts))) if self._counts else self._now
        return LimitStatus(window.name, window.limit, max(0, window.limit - self._used), reset_at)

    def _leaves_at(self, number: int) -> TimeMs:
        """Return when all of a slice is out of the window."""
        return (number + SLICES + 1) * self._slice_ms


class _Level:
    """How full a bucket is, in units of which each millisecond brings ``refill``: integers do not drift."""

    __slots__ = ("_bucket", "_level", "_now")

    def __init__(self, bucket: Bucket, now: TimeMs) -> None:
        self._level = bucket.limit * bucket.period_ms
        self._now = now

    def advance(self, bucket: Bucket, now: TimeMs) -> "_Level":
        brought = (now - self._now) * bucket.refill
        self._level = min(bucket.limit * bucket.period_ms, self._level + brought)
        self._bucket, self._now = bucket, now
        return self

    def wait_ms(self, cost: int) -> int:
        """Return after how long ``cost`` is there; 0 if it is."""
        bucket = self._bucket
        missing = cost * bucket.period_ms - self._level
        if missing <= 0:
            return 0
        return bucket.period_ms if cost > bucket.limit else -(-missing // bucket.refill)

    def take(self, cost: int) -> None:
        self._level -= cost * self._bucket.period_ms

    def status(self) -> LimitStatus:
        bucket = self._bucket
        missing = bucket.limit * bucket.period_ms - self._level
        reset_at = self._now - (-missing // bucket.refill)
        return LimitStatus(bucket.name, bucket.limit, self._level // bucket.period_ms, reset_at)


def slice_ms(period_ms: int) -> int:
    """Return how long one of the parts of a window is."""
    return -(-period_ms // SLICES)


class MemoryLimiter:
    """A ``Limiter`` that counts in this process.

    It remembers the ``KEYS_MAX`` keys that were used last.
    """

    def __init__(self, clock: Callable[[], TimeMs] | None = None) -> None:
        self._clock = clock or SteadyClock()
        self._keys: OrderedDict[str, dict[str, _Sliding | _Level]] = OrderedDict()

    async def take(self, key: str, limits: Sequence[Window | Bucket], cost: int = 1) -> Verdict:
        """See ``Limiter.take``."""
        counts = self._counts(key, limits)
        wait_ms = max((count.wait_ms(cost) for count in counts), default=0)
        if wait_ms == 0:
            for count in counts:
                count.take(cost)
            self._keep(key, limits, counts)
        return Verdict(wait_ms == 0, wait_ms, tuple(count.status() for count in counts))

    async def status(self, key: str, limits: Sequence[Window | Bucket]) -> tuple[LimitStatus, ...]:
        """See ``Limiter.status``."""
        return tuple(count.status() for count in self._counts(key, limits))

    def _counts(self, key: str, limits: Sequence[Window | Bucket]) -> list[_Sliding | _Level]:
        """Return what counts for each of ``limits``, brought up to now; new ones are not kept yet."""
        now, known = self._clock(), self._keys.get(key, {})
        counts: list[_Sliding | _Level] = []
        for limit in limits:
            count = known.get(limit.name)
            if isinstance(limit, Window):
                counts.append((count if isinstance(count, _Sliding) else _Sliding()).advance(limit, now))
            else:
                counts.append(
                    (count if isinstance(count, _Level) else _Level(limit, now)).advance(limit, now)
                )
        return counts

    def _keep(self, key: str, limits: Sequence[Window | Bucket], counts: Sequence[_Sliding | _Level]) -> None:
        names = (limit.name for limit in limits)
        self._keys.setdefault(key, {}).update(zip(names, counts, strict=True))
        self._keys.move_to_end(key)
        while len(self._keys) > KEYS_MAX:
            self._keys.popitem(last=False)

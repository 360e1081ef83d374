"""What this process remembers for a while."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from storage.clock import SteadyClock
from storage.models import TimeMs

CACHE_MAX_BYTES: Final = 8 * 1024 * 1024
VALUE_MAX_BYTES: Final = 256 * 1024
"""A longer value is not kept."""


class MemoryCache:
    """A ``Cache`` in this process; when it is full, what was not asked for longest goes."""

    def __init__(self, clock: Callable[[], TimeMs] | None = None) -> None:
        self._clock = clock or SteadyClock()
        self._entries: OrderedDict[str, tuple[TimeMs, bytes]] = OrderedDict()
        self._bytes = 0

    async def get(self, key: str) -> bytes | None:
        """See ``Cache.get``."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= self._clock():
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return entry[1]

    async def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        """See ``Cache.set``."""
        self._forget(key)
        if len(value) > VALUE_MAX_BYTES:
            return
        self._entries[key] = (self._clock() + ttl_ms, value)
        self._bytes += len(value)
        while self._bytes > CACHE_MAX_BYTES:
            self._forget(next(iter(self._entries)))

    async def delete(self, *keys: str) -> None:
        """See ``Cache.delete``."""
        for key in keys:
            self._forget(key)

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry[1])

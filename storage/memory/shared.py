"""What one instance counts and remembers for itself."""

from collections.abc import Callable

from storage.base import Cache, Limiter, Presence
from storage.memory.cache import MemoryCache
from storage.memory.limiter import MemoryLimiter
from storage.memory.presence import MemoryPresence
from storage.models import TimeMs


class MemoryShared:
    """A ``Shared`` of this process alone."""

    def __init__(self, clock: Callable[[], TimeMs] | None = None) -> None:
        self.limiter: Limiter = MemoryLimiter(clock)
        self.presence: Presence = MemoryPresence()
        self.cache: Cache = MemoryCache(clock)

    async def open(self) -> None:
        """See ``Shared.open``."""

    async def close(self) -> None:
        """See ``Shared.close``."""

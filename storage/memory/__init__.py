"""The in-memory adapters: complete, deterministic, the tests' doubles, and what one instance alone needs."""

from storage.memory.bus import BusHub, MemoryBus
from storage.memory.cache import MemoryCache
from storage.memory.limiter import MemoryLimiter
from storage.memory.presence import MemoryPresence
from storage.memory.shared import MemoryShared
from storage.memory.store import MemoryStore

__all__ = [
    "BusHub",
    "MemoryBus",
    "MemoryCache",
    "MemoryLimiter",
    "MemoryPresence",
    "MemoryShared",
    "MemoryStore",
]

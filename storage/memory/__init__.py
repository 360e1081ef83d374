"""The in-memory adapter: complete, deterministic, the tests' double."""

from storage.memory.bus import BusHub, MemoryBus
from storage.memory.store import MemoryStore

__all__ = ["BusHub", "MemoryBus", "MemoryStore"]

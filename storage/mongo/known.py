"""What stands beside the records that were read or written lately, so that a commit need not read it.

Bounded by bytes, as what a document carries may be a few thousand of them, or a quarter of a million.
"""

from collections import OrderedDict
from typing import Final

from storage.mongo.documents import Known, entry_bytes

Key = tuple[str, str]
_BASE_BYTES: Final = 1_500
_ENTRY_BYTES: Final = 1_000


class KnownCache:
    """An LRU of ``Known`` by tenant and conversation."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._known: OrderedDict[Key, Known] = OrderedDict()
        self.bytes = 0

    def get(self, key: Key) -> Known | None:
        """Return what is known, if it is."""
        return self._known.get(key)

    def put(self, key: Key, known: Known) -> None:
        """Keep it as the newest."""
        self.forget(key)
        self._known[key] = known
        self.bytes += _size(known)
        while self.bytes > self._max_bytes and self._known:
            self.bytes -= _size(self._known.popitem(last=False)[1])

    def forget(self, key: Key) -> None:
        """Have the next commit read it."""
        known = self._known.pop(key, None)
        if known is not None:
            self.bytes -= _size(known)

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
        self.bytes = 0


def _size(known: Known) -> int:
    """Estimate what it takes in memory."""
    return _BASE_BYTES + sum(_ENTRY_BYTES + entry_bytes(entry) for entry in known.unflushed)

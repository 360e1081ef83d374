"""Records that were read or written lately, bounded by their size in bytes (least recently used goes).

A cached record may be stale where other instances write; so it may only lead to a commit, which
compares the revision. Whoever answers from a record reads it freshly.
"""

from collections import OrderedDict
from typing import Final

from server.engine.draft import json_bytes
from storage.models import Conversation

Key = tuple[str, str]
_BASE_BYTES: Final = 4096


class RecordCache:
    """An LRU of immutable records."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._records: OrderedDict[Key, tuple[Conversation, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> Conversation | None:
        """Return the record, if it is cached."""
        found = self._records.get(key)
        if found is None:
            return None
        self._records.move_to_end(key)
        return found[0]

    def peek(self, key: Key) -> Conversation | None:
        """Return the record, if it is cached, without making it the newest."""
        found = self._records.get(key)
        return None if found is None else found[0]

    def put(self, key: Key, record: Conversation) -> None:
        """Keep the newest record; but no tombstone, which expires in the store without a commit."""
        self.evict(key)
        if record.deleted_at is not None:
            return
        size = _estimate(record)
        self._records[key] = (record, size)
        self._bytes += size
        while self._bytes > self._max_bytes and self._records:
            _, (_, dropped) = self._records.popitem(last=False)
            self._bytes -= dropped

    def evict(self, key: Key) -> None:
        """Forget a record."""
        old = self._records.pop(key, None)
        if old is not None:
            self._bytes -= old[1]

    def __len__(self) -> int:
        return len(self._records)


def _estimate(record: Conversation) -> int:
    """Estimate what a record takes in memory; exact only where it is large."""
    size = _BASE_BYTES + 250 * len(record.recent)
    if record.variables:
        size += 3 * json_bytes(dict(record.variables))
    for entry in record.inbox:
        size += 3 * json_bytes(dict(entry.command))
    execution = record.execution
    if execution is not None:
        size += sum(3 * json_bytes(dict(frame.variables)) for frame in execution.frames if frame.variables)
        size += sum(3 * json_bytes(dict(attempt.arguments)) for attempt in execution.attempts)
    return size

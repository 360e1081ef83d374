"""The idempotency ring as it is stored: rows, written anew with every commit.

It is much of an idle record, so a row says in one letter how its turn stands, and 0 where its execution
is that of the row before: ``[key, body_hash, "c", 0, first_offset, last_offset]``.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from storage.models import CommandState, Json, RecentKey

Ring = tuple[RecentKey, ...]

_STATUS: Final[Mapping[str, CommandState]] = {
    "c": "completed",
    "f": "failed",
    "r": "running",
    "q": "queued",
}


def ring_to_json(ring: Ring) -> list[Json]:
    """Return the ring as rows."""
    rows: list[Json] = []
    before: str | None = None
    for entry in ring:
        rows.append(_row(entry, before))
        before = entry.execution_id
    return rows


def _row(entry: RecentKey, before: str | None) -> tuple[Json, ...]:
    execution: str | int | None = entry.execution_id
    if execution is not None and execution == before:
        execution = 0
    return (entry.key, entry.body_hash, entry.status[0], execution, entry.first_offset, entry.last_offset)


def ring_from_json(rows: Sequence[Sequence[Json]]) -> Ring:
    """Return the ring of ``ring_to_json``."""
    ring: list[RecentKey] = []
    before: str | None = None
    for key, body_hash, status, execution, first, last in rows:
        before = before if execution == 0 else execution
        ring.append(RecentKey(key, body_hash, _STATUS[status], before, first, last))
    return tuple(ring)

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
    for e in ring:
        execution_id = e.execution_id
        is_same = execution_id is not None and execution_id == before
        execution = 0 if is_same else execution_id
        rows.append((e.key, e.body_hash, e.status[0], execution, e.first_offset, e.last_offset))
        before = execution_id
    return rows


def ring_from_json(rows: Sequence[Sequence[Json]]) -> Ring:
    """Return the ring of ``ring_to_json``."""
    ring: list[RecentKey] = []
    before: str | None = None
    for key, body_hash, status, execution, first, last in rows:
        before = before if execution == 0 else execution
        ring.append(RecentKey(key, body_hash, _STATUS[status], before, first, last))
    return tuple(ring)

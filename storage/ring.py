"""The idempotency ring as it is stored: up to 64 rows, written anew with every commit.

It is most of an idle record, so a row says in one letter how its turn stands, and 0 where its execution
is that of the row before: ``[key, body_hash, "c", 0, first_offset, last_offset]``.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import orjson

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


class RingEncoder:
    """Encodes the successive rings of many conversations, each mostly from the rows of the one before.

    A ring changes at its end: a row is added (and the first one dropped), or the last one updated. Then one
    row is encoded instead of 64; what else may have changed is seen by comparing the entries. Remembers the
    conversations that committed last, at about 10 KB each.
    """

    def __init__(self, remembered: int = 1000) -> None:
        self._remembered = remembered
        self._known: OrderedDict[tuple[str, str], tuple[Ring, list[bytes]]] = OrderedDict()

    def encode(self, key: tuple[str, str], ring: Ring) -> orjson.Fragment:
        """Return the JSON of ``ring_to_json(ring)``; ``key`` names the conversation."""
        known = self._known.pop(key, None)
        rows = None if known is None else _carried_on(*known, ring)
        if rows is None:
            rows = [orjson.dumps(row) for row in ring_to_json(ring)]
        self._known[key] = (ring, rows)
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return orjson.Fragment(b"[" + b",".join(rows) + b"]")


def _carried_on(old: Ring, rows: list[bytes], ring: Ring) -> list[bytes] | None:
    """Return the rows of ``ring`` where it differs from ``old`` at its ends only, else None."""
    if ring is old:
        return rows
    if not ring or not old:
        return None
    added = len(ring) == len(old) + 1
    moved = len(ring) == len(old) and ring[0] is not old[0]
    kept = old if added else old[1:] if moved else old[:-1]
    if ring[:-1] != kept:
        return None
    before = ring[-2].execution_id if len(ring) > 1 else None
    carried = [*(rows if added else rows[1:] if moved else rows[:-1]), orjson.dumps(_row(ring[-1], before))]
    if moved:  # the row that its first one may have referred to is gone
        carried[0] = orjson.dumps(_row(ring[0], None))
    return carried

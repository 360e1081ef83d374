"""The statements of a commit, for one and for many at once.

A group of commits becomes a handful of statements, each over up to 64 rows of ``VALUES``. This is not
faster for SQLite than a statement a commit, but each statement gives up Python's interpreter lock and has
to get it back, up to 5 ms later while the event loop is busy; what is left is a constant number a group.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

LARGEST_CHUNK: Final = 64
Row = Sequence[Any]

_RECORD_COLUMNS: Final = 13
"""tenant_id, conversation_id, expected revision, expected fence, fence, epoch, last_offset, lease_owner,
lease_until, wake_at, expires_at, deleted_at, doc."""
_BATCH_COLUMNS: Final = 12
"""tenant_id, conversation_id, epoch, first_offset, last_offset, commit_id, key, body_hash, execution_id,
messages, ended, events."""


def _values(rows: int, columns: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"(VALUES {','.join([row] * rows)})"


@lru_cache
def update_records(rows: int) -> str:
    """Bring records that are where their writers saw them to their next revision."""
    return f"""
        UPDATE conversations INDEXED BY conversations_key SET
            revision = v.column3 + 1, fence = v.column5, epoch = v.column6, last_offset = v.column7,
            lease_owner = v.column8, lease_until = v.column9, wake_at = v.column10,
            expires_at = v.column11, deleted_at = v.column12, doc = v.column13
        FROM {_values(rows, _RECORD_COLUMNS)} AS v
        WHERE conversations.tenant_id = v.column1 AND conversations.conversation_id = v.column2
            AND conversations.revision = v.column3 AND conversations.fence = v.column4
    """.strip()  # noqa: S608 - question marks only


@lru_cache
def insert_records(rows: int) -> str:
    """Add records that do not exist."""
    return f"""
        INSERT INTO conversations (
            tenant_id, conversation_id, revision, fence, epoch, last_offset, lease_owner, lease_until,
            wake_at, expires_at, deleted_at, doc
        )
        SELECT column1, column2, 1, column5, column6, column7, column8, column9, column10, column11,
            column12, column13
        FROM {_values(rows, _RECORD_COLUMNS)}
        WHERE true ON CONFLICT DO NOTHING
    """.strip()  # noqa: S608 - question marks only


_INSERT_BATCHES: Final = """
        INSERT INTO events (
            conversation, epoch, first_offset, last_offset, commit_id, key, body_hash, execution_id,
            messages, ended, events
        )"""


@lru_cache
def insert_batches(rows: int) -> str:
    """Append batches to the logs of conversations that exist; keys and offsets that are there are left."""
    return f"""{_INSERT_BATCHES}
        SELECT c.id, v.column3, v.column4, v.column5, v.column6, v.column7, v.column8, v.column9,
            v.column10, v.column11, v.column12
        FROM {_values(rows, _BATCH_COLUMNS)} AS v
        CROSS JOIN conversations AS c INDEXED BY conversations_key
            ON c.tenant_id = v.column1 AND c.conversation_id = v.column2
        WHERE true ON CONFLICT DO NOTHING
    """.strip()  # noqa: S608 - question marks only


INSERT_BATCH_IF: Final = f"""{_INSERT_BATCHES}
        SELECT id, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12
        FROM conversations
        WHERE tenant_id = ?1 AND conversation_id = ?2 AND revision = ?13 AND fence = ?14
        ON CONFLICT (conversation, key) WHERE key IS NOT NULL DO NOTHING
    """.strip()  # noqa: S608 - constants only
"""Append a batch if the record is where its writer saw it and the key is new; other clashes are errors."""

RECORD_IS_AT: Final = """
    SELECT 1 FROM conversations WHERE tenant_id = ? AND conversation_id = ? AND revision = ? AND fence = ?
"""


@lru_cache
def insert_executions(rows: int) -> str:
    """Note which conversation runs an execution, unless it is known."""
    return f"""
        INSERT INTO executions (tenant_id, execution_id, conversation_id)
        SELECT column1, column2, column3 FROM {_values(rows, 3)}
        WHERE true ON CONFLICT DO NOTHING
    """.strip()  # noqa: S608 - question marks only


def chunks(statement: Callable[[int], str], rows: Sequence[Row]) -> Iterator[tuple[str, list[Any], int]]:
    """Yield (SQL, parameters, rows) that together cover ``rows``, in sizes that are powers of two.

    So there are seven texts of each statement, all of which stay prepared.
    """
    start = 0
    while start < len(rows):
        size = min(LARGEST_CHUNK, 1 << ((len(rows) - start).bit_length() - 1))
        parameters: list[Any] = []
        for row in rows[start : start + size]:
            parameters += row
        yield statement(size), parameters, size
        start += size

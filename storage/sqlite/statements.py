"""The statements of a commit: each decides by itself, by a row count, whether it applies.

A group runs each of them once for all its commits (``executemany``). One statement over many rows of
``VALUES`` was no faster for short records and a third slower for long ones, which SQLite then copies into
temporary tables; that Python's interpreter lock changes hands less often did not show under uvloop.

Parameters are plain question marks: Python 3.12.0 to 3.12.3 (which Ubuntu 24.04 has) take ``?1`` for a name,
and warn at each of them in each row.
"""

from collections.abc import Sequence
from typing import Any, Final

from storage.listing import ACTIVITY_MS

Row = Sequence[Any]

UPDATE_RECORD: Final = """
    UPDATE conversations SET
        revision = ?, fence = ?, epoch = ?, last_offset = ?, lease_owner = ?, lease_until = ?,
        wake_at = ?, expires_at = ?, deleted_at = ?, doc = ?
    WHERE tenant_id = ? AND conversation_id = ? AND revision = ? AND fence = ?
""".strip()
"""Bring a record that is where its writer saw it (the last two) to its next revision."""

INSERT_RECORD: Final = """
    INSERT INTO conversations (
        revision, fence, epoch, last_offset, lease_owner, lease_until, wake_at, expires_at, deleted_at, doc,
        tenant_id, conversation_id
    )
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
""".strip()
"""Add a record that does not exist."""

_INSERT_BATCH: Final = """
    INSERT INTO events (
        conversation, epoch, first_offset, last_offset, commit_id, key, body_hash, execution_id,
        messages, ended, events
    )
    SELECT id, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
    FROM conversations
    WHERE tenant_id = ? AND conversation_id = ?""".strip()

INSERT_BATCH: Final = f"{_INSERT_BATCH} ON CONFLICT DO NOTHING"
"""Append a batch to the log of a conversation that exists, unless its key or offset is there."""

INSERT_BATCH_IF: Final = f"""{_INSERT_BATCH} AND revision = ? AND fence = ?
    ON CONFLICT (conversation, key) WHERE key IS NOT NULL DO NOTHING"""
"""Append a batch if the record is where its writer saw it and the key is new; other clashes are errors."""

RECORD_IS_AT: Final = """
    SELECT 1 FROM conversations WHERE tenant_id = ? AND conversation_id = ? AND revision = ? AND fence = ?
"""

INSERT_EXECUTION: Final = """
    INSERT INTO executions (tenant_id, execution_id, conversation_id, first_offset) VALUES (?, ?, ?, ?)
    ON CONFLICT DO NOTHING
""".strip()
"""Note which conversation runs an execution, unless it is known."""

UPSERT_LISTING: Final = f"""
    INSERT INTO listing (tenant_id, conversation_id, status, flow_id, user_id, project_id, active_at)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET
        status = excluded.status, flow_id = excluded.flow_id, user_id = excluded.user_id,
        project_id = excluded.project_id, active_at = excluded.active_at
    WHERE status != excluded.status OR flow_id != excluded.flow_id OR user_id IS NOT excluded.user_id
        OR project_id IS NOT excluded.project_id
        OR active_at / {ACTIVITY_MS} != excluded.active_at / {ACTIVITY_MS}
""".strip()  # noqa: S608 - constants only
"""Bring a conversation's listing up to date (``listing.is_same`` in SQL)."""

DELETE_LISTING: Final = "DELETE FROM listing WHERE tenant_id = ? AND conversation_id = ?"
DELETE_WAITING: Final = "DELETE FROM waiting WHERE tenant_id = ? AND conversation_id = ?"
INSERT_WAITING: Final = """
    INSERT OR REPLACE INTO waiting (tenant_id, decider, since, wait_id, kind, conversation_id)
    VALUES (?, ?, ?, ?, ?, ?)
""".strip()

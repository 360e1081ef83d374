"""What is written beside commits: functions of a cursor, run inside the writer's transaction.

Each may be run again when its group is rolled back, so none has an effect outside the database.
"""

import sqlite3
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from storage.base import Commit, Expected
from storage.codec import encode_events, encode_record
from storage.listing import Listing, Wait, listing_of, says_it_all, waits_of
from storage.models import Conversation, EventBatch, InboxEntry, TimeMs
from storage.rules import digest, execution_of, key_twice, restored, stored_batch, with_command
from storage.sqlite.queries import ended_text, load
from storage.sqlite.statements import (
    INSERT_BATCH,
    INSERT_EXECUTION,
    INSERT_RECORD,
    INSERT_WAITING,
    UPSERT_LISTING,
)
from storage.sqlite.writer import CommitRows, ListedRows

REMOVED_AT_ONCE: Final = 500
EVENTS: Final = 9
"""Where the row of a batch has its events."""

_VOID_LEASES: Final = """
    UPDATE conversations SET lease_owner = NULL, lease_until = NULL, wake_at = ?
    WHERE lease_until IS NOT NULL
"""
_RENEW: Final = """
    UPDATE conversations SET lease_until = ?, wake_at = ?
    WHERE tenant_id = ? AND conversation_id = ? AND fence = ? AND lease_owner = ?
"""
_ENQUEUE: Final = """
    UPDATE conversations SET revision = ?, wake_at = ?, doc = ?
    WHERE tenant_id = ? AND conversation_id = ?
"""
_TOMBSTONE: Final = """
    SELECT id FROM conversations WHERE tenant_id = ? AND conversation_id = ? AND deleted_at IS NOT NULL
"""
_SOME_EVENTS: Final = "SELECT rowid, execution_id FROM events WHERE conversation = ? LIMIT ?"
_FORGET_EXECUTION: Final = """
    DELETE FROM executions WHERE tenant_id = ? AND execution_id = ? AND conversation_id = ?
"""
_EXPIRED: Final = """
    SELECT id FROM conversations
    WHERE expires_at <= ? AND deleted_at IS NOT NULL
    ORDER BY expires_at, tenant_id, conversation_id LIMIT ?
"""


class Known(NamedTuple):
    """What the tables beside a conversation are known to say of it."""

    execution_id: str | None
    listing: Listing | None
    waits: tuple[Wait, ...]


def commit_rows(commit: Commit, known: Known | None) -> CommitRows:
    """Return the rows of a commit. Raises TypeError where a value is not JSON.

    ``known`` None: nothing is known of what is beside the record, so that all of it is written.
    """
    record, expected, batch = commit.record, commit.expected, stored_batch(commit)
    tenant_id, conversation_id = record.tenant_id, record.conversation_id
    doc = encode_record(record)
    size = len(doc)
    execution_id = execution_of(record)
    batch_row: tuple[Any, ...] | None = None
    if batch is not None:
        batch_row = _batch_row(tenant_id, conversation_id, batch, execution_id)
        size += len(batch_row[EVENTS])
    lease = record.lease
    execution: tuple[Any, ...] | None = None
    if execution_id is not None and (known is None or execution_id != known.execution_id):
        first_offset = record.offset if batch is None else batch.first_offset
        execution = (tenant_id, execution_id, conversation_id, first_offset)
    is_insert = expected.revision is None
    place = () if is_insert else (expected.revision, expected.fence)
    return CommitRows(
        is_insert=is_insert,
        record=(
            1 if expected.revision is None else expected.revision + 1, record.fence, record.epoch,
            record.offset, lease and lease.owner, lease and lease.until, record.wake_at, record.expires_at,
            record.deleted_at, doc, tenant_id, conversation_id, *place,
        ),
        batch=batch_row,
        execution=execution,
        listed=_listed_rows(record, known),
        bytes=size,
        meanwhile=commit.meanwhile,
    )  # fmt: skip


def _batch_row(
    tenant_id: str, conversation_id: str, batch: EventBatch, execution_id: str | None
) -> tuple[Any, ...]:
    """Return the row of a batch; its events are at ``EVENTS``."""
    messages, ended = digest(batch)
    return (
        batch.epoch, batch.first_offset, batch.last_offset, batch.commit_id, batch.key, batch.body_hash,
        execution_id, messages, ended_text(ended), encode_events(batch), tenant_id, conversation_id,
    )  # fmt: skip


def _listed_rows(record: Conversation, known: Known | None) -> ListedRows | None:
    """Return what lists and inboxes have to be told; None where they know."""
    if known is not None and says_it_all(record, known.listing, known.waits):
        return None
    listing, waits = listing_of(record), waits_of(record)
    key = (record.tenant_id, record.conversation_id)
    waiting = None
    if known is None or waits != known.waits:
        waiting = [
            (record.tenant_id, decider, wait.since, wait.wait_id, wait.kind, record.conversation_id)
            for wait in waits
            for decider in wait.deciders
        ]
    return ListedRows(key, None if listing is None else (*key, *listing), waiting)


def known_after(record: Conversation) -> Known:
    """Return what is known of a conversation once ``record`` is committed with all its rows."""
    return Known(execution_of(record), listing_of(record), waits_of(record))


def restore(cursor: sqlite3.Cursor, record: Conversation, log: Iterable[EventBatch]) -> bool:
    """See ``ConversationStore.restore``: one transaction, the rows of one batch in memory at a time."""
    key = (record.tenant_id, record.conversation_id)
    rows = commit_rows(Commit(Expected(None), record, None), None)
    if not cursor.execute(INSERT_RECORD, rows.record).rowcount:
        return False
    noted: str | None = None
    for batch, execution_id in restored(record, log):
        if not cursor.execute(INSERT_BATCH, _batch_row(*key, batch, execution_id)).rowcount:
            raise key_twice(batch)
        if execution_id is not None and execution_id != noted:
            cursor.execute(INSERT_EXECUTION, (record.tenant_id, execution_id, key[1], batch.first_offset))
        noted = execution_id
    if rows.execution is not None:
        cursor.execute(INSERT_EXECUTION, rows.execution)
    if rows.listed is not None and rows.listed.listing is not None:
        cursor.execute(UPSERT_LISTING, rows.listed.listing)
        cursor.executemany(INSERT_WAITING, rows.listed.waiting or ())
    return True


def void_leases(connection: sqlite3.Connection, now: TimeMs) -> None:
    """Take every lease away and have its conversation looked at now: the owners are dead."""
    connection.execute(_VOID_LEASES, (now,))


def renew(
    cursor: sqlite3.Cursor,
    tenant_id: str,
    conversation_id: str,
    fence: int,
    owner: str,
    until: TimeMs,
    wake_at: TimeMs,
) -> bool:
    """See ``ConversationStore.renew``."""
    parameters = (until, wake_at, tenant_id, conversation_id, fence, owner)
    return cursor.execute(_RENEW, parameters).rowcount == 1


def enqueue(
    cursor: sqlite3.Cursor, tenant_id: str, conversation_id: str, entry: InboxEntry, wake_at: TimeMs
) -> bool:
    """See ``ConversationStore.enqueue``."""
    record: Conversation | None = load(cursor, tenant_id, conversation_id)
    record = with_command(record, entry, wake_at)
    if record is None:
        return False
    doc = encode_record(record)
    cursor.execute(_ENQUEUE, (record.revision, record.wake_at, doc, tenant_id, conversation_id))
    return True


def remove_some_events(cursor: sqlite3.Cursor, tenant_id: str, conversation_id: str) -> int:
    """Remove up to ``REMOVED_AT_ONCE`` batches of a tombstone; return how many.

    A large log goes in several transactions, so that nobody's commit waits for the whole of it.
    """
    tombstone = cursor.execute(_TOMBSTONE, (tenant_id, conversation_id)).fetchone()
    if tombstone is None:
        return 0
    some = cursor.execute(_SOME_EVENTS, (tombstone[0], REMOVED_AT_ONCE)).fetchall()
    cursor.executemany("DELETE FROM events WHERE rowid = ?", [(rowid,) for rowid, _ in some])
    executions = {execution_id for _, execution_id in some if execution_id is not None}
    cursor.executemany(_FORGET_EXECUTION, [(tenant_id, e, conversation_id) for e in executions])
    return len(some)


def expire_tombstones(cursor: sqlite3.Cursor, now: TimeMs, limit: int) -> int:
    """See ``ConversationStore.expire_tombstones``. What is left of their events goes with them."""
    expired = cursor.execute(_EXPIRED, (now, limit)).fetchall()
    cursor.executemany("DELETE FROM events WHERE conversation = ?", expired)
    cursor.executemany("DELETE FROM conversations WHERE id = ?", expired)
    return len(expired)

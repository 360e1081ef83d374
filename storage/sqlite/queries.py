"""Everything that is read: functions of a connection, run by the reader threads."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from storage.base import Due, KeyRecord
from storage.codec import decode_events, decode_record, encode_json
from storage.listing import (
    IDLE,
    ExecutionFilter,
    ExecutionPlace,
    Listed,
    ListPlace,
    Waiting,
    WaitPlace,
)
from storage.models import Conversation, EventBatch, Lease, TimeMs
from storage.readable import listed
from storage.rules import newest_messages, page

_CONVERSATION: Final = "(SELECT id FROM conversations WHERE tenant_id = :tenant AND conversation_id = :id)"
_BATCH: Final = "epoch, first_offset, last_offset, commit_id, key, body_hash, events"

# The batch that holds an offset begins at or before it. Finding where that is makes the range below an
# index range, so that the length of the log behind it does not matter.
_FROM: Final = f"""
    conversation = {_CONVERSATION} AND epoch = :epoch AND last_offset >= :from
    AND first_offset >= coalesce((
        SELECT first_offset FROM events
        WHERE conversation = {_CONVERSATION} AND epoch = :epoch AND first_offset <= :from
        ORDER BY first_offset DESC LIMIT 1
    ), 0)
"""  # noqa: S608 - constants only

_LOAD: Final = """
    SELECT doc, lease_owner, lease_until, wake_at
    FROM conversations WHERE tenant_id = ? AND conversation_id = ?
"""
_EVENTS: Final = f"SELECT {_BATCH} FROM events WHERE {_FROM} ORDER BY first_offset LIMIT :limit"  # noqa: S608
_BATCH_AT: Final = f"""
    SELECT {_BATCH} FROM events
    WHERE conversation = {_CONVERSATION} AND first_offset = :first AND epoch = :epoch
"""  # noqa: S608
_FIND_KEY: Final = f"""
    SELECT key, body_hash, epoch, first_offset, last_offset, execution_id
    FROM events WHERE conversation = {_CONVERSATION} AND key = :key
"""  # noqa: S608
_TURN_END: Final = f"""
    SELECT {_BATCH} FROM events
    WHERE {_FROM} AND instr(ended, :command) > 0
    ORDER BY first_offset LIMIT 1
"""  # noqa: S608
_MESSAGES: Final = f"""
    SELECT {_BATCH} FROM events
    WHERE {_FROM} AND messages > 0 AND first_offset < :before
    ORDER BY first_offset DESC
"""  # noqa: S608
_DUE: Final = """
    SELECT tenant_id, conversation_id, wake_at
    FROM conversations WHERE wake_at <= ? ORDER BY wake_at, id LIMIT ?
"""
_OFFSETS: Final = """
    SELECT c.tenant_id, c.conversation_id, c.epoch, c.last_offset
    FROM json_each(?) AS k CROSS JOIN conversations AS c INDEXED BY conversations_key
        ON c.tenant_id = json_extract(k.value, '$[0]')
        AND c.conversation_id = json_extract(k.value, '$[1]')
"""
_IDS: Final = """
    SELECT conversation_id FROM conversations
    WHERE tenant_id = ? AND conversation_id > ? AND deleted_at IS NULL
    ORDER BY conversation_id LIMIT ?
"""
_FIND_EXECUTION: Final = """
    SELECT conversation_id, first_offset FROM executions WHERE tenant_id = ? AND execution_id = ?
"""
_EXECUTIONS: Final = """
    SELECT l.active_at, l.conversation_id, c.doc, c.lease_owner, c.lease_until, c.wake_at
    FROM listing AS l CROSS JOIN conversations AS c USING (tenant_id, conversation_id)
    WHERE l.tenant_id = :tenant
"""
_COUNT: Final = "SELECT count(*) FROM listing AS l WHERE l.tenant_id = :tenant"
_BY_STATUS: Final = "status NOT IN ('completed', 'waiting_input')"
"""As the schema says it: SQLite takes a partial index only where its condition is in the query."""
_WAITING: Final = """
    SELECT since, wait_id, kind, conversation_id FROM waiting
    WHERE tenant_id = ? AND decider = ? AND (since, wait_id) > (?, ?)
"""

LARGEST_OFFSET: Final = 2**62


def ended_text(commands: Sequence[str]) -> str | None:
    """Return the ``ended`` column: each command id between line feeds, which no id contains."""
    return "\n".join(["", *commands, ""]) if commands else None


def read_batch(row: Sequence[Any]) -> EventBatch:
    """Return the batch of a row of ``_BATCH``."""
    epoch, first_offset, last_offset, commit_id, key, body_hash, events = row
    return EventBatch(epoch, first_offset, last_offset, commit_id, key, body_hash, decode_events(events))


def read_record(row: Sequence[Any]) -> Conversation:
    """Return the record of ``doc, lease_owner, lease_until, wake_at``; the columns are the newer ones."""
    doc, lease_owner, lease_until, wake_at = row
    record = decode_record(doc)
    lease = None if lease_owner is None else Lease(lease_owner, lease_until)
    if record.lease == lease and record.wake_at == wake_at:
        return record
    return replace(record, lease=lease, wake_at=wake_at)


def load(
    connection: sqlite3.Connection | sqlite3.Cursor, tenant_id: str, conversation_id: str
) -> Conversation | None:
    """See ``ConversationStore.load``."""
    row = connection.execute(_LOAD, (tenant_id, conversation_id)).fetchone()
    return None if row is None else read_record(row)


def load_many(
    connection: sqlite3.Connection, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Conversation]:
    """See ``ConversationStore.load_many``."""
    found = ((key, load(connection, *key)) for key in keys)
    return {key: record for key, record in found if record is not None}


def _one_batch(connection: sqlite3.Connection, sql: str, parameters: dict[str, Any]) -> EventBatch | None:
    row = connection.execute(sql, parameters).fetchone()
    return None if row is None else read_batch(row)


def events(
    connection: sqlite3.Connection,
    tenant_id: str,
    conversation_id: str,
    epoch: str,
    after: int,
    limit: int,
    max_bytes: int,
) -> list[EventBatch]:
    """See ``ConversationStore.events``."""
    parameters = {
        "tenant": tenant_id, "id": conversation_id, "epoch": epoch, "from": after + 1, "limit": max(limit, 1),
    }  # fmt: skip
    rows = connection.execute(_EVENTS, parameters)
    try:
        return page(((read_batch(row), len(row[-1])) for row in rows), limit, max_bytes)
    finally:
        rows.close()  # ends the read, so that the log can be checkpointed


def batch_at(
    connection: sqlite3.Connection, tenant_id: str, conversation_id: str, epoch: str, first_offset: int
) -> EventBatch | None:
    """See ``ConversationStore.batch_at``."""
    parameters = {"tenant": tenant_id, "id": conversation_id, "epoch": epoch, "first": first_offset}
    return _one_batch(connection, _BATCH_AT, parameters)


def find_key(
    connection: sqlite3.Connection, tenant_id: str, conversation_id: str, key: str
) -> KeyRecord | None:
    """See ``ConversationStore.find_key``."""
    parameters = {"tenant": tenant_id, "id": conversation_id, "key": key}
    row = connection.execute(_FIND_KEY, parameters).fetchone()
    return None if row is None else KeyRecord(*row)


def turn_end(
    connection: sqlite3.Connection,
    tenant_id: str,
    conversation_id: str,
    epoch: str,
    command_id: str,
    from_offset: int,
) -> EventBatch | None:
    """See ``ConversationStore.turn_end``."""
    parameters = {
        "tenant": tenant_id, "id": conversation_id, "epoch": epoch, "from": from_offset,
        "command": f"\n{command_id}\n",
    }  # fmt: skip
    return _one_batch(connection, _TURN_END, parameters)


def messages(
    connection: sqlite3.Connection,
    tenant_id: str,
    conversation_id: str,
    epoch: str,
    before: int | None,
    after: int,
    limit: int,
) -> list[EventBatch]:
    """See ``ConversationStore.messages``."""
    parameters = {
        "tenant": tenant_id, "id": conversation_id, "epoch": epoch, "from": after + 1,
        "before": LARGEST_OFFSET if before is None else before,
    }  # fmt: skip
    rows = connection.execute(_MESSAGES, parameters)
    newest_first: Iterator[EventBatch] = map(read_batch, rows)
    try:
        return newest_messages(newest_first, before=before, after=after, limit=limit)
    finally:
        rows.close()


def due(connection: sqlite3.Connection, now: TimeMs, limit: int) -> list[Due]:
    """See ``ConversationStore.due``."""
    return [Due(*row) for row in connection.execute(_DUE, (now, limit)).fetchall()]


def offsets(
    connection: sqlite3.Connection, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[str, int]]:
    """See ``ConversationStore.offsets``."""
    rows = connection.execute(_OFFSETS, (encode_json(list(keys)).decode(),)).fetchall()
    return {(tenant_id, id_): (epoch, offset) for tenant_id, id_, epoch, offset in rows}


def conversation_ids(connection: sqlite3.Connection, tenant_id: str, after: str, limit: int) -> list[str]:
    """See ``ConversationStore.conversation_ids``."""
    return [id_ for (id_,) in connection.execute(_IDS, (tenant_id, after, limit)).fetchall()]


def find_execution(
    connection: sqlite3.Connection, tenant_id: str, execution_id: str
) -> ExecutionPlace | None:
    """See ``ConversationStore.find_execution``."""
    row = connection.execute(_FIND_EXECUTION, (tenant_id, execution_id)).fetchone()
    return None if row is None else ExecutionPlace(*row)


def executions(
    connection: sqlite3.Connection,
    tenant_id: str,
    wanted: ExecutionFilter,
    after: ListPlace | None,
    limit: int,
    max_bytes: int,
    *,
    idle: bool = False,
) -> list[Listed]:
    """See ``ConversationStore.executions``; with ``idle`` it is ``conversations``."""
    conditions, parameters = _asked(tenant_id, wanted, idle=idle)
    found: list[Listed] = []
    while len(found) < limit:
        sql = _EXECUTIONS + conditions
        parameters["limit"] = asked = limit - len(found)
        if after is not None:
            sql += " AND (l.active_at, l.conversation_id) < (:active_at, :conversation_id)"
            parameters |= after._asdict()
        rows = connection.execute(
            f"{sql} ORDER BY l.active_at DESC, l.conversation_id DESC LIMIT :limit", parameters
        )
        try:
            for active_at, conversation_id, *row in rows:
                asked -= 1
                max_bytes -= len(row[0])
                if found and max_bytes < 0:
                    return found
                after = ListPlace(active_at, conversation_id)
                if (item := listed(tenant_id, after, partial(read_record, row))) is not None:
                    found.append(item)
        finally:
            rows.close()
        if asked:
            break  # there are no more
    return found


def count_conversations(connection: sqlite3.Connection, tenant_id: str, wanted: ExecutionFilter) -> int:
    """See ``ConversationStore.count_conversations``."""
    conditions, parameters = _asked(tenant_id, wanted, idle=True)
    return int(connection.execute(_COUNT + conditions, parameters).fetchone()[0])


def _asked(tenant_id: str, wanted: ExecutionFilter, *, idle: bool) -> tuple[str, dict[str, Any]]:
    """Return the conditions of a list, to be appended, and their parameters."""
    sql = ""
    parameters: dict[str, Any] = {"tenant": tenant_id}
    for name in ("status", "flow_id", "user_id", "project_id"):
        if (value := getattr(wanted, name)) is not None:
            sql += f" AND l.{name} = :{name}"
            parameters[name] = value
    if wanted.status not in (None, "completed", "waiting_input"):
        sql += f" AND {_BY_STATUS}"
    if not idle:
        sql += f" AND l.status != '{IDLE}'"
    for name, comparison in (("since", ">="), ("until", "<")):
        if (value := getattr(wanted, name)) is not None:
            sql += f" AND l.active_at {comparison} :{name}"
            parameters[name] = value
    return sql, parameters


def waiting(
    connection: sqlite3.Connection,
    tenant_id: str,
    deciders: Sequence[str],
    after: WaitPlace | None,
    limit: int,
) -> list[Waiting]:
    """See ``ConversationStore.waiting``. Each decider is an arm that is read in its index's order."""
    if not deciders:
        return []
    place = after or WaitPlace(-1, "")
    arms = " UNION ".join([_WAITING] * len(deciders))
    parameters = [value for decider in deciders for value in (tenant_id, decider, *place)]
    rows = connection.execute(f"{arms} ORDER BY 1, 2, 4 LIMIT {int(limit)}", parameters).fetchall()
    return [Waiting(WaitPlace(since, wait_id), kind, id_) for since, wait_id, kind, id_ in rows]


def works(connection: sqlite3.Connection) -> None:
    """Show that reading works."""
    connection.execute("SELECT 1 FROM conversations LIMIT 1").fetchone()

"""The parts of the ports' duties that are the same in every adapter, as pure functions."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from storage.base import Commit, StorageError
from storage.codec import encode_json, inbox_entry_to_json
from storage.models import (
    INBOX_MAX_BYTES,
    INBOX_MAX_ENTRIES,
    Conversation,
    EventBatch,
    InboxEntry,
    TimeMs,
)

MESSAGE_EVENTS: Final = frozenset({"message.received", "message.completed"})
TURN_ENDS: Final = frozenset({"turn.completed", "turn.failed"})


def check_commit(commit: Commit) -> None:
    """Raise ValueError where a commit contradicts itself: a mistake of our own code, never of a peer."""
    record, batch = commit.record, commit.batch
    if record.revision != (commit.expected.revision or 0) + 1:
        raise ValueError(f"revision {record.revision} does not follow {commit.expected.revision}")
    if batch is None:
        return
    if batch.commit_id != record.commit_id or batch.epoch != record.epoch:
        raise ValueError("the batch has another commit id or epoch than the record")
    if batch.last_offset != record.offset or len(batch.events) != batch.last_offset - batch.first_offset + 1:
        raise ValueError("the batch's offsets do not end at the record's offset, or do not count its events")


def stored_batch(commit: Commit) -> EventBatch | None:
    """Return the batch as it goes into the log: one without events does not."""
    return commit.batch if commit.batch is not None and commit.batch.events else None


def with_command(record: Conversation | None, entry: InboxEntry, wake_at: TimeMs) -> Conversation | None:
    """Return the record with ``entry`` in its inbox, or None where ``enqueue`` does not match."""
    if record is None or record.deleted_at is not None or not record.busy:
        return None
    if len(record.inbox) >= INBOX_MAX_ENTRIES:
        return None
    if any(e.key == entry.key for e in record.inbox) or any(e.key == entry.key for e in record.recent):
        return None
    inbox = (*record.inbox, entry)
    if inbox_bytes(inbox) > INBOX_MAX_BYTES:
        return None
    return replace(
        record,
        revision=record.revision + 1,
        inbox=inbox,
        last_activity=max(record.last_activity, entry.received_at),
        wake_at=wake_at if record.wake_at is None else min(record.wake_at, wake_at),
    )


def inbox_bytes(inbox: Iterable[InboxEntry]) -> int:
    """Return the stored size of an inbox."""
    return sum(len(encode_json(inbox_entry_to_json(entry))) for entry in inbox)


def execution_of(record: Conversation) -> str | None:
    """Return the id of the record's execution: what a ``KeyRecord`` says of the commit that made it."""
    return None if record.execution is None else record.execution.execution_id


def restored(record: Conversation, log: Iterable[EventBatch]) -> Iterator[tuple[EventBatch, str | None]]:
    """Yield what ``restore`` writes: each batch, and the execution that the record had after it.

    Raises ValueError where it is not what the port asks for; at the latest behind the last batch.
    """
    if record.revision != 1 or record.lease is not None or record.deleted_at is not None:
        raise ValueError("what is restored has revision 1, no lease, and is no tombstone")
    offset, execution_id = 0, None
    for batch in log:
        if batch.epoch != record.epoch or batch.first_offset != offset + 1 or not batch.events:
            raise ValueError(f"the batch at {batch.first_offset} does not follow offset {offset}")
        offset = batch.last_offset
        execution_id = _execution_after(batch, execution_id)
        yield batch, execution_id
    if offset != record.offset:
        raise ValueError(f"the log ends at {offset}, the record is at {record.offset}")


def key_twice(batch: EventBatch) -> StorageError:
    """Return what ``restore`` raises for a key that the log has twice."""
    return StorageError(f"the key of the batch at {batch.first_offset} is in the log twice")


def is_live(record: Conversation, tenant_id: str) -> bool:
    """Tell whether a record is one of the tenant's, and no tombstone."""
    return record.tenant_id == tenant_id and record.deleted_at is None


def _execution_after(batch: EventBatch, execution_id: str | None) -> str | None:
    """Return the id of the record's execution after a batch, given the one before it."""
    for event in batch.events:
        if event.type == "conversation.reset":
            execution_id = None
        elif event.execution_id is not None:
            execution_id = event.execution_id
    return execution_id


def ended_commands(batch: EventBatch) -> list[str]:
    """Return the ids of the commands whose turn ends in this batch."""
    return [e.command_id for e in batch.events if e.type in TURN_ENDS and e.command_id is not None]


def digest(batch: EventBatch) -> tuple[int, list[str]]:
    """Return how many message events the batch holds, and the commands whose turn ends in it: one pass."""
    messages = 0
    ended: list[str] = []
    for event in batch.events:
        if event.type in MESSAGE_EVENTS:
            messages += 1
        elif event.type in TURN_ENDS and event.command_id is not None:
            ended.append(event.command_id)
    return messages, ended


def count_messages(batch: EventBatch, *, before: int | None = None, after: int = 0) -> int:
    """Return how many message events of the batch lie between ``after`` and ``before``, both exclusive."""
    return sum(
        e.type in MESSAGE_EVENTS and e.offset > after and (before is None or e.offset < before)
        for e in batch.events
    )


def newest_messages(
    newest_first: Iterable[EventBatch], *, before: int | None, after: int, limit: int
) -> list[EventBatch]:
    """Return, oldest first, those of the batches that hold the newest ``limit`` messages in the window."""
    found: list[EventBatch] = []
    missing = limit
    for batch in newest_first:
        if missing <= 0:
            break
        count = count_messages(batch, before=before, after=after)
        if count:
            found.append(batch)
            missing -= count
    found.reverse()
    return found


def page(batches: Iterable[tuple[EventBatch, int]], limit: int, max_bytes: int) -> list[EventBatch]:
    """Return the first of ``(batch, bytes)`` that fit ``limit`` events and ``max_bytes``, at least one."""
    taken: list[EventBatch] = []
    events = size = 0
    for batch, batch_bytes in batches:
        events += len(batch.events)
        size += batch_bytes
        if taken and (events > limit or size > max_bytes):
            break
        taken.append(batch)
    return taken

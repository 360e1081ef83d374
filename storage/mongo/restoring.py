"""A conversation that comes whole: its log first, in portions, then the record that makes it visible."""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from storage.base import Commit, CommitUnknown, Expected
from storage.codec import encode_record
from storage.models import Conversation, EventBatch, TimeMs
from storage.mongo import log, waits
from storage.mongo.accepted import with_key
from storage.mongo.documents import (
    NOTHING,
    Document,
    batch_entry,
    conversation_document,
    next_known,
    place,
)
from storage.mongo.failures import reading, writing
from storage.mongo.log import Placed
from storage.rules import execution_of, key_twice, restored

_AT_ONCE: Final = 200


async def restore(database: Any, record: Conversation, source: Iterable[EventBatch], now: TimeMs) -> bool:
    """See ``ConversationStore.restore``. What has an epoch that no record names is nowhere to be seen.

    Where its caller is cancelled, it ends the portion that it is at, removes what it wrote, and only then is
    cancelled: no call of the driver's is cut (see ``uncut``), and nothing comes behind the removal.
    """
    given_up = asyncio.Event()
    restoring = asyncio.ensure_future(_restore(database, record, source, now, given_up))
    restoring.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    try:
        return await asyncio.shield(restoring)
    except asyncio.CancelledError:
        given_up.set()
        await asyncio.wait((restoring,))
        raise


async def _restore(
    database: Any, record: Conversation, source: Iterable[EventBatch], now: TimeMs, given_up: asyncio.Event
) -> bool:
    key = (record.tenant_id, record.conversation_id)
    taken, _ = await _epoch_of(database, key)
    if taken:
        return False
    try:
        accepted = await _write_log(database, record, source, given_up)
    except BaseException:
        await _remove(database, key, record.epoch)
        raise
    return await _show(database, record, accepted, now)


async def _show(database: Any, record: Conversation, accepted: int, now: TimeMs) -> bool:
    """Insert the record, or else remove its log; False where its id was taken meanwhile.

    Raises CommitUnknown where it may yet be inserted: then its log stays; nobody sees it without the record.
    """
    key = (record.tenant_id, record.conversation_id)
    try:
        inserted = await _insert(database, record, accepted, now)
    except CommitUnknown:
        if await _epoch_of(database, key) == (True, record.epoch):
            return True
        raise
    except BaseException:
        await _remove(database, key, record.epoch)
        raise
    if not inserted:
        await _remove(database, key, record.epoch)
    return inserted


async def _write_log(
    database: Any, record: Conversation, source: Iterable[EventBatch], given_up: asyncio.Event
) -> int:
    """Put the log there; return the filter of the keys in it. Raises CancelledError once it is given up."""
    entries = _entries(record, source)
    key = (record.tenant_id, record.conversation_id)
    accepted = 0
    while not given_up.is_set():
        portion = await asyncio.to_thread(lambda: list(islice(entries, _AT_ONCE)))
        if not portion:
            return accepted
        placed = [Placed(*key, entry) for _, entry in portion]
        for (batch, entry), error in zip(portion, await log.write(database, placed), strict=True):
            if error is not None:
                await _make_way(database, record, batch, entry)
            if batch.key is not None:
                accepted = with_key(accepted, batch.key)
    raise asyncio.CancelledError


def _entries(record: Conversation, source: Iterable[EventBatch]) -> Iterator[tuple[EventBatch, Document]]:
    noted: set[str] = set()
    for batch, execution_id in restored(record, source):
        starts = execution_id is not None and execution_id not in noted
        noted |= {execution_id} if execution_id is not None else set()
        yield batch, batch_entry(batch, execution_id, starts=starts)


async def _make_way(database: Any, record: Conversation, batch: EventBatch, entry: Document) -> None:
    """Remove what an attempt that was cut off has left in this batch's way, and write it.

    Raises StorageError where it is this attempt's own: its log has a key twice.
    """
    key = (record.tenant_id, record.conversation_id)
    async with reading():
        there = await database.events.find_one(place(*key) | {"key": entry["key"]}, {"_id": 0, "epoch": 1})
    taken, epoch = await _epoch_of(database, key)
    if there is None or there["epoch"] == record.epoch or (taken and there["epoch"] == epoch):
        raise key_twice(batch)
    await _remove(database, key, there["epoch"])
    (error,) = await log.write(database, [Placed(*key, entry)])
    if error is not None:
        raise key_twice(batch)


async def _insert(database: Any, record: Conversation, accepted: int, now: TimeMs) -> bool:
    """Insert the record, with what stands beside it; False where its id was taken meanwhile."""
    key = (record.tenant_id, record.conversation_id)
    beside = next_known(Commit(Expected(None), record, None), NOTHING, None)
    started = None
    if (execution_id := execution_of(record)) is not None:
        async with reading():
            wanted = {"tenant_id": record.tenant_id, "execution_id": execution_id}
            started = await database.executions.find_one(wanted, {"_id": 0, "first_offset": 1})
    first = record.offset if started is None else started["first_offset"]
    beside = beside._replace(execution_from=first, accepted=accepted)
    await waits.note(database, key, beside.waits, now)
    document = conversation_document(record, encode_record(record), beside, now)
    async with writing():
        try:
            await database.conversations.insert_one(document)
        except DuplicateKeyError:
            return False
    return True


async def _remove(database: Any, key: tuple[str, str], epoch: str) -> None:
    """Remove the log of an attempt that came to nothing, unless its record is there after all."""
    taken, there = await _epoch_of(database, key)
    if taken and there == epoch:
        return
    async with reading():
        await database.events.delete_many(place(*key) | {"epoch": epoch})
        if not taken:
            await database.executions.delete_many(place(*key))


async def _epoch_of(database: Any, key: tuple[str, str]) -> tuple[bool, str | None]:
    """Tell whether a conversation is there, and return its epoch."""
    async with reading():
        found = await database.conversations.find_one(place(*key), {"_id": 0, "epoch": 1})
    return found is not None, None if found is None else found["epoch"]

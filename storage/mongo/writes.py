"""What is written beside commits: leases, inboxes, and the removal of what was deleted."""

from typing import Any, Final

from storage.base import StoreUnavailable
from storage.codec import encode_record
from storage.models import InboxEntry, TimeMs
from storage.mongo.documents import Document, date_of, number, place, record_of, text
from storage.mongo.failures import reading, writing
from storage.mongo.lanes import check
from storage.rules import with_command

_TRIES: Final = 32


async def renew(
    database: Any,
    tenant_id: str,
    conversation_id: str,
    fence: int,
    owner: str,
    until: TimeMs,
    wake_at: TimeMs,
) -> bool:
    """See ``ConversationStore.renew``."""
    wanted = place(tenant_id, conversation_id) | {"fence": number(fence), "lease_owner": text(owner)}
    change = {"$set": {"lease_until": number(until), "wake_at": number(wake_at)}}
    async with reading():
        result = await database.conversations.update_one(wanted, change)
    return bool(result.matched_count)


async def enqueue(
    database: Any,
    tenant_id: str,
    conversation_id: str,
    entry: InboxEntry,
    wake_at: TimeMs,
    deadline: float,
) -> bool:
    """See ``ConversationStore.enqueue``: a compare-and-set of the record that was read, as often as it takes.

    By ``deadline``, in the loop's time, the last of them has begun.

    What stands beside the record (what lists, inboxes and the log need) stays as it is.
    """
    key = place(tenant_id, conversation_id)
    for _ in range(_TRIES):
        check(deadline)
        async with reading():
            document = await database.conversations.find_one(key, {"_id": 0, "unflushed": 0, "waits": 0})
        record = with_command(None if document is None else record_of(document), entry, wake_at)
        if record is None:
            return False
        change: Document = {
            "$set": {"revision": record.revision, "body": encode_record(record)},
            "$min": {"wake_at": number(wake_at)},
        }
        check(deadline)
        async with writing():
            result = await database.conversations.update_one(key | {"revision": record.revision - 1}, change)
        if result.matched_count:
            return True
    raise StoreUnavailable("too many write to this conversation at once")


async def remove_events(database: Any, tenant_id: str, conversation_id: str) -> int:
    """See ``ConversationStore.remove_events``. Its executions are forgotten with it."""
    key = place(tenant_id, conversation_id)
    async with reading():
        record = await database.conversations.find_one(key, {"_id": 0, "deleted_at": 1})
        if record is None or record.get("deleted_at") is None:
            return 0
        removed = await database.events.delete_many(key)
        await database.executions.delete_many(key)
        await database.waiting.delete_many(key)
    return int(removed.deleted_count)


async def expire_tombstones(database: Any, now: TimeMs, limit: int) -> int:
    """See ``ConversationStore.expire_tombstones``. What came late of theirs goes with them."""
    asked = {"expires_at": {"$lte": date_of(number(now))}}
    async with reading():
        cursor = database.conversations.find(asked, {"tenant_id": 1, "conversation_id": 1, "epoch": 1})
        found = await cursor.sort("expires_at", 1).limit(limit).to_list(limit)
        for document in found:
            # Of this epoch only: the server may have removed the tombstone, and somebody begun anew.
            left = place(document["tenant_id"], document["conversation_id"]) | {"epoch": document["epoch"]}
            await database.events.delete_many(left)
        result = await database.conversations.delete_many({"_id": {"$in": [d["_id"] for d in found]}})
    return int(result.deleted_count)

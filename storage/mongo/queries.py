"""Everything that is read: functions of the database.

A reader of the log takes the record first, then the log, then fills in from what the record carried. What
lies above the record's offset was committed after it was read, and may have holes: it is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from storage.base import Due, KeyRecord
from storage.listing import (
    IDLE,
    ExecutionFilter,
    ExecutionPlace,
    Listed,
    ListPlace,
)
from storage.models import EventBatch, TimeMs
from storage.mongo.documents import (
    Document,
    batch_of,
    entry_bytes,
    key_record_of,
    number,
    place,
    places,
    record_of,
    text,
)
from storage.mongo.failures import reading
from storage.readable import listed
from storage.rules import newest_messages, page

_HEAD: Final = {"_id": 0, "epoch": 1, "offset": 1, "unflushed": 1}
_NOT_ID: Final = {"_id": 0}
_AT_ONCE: Final = 64
LARGEST: Final = 2**62


class LogView:
    """One conversation's log as it was when its record was read."""

    def __init__(self, database: Any, key: Document, head: Mapping[str, Any]) -> None:
        self._events = database.events
        self._key = key
        self._epoch: str = head["epoch"]
        self._offset: int = head["offset"]
        self._carried: list[Document] = [e for e in head.get("unflushed", ()) if "events" in e]

    @classmethod
    async def of(cls, database: Any, tenant_id: str, conversation_id: str) -> "LogView | None":
        """Read the record; None where there is none."""
        key = place(tenant_id, conversation_id)
        head = await database.conversations.find_one(key, _HEAD)
        return None if head is None else cls(database, key, head)

    def carried(self, epoch: str) -> list[Document]:
        """Return what the record carried of an epoch, in order."""
        return [entry for entry in self._carried if entry["epoch"] == epoch]

    def _range(self, epoch: str, first: int, last: int) -> Document:
        """Return the filter of the batches of an epoch between two first offsets, both inclusive."""
        last = min(last, self._offset) if epoch == self._epoch else last
        return {**self._key, "epoch": text(epoch), "first_offset": {"$gte": number(first), "$lte": last}}

    async def first_at(self, epoch: str, offset: int) -> int:
        """Return where the batch that holds ``offset`` begins: the range behind it is an index range."""
        if offset <= 1:
            return 0
        cursor = self._events.find(self._range(epoch, 0, offset), {"_id": 0, "first_offset": 1})
        found = await cursor.sort("first_offset", -1).limit(1).to_list(1)
        return int(found[0]["first_offset"]) if found else 0

    async def since(self, epoch: str, offset: int, limit: int) -> list[Document]:
        """Return, in order and without a hole, up to ``limit`` entries that end at ``offset`` or above."""
        carried = [entry for entry in self.carried(epoch) if entry["last_offset"] >= offset]
        if self._is_all(carried, epoch, offset):
            return carried[:limit]
        wanted = self._range(epoch, await self.first_at(epoch, offset), LARGEST)
        wanted["last_offset"] = {"$gte": number(offset)}
        return _filled(await self._find(wanted, 1, limit), carried, limit)

    def _is_all(self, carried: Sequence[Document], epoch: str, offset: int) -> bool:
        """Tell whether the log has nothing to add to what the record carried from ``offset`` on."""
        if epoch != self._epoch:
            return False
        begins = max(offset, 1)
        for entry in carried:
            if entry["first_offset"] > begins:
                return False
            begins = entry["last_offset"] + 1
        return begins > self._offset

    async def _find(self, wanted: Document, order: int, limit: int) -> list[Document]:
        cursor = self._events.find(wanted, _NOT_ID).sort("first_offset", order).limit(limit)
        found: list[Document] = await cursor.to_list(limit)
        return found

    async def turn_end(self, epoch: str, command_id: str, offset: int) -> list[Document]:
        """Return the first entry from ``offset`` on in which the turn of a command ends, if it is there."""
        wanted = self._range(epoch, await self.first_at(epoch, offset), LARGEST)
        wanted |= {"last_offset": {"$gte": number(offset)}, "ended": text(command_id)}
        carried = [
            entry
            for entry in self.carried(epoch)
            if command_id in entry["ended"] and entry["last_offset"] >= offset
        ]
        return _filled(await self._find(wanted, 1, 1), carried, 1)

    async def newest(self, epoch: str, before: int, after: int, limit: int) -> list[Document]:
        """Return, newest first, up to ``limit`` entries with messages that begin before ``before``."""
        wanted = self._range(epoch, await self.first_at(epoch, after + 1), before - 1)
        wanted |= {"last_offset": {"$gt": number(after)}, "messages": {"$gt": 0}}
        found = await self._find(wanted, -1, limit)
        carried = [
            entry
            for entry in self.carried(epoch)
            if entry["first_offset"] < before and entry["last_offset"] > after and entry["messages"]
        ]
        return _filled(found, carried, limit, newest_first=True)

    async def at(self, epoch: str, first_offset: int) -> Document | None:
        """Return the entry that begins at an offset."""
        for entry in self.carried(epoch):
            if entry["first_offset"] == first_offset:
                return entry
        return await self._one(self._range(epoch, first_offset, first_offset))

    async def accepting(self, key: str) -> Document | None:
        """Return the entry that accepted the command with this key. The index ``events.command``."""
        for entry in self._carried:
            if entry["key"] == key:
                return entry
        return await self._one(self._key | {"key": text(key)})

    async def _one(self, wanted: Document) -> Document | None:
        found: Document | None = await self._events.find_one(wanted, _NOT_ID)
        return found


def _filled(
    found: list[Document], carried: Iterable[Document], limit: int, *, newest_first: bool = False
) -> list[Document]:
    """Fill in what the record carried, as far as what was found reaches."""
    by_offset = {entry["first_offset"]: entry for entry in carried}
    if len(found) == limit:
        last = found[-1]["first_offset"]
        by_offset = {o: e for o, e in by_offset.items() if (o > last if newest_first else o < last)}
    by_offset |= {entry["first_offset"]: entry for entry in found}
    return [by_offset[offset] for offset in sorted(by_offset, reverse=newest_first)][:limit]


async def events(
    database: Any, tenant_id: str, conversation_id: str, epoch: str, after: int, limit: int, max_bytes: int
) -> list[EventBatch]:
    """See ``ConversationStore.events``. Read in portions, so that a long log is not fetched for a page."""
    async with reading():
        view = await LogView.of(database, tenant_id, conversation_id)
        if view is None:
            return []
        entries: list[Document] = []
        count = size = 0
        at_once = some = min(max(limit, 1), _AT_ONCE)
        while count <= limit and size <= max_bytes and some == at_once:
            begin = entries[-1]["last_offset"] + 1 if entries else after + 1
            portion = await view.since(epoch, begin, at_once)
            some = len(portion)
            entries += portion
            count += sum(e["last_offset"] - e["first_offset"] + 1 for e in portion)
            size += sum(map(entry_bytes, portion))
        return page(((batch_of(entry), entry_bytes(entry)) for entry in entries), limit, max_bytes)


async def batch_at(
    database: Any, tenant_id: str, conversation_id: str, epoch: str, first_offset: int
) -> EventBatch | None:
    """See ``ConversationStore.batch_at``."""
    async with reading():
        view = await LogView.of(database, tenant_id, conversation_id)
        if view is None:
            return None
        entry = await view.at(epoch, first_offset)
        return None if entry is None else batch_of(entry)


async def find_key(database: Any, tenant_id: str, conversation_id: str, key: str) -> KeyRecord | None:
    """See ``ConversationStore.find_key``. The index ``events.command``."""
    async with reading():
        view = await LogView.of(database, tenant_id, conversation_id)
        if view is None:
            return None
        found = await view.accepting(key)
        return None if found is None else key_record_of(found)


async def is_logged(database: Any, key: tuple[str, str], command_key: str) -> bool:
    """Tell whether the log has the batch of a command. The index ``events.command``."""
    async with reading():
        found = await database.events.find_one(place(*key) | {"key": text(command_key)}, {"_id": 1})
    return found is not None


async def turn_end(
    database: Any, tenant_id: str, conversation_id: str, epoch: str, command_id: str, from_offset: int
) -> EventBatch | None:
    """See ``ConversationStore.turn_end``."""
    async with reading():
        view = await LogView.of(database, tenant_id, conversation_id)
        if view is None:
            return None
        ends = await view.turn_end(epoch, command_id, from_offset)
        return batch_of(ends[0]) if ends else None


async def messages(
    database: Any,
    tenant_id: str,
    conversation_id: str,
    epoch: str,
    before: int | None,
    after: int,
    limit: int,
) -> list[EventBatch]:
    """See ``ConversationStore.messages``. Each batch that is read has one message at least."""
    before = LARGEST if before is None else number(before)
    async with reading():
        view = await LogView.of(database, tenant_id, conversation_id)
        if view is None or limit <= 0:
            return []
        # The two outermost may lie in the range with events that are no messages only.
        entries = await view.newest(epoch, before, after, limit + 2)
        batches = (batch_of(entry) for entry in entries)
        return newest_messages(batches, before=before, after=after, limit=limit)


# -- across conversations ---------------------------------------------------------------------------


async def due(database: Any, now: TimeMs, limit: int) -> list[Due]:
    """See ``ConversationStore.due``. The index ``conversations.wake``."""
    fields = {"_id": 0, "tenant_id": 1, "conversation_id": 1, "wake_at": 1}
    async with reading():
        found = (
            await database.conversations.find({"wake_at": {"$lte": number(now)}}, fields)
            .sort("wake_at", 1)
            .limit(limit)
            .to_list(limit)
        )
    return [Due(d["tenant_id"], d["conversation_id"], int(d["wake_at"])) for d in found]


async def offsets(database: Any, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
    """See ``ConversationStore.offsets``."""
    if not keys:
        return {}
    fields = {"_id": 0, "tenant_id": 1, "conversation_id": 1, "epoch": 1, "offset": 1}
    async with reading():
        found = await database.conversations.find(places(keys), fields).to_list(len(keys))
    return {(d["tenant_id"], d["conversation_id"]): (d["epoch"], d["offset"]) for d in found}


async def conversation_ids(database: Any, tenant_id: str, after: str, limit: int) -> list[str]:
    """See ``ConversationStore.conversation_ids``. The index ``conversations.key``."""
    wanted = {
        "tenant_id": text(tenant_id),
        "conversation_id": {"$gt": text(after)},
        "deleted_at": {"$exists": False},
    }
    async with reading():
        found = (
            await database.conversations.find(wanted, {"_id": 0, "conversation_id": 1})
            .sort("conversation_id", 1)
            .limit(limit)
            .to_list(limit)
        )
    return [d["conversation_id"] for d in found]


async def find_execution(database: Any, tenant_id: str, execution_id: str) -> ExecutionPlace | None:
    """See ``ConversationStore.find_execution``. One that has just begun is only beside its record.

    What is noted of one may be of a conversation that is being restored: it is not there yet.
    """
    wanted = {"tenant_id": text(tenant_id), "execution_id": text(execution_id)}
    async with reading():
        found = await database.executions.find_one(wanted, _NOT_ID)
        if found is not None:
            key = place(tenant_id, found["conversation_id"])
            if await database.conversations.find_one(key, {"_id": 1}) is None:
                return None
            return ExecutionPlace(found["conversation_id"], found["first_offset"])
        fields = {"_id": 0, "conversation_id": 1, "execution_from": 1}
        found = await database.conversations.find_one(wanted, fields)
    return None if found is None else ExecutionPlace(found["conversation_id"], found["execution_from"])


async def executions(
    database: Any,
    tenant_id: str,
    wanted: ExecutionFilter,
    after: ListPlace | None,
    limit: int,
    max_bytes: int,
    *,
    idle: bool = False,
) -> list[Listed]:
    """See ``ConversationStore.executions``; with ``idle`` it is ``conversations``."""
    if wanted.status == IDLE and not idle:
        return []
    asked = _asked(tenant_id, wanted, idle=idle)
    found: list[Listed] = []
    while (missing := limit - len(found)) > 0:
        if after is not None:
            active_at, id_ = number(after.active_at), text(after.conversation_id)
            asked["$or"] = [
                {"active_at": {"$lt": active_at}},
                {"active_at": active_at, "conversation_id": {"$lt": id_}},
            ]
        async with reading():
            cursor = database.conversations.find(asked, {"_id": 0, "unflushed": 0}, batch_size=_AT_ONCE)
            cursor = cursor.sort([("active_at", -1), ("conversation_id", -1)]).limit(missing)
            try:
                async for document in cursor:
                    missing -= 1
                    max_bytes -= len(document["body"])
                    if found and max_bytes < 0:
                        return found
                    after = ListPlace(int(document["active_at"]), document["conversation_id"])
                    if (item := listed(tenant_id, after, partial(record_of, document))) is not None:
                        found.append(item)
            finally:
                await cursor.close()
        if missing:
            break  # there are no more
    return found


async def count_conversations(database: Any, tenant_id: str, wanted: ExecutionFilter) -> int:
    """See ``ConversationStore.count_conversations``."""
    async with reading():
        return int(await database.conversations.count_documents(_asked(tenant_id, wanted, idle=True)))


def _asked(tenant_id: str, wanted: ExecutionFilter, *, idle: bool) -> Document:
    """Return the filter of a list. What is in no list (a tombstone) has no ``active_at``."""
    asked: Document = {"tenant_id": text(tenant_id)}
    for name in ("status", "flow_id", "user_id", "project_id"):
        if (value := getattr(wanted, name)) is not None:
            asked[name] = text(value)
    if not idle and wanted.status is None:
        asked["status"] = {"$ne": IDLE}
    active: Document = {"$gte": -LARGEST if wanted.since is None else number(wanted.since)}
    if wanted.until is not None:
        active["$lt"] = number(wanted.until)
    asked["active_at"] = active
    return asked

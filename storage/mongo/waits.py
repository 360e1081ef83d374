"""What waits for people, found by who may decide it.

The collection ``waiting`` is told before the commit that makes something wait, and cleaned after the one
that settles it: two documents cannot change together, so it may hold more than what waits, and never less.
Each row is compared with its conversation when it is read; the document there is the truth.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pymongo import DeleteOne

from storage.listing import Wait, Waiting, WaitPlace
from storage.models import TimeMs
from storage.mongo.documents import Document, number, place, places, text, waits_in
from storage.mongo.failures import reading
from storage.mongo.log import insert

ABANDONED_MS: Final = 600_000
"""A row that long without its wait belongs to a commit that never happened, or was not cleaned up."""
_NOT_ID: Final = {"_id": 0}
Key = tuple[str, str]


def rows(key: Key, waits: Sequence[Wait]) -> Iterator[Document]:
    """Yield the rows of what waits in a conversation: one for each who may decide."""
    for wait in waits:
        for decider in wait.deciders:
            yield {
                "tenant_id": key[0],
                "decider": decider,
                "since": wait.since,
                "wait_id": wait.wait_id,
                "kind": wait.kind,
                "conversation_id": key[1],
            }


async def note(database: Any, key: Key, waits: Sequence[Wait], now: TimeMs) -> None:
    """Tell the collection of what is about to wait. Raises StoreUnavailable."""
    documents = [{**row, "noted_at": now} for row in rows(key, waits)]
    await insert(database.waiting, documents)


async def forget(database: Any, key: Key, before: Sequence[Wait], now: Sequence[Wait]) -> None:
    """Remove what no longer waits, or no longer for somebody.

    Raises StoreUnavailable: then its readers leave it out.
    """
    still = list(rows(key, now))
    gone = [DeleteOne(row) for row in rows(key, before) if row not in still]
    if gone:
        async with reading():
            await database.waiting.bulk_write(gone, ordered=False)


async def waiting(
    database: Any, tenant_id: str, deciders: Sequence[str], after: WaitPlace | None, limit: int, now: TimeMs
) -> list[Waiting]:
    """See ``ConversationStore.waiting``. The index ``waiting.place``."""
    found: list[Waiting] = []
    asked = sorted({text(decider) for decider in deciders})
    async with reading():
        while asked and len(found) < limit:
            noted, more = await _noted(database, tenant_id, asked, after, limit)
            true = await _true(database, tenant_id, frozenset(asked), noted)
            found += [waiting for waiting in noted if waiting in true]
            await _clean(database, tenant_id, [w for w in noted if w not in true], now)
            if not more:
                break
            after = noted[-1].place
    return found[:limit]


async def _noted(
    database: Any, tenant_id: str, deciders: list[str], after: WaitPlace | None, limit: int
) -> tuple[list[Waiting], bool]:
    """Return a portion of what is noted, each once, and whether there may be more."""
    asked: Document = {"tenant_id": text(tenant_id), "decider": {"$in": deciders}}
    if after is not None:
        since, wait_id = number(after.since), text(after.wait_id)
        asked["$or"] = [{"since": {"$gt": since}}, {"since": since, "wait_id": {"$gt": wait_id}}]
    at_once = max(limit, 1) * len(deciders)
    cursor = database.waiting.find(asked, _NOT_ID)
    cursor = cursor.sort([("since", 1), ("wait_id", 1), ("conversation_id", 1)]).limit(at_once)
    found = await cursor.to_list(at_once)
    each = {(int(r["since"]), r["wait_id"], r["conversation_id"]): r["kind"] for r in found}
    noted = [Waiting(WaitPlace(since, id_), kind, where) for (since, id_, where), kind in each.items()]
    return noted, len(found) == at_once


async def _true(
    database: Any, tenant_id: str, deciders: frozenset[str], noted: list[Waiting]
) -> set[Waiting]:
    """Return what really waits in the conversations of ``noted``, for one of ``deciders``."""
    if not noted:
        return set()
    keys = sorted({(tenant_id, waiting.conversation_id) for waiting in noted})
    fields = {"_id": 0, "conversation_id": 1, "waits": 1}
    found = await database.conversations.find(places(keys), fields).to_list(len(keys))
    return {
        Waiting(WaitPlace(wait.since, wait.wait_id), wait.kind, row["conversation_id"])
        for row in found
        for wait in waits_in(row)
        if not deciders.isdisjoint(wait.deciders)
    }


async def _clean(database: Any, tenant_id: str, untrue: list[Waiting], now: TimeMs) -> None:
    """Remove rows that have been without their wait for long."""
    for waiting in untrue:
        await database.waiting.delete_many(
            {
                **place(tenant_id, waiting.conversation_id),
                "wait_id": text(waiting.place.wait_id),
                "since": number(waiting.place.since),
                "noted_at": {"$lt": number(now) - ABANDONED_MS},
            }
        )

"""Brings into the log what a crash has left in documents, and lets idle documents drop what they carry.

``flush_at`` is about a minute behind the last commit. Whoever made that has put its batch into the log long
since; who did not is gone. Every instance does this beside the engine's sweep; twice does no harm.
"""

from typing import Any, Final

from pymongo import UpdateOne

from storage.base import StorageError
from storage.models import TimeMs
from storage.mongo import log, waits
from storage.mongo.documents import known_of, number, place
from storage.mongo.failures import reading
from storage.mongo.log import Placed

EVERY_MS: Final = 15_000
GRACE_MS: Final = 30_000
_AT_ONCE: Final = 200


class Sweep:
    """Remembers when it swept last."""

    def __init__(self) -> None:
        self._next_at = 0

    async def maybe(self, database: Any, now: TimeMs) -> None:
        """Sweep if it is time to. Raises StoreUnavailable."""
        if now >= self._next_at or now < self._next_at - EVERY_MS:  # the latter: the clock was set back
            more = await sweep(database, now)
            self._next_at = now if more == _AT_ONCE else now + EVERY_MS


async def sweep(database: Any, now: TimeMs) -> int:
    """Do up to 200 documents; return how many there were. Raises StoreUnavailable.

    One after the other as they come, since each may carry a quarter of a megabyte.
    """
    asked = {"flush_at": {"$lte": number(now) - GRACE_MS}}
    found = 0
    done: list[UpdateOne] = []
    async with reading():
        cursor = database.conversations.find(asked, {"body": 0}).sort("flush_at", 1).limit(_AT_ONCE)
        async for document in cursor:
            found += 1
            key, known = (document["tenant_id"], document["conversation_id"]), known_of(document)
            errors = await log.write(database, [Placed(*key, entry) for entry in known.unflushed])
            await waits.note(database, key, known.waits, now)
            if not any(isinstance(error, StorageError) for error in errors):
                same = place(*key) | {"revision": known.revision}
                done.append(UpdateOne(same, {"$unset": {"unflushed": "", "flush_at": ""}}))
        if done:
            await database.conversations.bulk_write(done, ordered=False)
    return found

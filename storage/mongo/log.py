"""The log behind the records: what a commit made true is put there right after, in groups.

Putting a batch there twice does nothing: a clash on its offset with the same commit id means that it is
there. So nobody has to know who else tries.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pymongo import InsertOne
from pymongo.errors import BulkWriteError

from storage.base import StorageError, StoreUnavailable
from storage.mongo.documents import Document, place, text
from storage.mongo.failures import reading

DUPLICATE_KEY: Final = 11000


class Placed(NamedTuple):
    """A log entry and whose it is."""

    tenant_id: str
    conversation_id: str
    entry: Document

    @property
    def id(self) -> tuple[str, str, str]:
        """What no other entry has."""
        return self.tenant_id, self.conversation_id, self.entry["commit_id"]

    @property
    def document(self) -> Document:
        """The document of ``events``."""
        return {"tenant_id": self.tenant_id, "conversation_id": self.conversation_id, **self.entry}

    @property
    def execution(self) -> Document:
        """The document of ``executions`` where an execution starts here."""
        return {
            "tenant_id": self.tenant_id,
            "execution_id": self.entry["execution_id"],
            "conversation_id": self.conversation_id,
            "first_offset": self.entry["first_offset"],
        }


async def write(database: Any, group: Sequence[Placed]) -> list[StorageError | None]:
    """Put entries into the log, and what they say of executions; return what was wrong with each.

    Raises StoreUnavailable: it is not known which are there.
    """
    starting = [placed for placed in group if "starts" in placed.entry]
    batches = [placed for placed in group if "events" in placed.entry]
    noted, clashes = await asyncio.gather(
        insert(database.executions, [placed.execution for placed in starting]),
        insert(database.events, [placed.document for placed in batches]),
        return_exceptions=True,  # so that both have ended before one is heard of
    )
    for told in (noted, clashes):
        if isinstance(told, BaseException):
            raise told
    assert isinstance(clashes, list)
    wrong = {id(entry): error for entry, error in await _strangers(database, [batches[n] for n in clashes])}
    return [wrong.get(id(placed.entry)) for placed in group]


async def insert(collection: Any, documents: Sequence[Document]) -> list[int]:
    """Insert what is not there yet; return the positions of those that clash with something.

    Raises StoreUnavailable: it is not known which are there.
    """
    if not documents:
        return []
    async with reading():
        try:
            await collection.bulk_write([InsertOne(document) for document in documents], ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            failed = {found["index"]: found["code"] for found in details.get("writeErrors", ())}
            if details.get("writeConcernErrors") or any(code != DUPLICATE_KEY for code in failed.values()):
                raise StoreUnavailable("MongoDB could not write to the log: its own says why") from None
            return sorted(failed)
    return []


async def _strangers(database: Any, clashing: Sequence[Placed]) -> list[tuple[Document, StorageError]]:
    """Return those of the clashing whose place in the log somebody else has."""
    if not clashing:
        return []
    offsets: dict[tuple[str, str, str], list[int]] = {}
    for placed in clashing:
        log = (placed.tenant_id, placed.conversation_id, placed.entry["epoch"])
        offsets.setdefault(log, []).append(placed.entry["first_offset"])
    # By their places: the index on them leads there, however long the logs are.
    arms = [
        place(tenant_id, conversation_id) | {"epoch": text(epoch), "first_offset": {"$in": found}}
        for (tenant_id, conversation_id, epoch), found in offsets.items()
    ]
    wanted = arms[0] if len(arms) == 1 else {"$or": arms}
    fields = {"_id": 0, "tenant_id": 1, "conversation_id": 1, "epoch": 1, "first_offset": 1, "commit_id": 1}
    async with reading():
        rows = await database.events.find(wanted, fields).to_list(len(clashing))
    there = {tuple(row[name] for name in fields if name != "_id") for row in rows}
    return [
        (placed.entry, StorageError(f"the log already holds offset {placed.entry['first_offset']}"))
        for placed in clashing
        if (
            placed.tenant_id,
            placed.conversation_id,
            placed.entry["epoch"],
            placed.entry["first_offset"],
            placed.entry["commit_id"],
        )
        not in there
    ]

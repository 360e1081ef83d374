"""The compare-and-set that makes commits true, several conversations' in one command.

Each statement of the command is a compare-and-set of one document by itself; nothing ties them together.
The reply counts how many found their document. Where that is all of them, which is the rule, all are
committed; where it is none, none is. Otherwise the documents are read to see whose commit each holds.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from pymongo import InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError

from storage.base import Commit, CommitOutcome, CommitUnknown, StorageError, StoreUnavailable
from storage.models import TimeMs
from storage.mongo.documents import Document, Known, conversation_document, place, places, without
from storage.mongo.failures import NO_MAJORITY, reading, writing
from storage.mongo.log import DUPLICATE_KEY
from storage.mongo.queries import batch_at
from storage.rules import stored_batch

_REFUSED: Final = frozenset({2, 13, 121, 10334, 17280, 17420})
"""BadValue, Unauthorized, DocumentValidationFailure, and of what is too large for a document or an index."""
Outcome = CommitOutcome | StorageError


class Change(NamedTuple):
    """One commit, with the bytes of its record and what is to stand beside it.

    ``confirmed`` gets the ids of commits whose batches come into the log while this one waits.
    """

    commit: Commit
    body: bytes
    beside: Known
    confirmed: Collection[str]

    @property
    def key(self) -> tuple[str, str]:
        """Whose it is."""
        record = self.commit.record
        return record.tenant_id, record.conversation_id

    @property
    def is_insert(self) -> bool:
        """Whether the conversation begins with it."""
        return self.commit.expected.revision is None

    def request(self, now: TimeMs) -> InsertOne[Document] | ReplaceOne[Document]:
        """Return the statement, with a document that carries what is not in the log by now."""
        record, expected = self.commit.record, self.commit.expected
        document = conversation_document(record, self.body, without(self.beside, self.confirmed), now)
        if expected.revision is None:
            return InsertOne(document)
        # The epoch, too: after its tombstone has gone, a conversation counts its revisions from 1 again.
        wanted = {"epoch": record.epoch, "revision": expected.revision, "fence": expected.fence}
        return ReplaceOne(place(*self.key) | wanted, document)


async def write(database: Any, group: Sequence[Change], now: TimeMs) -> list[Outcome]:
    """Do a group of changes, of different conversations; return what became of each.

    Raises StoreUnavailable: none happened; CommitUnknown: any may have.
    """
    failed: dict[int, int] = {}
    async with writing():
        try:
            result = await database.conversations.bulk_write(
                [change.request(now) for change in group], ordered=False
            )
            matched = result.matched_count
        except BulkWriteError as error:
            details = error.details or {}
            if details.get("writeConcernErrors"):
                raise CommitUnknown(NO_MAJORITY) from None
            failed = {found["index"]: found["code"] for found in details["writeErrors"]}
            matched = details["nMatched"]
    outcomes = [_failure(failed[n]) if n in failed else CommitOutcome.COMMITTED for n in range(len(group))]
    replaced = [n for n, change in enumerate(group) if not change.is_insert and n not in failed]
    if matched == len(replaced):
        return outcomes
    for n in replaced:
        outcomes[n] = CommitOutcome.CONFLICT
    if matched:
        settled = await _settle(database, [group[n] for n in replaced])
        for n, outcome in zip(replaced, settled, strict=True):
            outcomes[n] = outcome
    return outcomes


def _failure(code: int) -> Outcome:
    if code == DUPLICATE_KEY:
        return CommitOutcome.CONFLICT
    if code in _REFUSED:
        return StoreUnavailable(f"MongoDB refuses to write a conversation (code {code}): its log says why")
    # A router says so of a shard that it lost sight of: the shard may have done it.
    return CommitUnknown(f"MongoDB does not tell what became of a write (code {code}): its log says why")


async def _settle(database: Any, changes: Sequence[Change]) -> list[Outcome]:
    """Tell from the documents which changes happened."""
    fields = {"_id": 0, "tenant_id": 1, "conversation_id": 1, "revision": 1, "commit_id": 1}
    wanted = places([change.key for change in changes])
    try:
        async with reading():
            rows = await database.conversations.find(wanted, fields).to_list(len(changes))
        there = {(row["tenant_id"], row["conversation_id"]): row for row in rows}
        return [await _settled(database, change, there.get(change.key)) for change in changes]
    except StoreUnavailable as error:
        raise CommitUnknown(str(error)) from None


async def _settled(database: Any, change: Change, row: Document | None) -> Outcome:
    record, batch = change.commit.record, stored_batch(change.commit)
    if row is None or row["revision"] < record.revision:
        return CommitOutcome.CONFLICT
    if row["commit_id"] == record.commit_id:
        return CommitOutcome.COMMITTED
    if row["revision"] == record.revision:
        return CommitOutcome.CONFLICT
    if batch is None:
        return CommitUnknown("a later commit hides whether this one happened")
    found = await batch_at(database, *change.key, batch.epoch, batch.first_offset)
    if found is not None and found.commit_id == batch.commit_id:
        return CommitOutcome.COMMITTED
    return CommitOutcome.CONFLICT

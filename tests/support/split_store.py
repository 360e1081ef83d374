"""A memory store whose log write is split from the commit, as MongoDB's will be.

One compare-and-set of one document makes a commit true. The document carries the batches that may not be
in the log yet; they are put there right after, which may be late, be lost, or overtake each other.
``pause`` lets a test stand in between: it is awaited

- at ``"flush"``, between the record's write and the log's (before each batch), and
- at ``"log"``, between the record's read and the log's.

What it raises ends the operation there, as a crash would; only after ``StoreUnavailable`` at ``"flush"`` is
the commit answered all the same, because the batch is safe in the document.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from storage.base import Commit, CommitOutcome, Due, KeyRecord, StorageError, StoreUnavailable
from storage.listing import ExecutionFilter, ExecutionPlace, Listed, ListPlace, Waiting, WaitPlace
from storage.memory.accounts import MemoryAccounts
from storage.memory.flows import MemoryFlows
from storage.memory.listing import MemoryListing
from storage.models import COMMIT_MAX_BYTES, Conversation, EventBatch, InboxEntry, Lease, TimeMs
from storage.rules import (
    check_commit,
    ended_commands,
    execution_of,
    is_live,
    key_twice,
    newest_messages,
    page,
    restored,
    stored_batch,
    with_command,
)
from storage.sizes import batch_bytes

UNFLUSHED_MAX_BYTES = COMMIT_MAX_BYTES
Key = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """A batch, and the execution that the record had after it."""

    batch: EventBatch
    execution_id: str | None

    @property
    def place(self) -> tuple[str, int]:
        return self.batch.epoch, self.batch.first_offset


@dataclass(frozen=True)
class Document:
    """What the database holds of one conversation."""

    record: Conversation
    unflushed: tuple[Entry, ...] = ()


async def _never(place: str) -> None:
    return


class SplitStore(MemoryFlows, MemoryAccounts):
    """See the module. Not exclusive: opening it voids no leases."""

    detects_duplicates = False
    embedded = False
    migrated: Sequence[str] = ()

    def __init__(
        self, clock: Callable[[], TimeMs], *, pause: Callable[[str], Awaitable[None]] = _never
    ) -> None:
        super().__init__()
        self.now = clock
        self.pause = pause
        self._closed = False
        self._documents: dict[Key, Document] = {}
        self._logs: dict[Key, dict[tuple[str, int], Entry]] = {}
        self._confirmed: set[str] = set()
        self._executions: dict[Key, ExecutionPlace] = {}
        self._listing = MemoryListing(lambda key: self._documents[key].record)

    async def open(self) -> None:
        self._closed = False

    async def close(self) -> None:
        self._closed = True

    async def ping(self) -> None:
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _document(self, tenant_id: str, conversation_id: str) -> Document | None:
        self._check_open()
        return self._documents.get((tenant_id, conversation_id))

    def unflushed(self, tenant_id: str, conversation_id: str) -> tuple[EventBatch, ...]:
        """Return what the document carries, for tests that look inside."""
        document = self._documents[tenant_id, conversation_id]
        return tuple(entry.batch for entry in document.unflushed)

    def logged(self, tenant_id: str, conversation_id: str) -> tuple[EventBatch, ...]:
        """Return what is in the log itself, for tests that look inside."""
        log = self._logs.get((tenant_id, conversation_id), {})
        return tuple(log[place].batch for place in sorted(log))

    # -- writing ------------------------------------------------------------------------------

    async def load(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        document = self._document(tenant_id, conversation_id)
        return None if document is None else document.record

    async def load_many(self, keys: Sequence[Key]) -> dict[Key, Conversation]:
        self._check_open()
        return {key: self._documents[key].record for key in keys if key in self._documents}

    async def commit(self, commit: Commit) -> CommitOutcome:
        check_commit(commit)
        record, batch = commit.record, stored_batch(commit)
        key = (record.tenant_id, record.conversation_id)
        unflushed = await self._room_for(key, batch)
        document = self._document(*key)
        stored = None if document is None else document.record
        if (None if stored is None else stored.revision) != commit.expected.revision:
            return CommitOutcome.CONFLICT
        if stored is not None and stored.fence != commit.expected.fence:
            return CommitOutcome.CONFLICT
        if record.deleted_at is not None:
            unflushed = ()  # a tombstone has no content
        if batch is not None:
            unflushed = (*unflushed, Entry(batch, execution_of(record)))
        self._documents[key] = Document(record, unflushed)
        if record.execution is not None:
            execution_key = (record.tenant_id, record.execution.execution_id)
            first = record.offset if batch is None else batch.first_offset
            self._executions.setdefault(execution_key, ExecutionPlace(record.conversation_id, first))
        self._listing.note(record)
        with suppress(StoreUnavailable):
            await self._flush(key, unflushed)
        return CommitOutcome.COMMITTED

    async def _room_for(self, key: Key, batch: EventBatch | None) -> tuple[Entry, ...]:
        """Return what the next document has to carry on; put it into the log first where it is too much."""
        while True:
            document = self._document(*key)
            carried = () if document is None else self._unconfirmed(document)
            sizes = [batch_bytes(entry.batch) for entry in carried]
            if not carried or batch is None or sum(sizes) + batch_bytes(batch) <= UNFLUSHED_MAX_BYTES:
                return carried
            await self._flush(key, carried)

    def _unconfirmed(self, document: Document) -> tuple[Entry, ...]:
        return tuple(e for e in document.unflushed if e.batch.commit_id not in self._confirmed)

    async def _flush(self, key: Key, entries: Sequence[Entry]) -> None:
        """Insert one by one, the newest first: no order is promised, so the worst one is taken."""
        for entry in reversed(entries):
            await self.pause("flush")
            log = self._logs.setdefault(key, {})
            there = log.setdefault(entry.place, entry)
            if there.batch.commit_id != entry.batch.commit_id:
                raise StorageError(f"the log already holds offset {entry.batch.first_offset}")
            self._confirmed.add(entry.batch.commit_id)

    async def flush_left(self) -> int:
        """Put into the log what crashes have left unflushed; return how many batches. The adapter's sweep."""
        left = [(key, self._unconfirmed(document)) for key, document in self._documents.items()]
        for key, entries in left:
            await self._flush(key, entries)
        return sum(len(entries) for _, entries in left)

    async def renew(
        self, tenant_id: str, conversation_id: str, fence: int, owner: str, until: TimeMs, wake_at: TimeMs
    ) -> bool:
        document = self._document(tenant_id, conversation_id)
        if document is None or document.record.fence != fence:
            return False
        lease = document.record.lease
        if lease is None or lease.owner != owner:
            return False
        record = replace(document.record, lease=Lease(owner, until), wake_at=wake_at)
        self._documents[tenant_id, conversation_id] = replace(document, record=record)
        return True

    async def enqueue(self, tenant_id: str, conversation_id: str, entry: InboxEntry, wake_at: TimeMs) -> bool:
        document = self._document(tenant_id, conversation_id)
        record = None if document is None else with_command(document.record, entry, wake_at)
        if document is None or record is None:
            return False
        self._documents[tenant_id, conversation_id] = replace(document, record=record)
        return True

    # -- reading ------------------------------------------------------------------------------

    async def _entries(self, tenant_id: str, conversation_id: str) -> list[Entry]:
        """Read the record, then the log, then fill from what the record carried; oldest first.

        What lies above the record's offset was committed after it was read, and may have holes.
        """
        document = self._document(tenant_id, conversation_id)
        if document is None:
            return []
        await self.pause("log")
        found = {entry.place: entry for entry in document.unflushed}
        found.update(self._logs.get((tenant_id, conversation_id), {}))
        record = document.record
        return [
            found[place]
            for place in sorted(found)
            if place[0] != record.epoch or found[place].batch.last_offset <= record.offset
        ]

    async def _batches(
        self, tenant_id: str, conversation_id: str, epoch: str, first: int
    ) -> Iterator[EventBatch]:
        entries = await self._entries(tenant_id, conversation_id)
        return (e.batch for e in entries if e.batch.epoch == epoch and e.batch.last_offset >= first)

    async def events(
        self,
        tenant_id: str,
        conversation_id: str,
        epoch: str,
        after: int,
        *,
        limit: int = 1000,
        max_bytes: int = 512 * 1024,
    ) -> list[EventBatch]:
        batches = await self._batches(tenant_id, conversation_id, epoch, after + 1)
        return page(((batch, batch_bytes(batch)) for batch in batches), limit, max_bytes)

    async def batch_at(
        self, tenant_id: str, conversation_id: str, epoch: str, first_offset: int
    ) -> EventBatch | None:
        batches = await self._batches(tenant_id, conversation_id, epoch, first_offset)
        return next((batch for batch in batches if batch.first_offset == first_offset), None)

    async def find_key(self, tenant_id: str, conversation_id: str, key: str) -> KeyRecord | None:
        for entry in await self._entries(tenant_id, conversation_id):
            b = entry.batch
            if b.key == key:
                return KeyRecord(key, b.body_hash, b.epoch, b.first_offset, b.last_offset, entry.execution_id)
        return None

    async def turn_end(
        self, tenant_id: str, conversation_id: str, epoch: str, command_id: str, from_offset: int
    ) -> EventBatch | None:
        batches = await self._batches(tenant_id, conversation_id, epoch, from_offset)
        return next((batch for batch in batches if command_id in ended_commands(batch)), None)

    async def messages(
        self,
        tenant_id: str,
        conversation_id: str,
        epoch: str,
        *,
        before: int | None,
        after: int,
        limit: int,
    ) -> list[EventBatch]:
        newest_first = reversed(list(await self._batches(tenant_id, conversation_id, epoch, after + 1)))
        return newest_messages(newest_first, before=before, after=after, limit=limit)

    # -- sweeping -----------------------------------------------------------------------------

    def _records(self) -> Iterable[tuple[Key, Conversation]]:
        return ((key, document.record) for key, document in self._documents.items())

    async def due(self, now: TimeMs, limit: int) -> list[Due]:
        """Bring what was left unflushed into the log, too: the engine's sweep drives the adapter's."""
        self._check_open()
        await self.flush_left()
        due = [
            Due(*key, r.wake_at) for key, r in self._records() if r.wake_at is not None and r.wake_at <= now
        ]
        return sorted(due, key=lambda d: d.wake_at)[:limit]

    async def offsets(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
        self._check_open()
        found = {key: self._documents[key].record for key in keys if key in self._documents}
        return {key: (record.epoch, record.offset) for key, record in found.items()}

    async def find_execution(self, tenant_id: str, execution_id: str) -> ExecutionPlace | None:
        self._check_open()
        return self._executions.get((tenant_id, execution_id))

    async def executions(
        self,
        tenant_id: str,
        wanted: ExecutionFilter,
        *,
        after: ListPlace | None = None,
        limit: int = 50,
        max_bytes: int = 4 * 1024 * 1024,
    ) -> list[Listed]:
        self._check_open()
        return self._listing.executions(tenant_id, wanted, after=after, limit=limit, max_bytes=max_bytes)

    async def conversations(
        self,
        tenant_id: str,
        wanted: ExecutionFilter,
        *,
        after: ListPlace | None = None,
        limit: int = 50,
        max_bytes: int = 4 * 1024 * 1024,
    ) -> list[Listed]:
        self._check_open()
        return self._listing.executions(
            tenant_id, wanted, after=after, limit=limit, max_bytes=max_bytes, idle=True
        )

    async def count_conversations(self, tenant_id: str, wanted: ExecutionFilter) -> int:
        self._check_open()
        return self._listing.count(tenant_id, wanted)

    async def waiting(
        self, tenant_id: str, deciders: Sequence[str], *, after: WaitPlace | None = None, limit: int = 50
    ) -> list[Waiting]:
        self._check_open()
        return self._listing.waiting(tenant_id, deciders, after=after, limit=limit)

    async def conversation_ids(self, tenant_id: str, *, after: str = "", limit: int = 1000) -> list[str]:
        self._check_open()
        ids = (r.conversation_id for _, r in self._records() if is_live(r, tenant_id))
        return sorted(id_ for id_ in ids if id_ > after)[:limit]

    async def restore(self, record: Conversation, log: Iterable[EventBatch]) -> bool:
        """Write the log first, then the record: what no record points to is nowhere to be seen.

        What an attempt has left that ended in between is of another epoch, and goes first.
        """
        key = (record.tenant_id, record.conversation_id)
        if self._document(*key) is not None:
            return False
        self._logs[key] = written = {}
        keys: set[str] = set()
        places: dict[Key, ExecutionPlace] = {}
        for batch, execution_id in restored(record, log):
            await self.pause("flush")
            if batch.key in keys:
                raise key_twice(batch)
            keys |= {batch.key} if batch.key is not None else set()
            written[batch.epoch, batch.first_offset] = Entry(batch, execution_id)
            if execution_id is not None:
                place = ExecutionPlace(record.conversation_id, batch.first_offset)
                places.setdefault((record.tenant_id, execution_id), place)
        self._documents[key] = Document(record)
        for execution_key, place in places.items():
            self._executions.setdefault(execution_key, place)
        self._listing.note(record)
        return True

    async def remove_events(self, tenant_id: str, conversation_id: str) -> int:
        document = self._document(tenant_id, conversation_id)
        if document is None or document.record.deleted_at is None:
            return 0
        log = self._logs.pop((tenant_id, conversation_id), {})
        for entry in log.values():
            execution_key = (tenant_id, entry.execution_id or "")
            place = self._executions.get(execution_key)
            if place is not None and place.conversation_id == conversation_id:
                del self._executions[execution_key]
        return len(log)

    async def expire_tombstones(self, now: TimeMs, limit: int) -> int:
        self._check_open()
        expired = sorted(
            (record.expires_at, key)
            for key, record in self._records()
            if record.deleted_at is not None and record.expires_at is not None and record.expires_at <= now
        )[:limit]
        for _, key in expired:
            del self._documents[key]
            self._logs.pop(key, None)
        return len(expired)

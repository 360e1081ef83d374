"""Conversations and their logs in memory.

Every method runs without yielding to the event loop, so each is atomic as it stands. Records and
batches are immutable and kept as given. What is stored outlives ``close`` as long as the object does.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter

from storage.base import Commit, CommitOutcome, Due, KeyRecord, StorageError, StoreUnavailable
from storage.clock import SteadyClock
from storage.listing import ExecutionFilter, ExecutionPlace, Listed, ListPlace, Waiting, WaitPlace
from storage.memory.accounts import MemoryAccounts
from storage.memory.flows import MemoryFlows
from storage.memory.listing import MemoryListing
from storage.models import Conversation, EventBatch, InboxEntry, Lease, TimeMs
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

Key = tuple[str, str]
_last_offset = attrgetter("last_offset")


class EventLog:
    """The batches of one conversation, by epoch and in order, and the keys among them."""

    def __init__(self) -> None:
        self._epochs: dict[str, list[EventBatch]] = {}
        self._keys: dict[str, KeyRecord] = {}
        self.executions: set[str] = set()

    def __len__(self) -> int:
        return sum(map(len, self._epochs.values()))

    def append(self, batch: EventBatch, execution_id: str | None) -> None:
        """Add a batch behind its epoch's last one. Raises StorageError where it would overlap."""
        batches = self._epochs.setdefault(batch.epoch, [])
        if batches and batches[-1].last_offset >= batch.first_offset:
            raise StorageError(f"the log already holds offset {batch.first_offset} of epoch {batch.epoch}")
        batches.append(batch)
        if execution_id is not None:
            self.executions.add(execution_id)
        if batch.key is not None:
            self._keys[batch.key] = KeyRecord(
                batch.key, batch.body_hash, batch.epoch, batch.first_offset, batch.last_offset, execution_id
            )

    def key(self, key: str) -> KeyRecord | None:
        """Return what is known of a key."""
        return self._keys.get(key)

    def since(self, epoch: str, offset: int) -> Iterator[EventBatch]:
        """Yield the batches whose last offset is ``offset`` or above, in order."""
        batches = self._epochs.get(epoch, [])
        for index in range(bisect_left(batches, offset, key=_last_offset), len(batches)):
            yield batches[index]

    def newest_first(self, epoch: str) -> Iterator[EventBatch]:
        """Yield the batches of an epoch, the newest first."""
        return reversed(self._epochs.get(epoch, []))


class MemoryStore(MemoryFlows, MemoryAccounts):
    """A complete ``Store`` in memory, for tests and for trying things out.

    Args:
        clock: milliseconds since the epoch; default: this machine's steady time.
    """

    detects_duplicates = True
    embedded = True
    migrated: Sequence[str] = ()

    def __init__(self, clock: Callable[[], TimeMs] | None = None) -> None:
        super().__init__()
        self.now = clock or SteadyClock()
        self._closed = False
        self._records: dict[Key, Conversation] = {}
        self._logs: dict[Key, EventLog] = {}
        self._wakes: dict[Key, TimeMs] = {}
        self._executions: dict[Key, ExecutionPlace] = {}
        self._listing = MemoryListing(self._records.__getitem__)

    async def open(self) -> None:
        """See ``ConversationStore.open``."""
        self._closed = False
        now = self.now()
        for record in [r for r in self._records.values() if r.lease is not None]:
            self._put(replace(record, lease=None, wake_at=now))

    async def close(self) -> None:
        """See ``ConversationStore.close``."""
        self._closed = True

    async def ping(self) -> None:
        """See ``ConversationStore.ping``."""
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _put(self, record: Conversation) -> None:
        key = (record.tenant_id, record.conversation_id)
        self._records[key] = record
        if record.wake_at is None:
            self._wakes.pop(key, None)
        else:
            self._wakes[key] = record.wake_at

    async def load(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        """See ``ConversationStore.load``."""
        self._check_open()
        return self._records.get((tenant_id, conversation_id))

    async def load_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Conversation]:
        """See ``ConversationStore.load_many``."""
        self._check_open()
        return {key: self._records[key] for key in keys if key in self._records}

    async def commit(self, commit: Commit) -> CommitOutcome:
        """See ``ConversationStore.commit``."""
        self._check_open()
        check_commit(commit)
        record, batch = commit.record, stored_batch(commit)
        key = (record.tenant_id, record.conversation_id)
        stored = self._records.get(key)
        if (None if stored is None else stored.revision) != commit.expected.revision:
            return CommitOutcome.CONFLICT
        if stored is not None and stored.fence != commit.expected.fence:
            return CommitOutcome.CONFLICT
        if batch is not None:
            log = self._logs.setdefault(key, EventLog())
            if batch.key is not None and log.key(batch.key) is not None:
                return CommitOutcome.DUPLICATE
            log.append(batch, execution_of(record))
        if record.execution is not None:
            execution_key = (record.tenant_id, record.execution.execution_id)
            first = record.offset if batch is None else batch.first_offset
            self._executions.setdefault(execution_key, ExecutionPlace(record.conversation_id, first))
        self._listing.note(record)
        self._put(record)
        return CommitOutcome.COMMITTED

    async def renew(
        self, tenant_id: str, conversation_id: str, fence: int, owner: str, until: TimeMs, wake_at: TimeMs
    ) -> bool:
        """See ``ConversationStore.renew``."""
        self._check_open()
        record = self._records.get((tenant_id, conversation_id))
        if record is None or record.fence != fence or record.lease is None or record.lease.owner != owner:
            return False
        self._put(replace(record, lease=Lease(owner, until), wake_at=wake_at))
        return True

    async def enqueue(self, tenant_id: str, conversation_id: str, entry: InboxEntry, wake_at: TimeMs) -> bool:
        """See ``ConversationStore.enqueue``."""
        self._check_open()
        record = with_command(self._records.get((tenant_id, conversation_id)), entry, wake_at)
        if record is None:
            return False
        self._put(record)
        return True

    def _log(self, tenant_id: str, conversation_id: str) -> EventLog:
        self._check_open()
        return self._logs.get((tenant_id, conversation_id)) or EventLog()

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
        """See ``ConversationStore.events``."""
        batches = self._log(tenant_id, conversation_id).since(epoch, after + 1)
        return page(((batch, batch_bytes(batch)) for batch in batches), limit, max_bytes)

    async def batch_at(
        self, tenant_id: str, conversation_id: str, epoch: str, first_offset: int
    ) -> EventBatch | None:
        """See ``ConversationStore.batch_at``."""
        batch = next(self._log(tenant_id, conversation_id).since(epoch, first_offset), None)
        return batch if batch is not None and batch.first_offset == first_offset else None

    async def find_key(self, tenant_id: str, conversation_id: str, key: str) -> KeyRecord | None:
        """See ``ConversationStore.find_key``."""
        return self._log(tenant_id, conversation_id).key(key)

    async def turn_end(
        self, tenant_id: str, conversation_id: str, epoch: str, command_id: str, from_offset: int
    ) -> EventBatch | None:
        """See ``ConversationStore.turn_end``."""
        batches = self._log(tenant_id, conversation_id).since(epoch, from_offset)
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
        """See ``ConversationStore.messages``."""
        newest_first = self._log(tenant_id, conversation_id).newest_first(epoch)
        return newest_messages(newest_first, before=before, after=after, limit=limit)

    async def due(self, now: TimeMs, limit: int) -> list[Due]:
        """See ``ConversationStore.due``."""
        self._check_open()
        due = [Due(*key, wake_at) for key, wake_at in self._wakes.items() if wake_at <= now]
        return sorted(due, key=lambda d: d.wake_at)[:limit]

    async def offsets(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
        """See ``ConversationStore.offsets``."""
        self._check_open()
        found = {key: self._records[key] for key in keys if key in self._records}
        return {key: (record.epoch, record.offset) for key, record in found.items()}

    async def find_execution(self, tenant_id: str, execution_id: str) -> ExecutionPlace | None:
        """See ``ConversationStore.find_execution``."""
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
        """See ``ConversationStore.executions``."""
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
        """See ``ConversationStore.conversations``."""
        self._check_open()
        return self._listing.executions(
            tenant_id, wanted, after=after, limit=limit, max_bytes=max_bytes, idle=True
        )

    async def count_conversations(self, tenant_id: str, wanted: ExecutionFilter) -> int:
        """See ``ConversationStore.count_conversations``."""
        self._check_open()
        return self._listing.count(tenant_id, wanted)

    async def waiting(
        self, tenant_id: str, deciders: Sequence[str], *, after: WaitPlace | None = None, limit: int = 50
    ) -> list[Waiting]:
        """See ``ConversationStore.waiting``."""
        self._check_open()
        return self._listing.waiting(tenant_id, deciders, after=after, limit=limit)

    async def conversation_ids(self, tenant_id: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """See ``ConversationStore.conversation_ids``."""
        self._check_open()
        ids = (r.conversation_id for r in self._records.values() if is_live(r, tenant_id))
        return sorted(id_ for id_ in ids if id_ > after)[:limit]

    async def restore(self, record: Conversation, log: Iterable[EventBatch]) -> bool:
        """See ``ConversationStore.restore``."""
        self._check_open()
        key = (record.tenant_id, record.conversation_id)
        if key in self._records:
            return False
        new = EventLog()
        places: dict[Key, ExecutionPlace] = {}
        for batch, execution_id in restored(record, log):
            if batch.key is not None and new.key(batch.key) is not None:
                raise key_twice(batch)
            new.append(batch, execution_id)
            if execution_id is not None:
                place = ExecutionPlace(record.conversation_id, batch.first_offset)
                places.setdefault((record.tenant_id, execution_id), place)
        self._logs[key] = new
        for execution_key, place in places.items():
            self._executions.setdefault(execution_key, place)
        self._listing.note(record)
        self._put(record)
        return True

    async def remove_events(self, tenant_id: str, conversation_id: str) -> int:
        """See ``ConversationStore.remove_events``. Its executions are forgotten with it."""
        self._check_open()
        key = (tenant_id, conversation_id)
        record = self._records.get(key)
        if record is None or record.deleted_at is None:
            return 0
        log = self._logs.pop(key, EventLog())
        for execution_id in log.executions:
            place = self._executions.get((tenant_id, execution_id))
            if place is not None and place.conversation_id == conversation_id:
                del self._executions[tenant_id, execution_id]
        return len(log)

    async def expire_tombstones(self, now: TimeMs, limit: int) -> int:
        """See ``ConversationStore.expire_tombstones``. What is left of its events goes with it."""
        self._check_open()
        expired = sorted(
            (record.expires_at, key)
            for key, record in self._records.items()
            if record.deleted_at is not None and record.expires_at is not None and record.expires_at <= now
        )[:limit]
        for _, key in expired:
            del self._records[key]
            self._logs.pop(key, None)
            self._wakes.pop(key, None)
        return len(expired)

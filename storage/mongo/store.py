"""``MongoStore``: the ports over one MongoDB, shared by any number of instances."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any, Final

from pymongo.errors import PyMongoError

from storage.base import (
    Commit,
    CommitOutcome,
    Due,
    KeyRecord,
    StorageError,
    StoreRefused,
    StoreUnavailable,
)
from storage.codec import encode_record
from storage.listing import ExecutionFilter, ExecutionPlace, Listed, ListPlace, Waiting, WaitPlace
from storage.models import (
    COMMIT_MAX_BYTES,
    ApiKey,
    Conversation,
    EventBatch,
    Flow,
    FlowVersion,
    InboxEntry,
    KeyPlace,
    TimeMs,
)
from storage.mongo import accepted, accounts, commits, flows, log, queries, restoring, sweeping, waits, writes
from storage.mongo.clock import MEASURE_EVERY_S, StoreClock
from storage.mongo.documents import (
    NOTHING,
    Document,
    Known,
    entry_bytes,
    entry_of,
    known_of,
    next_known,
    place,
    places,
    record_of,
    without,
)
from storage.mongo.driver import UNHURRIED, Driver, connect, disconnect, durable, uncut
from storage.mongo.failures import reading
from storage.mongo.known import Key, KnownCache
from storage.mongo.lanes import TOO_SLOW, Lane, check
from storage.mongo.log import Placed
from storage.mongo.schema import Index, compare, make
from storage.mongo.server_info import ServerInfo, inspect, measure, refusal
from storage.rules import check_commit, execution_of, stored_batch

UNFLUSHED_MAX_BYTES: Final = COMMIT_MAX_BYTES
KNOWN_MAX_BYTES: Final = 64 * 1024 * 1024
FLUSH_QUEUE_MAX_BYTES: Final = 16 * 1024 * 1024
FLUSH_LINGER_S: Final = 0.005
"""So long what is for the log waits for more of it, and for those whom the commit is told to first."""
CLOSE_S: Final = 5.0
PATIENCE_S: Final = 2.0
_GROUP_ITEMS: Final = 64
_GROUP_BYTES: Final = 4 * 1024 * 1024

_logger = logging.getLogger(__name__)


class MongoStore:
    """A ``Store`` in MongoDB (6.0 or newer), for any number of servers.

    ``COMMITTED`` means that a majority of the replica set has it in its journal. Belongs to the event loop
    that opened it. ``docs/explanation/guarantees.md`` tells how a commit comes to be.

    Args:
        url: ``mongodb://`` or ``mongodb+srv://``; its options win over ``options``.
        driver: ``pymongo`` or ``motor``.
        clock: milliseconds since the epoch; default: the primary's time, measured every 30 s.
        options: of the driver's client, such as ``maxPoolSize`` and ``timeoutMS``.
        patience_s: how long a write waits for others before it. With ``timeoutMS``, which begins when it
            is sent, that bounds a call: 5 s where neither is set.
    """

    detects_duplicates = True
    embedded = False
    migrated: Sequence[str] = ()

    def __init__(
        self,
        url: str,
        *,
        driver: Driver = "pymongo",
        clock: Callable[[], TimeMs] | None = None,
        options: Mapping[str, Any] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._url = url
        self._patience_s = patience_s
        self._driver: Driver = driver
        self._options = dict(options or {})
        self._clock = None if clock is not None else StoreClock()
        self.now: Callable[[], TimeMs] = clock or self._clock or StoreClock()
        self._client: Any = None
        self._opened: Any = None
        self._measuring: asyncio.Task[None] | None = None
        self._known = KnownCache(KNOWN_MAX_BYTES)
        self._confirming: dict[Key, set[str]] = {}
        self._committing: dict[Key, asyncio.Future[None]] = {}
        self._flushing: dict[tuple[str, str, str], asyncio.Future[None]] = {}
        self._sweep = sweeping.Sweep()
        self.server: ServerInfo | None = None
        """What the server said of itself at ``open``."""

    # -- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """See ``ConversationStore.open``. Makes the indexes that are missing.

        Raises:
            StoreRefused: what does not mend itself: the URL, the credentials, the server's version.
        """
        if self._opened is not None:
            raise StoreUnavailable("the store is open already")
        self._client = connect(self._url, self._driver, self._options)
        try:
            self.server = await inspect(self._client)
            if self._clock is not None:
                await measure(self._client, self._clock.measured)
            database = durable(self._client)
            missing, other = await compare(database)
            if other:
                raise StoreRefused(
                    f"MongoDB has other indexes than Parley makes by the names {', '.join(map(str, other))}: "
                    "drop them, and start again"
                )
            self.migrated = await self._make_indexes(missing)
        except PyMongoError as error:
            await self.close()
            raise refusal(error) from None
        except BaseException:
            await self.close()
            raise
        self._opened = database
        self._commits: Lane[commits.Change, CommitOutcome] = Lane(
            self._write_commits, groups=2, items=_GROUP_ITEMS, size=_GROUP_BYTES
        )
        self._flushes: Lane[Placed, None] = Lane(
            self._write_log, groups=1, items=4 * _GROUP_ITEMS, size=_GROUP_BYTES, linger_s=FLUSH_LINGER_S
        )
        if self._clock is not None:
            self._measuring = asyncio.get_running_loop().create_task(self._measure(self._clock))

    async def _make_indexes(self, indexes: Sequence[Index]) -> list[str]:
        """Make indexes, over a client that waits for them."""
        if not indexes:
            return []
        client = connect(self._url, self._driver, {**self._options, **UNHURRIED})
        try:
            return await make(durable(client), indexes)
        finally:
            await disconnect(client)

    async def _measure(self, clock: StoreClock) -> None:
        while True:
            await asyncio.sleep(MEASURE_EVERY_S)
            try:
                await measure(self._client, clock.measured)
            except PyMongoError:
                _logger.debug("the store's time could not be measured; the last measurement stands")

    async def close(self) -> None:
        """See ``ConversationStore.close``. What is on its way to the log gets there."""
        if self._measuring is not None:
            self._measuring.cancel()
            self._measuring = None
        if self._opened is not None:
            with suppress(TimeoutError):  # what does not get there, another instance's sweep brings
                async with asyncio.timeout(CLOSE_S):
                    await self._commits.drained()
                    await self._flushes.drained()
        self._opened = None
        self._known.clear()
        client, self._client = self._client, None
        if client is not None:
            await disconnect(client)

    @property
    def _database(self) -> Any:
        if self._opened is None:
            raise StoreUnavailable("the store is not open")
        return self._opened

    @uncut
    async def ping(self) -> None:
        """See ``ConversationStore.ping``. A write of no document, confirmed by a majority."""
        async with reading():
            await self._database.conversations.update_one(
                {"tenant_id": "", "conversation_id": ""}, {"$set": {"revision": 0}}
            )

    # -- conversations ------------------------------------------------------------------------

    @uncut
    async def load(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        """See ``ConversationStore.load``."""
        async with reading():
            document = await self._database.conversations.find_one(place(tenant_id, conversation_id))
        return None if document is None else self._loaded((tenant_id, conversation_id), document)

    @uncut
    async def load_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Conversation]:
        """See ``ConversationStore.load_many``."""
        if not keys:
            return {}
        async with reading():
            found = await self._database.conversations.find(places(keys)).to_list(len(keys))
        return {key: self._loaded(key, document) for document in found for key in [_key_of(document)]}

    def _loaded(self, key: Key, document: Document) -> Conversation:
        known = self._known.get(key)
        if known is None or (known.revision, known.epoch) != (document["revision"], document["epoch"]):
            # An older one, too: after its tombstone has gone, a conversation begins at revision 1 again.
            self._known.put(key, known_of(document))
        return record_of(document)

    @uncut
    async def commit(self, commit: Commit) -> CommitOutcome:
        """See ``ConversationStore.commit``. Raises TypeError where a value in it is not JSON.

        One at a time in each conversation: of two that race here, one is spared the way.
        """
        check_commit(commit)
        key = (commit.record.tenant_id, commit.record.conversation_id)
        deadline = self._deadline()
        while (other := self._committing.get(key)) is not None:
            await asyncio.wait((other,))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._committing[key] = done
        confirmed: set[str] = set()
        self._confirming[key] = confirmed
        try:
            check(deadline)
            known = await self._known_before(key, commit)
            if known is None:
                return CommitOutcome.CONFLICT
            if await self._was_accepted(key, commit, known, deadline):
                check(deadline)
                still = await self._known_now(key)
                return CommitOutcome.DUPLICATE if _is_at(still, commit) else CommitOutcome.CONFLICT
            return await self._change(key, commit, known, confirmed, deadline)
        finally:
            del self._committing[key], self._confirming[key]
            done.set_result(None)

    async def _known_before(self, key: Key, commit: Commit) -> Known | None:
        """Return what stands beside the record that the writer read; None where it is another by now."""
        expected = commit.expected
        if expected.revision is None:
            return NOTHING
        known = self._known.get(key)
        if known is None or known.revision < expected.revision:
            known = await self._known_now(key)
        return known if _is_at(known, commit) else None

    async def _known_now(self, key: Key) -> Known | None:
        async with reading():
            found = await self._database.conversations.find_one(place(*key), {"_id": 0, "body": 0})
        return None if found is None else known_of(found)

    async def _was_accepted(self, key: Key, commit: Commit, known: Known, deadline: float) -> bool:
        """Tell whether the command that a commit accepts was accepted before, up to what is ``known``."""
        batch = stored_batch(commit)
        if batch is None or batch.key is None or not accepted.may_have(known.accepted, batch.key):
            return False
        if any(entry["key"] == batch.key for entry in known.unflushed):
            return True
        check(deadline)
        return await queries.is_logged(self._database, key, batch.key)

    def _deadline(self) -> float:
        """Return until when a write that begins now may go on to its next step."""
        return asyncio.get_running_loop().time() + self._patience_s

    async def _change(
        self, key: Key, commit: Commit, known: Known, confirmed: Set[str], deadline: float
    ) -> CommitOutcome:
        """Commit on ``known``. What gets into the log meanwhile is ``confirmed``, and not carried on."""
        entry = entry_of(commit, known)
        await self._make_way(key, commit, without(known, confirmed), entry, deadline)
        known = without(known, confirmed)
        beside = next_known(commit, known, entry)
        added = [wait for wait in beside.waits if wait not in known.waits]
        if added:
            check(deadline)
            await waits.note(self._database, key, added, self.now())
        change = commits.Change(commit, encode_record(commit.record), beside, confirmed)
        size = len(change.body) + sum(map(entry_bytes, beside.unflushed))
        self._known.forget(key)  # until it is known whether this one happened
        outcome = await self._commits.submit(change, key, size, deadline)
        if outcome is CommitOutcome.COMMITTED:
            beside = without(beside, confirmed)
            self._known.put(key, beside)
            self._flush(key, beside.unflushed)
            if known.waits != beside.waits:
                with suppress(StoreUnavailable):  # then whoever reads them leaves them out
                    await waits.forget(self._database, key, known.waits, beside.waits)
        return outcome

    async def _make_way(
        self, key: Key, commit: Commit, known: Known, entry: Document | None, deadline: float
    ) -> None:
        """Have in the log what has to be there before the commit. Raises StoreUnavailable, StorageError."""
        if commit.record.deleted_at is not None:
            await self._flushed(key, deadline)  # so that nothing of ours comes after the deletion
        elif known.unflushed:
            carried = sum(map(entry_bytes, known.unflushed))
            current = execution_of(commit.record)
            if entry is not None and carried + entry_bytes(entry) > UNFLUSHED_MAX_BYTES:
                await self._put(key, known.unflushed, deadline)
            elif any("starts" in e and e["execution_id"] != current for e in known.unflushed):
                # Beside the record stands the current execution only: others must be found elsewhere.
                with suppress(StorageError):
                    await self._put(key, known.unflushed, deadline)

    async def _put(self, key: Key, entries: Sequence[Document], deadline: float) -> None:
        """Put entries into the log, now. Raises StoreUnavailable, StorageError."""
        flushed = self._submit(key, entries)
        self._flushes.hurry()
        _, late = await asyncio.wait(flushed, timeout=_left(deadline))
        if late:
            raise StoreUnavailable(TOO_SLOW)
        for future in flushed:
            future.result()

    async def _write_commits(self, group: Sequence[commits.Change]) -> Sequence[CommitOutcome | Exception]:
        return await commits.write(self._database, group, self.now())

    def _flush(self, key: Key, entries: Sequence[Document]) -> None:
        """Have entries put into the log. Where that is behind by too much, a later commit or sweep does."""
        if self._flushes.queued_bytes < FLUSH_QUEUE_MAX_BYTES:
            self._submit(key, entries)

    def _submit(self, key: Key, entries: Sequence[Document]) -> list[asyncio.Future[None]]:
        futures = []
        for entry in entries:
            id_ = (*key, entry["commit_id"])
            if id_ not in self._flushing:  # what is on its way already is waited for, not sent again
                self._flushing[id_] = self._flushes.submit(Placed(*key, entry), id_, entry_bytes(entry))
            futures.append(self._flushing[id_])
        return futures

    async def _write_log(self, group: Sequence[Placed]) -> Sequence[Exception | None]:
        try:
            outcomes = await log.write(self._database, group)
        finally:
            for placed in group:
                self._flushing.pop(placed.id, None)
        for placed, error in zip(group, outcomes, strict=True):
            if error is None:
                self._confirm(placed)
            else:
                _logger.error("a batch cannot be put into the log", extra={"reason": str(error)})
        return outcomes

    async def _flushed(self, key: Key, deadline: float) -> None:
        """Wait for what is on its way to a conversation's log."""
        late = [future for id_, future in self._flushing.items() if id_[:2] == key]
        if late:
            self._flushes.hurry()
            await asyncio.wait(late, timeout=_left(deadline))

    def _confirm(self, placed: Placed) -> None:
        """The next commit need not carry what is in the log."""
        key, commit_id = (placed.tenant_id, placed.conversation_id), placed.entry["commit_id"]
        if key in self._confirming:
            self._confirming[key].add(commit_id)
        known = self._known.get(key)
        if known is not None:
            self._known.put(key, without(known, {commit_id}))

    @uncut
    async def renew(
        self, tenant_id: str, conversation_id: str, fence: int, owner: str, until: TimeMs, wake_at: TimeMs
    ) -> bool:
        """See ``ConversationStore.renew``."""
        return await writes.renew(self._database, tenant_id, conversation_id, fence, owner, until, wake_at)

    @uncut
    async def enqueue(self, tenant_id: str, conversation_id: str, entry: InboxEntry, wake_at: TimeMs) -> bool:
        """See ``ConversationStore.enqueue``."""
        return await writes.enqueue(
            self._database, tenant_id, conversation_id, entry, wake_at, self._deadline()
        )

    # -- the log ------------------------------------------------------------------------------

    @uncut
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
        return await queries.events(
            self._database, tenant_id, conversation_id, epoch, after, limit, max_bytes
        )

    @uncut
    async def batch_at(
        self, tenant_id: str, conversation_id: str, epoch: str, first_offset: int
    ) -> EventBatch | None:
        """See ``ConversationStore.batch_at``."""
        return await queries.batch_at(self._database, tenant_id, conversation_id, epoch, first_offset)

    @uncut
    async def find_key(self, tenant_id: str, conversation_id: str, key: str) -> KeyRecord | None:
        """See ``ConversationStore.find_key``."""
        return await queries.find_key(self._database, tenant_id, conversation_id, key)

    @uncut
    async def turn_end(
        self, tenant_id: str, conversation_id: str, epoch: str, command_id: str, from_offset: int
    ) -> EventBatch | None:
        """See ``ConversationStore.turn_end``."""
        return await queries.turn_end(
            self._database, tenant_id, conversation_id, epoch, command_id, from_offset
        )

    @uncut
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
        return await queries.messages(self._database, tenant_id, conversation_id, epoch, before, after, limit)

    # -- sweeps and lists ---------------------------------------------------------------------

    @uncut
    async def due(self, now: TimeMs, limit: int) -> list[Due]:
        """See ``ConversationStore.due``. Sweeps what was left out of the log now and then, too."""
        await self._sweep.maybe(self._database, now)
        return await queries.due(self._database, now, limit)

    @uncut
    async def offsets(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
        """See ``ConversationStore.offsets``."""
        return await queries.offsets(self._database, keys)

    @uncut
    async def find_execution(self, tenant_id: str, execution_id: str) -> ExecutionPlace | None:
        """See ``ConversationStore.find_execution``."""
        return await queries.find_execution(self._database, tenant_id, execution_id)

    @uncut
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
        return await queries.executions(self._database, tenant_id, wanted, after, limit, max_bytes)

    @uncut
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
        return await queries.executions(self._database, tenant_id, wanted, after, limit, max_bytes, idle=True)

    @uncut
    async def count_conversations(self, tenant_id: str, wanted: ExecutionFilter) -> int:
        """See ``ConversationStore.count_conversations``."""
        return await queries.count_conversations(self._database, tenant_id, wanted)

    @uncut
    async def waiting(
        self, tenant_id: str, deciders: Sequence[str], *, after: WaitPlace | None = None, limit: int = 50
    ) -> list[Waiting]:
        """See ``ConversationStore.waiting``."""
        return await waits.waiting(self._database, tenant_id, deciders, after, limit, self.now())

    @uncut
    async def conversation_ids(self, tenant_id: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """See ``ConversationStore.conversation_ids``."""
        return await queries.conversation_ids(self._database, tenant_id, after, limit)

    async def restore(self, record: Conversation, log: Iterable[EventBatch]) -> bool:
        """See ``ConversationStore.restore``. Its log goes first, and what makes it visible last."""
        return await restoring.restore(self._database, record, log, self.now())

    @uncut
    async def remove_events(self, tenant_id: str, conversation_id: str) -> int:
        """See ``ConversationStore.remove_events``."""
        key = (tenant_id, conversation_id)
        self._known.forget(key)
        await self._flushed(key, self._deadline())
        return await writes.remove_events(self._database, tenant_id, conversation_id)

    @uncut
    async def expire_tombstones(self, now: TimeMs, limit: int) -> int:
        """See ``ConversationStore.expire_tombstones``."""
        return await writes.expire_tombstones(self._database, now, limit)

    # -- flows --------------------------------------------------------------------------------

    @uncut
    async def publish(
        self, version: FlowVersion, *, name: str, description: str, is_default: bool
    ) -> FlowVersion:
        """See ``FlowStore.publish``."""
        return await flows.publish(self._database, version, name, description, is_default, self.now())

    @uncut
    async def flow_version(self, tenant_id: str, flow_id: str, version: int) -> FlowVersion | None:
        """See ``FlowStore.flow_version``."""
        return await flows.flow_version(self._database, tenant_id, flow_id, version)

    @uncut
    async def flows(self, tenant_id: str) -> list[Flow]:
        """See ``FlowStore.flows``."""
        return await flows.flows(self._database, tenant_id)

    @uncut
    async def archive_flow(self, tenant_id: str, flow_id: str) -> bool:
        """See ``FlowStore.archive_flow``."""
        return await flows.archive_flow(self._database, tenant_id, flow_id, self.now())

    # -- keys ---------------------------------------------------------------------------------

    @uncut
    async def create_api_key(self, key: ApiKey) -> bool:
        """See ``AccountStore.create_api_key``."""
        return await accounts.create_api_key(self._database, key)

    @uncut
    async def api_key_by_hash(self, sha256: str) -> ApiKey | None:
        """See ``AccountStore.api_key_by_hash``."""
        return await accounts.api_key_by_hash(self._database, sha256)

    @uncut
    async def api_keys_by_id(self, ids: Sequence[tuple[str, str]]) -> dict[tuple[str, str], ApiKey]:
        """See ``AccountStore.api_keys_by_id``."""
        return await accounts.api_keys_by_id(self._database, ids)

    @uncut
    async def api_keys(
        self, tenant_id: str, *, after: KeyPlace | None = None, limit: int = 50
    ) -> list[ApiKey]:
        """See ``AccountStore.api_keys``."""
        return await accounts.api_keys(self._database, tenant_id, after, limit)

    @uncut
    async def change_api_key(self, before: ApiKey, after: ApiKey) -> bool:
        """See ``AccountStore.change_api_key``."""
        return await accounts.change_api_key(self._database, before, after)

    @uncut
    async def touch_api_keys(self, used: Mapping[tuple[str, str], TimeMs]) -> None:
        """See ``AccountStore.touch_api_keys``."""
        await accounts.touch_api_keys(self._database, used)

    @uncut
    async def has_origin(self, patterns: Sequence[str], now: TimeMs, *, tenant_id: str | None = None) -> bool:
        """See ``AccountStore.has_origin``."""
        return await accounts.has_origin(self._database, patterns, now, tenant_id)


def _key_of(document: Document) -> Key:
    return document["tenant_id"], document["conversation_id"]


def _left(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())


def _is_at(known: Known | None, commit: Commit) -> bool:
    """Tell whether the conversation is where a commit's writer read it."""
    at = (commit.expected.revision, commit.expected.fence, commit.record.epoch)
    return known is not None and (known.revision, known.fence, known.epoch) == at

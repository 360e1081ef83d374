"""``SqliteStore``: the ports over one writer thread, a few reader threads and a file lock."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from storage.base import Commit, CommitOutcome, Due, KeyRecord, StoreUnavailable
from storage.clock import SteadyClock
from storage.listing import ExecutionFilter, ExecutionPlace, Listed, ListPlace, Waiting, WaitPlace
from storage.models import (
    ApiKey,
    Conversation,
    EventBatch,
    Flow,
    FlowVersion,
    InboxEntry,
    KeyPlace,
    TimeMs,
)
from storage.rules import check_commit
from storage.sqlite import accounts, flows, queries, writes
from storage.sqlite.connection import Database
from storage.sqlite.lock import FileLock
from storage.sqlite.reader import Readers
from storage.sqlite.schema import migrate
from storage.sqlite.writer import Call, Writer

KNOWN_CONVERSATIONS: Final = 50_000


class SqliteStore:
    """A ``Store`` in one SQLite file, for one server.

    ``COMMITTED`` means synced to disk (WAL, ``synchronous=FULL``). Commits that wait at the same moment
    share one transaction and one sync. Belongs to the event loop that opened it.

    Args:
        path: the database file; its folder must exist. Beside it lie ``-wal``, ``-shm`` and ``-lock``.
        clock: milliseconds since the epoch; default: this machine's steady time.
        max_pages: bound of the file in pages of 4 KiB; beyond it writes raise StoreUnavailable.
    """

    detects_duplicates = True
    embedded = True
    migrated: Sequence[str] = ()

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Callable[[], TimeMs] | None = None,
        max_pages: int | None = None,
    ) -> None:
        self.now = clock or SteadyClock()
        self.path = Path(path).expanduser().absolute()
        self._database = Database(self.path, max_pages)
        self._lock = FileLock(self.path.with_name(self.path.name + "-lock"))
        self._open_writer: Writer | None = None
        self._open_readers: Readers | None = None
        self._known: dict[tuple[str, str], writes.Known] = {}

    # -- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """See ``ConversationStore.open``."""
        if self._open_writer is not None:
            raise StoreUnavailable(f"{self.path} is open already")
        self._lock.acquire()
        try:
            self._open_writer = Writer(self._database)
            await self._open_writer.start(self._prepare)
            self._open_readers = Readers(self._database)
            self._open_readers.start()
        except BaseException:
            await self.close()
            raise

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self.migrated = migrate(connection)
        writes.void_leases(connection, self.now())

    async def close(self) -> None:
        """See ``ConversationStore.close``."""
        if self._open_readers is not None:
            await self._open_readers.close()
        if self._open_writer is not None:
            await self._open_writer.close()  # last, so that it is the one to check-point and remove the WAL
        # Only here: were we cancelled above, the writer would still be at work, and nobody else may be.
        self._open_writer = self._open_readers = None
        self._lock.release()

    async def ping(self) -> None:
        """See ``ConversationStore.ping``."""
        await self._readers.read(queries.works)
        await self._writer.ping()

    @property
    def _writer(self) -> Writer:
        if self._open_writer is None:
            raise StoreUnavailable(f"{self.path} is not open")
        return self._open_writer

    @property
    def _readers(self) -> Readers:
        if self._open_readers is None:
            raise StoreUnavailable(f"{self.path} is not open")
        return self._open_readers

    async def _write(self, run: Callable[..., Any], *args: Any) -> Any:
        return await self._writer.submit(Call(lambda cursor: run(cursor, *args)))

    # -- conversations ------------------------------------------------------------------------

    async def load(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        """See ``ConversationStore.load``."""
        return await self._readers.read(queries.load, tenant_id, conversation_id)

    async def load_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Conversation]:
        """See ``ConversationStore.load_many``."""
        return await self._readers.read(queries.load_many, keys)

    async def commit(self, commit: Commit) -> CommitOutcome:
        """See ``ConversationStore.commit``. Raises TypeError where a value in it is not JSON."""
        check_commit(commit)
        record = commit.record
        key = (record.tenant_id, record.conversation_id)
        rows = writes.commit_rows(commit, self._known.get(key))
        if rows.execution is None and rows.listed is None:
            return await self._writer.submit(rows)  # type: ignore[no-any-return]
        self._known.pop(key, None)  # until it is known whether this one happened, the next write all
        outcome: CommitOutcome = await self._writer.submit(rows)
        if outcome is CommitOutcome.COMMITTED:
            self._remember(key, writes.known_after(record))
        return outcome

    def _remember(self, key: tuple[str, str], known: writes.Known) -> None:
        """Spare the next commits of this conversation from writing again what would change nothing."""
        if len(self._known) >= KNOWN_CONVERSATIONS:
            self._known.clear()
        self._known[key] = known

    async def renew(
        self, tenant_id: str, conversation_id: str, fence: int, owner: str, until: TimeMs, wake_at: TimeMs
    ) -> bool:
        """See ``ConversationStore.renew``."""
        return bool(await self._write(writes.renew, tenant_id, conversation_id, fence, owner, until, wake_at))

    async def enqueue(self, tenant_id: str, conversation_id: str, entry: InboxEntry, wake_at: TimeMs) -> bool:
        """See ``ConversationStore.enqueue``."""
        return bool(await self._write(writes.enqueue, tenant_id, conversation_id, entry, wake_at))

    # -- the log ------------------------------------------------------------------------------

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
        return await self._readers.read(
            queries.events, tenant_id, conversation_id, epoch, after, limit, max_bytes
        )

    async def batch_at(
        self, tenant_id: str, conversation_id: str, epoch: str, first_offset: int
    ) -> EventBatch | None:
        """See ``ConversationStore.batch_at``."""
        return await self._readers.read(queries.batch_at, tenant_id, conversation_id, epoch, first_offset)

    async def find_key(self, tenant_id: str, conversation_id: str, key: str) -> KeyRecord | None:
        """See ``ConversationStore.find_key``."""
        return await self._readers.read(queries.find_key, tenant_id, conversation_id, key)

    async def turn_end(
        self, tenant_id: str, conversation_id: str, epoch: str, command_id: str, from_offset: int
    ) -> EventBatch | None:
        """See ``ConversationStore.turn_end``."""
        return await self._readers.read(
            queries.turn_end, tenant_id, conversation_id, epoch, command_id, from_offset
        )

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
        return await self._readers.read(
            queries.messages, tenant_id, conversation_id, epoch, before, after, limit
        )

    # -- sweeps -------------------------------------------------------------------------------

    async def due(self, now: TimeMs, limit: int) -> list[Due]:
        """See ``ConversationStore.due``."""
        return await self._readers.read(queries.due, now, limit)

    async def offsets(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
        """See ``ConversationStore.offsets``."""
        return await self._readers.read(queries.offsets, keys)

    async def find_execution(self, tenant_id: str, execution_id: str) -> ExecutionPlace | None:
        """See ``ConversationStore.find_execution``."""
        return await self._readers.read(queries.find_execution, tenant_id, execution_id)

    async def executions(
        self,
        tenant_id: str,
        wanted: ExecutionFilter,
        *,
        after: ListPlace | None = None,
        limit: int = 50,
        max_bytes: int = 4 * 1024 * 1024,
    ) -> list[Listed]:
        """See ``ConversationStore.executions``. The indexes ``listing_time``, ``_status`` and ``_user``."""
        return await self._readers.read(queries.executions, tenant_id, wanted, after, limit, max_bytes)

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
        return await self._readers.read(
            queries.executions, tenant_id, wanted, after, limit, max_bytes, idle=True
        )

    async def count_conversations(self, tenant_id: str, wanted: ExecutionFilter) -> int:
        """See ``ConversationStore.count_conversations``."""
        return await self._readers.read(queries.count_conversations, tenant_id, wanted)

    async def waiting(
        self, tenant_id: str, deciders: Sequence[str], *, after: WaitPlace | None = None, limit: int = 50
    ) -> list[Waiting]:
        """See ``ConversationStore.waiting``. The primary key of ``waiting``."""
        return await self._readers.read(queries.waiting, tenant_id, deciders, after, limit)

    async def conversation_ids(self, tenant_id: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """See ``ConversationStore.conversation_ids``."""
        return await self._readers.read(queries.conversation_ids, tenant_id, after, limit)

    async def restore(self, record: Conversation, log: Iterable[EventBatch]) -> bool:
        """See ``ConversationStore.restore``. One transaction, in the writer's thread."""
        return bool(await self._write(writes.restore, record, log))

    async def remove_events(self, tenant_id: str, conversation_id: str) -> int:
        """See ``ConversationStore.remove_events``. Its executions are forgotten with it."""
        self._known.pop((tenant_id, conversation_id), None)
        removed = 0
        while some := await self._write(writes.remove_some_events, tenant_id, conversation_id):
            removed += some
        return removed

    async def expire_tombstones(self, now: TimeMs, limit: int) -> int:
        """See ``ConversationStore.expire_tombstones``."""
        return int(await self._write(writes.expire_tombstones, now, limit))

    # -- flows --------------------------------------------------------------------------------

    async def publish(
        self, version: FlowVersion, *, name: str, description: str, is_default: bool
    ) -> FlowVersion:
        """See ``FlowStore.publish``."""
        published: FlowVersion = await self._write(
            flows.publish, version, name, description, is_default, self.now()
        )
        return published

    async def flow_version(self, tenant_id: str, flow_id: str, version: int) -> FlowVersion | None:
        """See ``FlowStore.flow_version``."""
        return await self._readers.read(flows.flow_version, tenant_id, flow_id, version)

    async def flows(self, tenant_id: str) -> list[Flow]:
        """See ``FlowStore.flows``."""
        return await self._readers.read(flows.flows, tenant_id)

    async def archive_flow(self, tenant_id: str, flow_id: str) -> bool:
        """See ``FlowStore.archive_flow``."""
        return bool(await self._write(flows.archive_flow, tenant_id, flow_id, self.now()))

    # -- accounts -----------------------------------------------------------------------------

    async def create_api_key(self, key: ApiKey) -> bool:
        """See ``AccountStore.create_api_key``."""
        return bool(await self._write(accounts.create, key))

    async def api_key_by_hash(self, sha256: str) -> ApiKey | None:
        """See ``AccountStore.api_key_by_hash``. The index ``api_keys_hash``."""
        return await self._readers.read(accounts.by_hash, sha256)

    async def api_keys_by_id(self, ids: Sequence[tuple[str, str]]) -> dict[tuple[str, str], ApiKey]:
        """See ``AccountStore.api_keys_by_id``."""
        return await self._readers.read(accounts.by_id, ids)

    async def api_keys(
        self, tenant_id: str, *, after: KeyPlace | None = None, limit: int = 50
    ) -> list[ApiKey]:
        """See ``AccountStore.api_keys``. The index ``api_keys_time``."""
        return await self._readers.read(accounts.page, tenant_id, after, limit)

    async def change_api_key(self, before: ApiKey, after: ApiKey) -> bool:
        """See ``AccountStore.change_api_key``."""
        return bool(await self._write(accounts.change, before, after))

    async def touch_api_keys(self, used: Mapping[tuple[str, str], TimeMs]) -> None:
        """See ``AccountStore.touch_api_keys``."""
        await self._write(accounts.touch, used)

    async def has_origin(self, patterns: Sequence[str], now: TimeMs, *, tenant_id: str | None = None) -> bool:
        """See ``AccountStore.has_origin``. The primary key of ``api_key_origins``."""
        return await self._readers.read(accounts.has_origin, patterns, now, tenant_id)

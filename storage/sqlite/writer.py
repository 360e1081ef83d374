"""The one thread that writes: it takes what waits at that moment and makes it durable together.

What it does not know: records, events, clocks. It is handed rows and functions.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from storage.base import CommitOutcome, CommitUnknown, StoreUnavailable
from storage.sqlite.connection import Database, translate
from storage.sqlite.statements import (
    DELETE_LISTING,
    DELETE_WAITING,
    INSERT_BATCH,
    INSERT_BATCH_IF,
    INSERT_EXECUTION,
    INSERT_RECORD,
    INSERT_WAITING,
    RECORD_IS_AT,
    UPDATE_RECORD,
    UPSERT_LISTING,
    Row,
)

MAX_WAITING: Final = 10_000
MAX_GROUP: Final = 256
MAX_GROUP_BYTES: Final = 8 * 1024 * 1024

T = TypeVar("T")
Answer = tuple["asyncio.Future[Any]", Any, Exception | None]


class ListedRows(NamedTuple):
    """What lists and inboxes say of a conversation from now on.

    ``key``: tenant_id, conversation_id. ``listing``: the columns of the table; None: not listed. ``waiting``:
    all that waits now; None leaves what is there.
    """

    key: tuple[str, str]
    listing: Row | None
    waiting: Sequence[Row] | None


class CommitRows(NamedTuple):
    """A commit as the rows that the statements take.

    ``record``: revision, fence, epoch, last_offset, lease_owner, lease_until, wake_at, expires_at,
    deleted_at, doc, tenant_id, conversation_id, and of an update expected revision and expected fence.
    ``batch``: epoch, first_offset, last_offset, commit_id, key, body_hash, execution_id, messages, ended,
    events, tenant_id, conversation_id; None without events. ``execution``: tenant_id, execution_id,
    conversation_id, first_offset; None where it is noted already. ``listed``: None where lists and inboxes
    say already what they should. ``meanwhile``: see ``Commit``.
    """

    is_insert: bool
    record: Row
    batch: Row | None
    execution: Row | None
    listed: ListedRows | None
    bytes: int
    meanwhile: Callable[[], None] | None = None


class Call(NamedTuple):
    """Any other write: runs inside the group's transaction, and again if that is rolled back."""

    run: Callable[[sqlite3.Cursor], Any]
    bytes: int = 0


Job = CommitRows | Call
_Item = tuple["asyncio.Future[Any]", Job]


class _Uneven(Exception):  # noqa: N818
    """Fewer rows were affected than there are commits: at least one is a conflict or a duplicate."""


def settle(answers: Sequence[Answer]) -> None:
    """Resolve futures, in their loop; those whose caller was cancelled are passed over."""
    for future, result, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _do_all(work: Sequence[Callable[[], None]]) -> None:
    for do in work:
        do()


class Writer:
    """Owns the writing connection and its thread.

    Every accepted job is answered: with its result once it is durable, with an error if it did not
    happen, with CommitUnknown if that cannot be told. When the thread dies, all who wait and all who come
    later are told so.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._death = f"{database.path}: the store's writer has died"
        self._closing = False
        self._dead = False
        self._failing = False
        self._meanwhile: Sequence[Callable[[], None]] = ()
        self._ended = self._loop.create_future()
        self._connection: sqlite3.Connection
        self._cursor: sqlite3.Cursor
        self._thread = threading.Thread(target=self._run, name="parley-writer", daemon=True)

    # -- in the event loop --------------------------------------------------------------------

    async def start(self, prepare: Callable[[sqlite3.Connection], None]) -> None:
        """Open the file, run ``prepare`` in the thread, and begin to serve. Raises what either raises."""
        ready = self._loop.create_future()
        self._prepare = (prepare, ready)
        self._thread.start()
        await ready

    def submit(self, job: Job) -> "asyncio.Future[Any]":
        """Queue a job; its future may be cancelled without effect on the job. Raises StoreUnavailable."""
        if self._closing or self._thread_is_gone():
            raise StoreUnavailable("the store is closed" if self._closing else self._death)
        if self._queue.qsize() >= MAX_WAITING:
            raise StoreUnavailable(f"{MAX_WAITING} writes are waiting")
        future = self._loop.create_future()
        self._queue.put((future, job))
        if self._thread_is_gone():  # in between; it has emptied the queue already
            self._fail_waiting()
        return future

    def _thread_is_gone(self) -> bool:
        return self._dead

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the writer serves; after a failed write, unless one succeeds now."""
        await self.submit(Call(_probe if self._failing else _nothing))

    async def close(self) -> None:
        """Serve what was accepted, close the connection, end the thread. Idempotent."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    # -- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        prepare, ready = self._prepare
        try:
            self._connection = self._database.connect_writer()
            try:
                self._cursor = self._connection.cursor()
                prepare(self._connection)
                self._tell([(ready, None, None)])
                self._serve_until_closed()
            finally:
                self._connection.close()
        except BaseException as error:  # noqa: BLE001 - nobody above; whoever waits must be told
            self._dead = True
            if isinstance(error, Exception):
                told = translate(error, self._database.path)
            else:
                told = StoreUnavailable(self._death)
            self._tell([(ready, None, told)])
        finally:
            self._dead = True
            self._fail_waiting()
            self._tell([(self._ended, None, None)])

    def _serve_until_closed(self) -> None:
        while True:
            group, is_last = self._take()
            try:
                answers = self._serve(group)
            except BaseException:
                self._dead = True
                self._tell([(future, None, CommitUnknown(self._death)) for future, _ in group])
                raise
            self._tell(answers)
            if is_last:
                return

    def _take(self) -> tuple[list[_Item], bool]:
        """Return all that waits now, at least one item, and whether it is the last."""
        group: list[_Item] = []
        size = 0
        item = self._queue.get()
        try:
            while item is not None:
                group.append(item)
                size += item[1].bytes
                if len(group) >= MAX_GROUP or size >= MAX_GROUP_BYTES:
                    return group, False
                item = self._queue.get_nowait()
        except Empty:
            return group, False
        return group, True

    def _serve(self, group: list[_Item]) -> list[Answer]:
        """Run a group in one transaction; if that fails, each item in its own."""
        jobs = [job for _, job in group]
        self._meanwhile = [
            job.meanwhile for job in jobs if isinstance(job, CommitRows) and job.meanwhile is not None
        ]
        for work in (self._all_at_once, self._one_by_one) if len(jobs) > 1 else ():
            try:
                results = self._in_transaction(partial(work, jobs))
                return [(future, result, None) for (future, _), result in zip(group, results, strict=True)]
            except _Uneven:
                continue
            except CommitUnknown as unknown:
                return [(future, None, CommitUnknown(str(unknown))) for future, _ in group]
            except Exception:  # noqa: BLE001 - each item meets it again, alone
                break
        return [self._serve_alone(item) for item in group]

    def _serve_alone(self, item: _Item) -> Answer:
        future, job = item
        try:
            return future, self._in_transaction(partial(self._one, job)), None
        except Exception as error:  # noqa: BLE001 - it goes to the one who asked
            return future, None, translate(error, self._database.path)

    def _in_transaction(self, work: Callable[[], T]) -> T:
        cursor = self._cursor
        try:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                result = work()
            except BaseException:
                self._roll_back()
                raise
            self._commit()
        except (sqlite3.OperationalError, CommitUnknown):
            self._failing = True
            raise
        self._failing = False
        return result

    def _commit(self) -> None:
        self._lend_the_core()
        try:
            self._cursor.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            # A full disk shows while frames are written, before the one that commits. After an I/O error
            # that one may be in the file: it does not count for this process, but after a crash it would.
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
                raise
            raise CommitUnknown(f"{self._database.path}: {error}") from error

    def _lend_the_core(self) -> None:
        """While the disk works, have the event loop do what is to be done behind this commit anyway."""
        meanwhile, self._meanwhile = self._meanwhile, ()
        if meanwhile:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_do_all, meanwhile)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # some errors have rolled it back already
            self._cursor.execute("ROLLBACK")

    def _all_at_once(self, jobs: Sequence[Job]) -> list[Any]:
        """Apply all commits, statement by statement, then the calls; raise _Uneven unless all hold."""
        commits = [job for job in jobs if isinstance(job, CommitRows)]
        self._write_all(INSERT_RECORD, [c.record for c in commits if c.is_insert])
        self._write_all(UPDATE_RECORD, [c.record for c in commits if not c.is_insert])
        self._write_all(INSERT_BATCH, [c.batch for c in commits if c.batch is not None])
        executions = [c.execution for c in commits if c.execution is not None]
        if executions:
            self._cursor.executemany(INSERT_EXECUTION, executions)
        self._list([c.listed for c in commits if c.listed is not None])
        return [
            CommitOutcome.COMMITTED if isinstance(job, CommitRows) else job.run(self._cursor) for job in jobs
        ]

    def _list(self, changes: Sequence[ListedRows]) -> None:
        """Tell lists and inboxes. A conversation that is among them twice is told in its commits' order."""
        keys = [change.key for change in changes]
        if len(set(keys)) < len(keys):
            for change in changes:
                self._list([change])
            return
        listings = [change.listing for change in changes if change.listing is not None]
        waits = [change for change in changes if change.waiting is not None]
        for statement, rows in (
            (UPSERT_LISTING, listings),
            (DELETE_LISTING, [change.key for change in changes if change.listing is None]),
            (DELETE_WAITING, [change.key for change in waits]),
            (INSERT_WAITING, [row for change in waits for row in change.waiting or ()]),
        ):
            if rows:
                self._cursor.executemany(statement, rows)

    def _write_all(self, statement: str, rows: Sequence[Row]) -> None:
        if rows and self._cursor.executemany(statement, rows).rowcount != len(rows):
            raise _Uneven

    def _one_by_one(self, jobs: Sequence[Job]) -> list[Any]:
        """Apply all jobs, each on what the ones before it left."""
        return [self._one(job) for job in jobs]

    def _one(self, job: Job) -> Any:
        return self._commit_one(job) if isinstance(job, CommitRows) else job.run(self._cursor)

    def _commit_one(self, commit: CommitRows) -> CommitOutcome:
        """Apply one commit whole, or not at all: the first statement decides, the others must hold."""
        cursor, record = self._cursor, commit.record
        if commit.is_insert:
            if not cursor.execute(INSERT_RECORD, record).rowcount:
                return CommitOutcome.CONFLICT
            if commit.batch is not None:
                cursor.execute(INSERT_BATCH, commit.batch)
        elif commit.batch is not None:
            place = record[-4:]
            if not cursor.execute(INSERT_BATCH_IF, (*commit.batch, *place[2:])).rowcount:
                matches = cursor.execute(RECORD_IS_AT, place).fetchone() is not None
                return CommitOutcome.DUPLICATE if matches else CommitOutcome.CONFLICT
            cursor.execute(UPDATE_RECORD, record)
        elif not cursor.execute(UPDATE_RECORD, record).rowcount:
            return CommitOutcome.CONFLICT
        if commit.execution is not None:
            cursor.execute(INSERT_EXECUTION, commit.execution)
        if commit.listed is not None:
            self._list([commit.listed])
        return CommitOutcome.COMMITTED

    # -- answers ------------------------------------------------------------------------------

    def _fail_waiting(self) -> None:
        answers: list[Answer] = []
        while True:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            if item is not None:
                answers.append((item[0], None, StoreUnavailable(self._death)))
        if answers:
            self._tell(answers)

    def _tell(self, answers: Sequence[Answer]) -> None:
        try:
            self._loop.call_soon_threadsafe(settle, answers)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


def _nothing(cursor: sqlite3.Cursor) -> None:
    """Show that the writer serves."""


def _probe(cursor: sqlite3.Cursor) -> None:
    """Write and remove what a large commit would need."""
    cursor.execute("INSERT OR REPLACE INTO probe VALUES (1, zeroblob(262144))")
    cursor.execute("DELETE FROM probe")

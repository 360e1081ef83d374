"""What only a file can do: be locked, full, read-only, older, newer, somebody else's."""

import asyncio
import os
import resource
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from storage.base import (
    Commit,
    CommitOutcome,
    CommitUnknown,
    StorageError,
    StoreLocked,
    StoreTooNew,
    StoreUnavailable,
)
from storage.listing import ExecutionFilter, ExecutionPlace
from storage.models import Conversation, Lease
from storage.sqlite import SqliteStore
from tests.conformance.conftest import Clock
from tests.support.records import (
    EPOCH,
    ID,
    NOW,
    TENANT,
    api_key,
    committed,
    conversation,
    entry,
    execution,
    first_conversation,
    leased,
    next_commit,
)

COMMITTED = CommitOutcome.COMMITTED
FIXTURES = Path(__file__).parent / "fixtures"


async def reopened(store: SqliteStore, clock: Clock) -> SqliteStore:
    await store.close()
    again = SqliteStore(store.path, clock=clock)
    await again.open()
    return again


async def fill(store: SqliteStore) -> int:
    """Commit large records until the store refuses one; return how many it took."""
    for n in range(10_000):
        try:
            await committed(store, conversation(f"filler{n}"), slots={"x": "y" * 20_000})
        except StoreUnavailable:
            return n
    pytest.fail("the disk never became full")


# -- what the event loop does while the disk works ------------------------------------------------------


async def test_what_can_be_done_meanwhile_is_done_once_and_before_the_answer(sqlite: SqliteStore) -> None:
    """Also where a group is taken apart because one of it misses."""
    record = await committed(sqlite, conversation())
    told: list[str] = []

    async def commit(name: str, commit: Commit) -> None:
        outcome = await sqlite.commit(replace(commit, meanwhile=lambda: told.append(name)))
        told.append(f"{name}: {outcome.value}")

    commits = [commit(f"c{n}", next_commit(conversation(f"c{n}"))) for n in range(50)]
    await asyncio.gather(commit("one", next_commit(record)), commit("two", next_commit(record)), *commits)
    assert sorted(line for line in told if line.startswith(("one:", "two:"))) == [
        "one: committed",
        "two: conflict",
    ]
    for name in ["one", *(f"c{n}" for n in range(50))]:
        assert told.count(name) == 1
        assert told.index(name) < told.index(f"{name}: committed")
    assert told.count("two") <= 1


async def test_a_commit_that_fails_is_answered_whatever_was_done_meanwhile(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "parley.db", max_pages=60)
    await store.open()
    told: list[str] = []
    commit = next_commit(conversation(), slots={"x": "y" * 1_000_000})
    with pytest.raises(StoreUnavailable):
        await store.commit(replace(commit, meanwhile=lambda: told.append("meanwhile")))
    assert told.count("meanwhile") <= 1
    await committed(store, conversation())
    await store.close()


# -- closing and opening -------------------------------------------------------------------------------


async def test_everything_is_there_after_reopening(sqlite: SqliteStore, clock: Clock) -> None:
    record: Conversation = conversation()
    for n in range(30):
        record = await committed(sqlite, record, key=f"k{n}", execution=execution("x1"))
    batches = await sqlite.events(TENANT, ID, EPOCH, 0)
    again = await reopened(sqlite, clock)
    try:
        assert await again.load(TENANT, ID) == record
        assert await again.events(TENANT, ID, EPOCH, 0) == batches
        assert await again.find_key(TENANT, ID, "k3") == await again.find_key(TENANT, ID, "k3")
        assert await again.find_execution(TENANT, "x1") == ExecutionPlace(ID, 1)
        assert await again.commit(next_commit(record, key="k3")) is CommitOutcome.DUPLICATE
        await committed(again, record, key="k30")
    finally:
        await again.close()


async def test_opening_voids_every_lease(sqlite: SqliteStore, clock: Clock) -> None:
    records = [
        await committed(sqlite, conversation(f"c{n}"), **leased(conversation(), until=NOW + 10_000 + n))
        for n in range(3)
    ]
    idle = await committed(sqlite, conversation("idle"))
    later = await committed(sqlite, conversation("later"), wake_at=NOW + 99_999)
    clock.ms += 5
    again = await reopened(sqlite, clock)
    try:
        for n, record in enumerate(records):
            found = await again.load(TENANT, f"c{n}")
            assert found is not None
            assert (found.lease, found.wake_at, found.revision) == (None, NOW + 5, record.revision)
            assert not await again.renew(TENANT, f"c{n}", record.fence, "i1", NOW * 2, NOW * 2)
        assert len(await again.due(NOW + 5, 10)) == 3
        assert await again.load(TENANT, "idle") == idle
        assert await again.load(TENANT, "later") == later
    finally:
        await again.close()


async def test_a_voided_lease_can_be_taken_and_renewed(sqlite: SqliteStore, clock: Clock) -> None:
    await committed(sqlite, conversation(), **leased(conversation()))
    again = await reopened(sqlite, clock)
    try:
        found = await again.load(TENANT, ID)
        assert found is not None
        taken = await committed(again, found, (), **leased(found, "i2", NOW + 50))
        assert await again.renew(TENANT, ID, taken.fence, "i2", NOW + 60, NOW + 60)
        found = await again.load(TENANT, ID)
        assert found is not None
        assert found.lease == Lease("i2", NOW + 60)
    finally:
        await again.close()


async def test_closing_finishes_what_was_accepted(sqlite: SqliteStore, clock: Clock) -> None:
    commits = [next_commit(conversation(f"c{n}")) for n in range(300)]
    tasks = [asyncio.ensure_future(sqlite.commit(commit)) for commit in commits]
    await asyncio.sleep(0)
    again = await reopened(sqlite, clock)
    try:
        assert set(await asyncio.gather(*tasks)) == {COMMITTED}
        assert len(await again.offsets([(TENANT, f"c{n}") for n in range(300)])) == 300
    finally:
        await again.close()


async def test_closing_twice_is_closing_once(sqlite: SqliteStore) -> None:
    await sqlite.close()
    await sqlite.close()


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
async def test_a_cancelled_opening_leaves_nothing_open(tmp_path: Path, clock: Clock, steps: int) -> None:
    store = SqliteStore(tmp_path / "parley.db", clock=clock)
    opening = asyncio.ensure_future(store.open())
    for _ in range(steps):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    await store.close()
    await store.open()
    await committed(store, conversation())
    await store.close()


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
async def test_a_cancelled_closing_can_be_finished(sqlite: SqliteStore, clock: Clock, steps: int) -> None:
    """Until it is, the lock is held: the writer may still be at work."""
    commits = [asyncio.ensure_future(sqlite.commit(next_commit(conversation(f"c{n}")))) for n in range(50)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(sqlite.close())
    for _ in range(steps):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    if closing.cancelled():
        with pytest.raises(StoreLocked):
            await SqliteStore(sqlite.path, clock=clock).open()
    await sqlite.close()
    assert set(await asyncio.gather(*commits)) == {COMMITTED}
    await sqlite.open()
    assert len(await sqlite.offsets([(TENANT, f"c{n}") for n in range(50)])) == 50


async def test_a_closed_store_serves_nobody(sqlite: SqliteStore) -> None:
    await sqlite.close()
    for call in (
        lambda: sqlite.load(TENANT, ID),
        lambda: sqlite.commit(next_commit(conversation())),
        lambda: sqlite.enqueue(TENANT, ID, entry("k"), NOW),
        sqlite.ping,
    ):
        with pytest.raises(StoreUnavailable, match="not open"):
            await call()


async def test_a_clean_close_leaves_one_file_and_the_lock(sqlite: SqliteStore) -> None:
    await committed(sqlite, conversation())
    await sqlite.close()
    assert sorted(path.name for path in sqlite.path.parent.iterdir()) == ["parley.db", "parley.db-lock"]


async def test_the_files_are_their_owners_alone(sqlite: SqliteStore) -> None:
    await committed(sqlite, conversation())
    for path in sqlite.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_commit_is_synced_and_the_log_is_written_ahead(sqlite: SqliteStore) -> None:
    pragmas: list[Any] = []

    def look(cursor: sqlite3.Cursor) -> None:
        for name in ("journal_mode", "synchronous"):
            pragmas.append(cursor.execute(f"PRAGMA {name}").fetchone()[0])

    await sqlite._write(look)
    assert pragmas == ["wal", 2]


# -- locks ---------------------------------------------------------------------------------------------


async def test_a_second_opener_is_told_who_has_the_file(sqlite: SqliteStore, clock: Clock) -> None:
    second = SqliteStore(sqlite.path, clock=clock)
    with pytest.raises(StoreLocked, match=rf"parley\.db-lock.*process {os.getpid()}.*PARLEY_STORE"):
        await second.open()
    await second.close()
    await committed(sqlite, conversation())
    await sqlite.close()
    await second.open()
    assert await second.load(TENANT, ID) is not None
    await second.close()


async def test_another_process_is_kept_out_until_this_one_dies(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "parley.db"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"open\n"
        store = SqliteStore(path, clock=clock)
        with pytest.raises(StoreLocked, match=f"process {holder.pid}"):
            await store.open()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    await store.open()
    found = await store.load(TENANT, ID)
    assert found is not None
    assert found.lease is None
    await store.close()


HOLD = f"""
import asyncio, sys
from storage.sqlite import SqliteStore
from tests.support.records import committed, conversation, leased

async def main():
    store = SqliteStore(sys.argv[1], clock=lambda: {NOW})
    await store.open()
    await committed(store, conversation(), **leased(conversation()))
    print("open", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_opening_twice_is_refused(sqlite: SqliteStore) -> None:
    with pytest.raises(StoreUnavailable, match="open already"):
        await sqlite.open()
    await committed(sqlite, conversation())


# -- one poisoned item, one dead writer ----------------------------------------------------------------


class Poison(str):
    """A text that SQLite cannot take: binding it fails in the writer's thread."""

    def __conform__(self, protocol: object) -> object:
        raise OverflowError("poison")


class Venom(str):
    """A text that kills the thread that binds it."""

    def __conform__(self, protocol: object) -> object:
        raise SystemExit("venom")


def poisoned(record: Conversation, text: str) -> Commit:
    return next_commit(record, commit_id=text)


async def test_one_poisoned_item_fails_alone(sqlite: SqliteStore) -> None:
    """The group is rolled back and its items run singly: the others do not notice."""
    records = [await committed(sqlite, conversation(f"c{n}")) for n in range(30)]
    commits = [next_commit(record, key="k") for record in records]
    commits[11] = poisoned(records[11], Poison("bad"))
    stale = next_commit(conversation("c20"), commit_id="stale")
    outcomes = await asyncio.gather(
        *map(sqlite.commit, [*commits, stale]),
        sqlite.enqueue(TENANT, "c3", entry("k"), NOW),
        return_exceptions=True,
    )
    failure = outcomes.pop(11)
    assert isinstance(failure, StorageError)
    assert not isinstance(failure, StoreUnavailable)
    assert outcomes[:29] == [COMMITTED] * 29
    assert outcomes[29:] == [CommitOutcome.CONFLICT, False]
    for n, commit in enumerate(commits):
        expected = records[n] if n == 11 else commit.record
        assert await sqlite.load(TENANT, f"c{n}") == expected
    await sqlite.ping()


async def test_a_value_that_is_not_json_fails_before_it_reaches_the_writer(sqlite: SqliteStore) -> None:
    with pytest.raises(TypeError):
        await committed(sqlite, conversation(), slots={"a": object()})
    with pytest.raises(TypeError):
        await committed(sqlite, conversation(), data={"a": {1, 2}})
    assert await sqlite.load(TENANT, ID) is None


async def test_an_offset_that_is_in_the_log_already_is_an_error_not_a_duplicate(sqlite: SqliteStore) -> None:
    """It cannot happen while revisions are checked; if it does, the log is not to be trusted silently."""
    first = await committed(sqlite, conversation(), ("a", "b"))
    record = await committed(sqlite, first, (), offset=0)
    other = next_commit(conversation("other"))
    outcomes = await asyncio.gather(
        sqlite.commit(next_commit(record, ("c", "d"), key="k")), sqlite.commit(other), return_exceptions=True
    )
    assert isinstance(outcomes[0], StorageError)
    assert not isinstance(outcomes[0], StoreUnavailable)
    assert outcomes[1] is COMMITTED
    assert await sqlite.load(TENANT, ID) == record


async def test_a_dead_writer_fails_all_who_wait_and_all_who_come(sqlite: SqliteStore) -> None:
    record = await committed(sqlite, conversation())
    commits = [next_commit(conversation(f"c{n}")) for n in range(600)]
    calls = [sqlite.commit(poisoned(record, Venom("bad"))), *map(sqlite.commit, commits)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    assert isinstance(outcomes[0], CommitUnknown)
    for call in (sqlite.ping, lambda: sqlite.commit(next_commit(record))):
        with pytest.raises(StoreUnavailable, match="writer has died"):
            await call()
    assert await sqlite.load(TENANT, ID) == record
    await sqlite.close()


async def test_what_a_dead_writer_left_is_there_for_the_next(sqlite: SqliteStore, clock: Clock) -> None:
    record = await committed(sqlite, conversation())
    with pytest.raises(CommitUnknown):
        await sqlite.commit(poisoned(record, Venom("bad")))
    again = await reopened(sqlite, clock)
    assert await again.load(TENANT, ID) == record
    await committed(again, record)
    await again.close()


# -- disks ---------------------------------------------------------------------------------------------


async def test_a_full_disk_acknowledges_nothing_and_is_told_by_ping(tmp_path: Path, clock: Clock) -> None:
    store = SqliteStore(tmp_path / "parley.db", clock=clock, max_pages=200)
    await store.open()
    record = await committed(store, conversation())
    taken = await fill(store)
    assert taken > 5
    with pytest.raises(StoreUnavailable, match="full"):
        await store.commit(next_commit(record, slots={"x": "y" * 50_000}))
    with pytest.raises(StoreUnavailable, match="full"):
        await store.ping()
    assert await store.load(TENANT, ID) == record
    assert await store.load(TENANT, f"filler{taken}") is None
    await store.close()
    roomy = SqliteStore(tmp_path / "parley.db", clock=clock)
    await roomy.open()
    await roomy.ping()
    assert await roomy.load(TENANT, ID) == record
    assert len(await roomy.offsets([(TENANT, f"filler{n}") for n in range(taken + 1)])) == taken
    await committed(roomy, record, slots={"x": "y" * 50_000})
    await roomy.close()


async def test_a_full_disk_fails_only_what_does_not_fit(tmp_path: Path, clock: Clock) -> None:
    """A group that does not fit is run singly, so that small commits still go through."""
    store = SqliteStore(tmp_path / "parley.db", clock=clock, max_pages=200)
    await store.open()
    small = [await committed(store, conversation(f"small{n}")) for n in range(5)]
    await fill(store)
    large = next_commit(conversation("large"), slots={"x": "y" * 100_000})
    shrinking = [next_commit(record, ()) for record in small]
    outcomes = await asyncio.gather(*map(store.commit, [large, *shrinking]), return_exceptions=True)
    assert isinstance(outcomes[0], StoreUnavailable)
    assert outcomes[1:] == [COMMITTED] * 5
    await store.ping()
    await store.close()


async def test_ping_recovers_when_there_is_room_again(tmp_path: Path, clock: Clock) -> None:
    """Ping writes, once a write has failed: that it works again is not known otherwise."""
    store = SqliteStore(tmp_path / "parley.db", clock=clock, max_pages=200)
    await store.open()
    await fill(store)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    await store._write(lambda cursor: cursor.execute("PRAGMA max_page_count = 100000").fetchone())
    await store.ping()
    await committed(store, conversation("large"), slots={"x": "y" * 100_000})
    await store.close()


async def test_an_io_error_in_the_commit_is_an_unknown_outcome(sqlite: SqliteStore) -> None:
    """The file may not grow any more: writing the WAL fails in mid-commit (EFBIG), as on a broken disk."""
    record = await committed(sqlite, conversation())
    wal = sqlite.path.with_name("parley.db-wal")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size + 100, hard))
    try:
        commits = [next_commit(record, slots={"a": 1}), next_commit(conversation("other"))]
        outcomes = await asyncio.gather(*map(sqlite.commit, commits), return_exceptions=True)
        with pytest.raises(StoreUnavailable):
            await sqlite.ping()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [type(outcome) for outcome in outcomes] == [CommitUnknown, CommitUnknown]
    assert await sqlite.load(TENANT, ID) == record
    assert await sqlite.batch_at(TENANT, ID, EPOCH, 3) is None
    await sqlite.ping()
    assert await asyncio.gather(*map(sqlite.commit, commits)) == [COMMITTED, COMMITTED]


async def test_a_missing_folder_is_named(tmp_path: Path, clock: Clock) -> None:
    store = SqliteStore(tmp_path / "missing" / "parley.db", clock=clock)
    with pytest.raises(StoreUnavailable, match=r"missing/parley\.db.*No such file"):
        await store.open()
    await store.close()


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    run = subprocess.run(
        [sys.executable, "-c", OPEN_AS_NOBODY, str(tmp_path / "parley.db")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert "StoreUnavailable" in run.stdout, run.stderr
    assert "Permission denied" in run.stdout
    assert list(tmp_path.iterdir()) == []


OPEN_AS_NOBODY = """
import asyncio, os, sys
from storage.base import StorageError
from storage.sqlite import SqliteStore

async def main():
    try:
        await SqliteStore(sys.argv[1]).open()
    except StorageError as error:
        print(type(error).__name__, error)

if os.geteuid() == 0:
    os.seteuid(65534)
asyncio.run(main())
"""


async def test_another_programs_lock_is_waited_for_and_then_told(sqlite: SqliteStore) -> None:
    record = await committed(sqlite, conversation())
    await sqlite._write(lambda cursor: cursor.execute("PRAGMA busy_timeout = 50").fetchone())
    other = sqlite3.connect(sqlite.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await sqlite.commit(next_commit(record))
    assert await sqlite.load(TENANT, ID) == record
    other.execute("ROLLBACK")
    other.close()
    await sqlite.ping()
    await committed(sqlite, record)


# -- versions ------------------------------------------------------------------------------------------


def restore(dump: str, path: Path) -> None:
    """Make a database file of a dump."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript((FIXTURES / dump).read_text(encoding="utf-8"))
    connection.close()


async def test_a_file_of_version_1_is_read(tmp_path: Path, clock: Clock) -> None:
    """The dump was written by the first release and is never written again: see ``fixtures/make.py``."""
    path = tmp_path / "parley.db"
    restore("version_1.sql", path)
    store = SqliteStore(path, clock=clock)
    await store.open()
    try:
        record = await store.load(TENANT, ID)
        assert record is not None
        stored = first_conversation()
        assert (record.slots, record.execution, record.turn) == (stored.slots, stored.execution, stored.turn)
        assert (record.inbox, record.recent, record.lease) == (stored.inbox, stored.recent, None)
        found = await store.find_key(TENANT, ID, "k9")
        assert found is not None
        assert (found.first_offset, found.last_offset, found.execution_id) == (1, 3, "x1")
        (batch,) = await store.events(TENANT, ID, record.epoch, 0)
        assert [event.type for event in batch.events] == [
            "message.received",
            "message.completed",
            "turn.completed",
        ]
        assert await store.turn_end(TENANT, ID, record.epoch, "k9", 1) == batch
        assert await store.find_execution(TENANT, "x1") == ExecutionPlace(ID, 0)
        (listed,) = await store.executions(TENANT, ExecutionFilter(status="running", user_id="u"))
        assert (listed.record, listed.place.active_at) == (record, NOW + 1)
        (flow,) = await store.flows(TENANT)
        assert (flow.flow_id, flow.latest_version, flow.is_default) == ("book", 1, True)
        await committed(store, record, key="k12")
    finally:
        await store.close()


async def test_a_file_of_version_2_is_read(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "parley.db"
    restore("version_2.sql", path)
    store = SqliteStore(path, clock=clock)
    await store.open()
    try:
        assert await store.find_execution(TENANT, "x1") == ExecutionPlace(ID, 1)
        (listed,) = await store.executions(TENANT, ExecutionFilter(flow_id="book", project_id="p"))
        assert listed.record == await store.load(TENANT, ID)
    finally:
        await store.close()


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_a_file_of_before_there_were_keys_takes_some(
    tmp_path: Path, clock: Clock, version: int
) -> None:
    path = tmp_path / "parley.db"
    restore(f"version_{version}.sql", path)
    store = SqliteStore(path, clock=clock)
    await store.open()
    try:
        assert await store.api_keys(TENANT) == []
        assert await store.create_api_key(api_key())
        assert await store.has_origin(["https://shop.example"], NOW)
    finally:
        await store.close()


async def test_a_file_of_version_4_is_read(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "parley.db"
    restore("version_4.sql", path)
    store = SqliteStore(path, clock=clock)
    await store.open()
    try:
        assert await store.api_key_by_hash(api_key().sha256) == api_key()
        assert await store.has_origin(["https://shop.example"], NOW)
        (listed,) = await store.conversations(TENANT, ExecutionFilter())
        assert listed.record == await store.load(TENANT, ID)
    finally:
        await store.close()


async def test_a_newer_file_is_refused_and_left_alone(sqlite: SqliteStore, clock: Clock) -> None:
    await committed(sqlite, conversation())
    await sqlite.close()
    connection = sqlite3.connect(sqlite.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = sqlite.path.read_bytes()
    newer = SqliteStore(sqlite.path, clock=clock)
    with pytest.raises(StoreTooNew, match="version 99"):
        await newer.open()
    assert sqlite.path.read_bytes() == before


async def test_somebody_elses_database_is_refused_and_left_alone(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "theirs.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE precious (thing TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="not one of Parley's"):
        await SqliteStore(path, clock=clock).open()
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await SqliteStore(path, clock=clock).open()
    assert path.read_text() == "Dear reader, " * 100


async def test_a_failed_opening_gives_the_lock_back(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "parley.db"
    path.write_text("no database" * 100)
    store = SqliteStore(path, clock=clock)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.open()
    path.unlink()
    await store.open()
    await committed(store, conversation())
    await store.close()


async def test_a_file_of_version_3_is_read(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "parley.db"
    restore("version_3.sql", path)
    store = SqliteStore(path, clock=clock)
    await store.open()
    try:
        (listed,) = await store.conversations(TENANT, ExecutionFilter(flow_id="book", project_id="p"))
        assert listed.record == await store.load(TENANT, ID)
    finally:
        await store.close()


async def test_conversations_that_had_no_execution_are_listed_from_version_3_on(
    tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "parley.db"
    restore("version_2.sql", path)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM listing")
        connection.execute("UPDATE conversations SET doc = json_set(CAST(doc AS TEXT), '$.execution', NULL)")
    connection.close()
    store = SqliteStore(path, clock=clock)
    await store.open()
    try:
        (listed,) = await store.conversations(TENANT, ExecutionFilter(status="idle", user_id="u"))
        assert listed.place.active_at == listed.record.last_activity
        assert await store.executions(TENANT, ExecutionFilter()) == []
    finally:
        await store.close()


async def test_a_record_that_cannot_be_read_is_passed_over_in_lists(
    sqlite: SqliteStore, clock: Clock
) -> None:
    """However many are unreadable, the page is full of the others."""
    for n in range(6):
        running = execution(f"x{n}", updated_at=NOW + n)
        await committed(sqlite, conversation(f"c{n}"), execution=running)
    await sqlite.close()
    with sqlite3.connect(sqlite.path) as database:
        for id_, doc in (("c5", b"{"), ("c4", b"[]"), ("c2", b'{"v":99}'), ("c0", b"{}")):
            database.execute("UPDATE conversations SET doc = ? WHERE conversation_id = ?", (doc, id_))
    database.close()
    again = SqliteStore(sqlite.path, clock=clock)
    await again.open()
    with structlog.testing.capture_logs() as logs:
        (first,) = await again.executions(TENANT, ExecutionFilter(), limit=1)
        (second,) = await again.executions(TENANT, ExecutionFilter(), after=first.place, limit=1)
        rest = await again.executions(TENANT, ExecutionFilter(), after=second.place, limit=1)
    both = await again.conversations(TENANT, ExecutionFilter())
    await again.close()
    assert [item.record.conversation_id for item in (first, second, *rest)] == ["c3", "c1"]
    assert [item.record.conversation_id for item in both] == ["c3", "c1"]
    assert [line["conversation_id"] for line in logs] == ["c5", "c4", "c2", "c0"]

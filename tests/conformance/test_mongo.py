"""What is particular to MongoDB: several instances, the log behind the record, what goes over the wire."""

import asyncio
import gc
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pymongo
import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from storage.base import CommitOutcome, CommitUnknown, StorageError, StoreRefused, StoreUnavailable
from storage.listing import ExecutionFilter, ExecutionPlace
from storage.models import COMMIT_MAX_BYTES, ApiKey, Conversation, EventBatch, FlowVersion, Pending
from storage.mongo import MongoStore
from storage.mongo.driver import Driver
from storage.mongo.schema import INDEXES
from tests.conformance.conftest import Clock
from tests.support.fake_mongo import fake_mongo, refuses_credentials
from tests.support.mongo import MongoServer, away
from tests.support.records import (
    EPOCH,
    ID,
    NOW,
    TENANT,
    buried,
    committed,
    conversation,
    entry,
    execution,
    leased,
    next_commit,
)

pytestmark = pytest.mark.needs("mongo")
COMMITTED, CONFLICT = CommitOutcome.COMMITTED, CommitOutcome.CONFLICT
MINUTE_MS = 60_000


@pytest.fixture
async def instances(mongo_url: str, clock: Clock) -> AsyncIterator[Callable[[], Any]]:
    """What opens one more store over the test's database; all are closed behind the test."""
    opened: list[MongoStore] = []

    async def open_one(**options: Any) -> MongoStore:
        store = MongoStore(mongo_url, clock=clock, options=options)
        await store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def mongo(instances: Callable[[], Any]) -> MongoStore:
    store: MongoStore = await instances()
    return store


@contextmanager
def inside(url: str) -> Iterator[Database[dict[str, Any]]]:
    """Look into the database, independently of the code under test."""
    with MongoClient[dict[str, Any]](url, tz_aware=True) as client:
        yield client.get_default_database()


class Listener(CommandListener):
    """Notes every command as it is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append((event.command_name, dict(event.command)))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


# -- many writers -----------------------------------------------------------------------------------


async def test_24_writers_race_for_each_revision_and_one_wins(instances: Callable[[], Any]) -> None:
    """Over three instances: what one knows of the others' commits is what the database tells it."""
    stores = [await instances() for _ in range(3)]
    record: Conversation = conversation()
    winners = []
    for round_ in range(12):
        commits = [
            next_commit(record, key=f"{round_}-{n}", commit_id=f"{round_}-{n}", slots={"writer": n})
            for n in range(24)
        ]
        outcomes = await asyncio.gather(*(stores[n % 3].commit(commit) for n, commit in enumerate(commits)))
        assert Counter(outcomes) == {COMMITTED: 1, CONFLICT: 23}
        winner = commits[outcomes.index(COMMITTED)]
        assert await stores[round_ % 3].load(TENANT, ID) == winner.record
        winners.append(winner.record.commit_id)
        record = winner.record
    for store in stores:
        batches = await store.events(TENANT, ID, EPOCH, 0)
        assert [batch.commit_id for batch in batches] == winners
        assert all(one.last_offset + 1 == two.first_offset for one, two in pairwise(batches))


async def test_groups_of_two_instances_that_cross_are_told_apart(instances: Callable[[], Any]) -> None:
    """Each revision of 40 conversations is wanted by both: in each group some win and some lose."""
    one, two = await instances(), await instances()
    records = [conversation(f"c{n}") for n in range(40)]
    for round_ in range(5):
        first = [
            next_commit(r, key=f"{round_}", commit_id=f"{round_}-a-{r.conversation_id}") for r in records
        ]
        second = [
            next_commit(r, key=f"{round_}", commit_id=f"{round_}-b-{r.conversation_id}")
            for r in records[::-1]
        ]
        outcomes = await asyncio.gather(*map(one.commit, first), *map(two.commit, second))
        won = [
            commit.record
            for commit, outcome in zip([*first, *second], outcomes, strict=True)
            if outcome is COMMITTED
        ]
        assert len(won) == len({record.conversation_id for record in won}) == 40
        found = await one.load_many([(TENANT, record.conversation_id) for record in won])
        assert list(found.values()) == [found[TENANT, r.conversation_id] for r in found.values()]
        assert {r.conversation_id: r for r in found.values()} == {r.conversation_id: r for r in won}
        records = sorted(won, key=lambda record: record.conversation_id)


async def test_an_instance_goes_on_where_another_stopped(instances: Callable[[], Any]) -> None:
    one, two = await instances(), await instances()
    record = await committed(one, conversation(), key="k1", execution=execution())
    for n in range(6):
        record = await committed((two, one)[n % 2], record, key=f"n{n}")
    assert [b.first_offset for b in await two.events(TENANT, ID, EPOCH, 0)] == [1, 3, 5, 7, 9, 11, 13]
    assert await one.events(TENANT, ID, EPOCH, 0) == await two.events(TENANT, ID, EPOCH, 0)


async def test_publishing_at_two_instances_at_once_numbers_each_source(instances: Callable[[], Any]) -> None:
    one, two = await instances(), await instances()
    versions = [FlowVersion(TENANT, "f", 0, str(n % 5), f"source {n % 5}", "f.yaml") for n in range(20)]
    published = await asyncio.gather(
        *(
            (one, two)[n % 2].publish(version, name="F", description="", is_default=n % 3 == 0)
            for n, version in enumerate(versions)
        )
    )
    (flow,) = await one.flows(TENANT)
    assert sorted({p.version for p in published}) == list(range(1, flow.latest_version + 1))
    for one_ in published:
        assert await two.flow_version(TENANT, "f", one_.version) == one_


async def test_flows_that_are_made_the_default_at_once_leave_one(instances: Callable[[], Any]) -> None:
    stores = [await instances(), await instances()]
    await asyncio.gather(
        *(
            stores[n % 2].publish(
                FlowVersion(TENANT, f"f{n}", 0, "a", "s", "f.yaml"), name="F", description="", is_default=True
            )
            for n in range(8)
        )
    )
    for store in stores:
        assert sum(flow.is_default for flow in await store.flows(TENANT)) == 1


async def test_opening_it_voids_no_leases(instances: Callable[[], Any]) -> None:
    """Others have it open, and own them."""
    record = await committed(await instances(), conversation(), **leased(conversation()))
    assert await (await instances()).load(TENANT, ID) == record


async def test_a_conversation_that_begins_anew_after_its_tombstone_went_is_not_taken_for_the_old_one(
    instances: Callable[[], Any], mongo_url: str
) -> None:
    """The server's own expiry tells no instance; another one then starts again at revision 1."""
    one, two = await instances(), await instances()
    record = await committed(one, await committed(one, conversation()))
    await buried(one, record)
    await two.remove_events(TENANT, ID)
    with inside(mongo_url) as database:
        assert database.conversations.delete_one({"conversation_id": ID}).deleted_count == 1
    fresh = await committed(two, replace(conversation(), epoch="e2"))
    assert await one.load(TENANT, ID) == fresh
    await committed(one, fresh)
    assert [b.first_offset for b in await two.events(TENANT, ID, "e2", 0)] == [1, 3]


async def test_what_was_deleted_does_not_come_back_over_what_began_anew(
    instances: Callable[[], Any], mongo_url: str
) -> None:
    """An instance remembers a conversation that was deleted long ago, and had the revision of the new one."""
    one, two = await instances(), await instances()
    record = await committed(one, conversation(slots={"name": "deleted"}))
    await buried(two, record)
    await two.remove_events(TENANT, ID)
    with inside(mongo_url) as database:
        assert database.conversations.delete_one({"conversation_id": ID}).deleted_count == 1
    fresh = await committed(two, replace(conversation(), epoch="e2"))
    assert (fresh.revision, fresh.fence) == (record.revision, record.fence)
    assert await one.commit(next_commit(record, commit_id="late")) is CONFLICT
    assert await two.load(TENANT, ID) == fresh


async def test_what_is_known_of_a_deleted_conversation_is_not_taken_for_the_new_ones(
    instances: Callable[[], Any], mongo_url: str
) -> None:
    """Nor by an instance that reads the new one while that has the old one's revision."""
    one, two = await instances(), await instances()
    record = await committed(one, conversation(), key="old")
    await buried(two, record)
    await two.remove_events(TENANT, ID)
    with inside(mongo_url) as database:
        assert database.conversations.delete_one({"conversation_id": ID}).deleted_count == 1
    fresh = await committed(two, replace(conversation(), epoch="e2"), key="new", commit_id="fresh")
    assert await one.load(TENANT, ID) == fresh
    assert await one.commit(next_commit(fresh, key="new")) is CommitOutcome.DUPLICATE


# -- the log behind the record ----------------------------------------------------------------------


async def lose_from_log(mongo: MongoStore, url: str, *offsets: int) -> None:
    """Take batches out of the log again, as if their writers had died before they put them there."""
    await mongo.close()  # so that nothing is on its way
    with inside(url) as database:
        wanted = {"conversation_id": ID, "first_offset": {"$in": list(offsets)}}
        assert database.events.delete_many(wanted).deleted_count == len(offsets)
        database.executions.delete_many({})
    await mongo.open()


def logged(url: str) -> list[int]:
    with inside(url) as database:
        return sorted(d["first_offset"] for d in database.events.find({"conversation_id": ID}))


def document(url: str, id_: str = ID) -> dict[str, Any]:
    with inside(url) as database:
        found = database.conversations.find_one({"conversation_id": id_})
        assert found is not None
        return found


async def test_a_batch_that_never_reached_the_log_is_read_all_the_same(
    mongo: MongoStore, mongo_url: str
) -> None:
    commit = next_commit(conversation(), key="k1", execution=execution())
    await mongo.commit(commit)
    await lose_from_log(mongo, mongo_url, 1)
    assert logged(mongo_url) == []
    assert await mongo.events(TENANT, ID, EPOCH, 0) == [commit.batch]
    assert await mongo.batch_at(TENANT, ID, EPOCH, 1) == commit.batch
    assert await mongo.turn_end(TENANT, ID, EPOCH, "k1", 0) == commit.batch
    assert await mongo.messages(TENANT, ID, EPOCH, before=None, after=0, limit=5) == [commit.batch]
    found = await mongo.find_key(TENANT, ID, "k1")
    assert found is not None
    assert (found.first_offset, found.last_offset, found.execution_id) == (1, 2, "x1")
    place = await mongo.find_execution(TENANT, "x1")
    assert place is not None
    assert place.first_offset == 1


async def test_what_is_lost_at_the_end_of_a_long_log_is_filled_in(mongo: MongoStore, mongo_url: str) -> None:
    record = conversation()
    for _ in range(5):
        record = await committed(mongo, record)
    await lose_from_log(mongo, mongo_url, 9)
    assert [b.first_offset for b in await mongo.events(TENANT, ID, EPOCH, 0)] == [1, 3, 5, 7, 9]
    assert [b.first_offset for b in await mongo.events(TENANT, ID, EPOCH, 6)] == [7, 9]
    newest = await mongo.messages(TENANT, ID, EPOCH, before=None, after=0, limit=2)
    assert [b.first_offset for b in newest] == [7, 9]


async def test_another_instances_commit_brings_what_was_lost(
    mongo: MongoStore, mongo_url: str, instances: Callable[[], Any]
) -> None:
    record = await committed(mongo, conversation(), execution=execution())
    await lose_from_log(mongo, mongo_url, 1)
    other = await instances()
    await committed(other, record)
    await other.close()
    assert logged(mongo_url) == [1, 3]


async def test_a_sweep_brings_what_was_lost_and_lets_idle_documents_drop_it(
    mongo: MongoStore, mongo_url: str, clock: Clock
) -> None:
    asked = execution(pending=(Pending("p1", "acceptance", "gate", created_at=NOW),))
    record = await committed(mongo, conversation(), execution=asked)
    await lose_from_log(mongo, mongo_url, 1)
    with inside(mongo_url) as database:
        database.waiting.delete_many({})
    assert len(document(mongo_url)["unflushed"]) == 1
    await mongo.due(clock(), 10)
    assert logged(mongo_url) == [], "whoever commits has a minute for it"
    clock.ms += 3 * MINUTE_MS
    await mongo.due(clock(), 10)
    assert logged(mongo_url) == [1]
    assert not {"unflushed", "flush_at"} & document(mongo_url).keys()
    assert await mongo.load(TENANT, ID) == record
    assert [w.place.wait_id for w in await mongo.waiting(TENANT, ["user:u"])] == ["p1"]
    after = await committed(mongo, record)
    assert [b.last_offset for b in await mongo.events(TENANT, ID, EPOCH, 0)] == [2, after.offset]


async def test_a_sweep_spares_what_has_moved_on_meanwhile(
    mongo: MongoStore, mongo_url: str, clock: Clock, instances: Callable[[], Any]
) -> None:
    """One sweeps while another commits: nothing is lost, whoever is first."""
    other = await instances()
    record = await committed(mongo, conversation())
    for _ in range(8):
        clock.ms += 3 * MINUTE_MS
        _, outcome = await asyncio.gather(other.due(clock(), 10), mongo.commit(next_commit(record)))
        assert outcome is COMMITTED
        loaded = await other.load(TENANT, ID)
        assert loaded is not None
        record = loaded
    assert [b.first_offset for b in await other.events(TENANT, ID, EPOCH, 0)] == list(range(1, 18, 2))
    await mongo.close()
    assert logged(mongo_url) == list(range(1, 18, 2))


async def test_what_a_stranger_has_put_into_the_log_stays_an_error_and_what_is_carried_small(
    mongo: MongoStore, mongo_url: str
) -> None:
    record = await committed(mongo, conversation())
    with inside(mongo_url) as database:
        theirs = {"tenant_id": TENANT, "conversation_id": ID, "epoch": EPOCH, "commit_id": "theirs"}
        database.events.insert_many(
            {**theirs, "first_offset": n, "last_offset": n, "key": f"theirs {n}"} for n in range(3, 7)
        )
    text = {"text": "x" * 60_000}
    for _ in range(4):
        record = await committed(mongo, record, ("a",), data=text)
    with pytest.raises(StorageError, match="already holds offset"):
        await mongo.commit(next_commit(record, ("a",), data=text))
    carried = document(mongo_url)["unflushed"]
    assert [e["first_offset"] for e in carried if e["first_offset"] > 1] == [3, 4, 5, 6]
    assert sum(len(e["events"]) for e in carried) <= COMMIT_MAX_BYTES


async def test_a_sweep_looks_for_what_is_in_the_log_by_its_place(
    mongo: MongoStore, instances: Callable[..., Any], clock: Clock
) -> None:
    """A search by anything else would read whole logs, and most of what is swept is in the log already."""
    record = await committed(mongo, conversation())
    await committed(mongo, record)
    await mongo.close()  # now all of it is in the log
    listener = Listener()
    other = await instances(event_listeners=[listener])
    clock.ms += 3 * MINUTE_MS
    await other.due(clock(), 10)
    asked = [
        command["filter"]
        for name, command in listener.sent
        if command.get(name) == "events" == command.get("find")
    ]
    assert len(asked) == 1
    assert asked[0].keys() == {"tenant_id", "conversation_id", "epoch", "first_offset"}
    await mongo.open()


async def test_what_comes_late_of_a_deleted_conversation_goes_with_its_tombstone(
    mongo: MongoStore, mongo_url: str
) -> None:
    """An instance that hung for minutes puts a batch into the log that was emptied long since."""
    tombstone = await buried(mongo, await committed(mongo, conversation(), execution=execution()))
    await mongo.remove_events(TENANT, ID)
    with inside(mongo_url) as database:
        place = {"tenant_id": TENANT, "conversation_id": ID}
        database.events.insert_one({**place, "epoch": EPOCH, "first_offset": 1, "key": 1})
        assert tombstone.expires_at is not None
        await mongo.expire_tombstones(tombstone.expires_at, 10)
        assert database.events.count_documents({}) == 0
        index = database.conversations.index_information()["expiry"]
        assert index["expireAfterSeconds"] > 0, "the server removes only what no sweep did"


async def test_what_is_being_restored_is_nowhere_to_be_found(mongo: MongoStore, mongo_url: str) -> None:
    """Its log goes first, in portions."""
    record, log = conversation(), []
    for n in range(201):
        commit = next_commit(record, key=f"k{n}", execution=execution())
        assert commit.batch is not None
        record = commit.record
        log.append(commit.batch)
    go_on = threading.Event()

    def source() -> Iterator[EventBatch]:
        yield from log[:200]
        go_on.wait()
        yield log[200]

    restoring = asyncio.ensure_future(mongo.restore(replace(record, revision=1), source()))
    try:
        with inside(mongo_url) as database:
            while database.events.count_documents({}) < 200:
                await asyncio.sleep(0.01)
        assert await mongo.load(TENANT, ID) is None
        assert await mongo.find_execution(TENANT, "x1") is None
        assert await mongo.find_key(TENANT, ID, "k1") is None
        assert await mongo.events(TENANT, ID, EPOCH, 0) == []
    finally:
        go_on.set()
    assert await restoring
    assert await mongo.find_execution(TENANT, "x1") == ExecutionPlace(ID, 1)


async def test_a_tombstone_carries_nothing_and_ends_by_itself(mongo: MongoStore, mongo_url: str) -> None:
    record = await committed(mongo, conversation(), expires_at=NOW + 1)
    assert "expires_at" not in document(mongo_url), "only tombstones end"
    tombstone = await buried(mongo, record)
    found = document(mongo_url)
    assert not {"unflushed", "accepted"} & found.keys()
    assert tombstone.expires_at is not None
    assert found["expires_at"].timestamp() * 1000 == tombstone.expires_at


# -- what waits for people --------------------------------------------------------------------------


async def test_what_was_noted_and_never_committed_is_not_shown_and_goes(
    mongo: MongoStore, mongo_url: str, clock: Clock
) -> None:
    """A commit that was to make something wait did not happen: its row stays for a while, in vain."""
    asked = execution(pending=(Pending("p1", "acceptance", "gate", created_at=NOW),))
    record = await committed(mongo, conversation())
    stale = next_commit(replace(record, revision=record.revision + 3), execution=asked)
    assert await mongo.commit(stale) is CONFLICT
    with inside(mongo_url) as database:
        row = {"tenant_id": TENANT, "decider": "user:u", "since": NOW, "wait_id": "p1", "kind": "acceptance"}
        database.waiting.insert_one({**row, "conversation_id": ID, "noted_at": clock()})
        assert await mongo.waiting(TENANT, ["user:u"]) == []
        assert database.waiting.count_documents({}) == 1, "its commit may be under way"
        clock.ms += 20 * MINUTE_MS
        assert await mongo.waiting(TENANT, ["user:u"]) == []
        assert database.waiting.count_documents({}) == 0


async def test_a_page_of_an_inbox_is_full_although_much_of_what_was_noted_is_void(
    mongo: MongoStore, mongo_url: str, clock: Clock
) -> None:
    for n in range(9):
        asked = execution(pending=(Pending(f"p{n}", "acceptance", "gate", created_at=NOW + 10 * n),))
        await committed(mongo, conversation(f"c{n}"), execution=asked)
    with inside(mongo_url) as database:
        row = {"tenant_id": TENANT, "decider": "user:u", "kind": "acceptance", "noted_at": clock()}
        database.waiting.insert_many(
            {**row, "since": NOW + n, "wait_id": f"v{n}", "conversation_id": f"c{n % 9}"} for n in range(80)
        )
    first = await mongo.waiting(TENANT, ["user:u"], limit=5)
    assert [w.place.wait_id for w in first] == ["p0", "p1", "p2", "p3", "p4"]
    rest = await mongo.waiting(TENANT, ["user:u"], after=first[-1].place, limit=5)
    assert [w.place.wait_id for w in rest] == ["p5", "p6", "p7", "p8"]


# -- keys that were used before ---------------------------------------------------------------------


async def test_a_new_key_is_looked_for_nowhere_and_an_old_one_found_however_old(
    instances: Callable[..., Any],
) -> None:
    listener = Listener()
    one, two = await instances(event_listeners=[listener]), await instances()
    listener.sent.clear()
    record = conversation()
    for n in range(80):
        record = await committed(one, record, key=f"k{n}")
    assert "find" not in {name for name, _ in listener.sent}
    for store in (one, two):
        again = next_commit(record, key="k3", commit_id="again")
        assert await store.commit(again) is CommitOutcome.DUPLICATE
        assert await store.load(TENANT, ID) == record


async def test_a_key_that_never_reached_the_log_is_known(mongo: MongoStore, mongo_url: str) -> None:
    record = await committed(mongo, conversation(), key="k1")
    await lose_from_log(mongo, mongo_url, 1)
    again = next_commit(record, key="k1", commit_id="again")
    assert await mongo.commit(again) is CommitOutcome.DUPLICATE


async def test_a_key_that_another_instance_accepted_is_a_conflict_and_then_known(
    instances: Callable[[], Any],
) -> None:
    one, two = await instances(), await instances()
    record = await committed(one, conversation())
    assert await two.load(TENANT, ID) == record
    after = await committed(one, record, key="k1")
    assert await two.commit(next_commit(record, key="k1", commit_id="late")) is CONFLICT
    assert await two.load(TENANT, ID) == after
    assert await two.commit(next_commit(after, key="k1", commit_id="late")) is CommitOutcome.DUPLICATE


async def test_where_nothing_is_known_of_keys_the_log_is_asked(
    mongo: MongoStore, mongo_url: str, instances: Callable[[], Any]
) -> None:
    """A document of a release that kept no filter."""
    record = await committed(mongo, conversation(), key="k1")
    with inside(mongo_url) as database:
        database.conversations.update_one({"conversation_id": ID}, {"$unset": {"accepted": ""}})
    other = await instances()
    again = next_commit(record, key="k1", commit_id="again")
    assert await other.commit(again) is CommitOutcome.DUPLICATE
    await committed(other, record, key="k2")
    assert "accepted" not in document(mongo_url)


# -- over the wire ----------------------------------------------------------------------------------


async def use_all(store: MongoStore, clock: Clock) -> None:
    """Call everything that writes, and everything that reads, once at least."""
    asked = execution(pending=(Pending("p1", "acceptance", "gate", created_at=NOW),))
    record = await committed(store, conversation(), key="k1", execution=asked)
    record = await committed(store, record, **leased(record))
    await store.renew(TENANT, ID, record.fence, "i1", NOW + 20_000, NOW + 20_000)
    await store.enqueue(TENANT, ID, entry("k2"), NOW)
    await store.publish(
        FlowVersion(TENANT, "f", 0, "a", "s", "f.yaml"), name="F", description="", is_default=True
    )
    await store.archive_flow(TENANT, "f")
    key = ApiKey("k1", TENANT, "pk_", "hash", "Shop", origins=("https://a.example",))
    await store.create_api_key(key)
    await store.change_api_key(key, replace(key, name="New"))
    await store.touch_api_keys({(TENANT, "k1"): NOW})
    log = [b for b in [next_commit(conversation("r")).batch] if b is not None]
    await store.restore(replace(conversation("r"), revision=1, offset=2), log)
    await store.load_many([(TENANT, ID), ("t2", "x")])
    await store.events(TENANT, ID, EPOCH, 2)
    await store.batch_at(TENANT, ID, EPOCH, 1)
    await store.find_key(TENANT, ID, "nowhere")
    await store.turn_end(TENANT, ID, EPOCH, "k9", 2)
    await store.messages(TENANT, ID, EPOCH, before=9, after=1, limit=2)
    await store.offsets([(TENANT, ID), (TENANT, "r")])
    await store.find_execution(TENANT, "x1")
    await store.find_execution(TENANT, "x9")
    for wanted in (
        ExecutionFilter(),
        ExecutionFilter(status="running"),
        ExecutionFilter(user_id="u"),
        ExecutionFilter(since=NOW, until=NOW + 9),
    ):
        found = await store.conversations(TENANT, wanted)
        await store.executions(TENANT, wanted, after=found[0].place if found else None)
        await store.count_conversations(TENANT, wanted)
    await store.waiting(TENANT, ["user:u", "scope:s"])
    await store.conversation_ids(TENANT)
    await store.flows(TENANT)
    await store.flow_version(TENANT, "f", 1)
    await store.api_keys(TENANT)
    await store.api_key_by_hash("hash")
    await store.api_keys_by_id([(TENANT, "k1")])
    await store.has_origin(["https://a.example"], NOW)
    await store.ping()
    clock.ms += 5 * MINUTE_MS
    await store.due(clock(), 10)
    loaded = await store.load(TENANT, ID)
    assert loaded is not None
    await buried(store, loaded)
    await store.remove_events(TENANT, ID)
    await store.expire_tombstones(clock(), 10)


WRITES = frozenset({"insert", "update", "delete", "findAndModify"})
READS = frozenset({"find", "aggregate", "count", "distinct"})
LONE = frozenset({"executions", "waiting", "flows", "flow_versions", "api_keys"})


async def test_every_write_is_journaled_by_a_majority_and_every_read_is_of_what_a_majority_has(
    instances: Callable[..., Any], clock: Clock
) -> None:
    listener = Listener()
    store = await instances(event_listeners=[listener])
    listener.sent.clear()
    await use_all(store, clock)
    await store.close()
    writes = [command for name, command in listener.sent if name in WRITES]
    reads = [command for name, command in listener.sent if name in READS]
    assert len(writes) > 15
    assert len(reads) > 25
    assert all(command["writeConcern"] == {"w": "majority", "j": True} for command in writes)
    assert all(command["readConcern"] == {"level": "majority"} for command in reads)
    assert not any("$where" in repr(command) for command in writes + reads)
    assert store.server is not None
    commits = [command for command in writes if "conversations" in command.values() and "updates" in command]
    if store.server.retries_writes:
        assert all("txnNumber" in command for command in commits if not command["updates"][0].get("multi"))
    else:
        assert not any("txnNumber" in command for command in writes)


async def test_what_concerns_a_conversation_names_its_tenant_and_itself(
    instances: Callable[..., Any], clock: Clock
) -> None:
    """So that a sharded cluster asks one shard; only sweeps and lists go everywhere."""
    listener = Listener()
    store = await instances(event_listeners=[listener])
    listener.sent.clear()
    record = await committed(store, conversation(), key="k1")
    await committed(store, record)
    await store.load(TENANT, ID)
    await store.events(TENANT, ID, EPOCH, 0)
    await store.find_key(TENANT, ID, "k1")
    await store.close()
    for name, command in listener.sent:
        filters = [command["filter"]] if name == "find" else [u["q"] for u in command.get("updates", ())]
        documents = command.get("documents", ())
        for found in (*filters, *documents):
            assert {"tenant_id", "conversation_id"} <= set(found), name


async def test_a_burst_of_commits_shares_commands(instances: Callable[..., Any]) -> None:
    listener = Listener()
    store = await instances(event_listeners=[listener])
    records = [await committed(store, conversation(f"c{n}")) for n in range(50)]
    listener.sent.clear()
    outcomes = await asyncio.gather(*(store.commit(next_commit(record)) for record in records))
    assert set(outcomes) == {COMMITTED}
    await store.close()
    assert len([name for name, _ in listener.sent if name == "update"]) <= 4
    assert len([name for name, _ in listener.sent if name == "insert"]) <= 4
    assert not [name for name, _ in listener.sent if name == "find"], "what was written is known"


async def test_a_batch_goes_to_the_log_once_also_while_keys_are_looked_for(
    mongo_url: str, instances: Callable[..., Any]
) -> None:
    listener = Listener()
    record = await committed(await instances(), conversation())
    with inside(mongo_url) as database:
        full = {"$set": {"accepted": b"\xff" * 512}}
        database.conversations.update_one({"conversation_id": ID}, full)
    store = await instances(event_listeners=[listener])
    for n in range(100):
        record = await committed(store, record, key=f"k{n}")
    await store.close()
    written = [
        document["first_offset"]
        for name, command in listener.sent
        if name == "insert" and command["insert"] == "events"
        for document in command["documents"]
    ]
    assert len([name for name, _ in listener.sent if name == "find"]) >= 100
    assert [n for n in Counter(written).items() if n[1] > 1] == []


HOSTILE = ('{"$gt": ""}', "$where", "a.b", "$ne", "\x00", "../t2", "' || '1'=='1")


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_name_is_only_a_name(mongo: MongoStore, name: str) -> None:
    """Ids, keys and filters that look like operators are texts, and find what has that very text."""
    other = await committed(mongo, conversation("plain"), key="plain", execution=execution("plain"))
    record = await committed(mongo, conversation(name), key=name, execution=execution(name), user_id=name)
    assert await mongo.load(TENANT, name) == record
    assert await mongo.load(name, "plain") is None
    assert await mongo.find_key(TENANT, "plain", name) is None
    assert await mongo.find_key(TENANT, name, name) is not None
    assert [item.record for item in await mongo.executions(TENANT, ExecutionFilter(user_id=name))] == [record]
    assert await mongo.executions(TENANT, ExecutionFilter(status=name)) == []
    assert await mongo.find_execution(TENANT, name) is not None
    assert await mongo.api_key_by_hash(name) is None
    assert await mongo.load(TENANT, "plain") == other


@pytest.mark.parametrize("value", [{"$gt": ""}, {"$ne": None}, ["plain"], None, 7, b"plain"])
async def test_what_is_no_text_is_no_filter(mongo: MongoStore, value: Any) -> None:
    """Whatever gets past the protocol ends here: an operator is a mapping, and no mapping is sent."""
    await committed(mongo, conversation("plain"), key="plain", execution=execution("plain"))
    for ask in (
        lambda: mongo.load(TENANT, value),
        lambda: mongo.load(value, "plain"),
        lambda: mongo.load_many([(TENANT, value)]),
        lambda: mongo.offsets([(value, "plain")]),
        lambda: mongo.find_key(TENANT, "plain", value),
        lambda: mongo.turn_end(TENANT, "plain", EPOCH, value, 0),
        lambda: mongo.events(TENANT, "plain", value, 9),
        lambda: mongo.find_execution(TENANT, value),
        lambda: mongo.waiting(TENANT, [value]),
        lambda: mongo.flows(value),
        lambda: mongo.api_key_by_hash(value),
        lambda: mongo.executions(value, ExecutionFilter()),
    ):
        with pytest.raises(TypeError, match="where a text belongs"):
            await ask()


async def test_slots_and_variables_may_be_named_as_they_like(mongo: MongoStore) -> None:
    names = {"$where": 1, "a.b": {"$set": {"x.y": None}}, "": 2, "_id": 3, "ü 😀": [{"$ref": "c", "$id": 1}]}
    record = await committed(mongo, conversation(), slots=names, variables=names, data={"$inc": names})
    assert await mongo.load(TENANT, ID) == record
    (batch,) = await mongo.events(TENANT, ID, EPOCH, 0)
    assert batch.events[0].data == {"$inc": names}


# -- indexes ----------------------------------------------------------------------------------------


async def test_the_indexes_are_made_once(mongo: MongoStore, mongo_url: str) -> None:
    assert mongo.migrated == [f"index {index.collection}.{index.name}" for index in INDEXES]
    await mongo.close()
    await mongo.open()
    assert mongo.migrated == []
    with inside(mongo_url) as database:
        for index in INDEXES:
            found = database[index.collection].index_information()[index.name]
            assert found["key"] == list(index.keys)
            assert {name: found.get(name) for name in index.options} == index.options
        database.conversations.drop_index("wake")
    await mongo.close()
    await mongo.open()
    assert mongo.migrated == ["index conversations.wake"]


async def test_no_query_walks_over_a_collection(
    instances: Callable[..., Any], clock: Clock, mongo_url: str
) -> None:
    """Asked of the server itself, where it can tell: every filter that was sent, explained."""
    listener = Listener()
    store = await instances(event_listeners=[listener])
    with inside(mongo_url) as database:
        try:
            database.command("explain", {"find": "conversations", "filter": {}})
        except Exception:  # noqa: BLE001 - a server that cannot
            pytest.skip("this server explains nothing: set PARLEY_TEST_MONGO_URL to a real MongoDB")
    listener.sent.clear()
    await use_all(store, clock)
    await store.close()
    with inside(mongo_url) as database:
        for name, command in listener.sent:
            for asked in _finds(name, command):
                plan = repr(database.command("explain", asked)["queryPlanner"]["winningPlan"])
                assert "COLLSCAN" not in plan, asked


def _finds(name: str, command: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the ``find`` that looks for what a command looks for."""
    if name == "find":
        yield {key: command[key] for key in ("find", "filter", "sort", "limit") if key in command}
    for statement in (*command.get("updates", ()), *command.get("deletes", ())):
        yield {"find": command[name], "filter": statement["q"]}


# -- faults -----------------------------------------------------------------------------------------


def patient(server: MongoServer, timeout_ms: int = 2_000) -> str:
    return f"{server.url}/faults?timeoutMS={timeout_ms}"


@asynccontextmanager
async def store_on(url: str, clock: Clock, **options: Any) -> AsyncIterator[MongoStore]:
    store = MongoStore(url, clock=clock, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def until_it_works(store: MongoStore) -> None:
    while True:
        try:
            return await store.ping()
        except StoreUnavailable:
            await asyncio.sleep(0.05)


async def test_who_gives_up_locks_nobody_out(instances: Callable[..., Any]) -> None:
    """Many wait for few connections, and some no longer at the moment in which the driver gives up."""
    store = await instances(maxPoolSize=4)
    chance = random.Random(1)

    async def asks() -> None:
        for _ in range(10):
            with suppress(TimeoutError, StoreUnavailable), pymongo.timeout(0.2):
                async with asyncio.timeout(chance.uniform(0.001, 0.22)):
                    await store.load(TENANT, ID)

    await asyncio.gather(*(asks() for _ in range(100)))
    async with asyncio.timeout(30):
        await until_it_works(store)


@away
async def test_a_server_that_ends_and_comes_back_is_used_again(
    mongo_server: MongoServer, clock: Clock
) -> None:
    async with store_on(patient(mongo_server), clock) as store:
        record = await committed(store, conversation(), key="k1")
        mongo_server.stop()
        told = await asyncio.gather(
            store.load(TENANT, ID),
            store.events(TENANT, ID, EPOCH, 0),
            store.commit(next_commit(record)),
            store.enqueue(TENANT, ID, entry("k2"), NOW),
            store.due(NOW, 5),
            store.ping(),
            return_exceptions=True,
        )
        assert all(isinstance(answer, StoreUnavailable) for answer in told)
        mongo_server.start()
        await until_it_works(store)
        assert await store.load(TENANT, ID) == record
        record = await committed(store, record, key="k2")
        assert [b.key for b in await store.events(TENANT, ID, EPOCH, 0)] == ["k1", "k2"]


@away
async def test_a_server_that_hangs_leaves_a_commit_unknown_and_it_is_told_afterwards(
    mongo_server: MongoServer, clock: Clock
) -> None:
    """The commit waits in the server's socket and is done when it goes on: the log tells whose it is."""
    async with store_on(patient(mongo_server), clock) as store:
        record = await committed(store, conversation(), key="k1")
        mongo_server.pause()
        commit = next_commit(record, key="k2")
        told = await asyncio.gather(store.commit(commit), store.load(TENANT, ID), return_exceptions=True)
        assert isinstance(told[0], CommitUnknown)
        assert isinstance(told[1], StoreUnavailable)
        mongo_server.resume()
        await until_it_works(store)
        again = await store.commit(commit)
        batch = await store.batch_at(TENANT, ID, EPOCH, 3)
        assert again in {COMMITTED, CONFLICT}
        assert batch == commit.batch
        assert [b.key for b in await store.events(TENANT, ID, EPOCH, 0)] == ["k1", "k2"]


@away
async def test_what_waits_behind_a_server_that_hangs_is_told_so_and_never_sent(
    mongo_server: MongoServer, clock: Clock
) -> None:
    """Else a commit would wait for the time-out of those before it, and then for its own."""
    async with store_on(patient(mongo_server, 1_500), clock, patience_s=0.5) as store:
        await committed(store, conversation("warm"))
        mongo_server.pause()
        commits = []
        for id_ in ("c0", "c1", "c2", "c0"):  # two groups, what waits behind both, what waits for the first
            commits.append(asyncio.ensure_future(store.commit(next_commit(conversation(id_)))))
            for _ in range(10):
                await asyncio.sleep(0)
        told = await asyncio.gather(*commits, return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in told)
        assert ["too slow" in str(answer) for answer in told] == [False, False, True, True]
        assert [type(answer) for answer in told[2:]] == [StoreUnavailable] * 2
        mongo_server.resume()
        await until_it_works(store)
        assert await store.load(TENANT, "c2") is None


@away
async def test_a_commit_that_is_late_already_asks_nothing_more(
    mongo_server: MongoServer, clock: Clock
) -> None:
    """Each step may take as long as a call does: one that begins too late would make it wait for longer."""
    loop = asyncio.get_running_loop()
    listener = Listener()
    async with store_on(patient(mongo_server), clock, options={"event_listeners": [listener]}) as store:
        record = await committed(store, conversation(), key="k1")
    with inside(f"{mongo_server.url}/faults") as database:
        database.conversations.update_one({"conversation_id": ID}, {"$unset": {"accepted": ""}})
    options = {"event_listeners": [listener]}
    async with store_on(patient(mongo_server), clock, options=options, patience_s=0.3) as store:
        listener.sent.clear()
        mongo_server.pause()
        told = asyncio.ensure_future(store.commit(next_commit(record, key="k2")))
        late = loop.create_future()
        loop.call_later(0.5, late.set_result, None)
        await late
        mongo_server.resume()
        with pytest.raises(StoreUnavailable, match="too slow"):
            await told
        assert [name for name, _ in listener.sent] == ["find"]


@away
async def test_what_fails_after_its_caller_has_gone_is_no_error_in_the_log(
    mongo_server: MongoServer, clock: Clock
) -> None:
    """A store that is away for a minute would else leave a traceback for each command that was given up."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
    async with store_on(patient(mongo_server, 1_500), clock) as store:
        record = await committed(store, conversation())
        mongo_server.pause()
        waiting = [
            asyncio.ensure_future(store.commit(next_commit(record))),
            asyncio.ensure_future(store.enqueue(TENANT, ID, entry("k2"), NOW)),
        ]
        for _ in range(10):
            await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        with pytest.raises(StoreUnavailable):
            await store.ping()  # begun later, so the others have failed before
        mongo_server.resume()
        await until_it_works(store)
    gc.collect()
    assert told == []


class ReplyLoser:
    """Passes bytes on to a server and back, until it is told to cut connections instead of answering."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.loses = False
        self.loses_reply_to: bytes | None = None
        self.port = 0
        self._doomed: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ReplyLoser"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1")
        self.port = server.sockets[0].getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_connection("127.0.0.1", self._port)
        for source, sink, is_reply in ((reader, there, False), (back, writer, True)):
            task = asyncio.ensure_future(self._carry(source, sink, (writer, there), is_reply))
            self._tasks.add(task)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        is_reply: bool,
    ) -> None:
        try:
            while data := await source.read(65536):
                if is_reply and ((self.loses and b"nModified" in data) or both[1] in self._doomed):
                    break
                if not is_reply and self.loses_reply_to is not None and self.loses_reply_to in data:
                    self._doomed.add(both[1])
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            for writer in both:
                writer.close()


@away
async def test_a_commit_whose_reply_is_lost_is_unknown_and_found_in_the_log(
    mongo_server: MongoServer, clock: Clock
) -> None:
    async with (
        ReplyLoser(mongo_server.port).running() as proxy,
        store_on(f"mongodb://127.0.0.1:{proxy.port}/lost?retryWrites=false", clock) as store,
    ):
        record = await committed(store, conversation(), key="k1")
        proxy.loses = True
        commit = next_commit(record, key="k2")
        with pytest.raises(CommitUnknown):
            await store.commit(commit)
        proxy.loses = False
        await until_it_works(store)
        assert await store.batch_at(TENANT, ID, EPOCH, 3) == commit.batch
        assert await store.load(TENANT, ID) == commit.record
        assert await store.commit(commit) is CONFLICT
        busy = await committed(store, commit.record, **leased(commit.record))
        proxy.loses = True
        with pytest.raises(CommitUnknown):
            await store.enqueue(TENANT, ID, entry("k3"), NOW)
        proxy.loses = False
        await until_it_works(store)
        after = await store.load(TENANT, ID)
        assert after is not None
        assert after.revision == busy.revision + 1
        assert [waiting.key for waiting in after.inbox] == ["k3"]


@away
async def test_a_restored_record_whose_reply_is_lost_is_found_and_keeps_its_log(
    mongo_server: MongoServer, clock: Clock
) -> None:
    commit = next_commit(conversation(), key="k1")
    assert commit.batch is not None
    async with (
        ReplyLoser(mongo_server.port).running() as proxy,
        store_on(f"mongodb://127.0.0.1:{proxy.port}/lost?retryWrites=false", clock) as store,
    ):
        proxy.loses_reply_to = b"insert\0\x0e\0\0\0conversations\0"
        assert await store.restore(commit.record, [commit.batch])
        proxy.loses_reply_to = None
        assert await store.load(TENANT, ID) == commit.record
        assert await store.events(TENANT, ID, EPOCH, 0) == [commit.batch]


REFUSED = {
    "no URL": ("mongodb:x", "is no URL of MongoDB"),
    "no host": ("mongodb://", "is no URL of MongoDB"),
    "a password that is not encoded": ("mongodb://u:canary@pw@h/db", "percent-encoded"),
    "an option that is none": (
        "mongodb://h/db?maxPoolSiez=3",
        "an option maxpoolsiez that MongoDB does not take",
    ),
    "an option with a wrong value": ("mongodb://h/db?maxPoolSize=x", "an option maxpoolsize that MongoDB"),
    "a collection behind the database": ("mongodb://h/db.things", "names a database that cannot be"),
    "a database's name that is too long": (f"mongodb://h/{'d' * 64}", "up to 63 letters"),
    "a write concern that is too weak": ("mongodb://h/db?w=1", "remove it from the URL"),
    "no journal": ("mongodb://h/db?journal=false", "remove it from the URL"),
    "reads from a secondary": ("mongodb://h/db?readPreference=nearest", "remove it from the URL"),
}


@pytest.mark.parametrize(("url", "said"), REFUSED.values(), ids=REFUSED)
async def test_a_url_that_will_not_do_is_refused_with_what_mends_it(url: str, said: str) -> None:
    with pytest.raises(StoreRefused) as caught:
        await MongoStore(url).open()
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("options", ["w=majority", "journal=true&readPreference=primary", "maxPoolSize=1"])
async def test_a_url_may_say_what_holds_anyway(mongo_url: str, options: str) -> None:
    join = "&" if "?" in mongo_url else "?"
    store = MongoStore(f"{mongo_url}{join}{options}")
    await store.open()
    await committed(store, conversation())
    await store.close()


@away
@pytest.mark.parametrize(("version", "wire"), [(5, 13), (3, 6)])
async def test_a_server_that_is_too_old_is_refused(tmp_path: Any, version: int, wire: int) -> None:
    server = MongoServer(tmp_path, version=version, wire=wire).start()
    try:
        with pytest.raises(StoreRefused, match="too old"):
            await MongoStore(server.url).open()
    finally:
        server.stop()


@away
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_credentials_that_the_server_does_not_take_are_refused(driver: Driver) -> None:
    async with fake_mongo(refuses_credentials) as address:
        store = MongoStore(f"mongodb://parley:canary@{address}/parley", driver=driver)
        with pytest.raises(StoreRefused, match="check user, password and authSource") as caught:
            await store.open()
    assert "canary" not in str(caught.value)


@away
async def test_another_replica_set_is_refused(mongo_server: MongoServer) -> None:
    with pytest.raises(StoreRefused, match="check replicaSet in the URL"):
        await MongoStore(f"{mongo_server.url}/?replicaSet=none&timeoutMS=1500").open()


@away
async def test_nobody_at_that_address_is_an_outage_not_a_mistake() -> None:
    with pytest.raises(StoreUnavailable, match="no primary"):
        await MongoStore("mongodb://127.0.0.1:1/?timeoutMS=200").open()


@away
async def test_an_index_that_is_another_one_is_refused(mongo_url: str) -> None:
    with inside(mongo_url) as database:
        database.conversations.create_index([("tenant_id", 1), ("conversation_id", 1)], name="mine")
    store = MongoStore(mongo_url)
    try:
        await store.open()
    except StoreRefused as refused:
        assert "drop it" in str(refused)  # noqa: PT017 - a server may also take both
    else:
        await store.close()


@away
async def test_an_index_of_that_name_which_is_not_unique_is_refused(mongo_url: str) -> None:
    """Two instances could begin the same conversation, and nobody would notice."""
    with inside(mongo_url) as database:
        database.conversations.create_index([("tenant_id", 1), ("conversation_id", 1)], name="key")
        database.events.create_index([("tenant_id", 1), ("key", 1)], name="command", unique=True)
    with pytest.raises(StoreRefused, match=r"names conversations\.key, events\.command: drop them"):
        await MongoStore(mongo_url).open()


# -- time -------------------------------------------------------------------------------------------


async def test_its_time_is_the_servers(mongo_url: str) -> None:
    store = MongoStore(mongo_url)
    await store.open()
    with MongoClient[dict[str, Any]](mongo_url, tz_aware=True) as client:
        told = client.admin.command("isMaster")["localTime"].timestamp() * 1000
    assert abs(store.now() - told) < 60_000
    await store.close()


async def test_a_record_that_cannot_be_read_is_passed_over_in_lists(
    mongo: MongoStore, mongo_url: str
) -> None:
    for n in range(3):
        await committed(mongo, conversation(f"c{n}"), execution=execution(f"x{n}", updated_at=NOW + n))
    with inside(mongo_url) as database:
        database.conversations.update_one({"conversation_id": "c2"}, {"$set": {"body": b"{"}})
    (first,) = await mongo.executions(TENANT, ExecutionFilter(), limit=1)
    (second,) = await mongo.executions(TENANT, ExecutionFilter(), after=first.place, limit=1)
    assert [item.record.conversation_id for item in (first, second)] == ["c1", "c0"]

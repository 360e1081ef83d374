"""Whatever is asked of them, in whatever order: the adapters answer alike.

A Hypothesis state machine does the same things to all and compares every answer, and in the end all
that can be read. Several things are asked at once, so that groups form in the SQLite writer; those are of
different conversations, because their order within one is not promised.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pymongo import AsyncMongoClient

from storage.base import Commit, CommitOutcome, Expected, Store
from storage.listing import ACTIVITY_MS, ExecutionFilter, ExecutionPlace
from storage.memory import MemoryStore
from storage.models import TOMBSTONE_MS, Conversation, Execution, FlowVersion, Lease, Pending
from storage.mongo import MongoStore
from storage.sqlite import SqliteStore
from tests.support.mongo import database_name, drop, with_database
from tests.support.records import EPOCH, NOW, conversation, entry, execution, next_commit
from tests.support.split_store import SplitStore

SCALE = float(os.environ.get("PARLEY_TEST_SCALE", "1"))
TENANTS = ("t1", "t2")
IDS = ("a", "b", "c")
KEYS = tuple(f"k{n}" for n in range(6))
PLACES = [(tenant_id, id_) for tenant_id in TENANTS for id_ in IDS]
KINDS = ("message.received", "message.completed", "step.started", "turn.completed", "turn.failed")

places = st.sampled_from(PLACES)
keys = st.sampled_from(KEYS)
times = st.integers(NOW, NOW + 50)
KINDS_OF_PENDING: st.SearchStrategy[Any] = st.sampled_from(["input", "acceptance", "clarification"])
DECIDED = st.sampled_from([None, None, {"by": "u"}])


NAMES_OF_EXECUTIONS = ("x1", "x2")
EXECUTIONS = sorted({f"{id_}-{name}" for _, id_ in PLACES for name in NAMES_OF_EXECUTIONS})
BY = ({"user": "u"}, {"scope": "s"}, {"user": "v", "scope": "s"}, None)


@st.composite
def executions(draw: st.DrawFn, status: str, place: tuple[str, str]) -> Execution:
    """Return an execution of a conversation, with what lists and inboxes find it by."""
    id_ = f"{place[1]}-{draw(st.sampled_from(NAMES_OF_EXECUTIONS))}"
    by = draw(st.sampled_from(BY))
    pending = tuple(
        Pending(f"{id_}-{kind}-{n}", kind, "gate", by=by, created_at=NOW + n, decided=decided)
        for n, (kind, decided) in enumerate(draw(st.lists(st.tuples(KINDS_OF_PENDING, DECIDED), max_size=2)))
    )
    active = NOW + draw(st.integers(0, 3)) * ACTIVITY_MS // 2
    return execution(id_, status=status, pending=pending, updated_at=active)


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Return what one commit changes, and how wrong its idea of the record is."""
    place = draw(places)
    running = draw(st.booleans())
    status = "running" if running else draw(st.sampled_from(["waiting_input", "completed"]))
    return {
        "place": place,
        "kinds": tuple(draw(st.lists(st.sampled_from(KINDS), max_size=4))),
        "key": draw(st.none() | keys),
        "stale": draw(st.sampled_from([0, 0, 0, 0, 1, -1])),
        "stale_fence": draw(st.sampled_from([0, 0, 0, 0, 1])),
        "fence": draw(st.sampled_from([0, 0, 1])),
        "execution": draw(st.none() | executions(status, place)),
        "lease": draw(st.none() | st.just(Lease("i1", draw(times)))),
        "wake_at": draw(st.none() | times),
        "slots": draw(st.dictionaries(st.sampled_from("pq"), st.integers(0, 9))),
        "inbox": draw(st.sampled_from([None, None, ()])),
    }


class Alike(RuleBasedStateMachine):
    """The machine; ``_records`` is what the memory store says, from which the next commits are made.

    ``mongo``, where it is set, is the URL of a server: then MongoDB is compared with memory alone.
    """

    mongo: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._folder = tempfile.TemporaryDirectory()
        self._now = NOW
        self._stores: dict[str, Any] = {}
        self._serial = 0

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    @initialize()
    def open(self) -> None:
        def clock() -> int:
            return self._now

        self._stores = {"memory": MemoryStore(clock)}
        if self.mongo is not None:
            self._url = with_database(self.mongo, database_name())
            self._stores["mongo"] = MongoStore(self._url, clock=clock)
        else:
            self._stores["split"] = SplitStore(clock)
            self._stores["sqlite"] = SqliteStore(Path(self._folder.name) / "parley.db", clock=clock)
        for store in self._stores.values():
            self._run(store.open())

    def teardown(self) -> None:
        try:
            if self._stores:
                self._compare_all()
        finally:
            for store in self._stores.values():
                self._run(store.close())
            self._runner.close()
            self._folder.cleanup()
            if self.mongo is not None:
                drop(self._url)

    def _ask(self, *questions: Callable[[Store], Awaitable[Any]]) -> Any:
        """Ask every store the same things at once; return the answers, which must be equal."""

        async def ask(store: Store) -> list[Any]:
            return list(await asyncio.gather(*(question(store) for question in questions)))

        answers = {name: self._run(ask(store)) for name, store in self._stores.items()}
        for name, answer in answers.items():
            assert answer == answers["memory"], name
        return answers["memory"]

    def _record(self, place: tuple[str, str]) -> Conversation | None:
        record: Conversation | None = self._ask(lambda s: s.load(*place))[0]
        return record

    def _commit(self, change: dict[str, Any]) -> Commit:
        """Make a commit of a change. The caller's part of a store without DUPLICATE is done here."""
        tenant_id, id_ = change["place"]
        stored = self._record((tenant_id, id_)) or conversation(id_, tenant_id)
        key = change["key"]
        if key is not None and self._ask(lambda s: s.find_key(tenant_id, id_, key))[0] is not None:
            key = None
        kinds = change["kinds"]
        if stored.deleted_at is not None:  # what becomes of a tombstone is without events
            key, kinds = None, ()
        self._serial += 1
        inbox = stored.inbox if change["inbox"] is None else change["inbox"]
        commit = next_commit(
            replace(stored, revision=max(stored.revision + change["stale"], 0)),
            kinds,
            key=key,
            commit_id=f"c{self._serial}",
            fence=stored.fence + change["fence"],
            inbox=inbox,
            **{name: change[name] for name in ("execution", "lease", "wake_at", "slots")},
        )
        fence = stored.fence + change["stale_fence"]
        return replace(commit, expected=Expected(commit.expected.revision, fence))

    @rule(wanted=st.lists(changes(), min_size=1, max_size=6, unique_by=lambda change: change["place"]))
    def commit(self, wanted: list[dict[str, Any]]) -> None:
        commits = [self._commit(change) for change in wanted]
        self._ask(*((lambda s, c=c: s.commit(c)) for c in commits))

    @rule(place=places, key=keys)
    def commit_a_known_key(self, place: tuple[str, str], key: str) -> None:
        stored = self._record(place)
        found = self._ask(lambda s: s.find_key(*place, key))[0]
        if stored is None or found is None:
            return
        self._serial += 1
        commit = next_commit(stored, ("step.started",), key=key, commit_id=f"c{self._serial}")
        for store in self._stores.values():
            if store.detects_duplicates:
                assert self._run(store.commit(commit)) is CommitOutcome.DUPLICATE

    @rule(place=places, key=keys, wake_at=times, size=st.sampled_from([1, 100_000]))
    def enqueue(self, place: tuple[str, str], key: str, wake_at: int, size: int) -> None:
        self._ask(lambda s: s.enqueue(*place, entry(key, "x" * size), wake_at))

    @rule(place=places, fence=st.integers(0, 3), until=times, wake_at=times)
    def renew(self, place: tuple[str, str], fence: int, until: int, wake_at: int) -> None:
        self._ask(lambda s: s.renew(*place, fence, "i1", until, wake_at))

    @rule(place=places)
    def delete(self, place: tuple[str, str]) -> None:
        stored = self._record(place)
        if stored is None:
            return
        tombstone = Conversation(
            stored.tenant_id,
            stored.conversation_id,
            stored.user_id,
            stored.epoch,
            offset=stored.offset,
            revision=stored.revision + 1,
            fence=stored.fence + 1,
            deleted_at=self._now,
            expires_at=self._now + TOMBSTONE_MS,
        )
        commit = Commit(Expected(stored.revision, stored.fence), tombstone, None)
        assert self._ask(lambda s: s.commit(commit)) == [CommitOutcome.COMMITTED]

    @rule(place=places)
    def remove_events(self, place: tuple[str, str]) -> None:
        self._ask(lambda s: s.remove_events(*place))

    @rule(limit=st.integers(1, 3), later=st.booleans())
    def expire(self, limit: int, later: bool) -> None:
        self._ask(lambda s: s.expire_tombstones(self._now + TOMBSTONE_MS * later, limit))

    @rule(ms=st.integers(1, 20))
    def wait(self, ms: int) -> None:
        self._now += ms

    @rule(now=times, limit=st.integers(1, 8))
    def sweep(self, now: int, limit: int) -> None:
        due = [self._run(store.due(now, limit)) for store in self._stores.values()]
        wakes = [[d.wake_at for d in found] for found in due]
        assert all(found == sorted(wakes[0]) for found in wakes)
        if len(wakes[0]) < limit:
            assert all(sorted(found, key=repr) == sorted(due[0], key=repr) for found in due)

    @rule(
        place=places, before=st.none() | st.integers(0, 20), after=st.integers(0, 20), limit=st.integers(1, 5)
    )
    def history(self, place: tuple[str, str], before: int | None, after: int, limit: int) -> None:
        self._ask(lambda s: s.messages(*place, EPOCH, before=before, after=after, limit=limit))

    @rule(
        place=places, after=st.integers(0, 20), limit=st.integers(1, 9), size=st.sampled_from([1, 300, 9999])
    )
    def replay(self, place: tuple[str, str], after: int, limit: int, size: int) -> None:
        self._ask(lambda s: s.events(*place, EPOCH, after, limit=limit, max_bytes=size))

    @rule(place=places, key=keys, offset=st.integers(0, 20))
    def look_up(self, place: tuple[str, str], key: str, offset: int) -> None:
        self._ask(
            lambda s: s.turn_end(*place, EPOCH, key, offset),
            lambda s: s.batch_at(*place, EPOCH, offset),
            lambda s: s.find_key(*place, key),
        )

    @rule(
        tenant_id=st.sampled_from(TENANTS),
        flow_id=st.sampled_from("fg"),
        sha256=st.sampled_from("pq"),
        is_default=st.booleans(),
    )
    def publish(self, tenant_id: str, flow_id: str, sha256: str, is_default: bool) -> None:
        version = FlowVersion(tenant_id, flow_id, 0, sha256, f"flow: {flow_id}", "f.yaml")
        self._ask(lambda s: s.publish(version, name=sha256, description="", is_default=is_default))

    @rule(tenant_id=st.sampled_from(TENANTS), flow_id=st.sampled_from("fg"))
    def archive(self, tenant_id: str, flow_id: str) -> None:
        self._ask(lambda s: s.archive_flow(tenant_id, flow_id))

    @rule()
    def reopen(self) -> None:
        """The embedded ones void leases; the others are told to, so that they stay comparable."""
        for store in self._stores.values():
            self._run(store.close())
            self._run(store.open())
        if "split" in self._stores:
            self._void_leases_of_split(self._stores["split"])
        if "mongo" in self._stores:
            self._run(self._void_leases_of_mongo())

    async def _void_leases_of_mongo(self) -> None:
        async with AsyncMongoClient[dict[str, Any]](self._url) as client:
            await client.get_default_database().conversations.update_many(
                {"lease_owner": {"$exists": True}},
                {"$unset": {"lease_owner": "", "lease_until": ""}, "$set": {"wake_at": self._now}},
            )

    def _void_leases_of_split(self, split: SplitStore) -> None:
        for key, document in split._documents.items():
            if document.record.lease is not None:
                record = replace(document.record, lease=None, wake_at=self._now)
                split._documents[key] = replace(document, record=record)

    def _compare_all(self) -> None:
        for place in PLACES:
            self._compare(place)
        for tenant_id in TENANTS:
            self._compare_tenant(tenant_id)
        self._ask(lambda s: s.offsets(PLACES))

    def _compare(self, place: tuple[str, str]) -> None:
        self._ask(
            lambda s: s.load(*place),
            lambda s: s.events(*place, EPOCH, 0),
            lambda s: s.messages(*place, EPOCH, before=None, after=0, limit=1000),
        )

    def _compare_tenant(self, tenant_id: str) -> None:
        self._ask(
            lambda s: s.flows(tenant_id),
            *(partial(_found, tenant_id=tenant_id, execution_id=id_) for id_ in EXECUTIONS),
            lambda s: s.executions(tenant_id, ExecutionFilter()),
            lambda s: s.conversations(tenant_id, ExecutionFilter()),
            lambda s: s.count_conversations(tenant_id, ExecutionFilter(status="idle")),
            lambda s: s.waiting(tenant_id, ["user:u", "scope:s", "scope:admin", "scope:conversations:write"]),
        )


async def _found(store: Store, tenant_id: str, execution_id: str) -> ExecutionPlace | None:
    """Return where an execution is; nobody is told of one whose conversation was deleted."""
    found = await store.find_execution(tenant_id, execution_id)
    record = None if found is None else await store.load(tenant_id, found.conversation_id)
    return found if record is not None and record.deleted_at is None else None


@pytest.mark.timeout(600)
def test_the_adapters_answer_alike() -> None:
    run_state_machine_as_test(
        Alike, settings=settings(max_examples=80, stateful_step_count=30, deadline=None)
    )


@pytest.mark.needs("mongo")
@pytest.mark.timeout(600)
def test_mongodb_answers_like_memory(mongo_url: str) -> None:
    run_state_machine_as_test(
        type("AlikeMongo", (Alike,), {"mongo": mongo_url}),
        settings=settings(max_examples=max(1, round(5 * SCALE)), stateful_step_count=30, deadline=None),
    )

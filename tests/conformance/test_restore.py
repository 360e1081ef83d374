"""A conversation that comes whole, with its log: all of it or nothing, and as if it had grown here."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from storage.base import CommitOutcome, StorageError, Store
from storage.listing import ExecutionFilter, ExecutionPlace
from storage.models import Conversation, EventBatch, Lease, Pending
from tests.support.records import (
    EPOCH,
    ID,
    NOW,
    TENANT,
    buried,
    committed,
    conversation,
    execution,
    leased,
    next_commit,
)


def grown(turns: int = 3, **fields: object) -> tuple[Conversation, list[EventBatch]]:
    """Return a conversation as it is after some turns, and its log."""
    record, log = conversation(), []
    for n in range(turns):
        commit = next_commit(record, key=f"k{n}", execution=execution())
        assert commit.batch is not None
        record = commit.record
        log.append(commit.batch)
    return replace(record, revision=1, **fields), log  # type: ignore[arg-type]


async def test_it_is_as_if_it_had_grown_there(store: Store) -> None:
    record, log = grown()
    assert await store.restore(record, log)
    assert await store.load(TENANT, ID) == record
    assert await store.events(TENANT, ID, EPOCH, 0) == log
    assert await store.batch_at(TENANT, ID, EPOCH, 3) == log[1]
    assert await store.find_execution(TENANT, "x1") == ExecutionPlace(ID, 1)
    found = await store.find_key(TENANT, ID, "k1")
    assert found is not None
    assert (found.body_hash, found.first_offset, found.execution_id) == ("hash of k1", 3, "x1")
    assert await store.turn_end(TENANT, ID, EPOCH, "k2", 1) == log[2]
    assert await store.messages(TENANT, ID, EPOCH, before=None, after=0, limit=1) == [log[2]]
    (listed,) = await store.executions(TENANT, ExecutionFilter())
    assert listed.record == record


async def test_it_goes_on_from_there(store: Store) -> None:
    record, log = grown()
    await store.restore(record, log)
    after = await committed(store, record, key="k9")
    assert (after.revision, after.offset) == (2, 8)
    if store.detects_duplicates:
        assert await store.commit(next_commit(after, key="k1")) is CommitOutcome.DUPLICATE


async def test_what_waits_and_what_is_due_is_found(store: Store) -> None:
    asked = execution(pending=(Pending("p1", "acceptance", "gate", created_at=NOW),))
    record, log = grown(execution=asked, wake_at=NOW + 5)
    await store.restore(record, log)
    assert [w.place.wait_id for w in await store.waiting(TENANT, ["user:u"])] == ["p1"]
    assert [due.conversation_id for due in await store.due(NOW + 5, 10)] == [ID]


async def test_what_exists_is_left_alone(store: Store) -> None:
    there = await committed(store, conversation(slots={"a": 1}))
    assert not await store.restore(*grown())
    assert await store.load(TENANT, ID) == there
    await buried(store, there)
    assert not await store.restore(*grown()), "a tombstone keeps its id"


async def test_a_log_that_fails_in_its_middle_leaves_nothing(store: Store) -> None:
    class Torn(Exception):  # noqa: N818
        pass

    record, log = grown()

    class Source:
        def __iter__(self) -> Iterator[EventBatch]:
            yield log[0]
            raise Torn

    with pytest.raises(Torn):
        await store.restore(record, Source())
    assert await store.load(TENANT, ID) is None
    assert await store.find_execution(TENANT, "x1") is None
    assert await store.restore(record, log), "and the next attempt finds nothing in its way"
    assert await store.events(TENANT, ID, EPOCH, 0) == log


async def test_a_log_with_a_hole_a_short_one_and_a_key_twice_are_refused(store: Store) -> None:
    record, log = grown()
    for broken in ([log[0], log[2]], log[:2], [replace(log[0], epoch="e9"), *log[1:]]):
        with pytest.raises(ValueError, match=r"offset|log ends"):
            await store.restore(record, broken)
    with pytest.raises(StorageError, match="twice"):
        await store.restore(record, [log[0], replace(log[1], key="k0"), log[2]])
    with pytest.raises(ValueError, match="revision 1"):
        await store.restore(replace(record, lease=Lease("i1", NOW)), log)
    assert await store.conversation_ids(TENANT) == []
    assert await store.executions(TENANT, ExecutionFilter()) == []


async def test_ids_come_in_order_in_pages_and_without_tombstones(store: Store) -> None:
    for id_ in ("b", "a", "d", "C", "c"):
        await committed(store, conversation(id_))
    await committed(store, conversation("x", tenant_id="other"))
    await buried(store, await committed(store, conversation("bb")))
    assert await store.conversation_ids(TENANT) == ["C", "a", "b", "c", "d"]
    assert await store.conversation_ids(TENANT, after="a", limit=2) == ["b", "c"]
    assert await store.conversation_ids(TENANT, after="d") == []


async def test_it_survives_a_new_start(make_store: Callable[[], Store]) -> None:
    store = make_store()
    await store.open()
    record, log = grown()
    await store.restore(record, log)
    await store.close()
    await store.open()
    assert await store.load(TENANT, ID) == record
    assert await store.events(TENANT, ID, EPOCH, 0) == log
    await committed(store, record, **leased(record))
    await store.close()

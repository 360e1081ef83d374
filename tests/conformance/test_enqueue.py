"""Enqueue: one conditional write into the inbox of a busy conversation."""

import asyncio
from dataclasses import replace

import pytest

from storage.base import CommitOutcome, Store
from storage.models import INBOX_MAX_BYTES, INBOX_MAX_ENTRIES, RING_SIZE, Conversation, RecentKey
from storage.rules import inbox_bytes
from tests.support.records import (
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


async def busy(store: Store, **fields: object) -> Conversation:
    return await committed(store, conversation(), **leased(conversation()) | fields)


async def test_a_command_joins_the_inbox_of_a_busy_conversation(store: Store) -> None:
    record = await busy(store)
    assert await store.enqueue(TENANT, ID, entry("k1"), NOW + 60_000)
    expected = replace(
        record,
        revision=record.revision + 1,
        inbox=(entry("k1"),),
        last_activity=max(record.last_activity, entry("k1").received_at),
    )
    assert await store.load(TENANT, ID) == expected
    assert len(await store.events(TENANT, ID, record.epoch, 0)) == 1


async def test_commands_keep_their_order(store: Store) -> None:
    await busy(store)
    for n in range(5):
        assert await store.enqueue(TENANT, ID, entry(f"k{n}"), NOW)
    record = await store.load(TENANT, ID)
    assert record is not None
    assert [e.key for e in record.inbox] == ["k0", "k1", "k2", "k3", "k4"]


@pytest.mark.parametrize(
    ("present", "given", "after"),
    [(None, NOW + 5, NOW + 5), (NOW + 9, NOW + 5, NOW + 5), (NOW + 1, NOW + 5, NOW + 1)],
)
async def test_the_earlier_wake_is_kept(store: Store, present: int | None, given: int, after: int) -> None:
    await busy(store, wake_at=present)
    assert await store.enqueue(TENANT, ID, entry("k1"), given)
    assert [d.wake_at for d in await store.due(NOW * 2, 10)] == [after]


async def test_an_inbox_that_is_not_empty_makes_a_conversation_busy(store: Store) -> None:
    record = await busy(store)
    assert await store.enqueue(TENANT, ID, entry("k1"), NOW)
    loaded = await store.load(TENANT, ID)
    assert loaded is not None
    record = await committed(store, loaded, execution=execution("x1", status="waiting_input"), lease=None)
    assert await store.enqueue(TENANT, ID, entry("k2"), NOW)
    loaded = await store.load(TENANT, ID)
    assert loaded is not None
    assert [e.key for e in loaded.inbox] == ["k1", "k2"]
    assert loaded.revision == record.revision + 1


async def test_idle_missing_and_deleted_conversations_take_nothing(store: Store) -> None:
    idle = await committed(store, conversation("idle"))
    waiting = await committed(store, conversation("waiting"), execution=execution())
    gone = await buried(store, await committed(store, conversation("gone"), **leased(conversation())))
    for id_ in ("idle", "waiting", "gone", "missing"):
        assert not await store.enqueue(TENANT, id_, entry("k1"), NOW)
    assert await store.load(TENANT, "idle") == idle
    assert await store.load(TENANT, "waiting") == waiting
    assert await store.load(TENANT, "gone") == gone


async def test_a_known_key_is_not_taken_again(store: Store) -> None:
    recent = (RecentKey("ring", "h", "completed", "x1", 1, 2),)
    await busy(store, recent=recent)
    assert not await store.enqueue(TENANT, ID, entry("ring"), NOW)
    assert await store.enqueue(TENANT, ID, entry("k1"), NOW)
    before = await store.load(TENANT, ID)
    assert not await store.enqueue(TENANT, ID, entry("k1", "another text"), NOW)
    assert await store.load(TENANT, ID) == before


async def test_the_inbox_holds_32_commands(store: Store) -> None:
    await busy(store)
    results = [await store.enqueue(TENANT, ID, entry(f"k{n}"), NOW) for n in range(INBOX_MAX_ENTRIES + 3)]
    assert results == [True] * INBOX_MAX_ENTRIES + [False] * 3
    record = await store.load(TENANT, ID)
    assert record is not None
    assert len(record.inbox) == INBOX_MAX_ENTRIES


async def test_the_inbox_holds_256_kib(store: Store) -> None:
    await busy(store)
    overhead = inbox_bytes([entry("k0", "")])
    half = "x" * (INBOX_MAX_BYTES // 2 - overhead)
    assert await store.enqueue(TENANT, ID, entry("k0", half), NOW)
    assert not await store.enqueue(TENANT, ID, entry("k1", half + "x"), NOW)
    assert await store.enqueue(TENANT, ID, entry("k2", half), NOW)
    assert not await store.enqueue(TENANT, ID, entry("k3", ""), NOW)
    record = await store.load(TENANT, ID)
    assert record is not None
    assert inbox_bytes(record.inbox) == INBOX_MAX_BYTES


async def test_many_at_once_each_get_a_place_or_a_no(store: Store) -> None:
    await busy(store)
    entries = [entry(f"k{n % 40}") for n in range(80)]
    results = await asyncio.gather(*(store.enqueue(TENANT, ID, e, NOW) for e in entries))
    assert results.count(True) == INBOX_MAX_ENTRIES
    record = await store.load(TENANT, ID)
    assert record is not None
    assert sorted(e.key for e in record.inbox) == sorted(
        e.key for e, taken in zip(entries, results, strict=True) if taken
    )
    assert record.revision == 1 + INBOX_MAX_ENTRIES


async def test_enqueue_and_commit_do_not_lose_each_other(store: Store) -> None:
    """Whoever comes second sees the first: the commit misses, or the enqueue finds no busy record."""
    for n in range(20):
        id_ = f"c{n}"
        record = await committed(store, conversation(id_), **leased(conversation()))
        done = next_commit(record, execution=execution(status="waiting_input"), lease=None, wake_at=None)
        calls = (store.commit(done), store.enqueue(TENANT, id_, entry("k1"), NOW))
        outcome, taken = await asyncio.gather(*(calls if n % 2 else calls[::-1]))
        if n % 2 == 0:
            outcome, taken = taken, outcome
        assert (outcome is CommitOutcome.COMMITTED) != taken
        after = await store.load(TENANT, id_)
        assert after is not None
        assert bool(after.inbox) == taken
        assert after.revision == 2


async def test_a_renewal_between_does_not_matter_to_enqueue(store: Store) -> None:
    record = await busy(store)
    assert await store.renew(TENANT, ID, record.fence, "i1", NOW + 30_000, NOW + 30_000)
    assert await store.enqueue(TENANT, ID, entry("k1"), NOW + 60_000)
    after = await store.load(TENANT, ID)
    assert after is not None
    assert after.lease is not None
    assert (after.lease.until, after.wake_at) == (NOW + 30_000, NOW + 30_000)
    assert await store.renew(TENANT, ID, record.fence, "i1", NOW + 40_000, NOW + 40_000)


async def test_a_full_ring_does_not_matter_to_enqueue(store: Store) -> None:
    recent = tuple(RecentKey(f"r{n}", "h", "completed", None, n, n) for n in range(1, RING_SIZE + 1))
    await busy(store, recent=recent, ring_full=True)
    assert not await store.enqueue(TENANT, ID, entry("r64"), NOW)
    assert await store.enqueue(TENANT, ID, entry("r65"), NOW)

"""The event log: keys, ends of turns, replay and history."""

from dataclasses import replace

import pytest

from storage.base import Commit, KeyRecord, Store
from storage.models import Conversation, EventBatch
from storage.sizes import batch_bytes
from tests.support.records import EPOCH, ID, TENANT, committed, conversation, execution, next_commit

MESSAGES = ("message.received", "message.completed")


def spans(batches: list[EventBatch]) -> list[tuple[int, int]]:
    return [(batch.first_offset, batch.last_offset) for batch in batches]


async def turns(store: Store, count: int, record: Conversation | None = None) -> Conversation:
    """Commit turns of three events each: a message, a step, a message."""
    record = record or conversation()
    for n in range(count):
        kinds = ("message.received", "step.started", "message.completed")
        record = await committed(store, record, kinds, key=f"k{record.revision + 1}", data={"n": n})
    return record


# -- keys ----------------------------------------------------------------------------------------------


async def test_a_key_is_found_after_the_ring_has_dropped_it(store: Store) -> None:
    record = await committed(store, conversation(), key="old", execution=execution("x1"))
    for n in range(80):
        record = await committed(store, record, ("a",), key=f"k{n}", ring_full=True)
    assert await store.find_key(TENANT, ID, "old") == KeyRecord("old", "hash of old", EPOCH, 1, 2, "x1")
    assert await store.find_key(TENANT, ID, "k79") == KeyRecord("k79", "hash of k79", EPOCH, 82, 82, "x1")
    assert await store.find_key(TENANT, ID, "never") is None
    assert await store.find_key(TENANT, "missing", "old") is None


async def test_a_key_accepted_without_an_execution_says_so(store: Store) -> None:
    await committed(store, conversation(), key="k1")
    found = await store.find_key(TENANT, ID, "k1")
    assert found is not None
    assert found.execution_id is None


def ending(record: Conversation, kinds: tuple[str, ...], keys: tuple[str, ...]) -> Commit:
    """Return a commit whose ``turn.*`` events end the turns of ``keys``, in order."""
    commit, left = next_commit(record, kinds), iter(keys)
    assert commit.batch is not None
    events = tuple(
        replace(event, command_id=next(left)) if event.type.startswith("turn.") else event
        for event in commit.batch.events
    )
    return replace(commit, batch=replace(commit.batch, events=events))


async def test_the_end_of_a_turn_is_found_behind_its_acceptance(store: Store) -> None:
    record = await committed(store, conversation(), ("message.received",), key="k1")
    record = await committed(store, record, ("step.started",))
    assert await store.turn_end(TENANT, ID, EPOCH, "k1", 1) is None
    commit = ending(record, ("step.completed", "turn.completed"), ("k1",))
    await store.commit(commit)
    await committed(store, commit.record, ("turn.completed",), key="k2")
    for from_offset in (0, 1, 3, 4):
        assert await store.turn_end(TENANT, ID, EPOCH, "k1", from_offset) == commit.batch
    assert await store.turn_end(TENANT, ID, EPOCH, "k1", 5) is None
    for command_id in ("k", "1", "", "%", "k1\n"):
        assert await store.turn_end(TENANT, ID, EPOCH, command_id, 1) is None
    assert await store.turn_end(TENANT, ID, "other", "k1", 1) is None


@pytest.mark.parametrize("kind", ["turn.completed", "turn.failed"])
async def test_several_turns_may_end_in_one_commit(store: Store, kind: str) -> None:
    commit = ending(conversation(), ("a", kind, kind, "b"), ("k1", "k2"))
    await store.commit(commit)
    for key in ("k1", "k2"):
        assert await store.turn_end(TENANT, ID, EPOCH, key, 0) == commit.batch


async def test_other_events_of_a_command_do_not_end_its_turn(store: Store) -> None:
    await committed(store, conversation(), ("message.received", "step.completed"), key="k1")
    assert await store.turn_end(TENANT, ID, EPOCH, "k1", 0) is None


# -- replay --------------------------------------------------------------------------------------------


async def test_events_begin_with_the_batch_that_holds_the_next_offset(store: Store) -> None:
    await turns(store, 4)
    for after, first in ((0, 1), (1, 1), (2, 1), (3, 4), (4, 4), (9, 10), (11, 10)):
        batches = await store.events(TENANT, ID, EPOCH, after)
        assert batches[0].first_offset == first
        assert batches[-1].last_offset == 12
    for after in (12, 13, 10**12):
        assert await store.events(TENANT, ID, EPOCH, after) == []


async def test_events_of_another_epoch_or_conversation_are_not_there(store: Store) -> None:
    await turns(store, 2)
    assert await store.events(TENANT, ID, "other", 0) == []
    assert await store.events(TENANT, "missing", EPOCH, 0) == []


async def test_events_are_limited_by_number_in_whole_batches(store: Store) -> None:
    await turns(store, 4)
    for limit, last in ((1, 3), (3, 3), (5, 3), (6, 6), (11, 9), (12, 12), (1000, 12)):
        batches = await store.events(TENANT, ID, EPOCH, 0, limit=limit)
        assert batches[-1].last_offset == last


async def test_events_are_limited_by_bytes_in_whole_batches(store: Store) -> None:
    await turns(store, 4)
    sizes = [batch_bytes(batch) for batch in await store.events(TENANT, ID, EPOCH, 0)]
    for max_bytes, count in ((1, 1), (sizes[0], 1), (sum(sizes[:2]), 2), (sum(sizes[:3]) - 1, 2)):
        assert len(await store.events(TENANT, ID, EPOCH, 0, max_bytes=max_bytes)) == count


async def test_a_log_is_read_gapless_page_by_page(store: Store) -> None:
    record = conversation()
    for n in range(60):
        record = await committed(store, record, ("a",) * (1 + n % 7))
    after, seen = 0, []
    while page := await store.events(TENANT, ID, EPOCH, after, limit=10):
        assert sum(len(batch.events) for batch in page) <= 10
        seen += [event.offset for batch in page for event in batch.events]
        after = page[-1].last_offset
    assert seen == list(range(1, record.offset + 1))


# -- history -------------------------------------------------------------------------------------------


async def history(
    store: Store, *, before: int | None = None, after: int = 0, limit: int = 50
) -> list[tuple[int, int]]:
    return spans(await store.messages(TENANT, ID, EPOCH, before=before, after=after, limit=limit))


async def test_history_is_the_newest_messages_oldest_first(store: Store) -> None:
    await turns(store, 5)
    assert await history(store, limit=1) == [(13, 15)]
    assert await history(store, limit=2) == [(13, 15)]
    assert await history(store, limit=3) == [(10, 12), (13, 15)]
    assert await history(store, limit=100) == [(1, 3), (4, 6), (7, 9), (10, 12), (13, 15)]


async def test_history_ends_before_an_offset(store: Store) -> None:
    await turns(store, 5)
    assert await history(store, before=13, limit=2) == [(10, 12)]
    assert await history(store, before=14, limit=2) == [(10, 12), (13, 15)]
    assert await history(store, before=15, limit=1) == [(13, 15)]
    assert await history(store, before=2, limit=2) == [(1, 3)]
    assert await history(store, before=1, limit=2) == []
    assert await history(store, before=0, limit=2) == []


async def test_history_begins_after_an_offset(store: Store) -> None:
    await turns(store, 5)
    assert await history(store, after=9) == [(10, 12), (13, 15)]
    assert await history(store, after=8) == [(7, 9), (10, 12), (13, 15)]
    assert await history(store, after=10) == [(10, 12), (13, 15)]
    assert await history(store, after=15) == []
    assert await history(store, after=7, before=9) == []
    assert await history(store, after=6, before=9) == [(7, 9)]


async def test_history_passes_over_commits_without_messages(store: Store) -> None:
    record = await turns(store, 1)
    for _ in range(40):
        record = await committed(store, record, ("step.started", "turn.completed"))
    await turns(store, 1, record)
    assert await history(store, limit=3) == [(1, 3), (84, 86)]
    assert await history(store, before=84, limit=3) == [(1, 3)]


async def test_history_of_another_epoch_or_conversation_is_empty(store: Store) -> None:
    await turns(store, 1)
    assert await store.messages(TENANT, ID, "other", before=None, after=0, limit=5) == []
    assert await store.messages(TENANT, "missing", EPOCH, before=None, after=0, limit=5) == []


async def test_history_pages_meet_without_gap_or_double(store: Store) -> None:
    record = conversation()
    expected = []
    for n in range(50):
        kinds = ("message.received",) * (n % 3) + ("a",) * (n % 2) + ("message.completed",) * (n % 4 == 0)
        record = await committed(store, record, kinds or ("b",))
        expected += [
            record.offset - len(kinds) + 1 + k for k, kind in enumerate(kinds) if kind.startswith("message")
        ]
    seen: list[int] = []
    before: int | None = None
    while True:
        batches = await store.messages(TENANT, ID, EPOCH, before=before, after=0, limit=7)
        offsets = [
            event.offset
            for batch in batches
            for event in batch.events
            if event.type in MESSAGES and (before is None or event.offset < before)
        ][-7:]
        if not offsets:
            break
        seen = offsets + seen
        before = offsets[0]
    assert seen == expected

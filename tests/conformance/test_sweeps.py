"""What a sweep finds: due conversations, dead logs, expired tombstones."""

import pytest

from storage.base import CommitOutcome, Due, Store
from storage.listing import ExecutionPlace
from storage.models import TOMBSTONE_MS
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


async def test_due_is_what_has_come_the_earliest_first(store: Store) -> None:
    for n, wake_at in enumerate((NOW + 30, None, NOW + 10, NOW + 20, NOW + 40)):
        await committed(store, conversation(f"c{n}", tenant_id=f"t{n}"), wake_at=wake_at)
    assert await store.due(NOW + 9, 10) == []
    assert await store.due(NOW + 30, 10) == [
        Due("t2", "c2", NOW + 10),
        Due("t3", "c3", NOW + 20),
        Due("t0", "c0", NOW + 30),
    ]
    assert await store.due(NOW + 30, 2) == [Due("t2", "c2", NOW + 10), Due("t3", "c3", NOW + 20)]


async def test_what_was_woken_is_not_due_again(store: Store) -> None:
    record = await committed(store, conversation(), wake_at=NOW)
    await committed(store, record, (), wake_at=None)
    assert await store.due(NOW * 2, 10) == []


async def test_many_are_loaded_as_each_would_be(store: Store) -> None:
    """What is missing, and what is another tenant's, is left out."""
    stored = [await committed(store, conversation(f"c{n}", tenant_id=f"t{n % 2}")) for n in range(4)]
    keys = [(f"t{n % 2}", f"c{n}") for n in range(4)]
    assert await store.load_many(keys) == dict(zip(keys, stored, strict=True))
    assert await store.load_many([("t0", "c1"), ("t0", "missing"), keys[2]]) == {keys[2]: stored[2]}
    assert await store.load_many([]) == {}


async def test_a_sweep_works_through_pages(store: Store) -> None:
    records = [await committed(store, conversation(f"c{n:02}"), wake_at=NOW + n % 5) for n in range(50)]
    by_id = {record.conversation_id: record for record in records}
    seen = []
    while page := await store.due(NOW + 10, 7):
        wakes = [due.wake_at for due in page]
        assert wakes == sorted(wakes)
        for due in page:
            seen.append(due)
            await committed(store, by_id[due.conversation_id], (), wake_at=None)
    assert len(seen) == 50
    assert [due.wake_at for due in seen] == sorted(due.wake_at for due in seen)


async def test_events_of_a_tombstone_are_removed(store: Store) -> None:
    record = conversation()
    for n in range(30):
        record = await committed(store, record, key=f"k{n}", execution=execution(f"x{n}"))
    await committed(store, conversation("other"), key="k1", execution=execution("y"))
    await buried(store, record)
    assert await store.remove_events(TENANT, ID) == 30
    assert await store.events(TENANT, ID, EPOCH, 0) == []
    assert await store.messages(TENANT, ID, EPOCH, before=None, after=0, limit=9) == []
    assert await store.find_key(TENANT, ID, "k1") is None
    assert await store.turn_end(TENANT, ID, EPOCH, "k1", 0) is None
    found = [await store.find_execution(TENANT, x) for x in ("x0", "x29", "y")]
    assert found == [None, None, ExecutionPlace("other", 1)]
    assert await store.remove_events(TENANT, ID) == 0
    assert len(await store.events(TENANT, "other", EPOCH, 0)) == 1


async def test_a_large_log_is_removed_whole(store: Store) -> None:
    """SQLite removes it in portions, which are smaller than this one."""
    record, length = conversation(), 1100 if store.embedded else 50
    for _ in range(length):
        record = await committed(store, record, ("a",))
    await buried(store, record)
    assert await store.remove_events(TENANT, ID) == length
    assert await store.events(TENANT, ID, EPOCH, 0) == []


async def test_events_of_a_live_conversation_stay(store: Store) -> None:
    await committed(store, conversation())
    assert await store.remove_events(TENANT, ID) == 0
    assert await store.remove_events(TENANT, "missing") == 0
    assert len(await store.events(TENANT, ID, EPOCH, 0)) == 1


async def test_a_tombstone_stays_for_its_time_and_then_goes(store: Store) -> None:
    tombstone = await buried(store, await committed(store, conversation()), deleted_at=NOW)
    assert await store.expire_tombstones(NOW + TOMBSTONE_MS - 1, 10) == 0
    assert await store.load(TENANT, ID) == tombstone
    assert await store.expire_tombstones(NOW + TOMBSTONE_MS, 10) == 1
    assert await store.load(TENANT, ID) is None
    assert await store.expire_tombstones(NOW + TOMBSTONE_MS, 10) == 0


async def test_a_conversation_is_made_anew_after_its_tombstone(store: Store) -> None:
    await buried(store, await committed(store, conversation(), key="k1"))
    await store.expire_tombstones(NOW + TOMBSTONE_MS, 10)
    again = next_commit(conversation(), key="k1")
    assert await store.commit(again) is CommitOutcome.COMMITTED
    assert await store.events(TENANT, ID, EPOCH, 0) == [again.batch]


async def test_only_tombstones_expire_in_pages(store: Store) -> None:
    for n in range(7):
        await buried(store, await committed(store, conversation(f"dead{n}")), deleted_at=NOW - n)
    alive = await committed(store, conversation("alive"), expires_at=NOW)
    assert await store.expire_tombstones(NOW * 2, 3) == 3
    assert await store.expire_tombstones(NOW * 2, 10) == 4
    assert await store.load(TENANT, "alive") == alive


async def test_the_tombstone_that_expires_first_goes_first(store: Store) -> None:
    for n in range(4):
        await buried(store, await committed(store, conversation(f"dead{n}")), deleted_at=NOW - n)
    await store.expire_tombstones(NOW * 2, 2)
    left = [n for n in range(4) if await store.load(TENANT, f"dead{n}") is not None]
    assert left == [0, 1]


@pytest.mark.parametrize("wake_at", [None, NOW + 60_000])
async def test_a_deleted_conversation_is_due_only_if_its_tombstone_says_so(
    store: Store, wake_at: int | None
) -> None:
    record = await committed(store, conversation(), **leased(conversation()))
    await buried(store, record, wake_at=wake_at)
    assert [due.wake_at for due in await store.due(NOW * 2, 10)] == ([] if wake_at is None else [wake_at])

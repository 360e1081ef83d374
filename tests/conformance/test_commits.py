"""The commit: one atomic change, or none."""

import asyncio
from dataclasses import replace

import pytest

from storage.base import Commit, CommitOutcome, Expected, Store
from storage.listing import ExecutionPlace
from storage.models import Conversation
from tests.support.records import (
    EPOCH,
    ID,
    NOW,
    TENANT,
    buried,
    committed,
    conversation,
    execution,
    full_conversation,
    next_commit,
)

COMMITTED, CONFLICT, DUPLICATE = CommitOutcome.COMMITTED, CommitOutcome.CONFLICT, CommitOutcome.DUPLICATE


async def log(store: Store, id_: str = ID, tenant_id: str = TENANT) -> list[tuple[int, int]]:
    batches = await store.events(tenant_id, id_, EPOCH, 0)
    return [(batch.first_offset, batch.last_offset) for batch in batches]


async def test_what_is_committed_is_read_back_equal(store: Store) -> None:
    record = replace(full_conversation(), revision=0, offset=0)
    commit = next_commit(record, ("message.received", "turn.completed"), key="k9", data={"text": "ü 😀"})
    assert await store.commit(commit) is COMMITTED
    assert await store.load(TENANT, ID) == commit.record
    assert await store.events(TENANT, ID, EPOCH, 0) == [commit.batch]


async def test_a_missing_conversation_is_none(store: Store) -> None:
    assert await store.load(TENANT, ID) is None


async def test_an_insert_needs_a_conversation_that_does_not_exist(store: Store) -> None:
    first = await committed(store, conversation())
    again = next_commit(replace(conversation(), user_id="u2"), commit_id="other")
    assert await store.commit(again) is CONFLICT
    assert await store.load(TENANT, ID) == first
    assert await log(store) == [(1, 2)]


async def test_an_update_needs_a_conversation_that_exists(store: Store) -> None:
    assert await store.commit(next_commit(conversation(revision=4, offset=8))) is CONFLICT
    assert await store.load(TENANT, ID) is None
    assert await log(store) == []


@pytest.mark.parametrize("kinds", [("step.started",), ()])
async def test_a_stale_revision_changes_nothing(store: Store, kinds: tuple[str, ...]) -> None:
    first = await committed(store, conversation())
    second = await committed(store, first)
    late = next_commit(first, kinds, commit_id="late", slots={"a": 1})
    assert await store.commit(late) is CONFLICT
    assert await store.load(TENANT, ID) == second
    assert await log(store) == [(1, 2), (3, 4)]


@pytest.mark.parametrize("kinds", [("step.started",), ()])
async def test_another_fence_at_the_same_revision_is_a_conflict(store: Store, kinds: tuple[str, ...]) -> None:
    first = await committed(store, conversation(), fence=3)
    commit = next_commit(first, kinds)
    for fence in (2, 4):
        other = Commit(Expected(1, fence), commit.record, commit.batch)
        assert await store.commit(other) is CONFLICT
    assert await store.load(TENANT, ID) == first
    assert await store.commit(commit) is COMMITTED


async def test_a_revision_from_the_future_is_a_conflict(store: Store) -> None:
    first = await committed(store, conversation())
    ahead = replace(first, revision=5)
    assert await store.commit(next_commit(ahead)) is CONFLICT
    assert await store.load(TENANT, ID) == first


async def test_a_commit_without_events_writes_the_record_only(store: Store) -> None:
    first = await committed(store, conversation(), ())
    second = await committed(store, first, (), slots={"a": 1})
    assert await store.load(TENANT, ID) == second
    assert second.commit_id == f"{ID}-2"
    assert await log(store) == []


async def test_a_batch_without_events_is_not_stored(store: Store) -> None:
    commit = next_commit(conversation(), ())
    empty = next_commit(conversation(), ("a",)).batch
    assert empty is not None
    empty = replace(empty, last_offset=0, events=())
    assert await store.commit(Commit(commit.expected, commit.record, empty)) is COMMITTED
    assert await log(store) == []


async def test_batches_are_neither_merged_nor_split(store: Store) -> None:
    record = await committed(store, conversation(), ("a",) * 5)
    record = await committed(store, record, ("b",))
    await committed(store, record, ("c",) * 40)
    assert await log(store) == [(1, 5), (6, 6), (7, 46)]


async def test_a_key_is_accepted_once(store: Store) -> None:
    first = await committed(store, conversation(), key="k1")
    again = next_commit(first, key="k1", commit_id="again")
    if not store.detects_duplicates:
        found = await store.find_key(TENANT, ID, "k1")
        assert found is not None
        return
    assert await store.commit(again) is DUPLICATE
    assert await store.load(TENANT, ID) == first
    assert await log(store) == [(1, 2)]
    assert await store.commit(next_commit(first, key="k2")) is COMMITTED


async def test_a_stale_commit_of_a_known_key_is_a_conflict(store: Store) -> None:
    """``DUPLICATE`` is only said where ``expected`` held: the caller reloads and finds the key itself."""
    first = await committed(store, conversation(), key="k1")
    await committed(store, first)
    assert await store.commit(next_commit(first, key="k1", commit_id="again")) is CONFLICT


async def test_the_same_key_in_another_conversation_is_another_command(store: Store) -> None:
    await committed(store, conversation("a"), key="k1")
    await committed(store, conversation("b"), key="k1")
    assert await store.commit(next_commit(conversation("c", tenant_id="t2"), key="k1")) is COMMITTED


async def test_a_resent_commit_is_a_conflict_not_a_second_change(store: Store) -> None:
    commit = next_commit(conversation(), key="k1")
    assert await store.commit(commit) is COMMITTED
    assert await store.commit(commit) is CONFLICT
    assert await log(store) == [(1, 2)]


async def test_one_of_many_racing_writers_wins_each_revision(store: Store) -> None:
    """24 writers, 15 revisions: one winner each, and the log holds the winners' events."""
    record: Conversation = conversation()
    winners: list[str] = []
    for round_ in range(15):
        commits = [
            next_commit(record, key=f"{round_}-{n}", commit_id=f"{round_}-{n}", slots={"writer": n})
            for n in range(24)
        ]
        outcomes = await asyncio.gather(*map(store.commit, commits))
        assert outcomes.count(COMMITTED) == 1
        assert outcomes.count(CONFLICT) == 23
        winner = commits[outcomes.index(COMMITTED)]
        assert await store.load(TENANT, ID) == winner.record
        winners.append(winner.record.commit_id)
        record = winner.record
    batches = await store.events(TENANT, ID, EPOCH, 0)
    assert [batch.commit_id for batch in batches] == winners
    offsets = [event.offset for batch in batches for event in batch.events]
    assert offsets == list(range(1, 31))


async def test_commits_of_many_conversations_do_not_mix(store: Store) -> None:
    """100 conversations, of which every fourth commit is stale: those fail, the others do not notice."""
    records = [await committed(store, conversation(f"c{n}")) for n in range(100)]
    for _ in range(3):
        commits = [
            next_commit(replace(record, revision=record.revision + (n % 4 == 0)), key=f"k{record.revision}")
            for n, record in enumerate(records)
        ]
        outcomes = await asyncio.gather(*map(store.commit, commits))
        assert outcomes == [CONFLICT if n % 4 == 0 else COMMITTED for n in range(100)]
        records = [records[n] if n % 4 == 0 else commit.record for n, commit in enumerate(commits)]
    for n, record in enumerate(records):
        assert await store.load(TENANT, f"c{n}") == record
        assert len(await log(store, f"c{n}")) == (1 if n % 4 == 0 else 4)


async def test_inserts_and_updates_go_together(store: Store) -> None:
    old = [await committed(store, conversation(f"old{n}")) for n in range(20)]
    commits = [next_commit(record, key="k") for record in old]
    commits += [next_commit(conversation(f"new{n}"), key="k") for n in range(20)]
    commits += [next_commit(record, ()) for record in [await committed(store, conversation("silent"))]]
    assert set(await asyncio.gather(*map(store.commit, commits))) == {COMMITTED}
    for commit in commits:
        assert await store.load(TENANT, commit.record.conversation_id) == commit.record


async def test_racing_inserts_have_one_winner(store: Store) -> None:
    commits = [
        next_commit(replace(conversation(), user_id=None), key=f"k{n}", commit_id=f"i{n}") for n in range(24)
    ]
    outcomes = await asyncio.gather(*map(store.commit, commits))
    assert outcomes.count(COMMITTED) == 1
    winner = commits[outcomes.index(COMMITTED)]
    assert await store.load(TENANT, ID) == winner.record
    assert await store.events(TENANT, ID, EPOCH, 0) == [winner.batch]


async def test_a_cancelled_caller_does_not_undo_its_commit_nor_break_the_others(store: Store) -> None:
    records = [await committed(store, conversation(f"c{n}")) for n in range(20)]
    commits = [next_commit(record) for record in records]
    tasks = [asyncio.ensure_future(store.commit(commit)) for commit in commits]
    await asyncio.sleep(0)
    tasks[7].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert set(outcomes[:7] + outcomes[8:]) == {COMMITTED}
    barrier = next_commit(conversation("barrier"))
    assert await store.commit(barrier) is COMMITTED
    assert await store.load(TENANT, "c7") == commits[7].record
    assert await log(store, "c7") == [(1, 2), (3, 4)]


async def test_an_unknown_outcome_is_told_by_the_batch_at_its_offset(store: Store) -> None:
    """What a caller does that lost its reply: look whose batch begins where its own would."""
    first = await committed(store, conversation())
    mine = next_commit(first, commit_id="mine")
    assert await store.batch_at(TENANT, ID, EPOCH, 3) is None
    await store.commit(mine)
    batch = await store.batch_at(TENANT, ID, EPOCH, 3)
    assert batch is not None
    assert batch == mine.batch
    for offset in (0, 2, 4, 5):
        assert await store.batch_at(TENANT, ID, EPOCH, offset) is None
    assert await store.batch_at(TENANT, ID, "other epoch", 3) is None


async def test_an_unknown_commit_without_events_is_told_by_the_record(store: Store) -> None:
    record = await committed(store, conversation(), ())
    loaded = await store.load(TENANT, ID)
    assert loaded is not None
    assert loaded.commit_id == record.commit_id


async def test_find_execution_knows_every_execution_of_a_conversation(store: Store) -> None:
    record = await committed(store, conversation("a"), execution=execution("x1"))
    record = await committed(store, record, execution=execution("x1", status="completed"))
    record = await committed(store, record, execution=execution("x2"))
    await committed(store, record, execution=None)
    await committed(store, conversation("b"), execution=execution("x3"))
    found = [await store.find_execution(TENANT, x) for x in ("x1", "x2", "x3", "x4")]
    assert found == [ExecutionPlace("a", 1), ExecutionPlace("a", 5), ExecutionPlace("b", 1), None]


async def test_a_lost_race_leaves_no_execution(store: Store) -> None:
    first = await committed(store, conversation())
    await committed(store, first)
    assert await store.commit(next_commit(first, execution=execution("lost"))) is CONFLICT
    assert await store.find_execution(TENANT, "lost") is None


async def test_offsets_are_read_for_many_at_once(store: Store) -> None:
    keys = []
    for n in range(30):
        tenant_id = f"t{n % 3}"
        record = await committed(store, conversation(f"c{n}", tenant_id), ("a",) * (n + 1))
        keys.append((record.tenant_id, record.conversation_id))
    found = await store.offsets([*keys, (TENANT, "missing"), ("t1", "c0")])
    assert found == {key: (EPOCH, n + 1) for n, key in enumerate(keys)}
    assert await store.offsets([]) == {}


async def test_a_tombstone_is_read_as_one_and_can_be_written_over_only_by_its_expiry(store: Store) -> None:
    record = await committed(store, conversation())
    tombstone = await buried(store, record)
    assert await store.load(TENANT, ID) == tombstone
    assert await store.commit(next_commit(conversation())) is CONFLICT
    assert await store.commit(next_commit(record, commit_id="stale")) is CONFLICT
    assert await store.load(TENANT, ID) == tombstone


async def test_a_commit_that_contradicts_itself_is_refused_before_anything_is_written(store: Store) -> None:
    commit = next_commit(conversation())
    assert commit.batch is not None
    wrong = [
        replace(commit, record=replace(commit.record, revision=7)),
        replace(commit, record=replace(commit.record, commit_id="other")),
        replace(commit, record=replace(commit.record, epoch="other")),
        replace(commit, record=replace(commit.record, offset=9)),
        replace(commit, batch=replace(commit.batch, events=commit.batch.events[:1])),
    ]
    for bad in wrong:
        with pytest.raises(ValueError, match=r"revision|batch"):
            await store.commit(bad)
    assert await store.load(TENANT, ID) is None


async def test_times_beyond_32_bits_and_empty_texts_survive(store: Store) -> None:
    record = await committed(
        store,
        replace(conversation(), user_id=None),
        wake_at=NOW * 2,
        expires_at=None,
        channel="",
        last_activity=0,
    )
    assert await store.load(TENANT, ID) == record

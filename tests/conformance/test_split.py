"""The log write that comes after the commit: late, lost, or in the wrong order, and nobody notices."""

import asyncio

import pytest

from storage.base import CommitOutcome, StoreUnavailable
from storage.models import COMMIT_MAX_BYTES
from storage.sizes import batch_bytes
from tests.support.records import EPOCH, ID, NOW, TENANT, buried, committed, conversation, leased, next_commit
from tests.support.split_store import SplitStore


class Crash(BaseException):
    """The process ends between the record's write and the log's."""


class Gate:
    """Holds whoever comes to a place until told to go on, or to crash there."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.waiting: list[asyncio.Future[None]] = []

    async def __call__(self, place: str) -> None:
        if place == self._place:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append(future)
            await future

    async def arrival(self, count: int = 1) -> None:
        while len(self.waiting) < count:
            await asyncio.sleep(0)


def lose(error: BaseException) -> object:
    async def pause(place: str) -> None:
        if place == "flush":
            raise error

    return pause


async def keep(place: str) -> None:
    return


async def crash_commit(split: SplitStore, *args: object, **kwargs: object) -> None:
    split.pause = lose(Crash())  # type: ignore[assignment]
    with pytest.raises(Crash):
        await split.commit(next_commit(*args, **kwargs))  # type: ignore[arg-type]
    split.pause = keep


async def test_a_commit_leaves_its_batch_in_the_log_and_the_next_one_drops_it(split: SplitStore) -> None:
    record = await committed(split, conversation())
    assert [b.first_offset for b in split.logged(TENANT, ID)] == [1]
    assert [b.first_offset for b in split.unflushed(TENANT, ID)] == [1]
    await committed(split, record)
    assert [b.first_offset for b in split.unflushed(TENANT, ID)] == [3]


async def test_a_batch_that_never_reached_the_log_is_read_all_the_same(split: SplitStore) -> None:
    await crash_commit(split, conversation(), key="k1")
    assert split.logged(TENANT, ID) == ()
    (batch,) = split.unflushed(TENANT, ID)
    assert await split.events(TENANT, ID, EPOCH, 0) == [batch]
    assert await split.batch_at(TENANT, ID, EPOCH, 1) == batch
    assert await split.turn_end(TENANT, ID, EPOCH, "k1", 0) == batch
    assert await split.messages(TENANT, ID, EPOCH, before=None, after=0, limit=5) == [batch]
    found = await split.find_key(TENANT, ID, "k1")
    assert found is not None
    assert (found.first_offset, found.last_offset) == (1, 2)


async def test_a_log_that_cannot_be_written_does_not_fail_the_commit(split: SplitStore) -> None:
    split.pause = lose(StoreUnavailable("away"))  # type: ignore[assignment]
    commit = next_commit(conversation())
    assert await split.commit(commit) is CommitOutcome.COMMITTED
    assert await split.events(TENANT, ID, EPOCH, 0) == [commit.batch]


async def test_the_next_commit_brings_what_was_lost(split: SplitStore) -> None:
    await crash_commit(split, conversation())
    record = await split.load(TENANT, ID)
    assert record is not None
    await committed(split, record)
    assert [b.first_offset for b in split.logged(TENANT, ID)] == [1, 3]


@pytest.mark.parametrize("sweep", ["due", "flush_left"])
async def test_a_sweep_brings_what_was_lost(split: SplitStore, sweep: str) -> None:
    for id_ in ("a", "b"):
        await crash_commit(split, conversation(id_))
    await (split.due(NOW, 10) if sweep == "due" else split.flush_left())
    assert [len(split.logged(TENANT, id_)) for id_ in ("a", "b")] == [1, 1]
    assert await split.flush_left() == 0


async def test_a_late_flush_finds_its_batch_there_and_is_content(split: SplitStore) -> None:
    gate = Gate("flush")
    split.pause = gate
    commit = next_commit(conversation())
    late = asyncio.ensure_future(split.commit(commit))
    await gate.arrival()
    split.pause = keep
    await committed(split, commit.record)
    gate.waiting[0].set_result(None)
    assert await late is CommitOutcome.COMMITTED
    assert [b.first_offset for b in split.logged(TENANT, ID)] == [1, 3]


async def test_a_log_with_a_hole_is_not_shown_with_a_hole(split: SplitStore) -> None:
    """A reader that saw the record before two commits, and the log when only the second had reached it."""
    first = await committed(split, conversation())
    reader, writer = Gate("log"), Gate("flush")
    split.pause = reader
    early = asyncio.ensure_future(split.events(TENANT, ID, EPOCH, 0))
    await reader.arrival()
    await crash_commit(split, first)
    lost = await split.load(TENANT, ID)
    assert lost is not None
    split.pause = writer
    writing = asyncio.ensure_future(split.commit(next_commit(lost)))
    await writer.arrival()
    writer.waiting[0].set_result(None)
    await writer.arrival(2)
    assert [b.first_offset for b in split.logged(TENANT, ID)] == [1, 5]
    reader.waiting[0].set_result(None)
    assert [b.first_offset for b in await early] == [1]
    assert [b.first_offset for b in await split.events(TENANT, ID, EPOCH, 0)] == [1, 3, 5]
    assert [
        b.first_offset for b in await split.messages(TENANT, ID, EPOCH, before=None, after=0, limit=9)
    ] == [1, 3, 5]
    writer.waiting[1].set_result(None)
    assert await writing is CommitOutcome.COMMITTED
    assert [b.first_offset for b in split.logged(TENANT, ID)] == [1, 3, 5]


async def test_what_a_record_carries_stays_small(split: SplitStore) -> None:
    """The log is away for a while: a commit that would carry too much brings the log up to date first."""
    split.pause = lose(StoreUnavailable("away"))  # type: ignore[assignment]
    record = conversation()
    text = {"text": "x" * 60_000}
    for _ in range(4):
        record = await committed(split, record, ("a",), data=text)
    assert len(split.unflushed(TENANT, ID)) == 4
    assert split.logged(TENANT, ID) == ()
    with pytest.raises(StoreUnavailable):
        await split.commit(next_commit(record, ("a",), data=text))
    assert await split.load(TENANT, ID) == record
    split.pause = keep
    await committed(split, record, ("a",), data=text)
    carried = split.unflushed(TENANT, ID)
    assert sum(map(batch_bytes, carried)) <= COMMIT_MAX_BYTES
    assert len(split.logged(TENANT, ID)) == 5
    assert [b.first_offset for b in carried] == [5]


async def test_a_flush_that_comes_after_the_deletion_is_removed_the_second_time(split: SplitStore) -> None:
    gate = Gate("flush")
    split.pause = gate
    commit = next_commit(conversation())
    late = asyncio.ensure_future(split.commit(commit))
    await gate.arrival()
    split.pause = keep
    await buried(split, commit.record)
    assert await split.remove_events(TENANT, ID) == 0
    gate.waiting[0].set_result(None)
    await late
    assert len(split.logged(TENANT, ID)) == 1
    assert await split.remove_events(TENANT, ID) == 1
    assert await split.events(TENANT, ID, EPOCH, 0) == []


async def test_a_tombstone_carries_nothing(split: SplitStore) -> None:
    await crash_commit(split, conversation())
    record = await split.load(TENANT, ID)
    assert record is not None
    await buried(split, record)
    assert split.unflushed(TENANT, ID) == ()
    assert await split.events(TENANT, ID, EPOCH, 0) == []


async def test_opening_it_voids_no_leases(split: SplitStore) -> None:
    """Others may have it open, and own them."""
    record = await committed(split, conversation(), **leased(conversation()))
    await split.close()
    await split.open()
    assert await split.load(TENANT, ID) == record

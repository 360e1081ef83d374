"""The store takes all that the engine's limits allow."""

from dataclasses import replace

from storage.base import Store
from storage.models import COMMIT_MAX_BYTES, EVENT_MAX_BYTES, RECORD_MAX_BYTES
from storage.sizes import batch_bytes, event_bytes, json_bytes, record_bytes
from tests.support.records import EPOCH, ID, TENANT, committed, conversation, full_conversation, next_commit


async def test_a_record_of_one_mebibyte_is_kept(store: Store) -> None:
    record = next_commit(conversation()).record
    filler = "ü" * ((RECORD_MAX_BYTES - record_bytes(replace(record, slots={"a": ""}))) // 2)
    record = await committed(store, conversation(), slots={"a": filler})
    assert record_bytes(record) in (RECORD_MAX_BYTES, RECORD_MAX_BYTES - 1)
    assert await store.load(TENANT, ID) == record
    smaller = await committed(store, record, slots={})
    assert await store.load(TENANT, ID) == smaller


async def test_a_commit_of_256_kib_is_kept(store: Store) -> None:
    record = conversation()
    for n in range(3):
        commit = next_commit(record, ("a",) * 4, key=f"k{n}", data={"text": "x" * (EVENT_MAX_BYTES - 200)})
        assert commit.batch is not None
        assert COMMIT_MAX_BYTES - 1024 < batch_bytes(commit.batch) <= COMMIT_MAX_BYTES
        assert all(event_bytes(event) <= EVENT_MAX_BYTES for event in commit.batch.events)
        await store.commit(commit)
        record = commit.record
        assert await store.batch_at(TENANT, ID, EPOCH, n * 4 + 1) == commit.batch
    two = await store.events(TENANT, ID, EPOCH, 0)
    assert len(two) == 2
    three = await store.events(TENANT, ID, EPOCH, 0, max_bytes=2**30)
    assert len(three) == 3


async def test_a_commit_of_a_thousand_events_is_kept(store: Store) -> None:
    record = await committed(store, conversation(), ("step.started",) * 1000)
    (batch,) = await store.events(TENANT, ID, EPOCH, 0)
    assert [event.offset for event in batch.events] == list(range(1, record.offset + 1))


def test_sizes_are_those_of_the_stored_form() -> None:
    record = full_conversation()
    assert record_bytes(replace(record, locale="deu")) == record_bytes(record) + 1
    assert json_bytes({"a": "ü"}) == len('{"a":"ü"}'.encode())
    batch = next_commit(conversation(), ("a", "b", "c")).batch
    assert batch is not None
    alone = sum(map(event_bytes, batch.events)) + len("[,,]")
    assert 0 < batch_bytes(batch) < alone, "what the events of a commit have in common is stored once"

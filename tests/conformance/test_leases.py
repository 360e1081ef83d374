"""Leases, fences and renewals: a stale owner can do nothing."""

import asyncio
from dataclasses import replace

from storage.base import CommitOutcome, Store
from storage.models import Lease
from tests.support.records import ID, NOW, TENANT, buried, committed, conversation, leased, next_commit


async def test_a_renewal_moves_lease_and_wake_and_nothing_else(store: Store) -> None:
    record = await committed(store, conversation(), **leased(conversation()))
    assert await store.renew(TENANT, ID, record.fence, "i1", NOW + 20_000, NOW + 20_001)
    expected = replace(record, lease=Lease("i1", NOW + 20_000), wake_at=NOW + 20_001)
    assert await store.load(TENANT, ID) == expected
    assert len(await store.events(TENANT, ID, record.epoch, 0)) == 1


async def test_a_renewed_lease_is_what_due_sees(store: Store) -> None:
    record = await committed(store, conversation(), **leased(conversation(), until=NOW + 10))
    assert await store.renew(TENANT, ID, record.fence, "i1", NOW + 100, NOW + 100)
    assert await store.due(NOW + 99, 10) == []
    assert [due.wake_at for due in await store.due(NOW + 100, 10)] == [NOW + 100]


async def test_only_the_owner_at_its_fence_may_renew(store: Store) -> None:
    record = await committed(store, conversation(), **leased(conversation()))
    for fence, owner, id_ in (
        (record.fence + 1, "i1", ID),
        (record.fence - 1, "i1", ID),
        (record.fence, "i2", ID),
        (record.fence, "i1", "missing"),
    ):
        assert not await store.renew(TENANT, id_, fence, owner, NOW + 99, NOW + 99)
    assert await store.load(TENANT, ID) == record


async def test_a_lease_given_back_cannot_be_renewed(store: Store) -> None:
    record = await committed(store, conversation(), **leased(conversation()))
    record = await committed(store, record, lease=None, wake_at=None)
    assert not await store.renew(TENANT, ID, record.fence, "i1", NOW + 99, NOW + 99)
    assert await store.load(TENANT, ID) == record


async def test_a_tombstone_cannot_be_renewed(store: Store) -> None:
    record = await committed(store, conversation(), **leased(conversation()))
    tombstone = await buried(store, record)
    assert not await store.renew(TENANT, ID, record.fence, "i1", NOW + 99, NOW + 99)
    assert await store.load(TENANT, ID) == tombstone


async def test_a_commit_goes_through_while_the_lease_is_renewed(store: Store) -> None:
    """A renewal leaves the revision alone, so the owner's result commits on what it read before."""
    record = await committed(store, conversation(), **leased(conversation()))
    assert await store.renew(TENANT, ID, record.fence, "i1", NOW + 20_000, NOW + 20_000)
    after = await committed(store, record, lease=None, wake_at=None)
    assert await store.load(TENANT, ID) == after


async def test_a_stale_owner_commits_nothing_once_another_took_the_lease(store: Store) -> None:
    record = await committed(store, conversation(), **leased(conversation()))
    taken = await committed(store, record, (), **leased(record, "i2"))
    assert await store.commit(next_commit(record, commit_id="stale")) is CommitOutcome.CONFLICT
    assert not await store.renew(TENANT, ID, record.fence, "i1", NOW + 99, NOW + 99)
    assert await store.load(TENANT, ID) == taken


async def test_one_of_many_claims_wins(store: Store) -> None:
    record = await committed(store, conversation(), wake_at=NOW)
    claims = [next_commit(record, (), commit_id=f"claim{n}", **leased(record, f"i{n}")) for n in range(24)]
    outcomes = await asyncio.gather(*map(store.commit, claims))
    assert outcomes.count(CommitOutcome.COMMITTED) == 1
    winner = claims[outcomes.index(CommitOutcome.COMMITTED)].record
    renewed = [
        await store.renew(TENANT, ID, claim.record.fence, f"i{n}", NOW + 99, NOW + 99)
        for n, claim in enumerate(claims)
    ]
    assert renewed.count(True) == 1
    assert claims[renewed.index(True)].record == winner

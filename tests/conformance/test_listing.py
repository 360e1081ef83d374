"""Lists of executions and inboxes: who is found, in which order, and that a page shifts under nobody."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from storage.base import Commit, CommitOutcome, Expected, Store
from storage.listing import (
    ACTIVITY_MS,
    ExecutionFilter,
    ExecutionPlace,
    Listed,
    ListPlace,
    Waiting,
    WaitPlace,
)
from storage.models import TOMBSTONE_MS, Conversation, Execution, Pause, Pending
from tests.support.records import (
    ID,
    NOW,
    TENANT,
    buried,
    committed,
    conversation,
    entry,
    execution,
    next_commit,
)

HOUR = ACTIVITY_MS
START = NOW - NOW % HOUR
ALL = ExecutionFilter()


def active(at: int, execution_id: str = "x1", **fields: Any) -> Execution:
    return execution(execution_id, updated_at=at, **fields)


def acceptance(pending_id: str, **fields: Any) -> Pending:
    return Pending(pending_id, fields.pop("kind", "acceptance"), "gate", **fields)


async def waits(store: Store, id_: str, *pending: Pending, **fields: Any) -> Conversation:
    return await committed(
        store, conversation(id_), execution=active(NOW, f"x-{id_}", pending=pending), **fields
    )


def ids(listed: Iterable[Listed]) -> list[str]:
    return [item.record.conversation_id for item in listed]


def wait_ids(found: Iterable[Waiting]) -> list[str]:
    return [item.place.wait_id for item in found]


# -- lists ---------------------------------------------------------------------------------------------


async def test_the_most_lately_active_comes_first(store: Store) -> None:
    for n in (3, 1, 2):
        await committed(store, conversation(f"c{n}"), execution=active(START + n))
    assert ids(await store.executions(TENANT, ALL)) == ["c3", "c2", "c1"]


async def test_a_list_has_whole_current_records(store: Store) -> None:
    record = await committed(store, conversation(), execution=active(START))
    record = await committed(store, record, execution=active(START + 1), slots={"a": 1})
    (listed,) = await store.executions(TENANT, ALL)
    assert listed.record == record == await store.load(TENANT, ID)


async def test_activity_alone_moves_an_execution_once_an_hour(store: Store) -> None:
    record = await committed(store, conversation(), execution=active(START + 5))
    record = await committed(store, record, execution=active(START + HOUR - 1))
    assert [listed.place.active_at for listed in await store.executions(TENANT, ALL)] == [START + 5]
    await committed(store, record, execution=active(START + HOUR + 7))
    assert [listed.place.active_at for listed in await store.executions(TENANT, ALL)] == [START + HOUR + 7]


async def test_a_change_of_status_moves_an_execution_at_once(store: Store) -> None:
    record = await committed(store, conversation("a"), execution=active(START))
    await committed(store, conversation("b"), execution=active(START + 1))
    await committed(store, record, execution=active(START + 2, status="paused"))
    assert ids(await store.executions(TENANT, ALL)) == ["a", "b"]


async def test_the_place_is_the_same_after_the_store_was_opened_again(
    make_store: Callable[[], Store],
) -> None:
    """What an adapter knows of what it wrote is not part of what is true."""
    store = make_store()
    await store.open()
    record = await committed(store, conversation(), execution=active(START + 5))
    await store.close()
    await store.open()
    await committed(store, record, execution=active(START + 9))
    (listed,) = await store.executions(TENANT, ALL)
    await store.close()
    assert listed.place == ListPlace(START + 5, ID)


async def test_filters_restrict_and_join(store: Store) -> None:
    for n in range(12):
        fields: dict[str, Any] = {
            "status": ("paused", "failed", "completed")[n % 3],
            "project_id": ("p", None)[n % 2],
        }
        record = conversation(f"c{n:02}", project_id=fields["project_id"])
        await committed(store, record, execution=active(START + n, **fields), user_id=f"u{n % 4}")

    async def found(**asked: Any) -> list[int]:
        return [int(id_[1:]) for id_ in ids(await store.executions(TENANT, ExecutionFilter(**asked)))]

    assert await found(status="failed") == [10, 7, 4, 1]
    assert await found(user_id="u1") == [9, 5, 1]
    assert await found(project_id="p") == [10, 8, 6, 4, 2, 0]
    assert await found(flow_id="book") == list(range(11, -1, -1))
    assert await found(flow_id="other") == []
    assert await found(since=START + 3, until=START + 6) == [5, 4, 3]
    assert await found(status="paused", user_id="u0") == [0]
    assert await found(status="completed", project_id="p", until=START + 8) == [2]


async def test_an_execution_that_was_replaced_or_reset_is_not_listed(store: Store) -> None:
    record = await committed(store, conversation(), execution=active(START, "x1", status="failed"))
    record = await committed(store, record, execution=active(START + 1, "x2", status="completed"))
    (listed,) = await store.executions(TENANT, ALL)
    assert listed.record.execution is not None
    assert listed.record.execution.execution_id == "x2"
    assert await store.executions(TENANT, ExecutionFilter(status="failed")) == []
    await committed(store, record, execution=None)
    assert await store.executions(TENANT, ALL) == []


async def test_a_deleted_conversation_is_in_no_list_and_no_inbox(store: Store) -> None:
    record = await waits(store, ID, acceptance("p1", by={"scope": "s"}))
    await buried(store, record)
    assert await store.executions(TENANT, ALL) == []
    assert await store.waiting(TENANT, ["scope:s"]) == []


async def test_what_is_left_of_a_deleted_conversation_is_listed_nowhere(store: Store) -> None:
    """Not even where the tombstone still holds an execution, and not once it is gone for good."""
    record = await committed(store, conversation(), execution=active(START))
    pending = acceptance("p1", by={"scope": "s"})
    tombstone = replace(await buried(store, record), execution=active(START, pending=(pending,)))
    after = replace(tombstone, revision=tombstone.revision + 1, commit_id="late")
    commit = Commit(Expected(tombstone.revision, tombstone.fence), after, None)
    assert await store.commit(commit) is CommitOutcome.COMMITTED
    for left in (1, 0):
        assert await store.executions(TENANT, ALL) == []
        assert await store.waiting(TENANT, ["scope:s"]) == []
        assert await store.expire_tombstones(NOW + TOMBSTONE_MS, 10) == left


async def test_pages_do_not_shift_under_a_reader(store: Store) -> None:
    records = [
        await committed(store, conversation(f"c{n:02}"), execution=active(START + n // 2)) for n in range(20)
    ]
    first = await store.executions(TENANT, ALL, limit=7)
    await committed(store, conversation("new"), execution=active(START + HOUR))
    await committed(store, records[18], execution=active(START + HOUR, status="completed"))
    second = await store.executions(TENANT, ALL, after=first[-1].place, limit=7)
    third = await store.executions(TENANT, ALL, after=second[-1].place, limit=7)
    assert ids([*first, *second, *third]) == [f"c{n:02}" for n in range(19, -1, -1)]
    assert await store.executions(TENANT, ALL, after=third[-1].place) == []


async def test_a_page_is_bounded_by_what_is_stored_but_never_empty(store: Store) -> None:
    for n in range(4):
        await committed(store, conversation(f"c{n}"), execution=active(START + n), slots={"x": "y" * 50_000})
    assert len(await store.executions(TENANT, ALL, max_bytes=120_000)) == 2
    assert len(await store.executions(TENANT, ALL, max_bytes=1)) == 1


async def test_what_a_lost_race_would_have_changed_is_not_listed(store: Store) -> None:
    first = await committed(store, conversation(), execution=active(START))
    await committed(store, first, execution=active(START + 1))
    stale = next_commit(first, execution=active(START + 2, status="failed", pending=(acceptance("p1"),)))
    assert await store.commit(stale) is CommitOutcome.CONFLICT
    assert await store.executions(TENANT, ExecutionFilter(status="failed")) == []
    assert await store.waiting(TENANT, ["user:u"]) == []


async def test_commits_that_are_on_their_way_at_once_are_listed_as_the_last_one_says(store: Store) -> None:
    first = await committed(store, conversation(), execution=active(START))
    paused = next_commit(first, execution=active(START + 1, status="paused"))
    back = next_commit(paused.record, execution=active(START + 2))
    outcomes = await asyncio.gather(store.commit(paused), store.commit(back))
    assert set(outcomes) == {CommitOutcome.COMMITTED}
    assert await store.executions(TENANT, ExecutionFilter(status="paused")) == []
    assert ids(await store.executions(TENANT, ExecutionFilter(status="waiting_input"))) == [ID]


async def test_a_queued_command_changes_no_list(store: Store) -> None:
    await committed(store, conversation(), execution=active(START, status="running"))
    assert await store.enqueue(TENANT, ID, entry("k1"), NOW)
    (listed,) = await store.executions(TENANT, ALL)
    assert len(listed.record.inbox) == 1


async def test_where_an_execution_began_is_known(store: Store) -> None:
    record = await committed(store, conversation(), ("a",) * 4, execution=active(START, "x1"))
    record = await committed(store, record, ("a",) * 3, execution=active(START, "x1"))
    await committed(store, record, ("a",) * 2, execution=active(START, "x2"))
    assert await store.find_execution(TENANT, "x1") == ExecutionPlace(ID, 1)
    assert await store.find_execution(TENANT, "x2") == ExecutionPlace(ID, 8)


# -- conversations -------------------------------------------------------------------------------------


async def test_conversations_without_an_execution_are_listed_as_such(store: Store) -> None:
    await committed(store, conversation("a"), execution=active(START + 1))
    record = await committed(store, conversation("b"), execution=active(START + 2, "x2"))
    await committed(store, conversation("c"), last_activity=START + 3)
    assert ids(await store.conversations(TENANT, ALL)) == ["c", "b", "a"]
    assert ids(await store.executions(TENANT, ALL)) == ["b", "a"]
    await committed(store, record, execution=None, last_activity=START + HOUR)
    assert ids(await store.conversations(TENANT, ALL)) == ["b", "c", "a"]
    assert ids(await store.conversations(TENANT, ExecutionFilter(status="idle"))) == ["b", "c"]
    assert ids(await store.executions(TENANT, ALL)) == ["a"]
    assert await store.executions(TENANT, ExecutionFilter(status="idle")) == []


async def test_conversations_are_counted_as_they_are_listed(store: Store) -> None:
    for n in range(5):
        fields = {"execution": active(START + n)} if n % 2 else {}
        await committed(store, conversation(f"c{n}"), user_id=f"u{n % 3}", **fields)
    await committed(store, conversation("other", "t2"))
    asked = [
        ALL,
        ExecutionFilter(user_id="u0"),
        ExecutionFilter(status="idle"),
        ExecutionFilter(flow_id="book"),
    ]
    for wanted in asked:
        listed = await store.conversations(TENANT, wanted)
        assert await store.count_conversations(TENANT, wanted) == len(listed)
    assert await store.count_conversations(TENANT, ALL) == 5
    assert await store.count_conversations("t3", ALL) == 0


async def test_a_page_of_conversations_goes_on_where_the_last_one_ended(store: Store) -> None:
    for n in range(5):
        await committed(store, conversation(f"c{n}"), last_activity=START + n)
    first = await store.conversations(TENANT, ALL, limit=2)
    second = await store.conversations(TENANT, ALL, after=first[-1].place, limit=9)
    assert ids([*first, *second]) == ["c4", "c3", "c2", "c1", "c0"]


async def test_a_deleted_conversation_is_listed_and_counted_no_more(store: Store) -> None:
    await buried(store, await committed(store, conversation()))
    assert await store.conversations(TENANT, ALL) == []
    assert await store.count_conversations(TENANT, ALL) == 0


# -- inboxes -------------------------------------------------------------------------------------------


async def test_the_oldest_waits_first(store: Store) -> None:
    for n in (2, 3, 1):
        await waits(store, f"c{n}", acceptance(f"p{n}", created_at=NOW + n, by={"scope": "s"}))
    found = await store.waiting(TENANT, ["scope:s"])
    assert wait_ids(found) == ["p1", "p2", "p3"]
    assert found[0] == Waiting(WaitPlace(NOW + 1, "p1"), "acceptance", "c1")


@pytest.mark.parametrize(
    ("by", "deciders"),
    [
        (None, {"user:u"}),
        ({"user": "v"}, {"user:v"}),
        ({"scope": "s"}, {"scope:s", "scope:admin"}),
        ({"user": "v", "scope": "s"}, {"user:v", "scope:s", "scope:admin"}),
        ({"quorum": 2}, {"scope:acceptance:decide", "scope:admin"}),
    ],
)
async def test_a_request_waits_for_whom_it_names(
    store: Store, by: dict[str, Any] | None, deciders: set[str]
) -> None:
    await waits(store, ID, acceptance("p1", by=by))
    asked = ["user:u", "user:v", "scope:s", "scope:admin", "scope:acceptance:decide"]
    assert {d for d in asked if await store.waiting(TENANT, [d])} == deciders
    assert wait_ids(await store.waiting(TENANT, asked)) == ["p1"]
    assert await store.waiting(TENANT, []) == []


async def test_a_workflow_without_a_user_waits_for_who_has_the_scope(store: Store) -> None:
    await waits(store, ID, acceptance("p1"), user_id=None)
    assert wait_ids(await store.waiting(TENANT, ["scope:acceptance:decide"])) == ["p1"]


async def test_only_what_is_open_and_for_people_waits(store: Store) -> None:
    record = await waits(
        store,
        ID,
        acceptance("p1", decided={"by": "u"}),
        acceptance("p2", kind="input"),
        acceptance("p3", kind="clarification", created_at=NOW),
    )
    assert wait_ids(await store.waiting(TENANT, ["user:u"])) == ["p3"]
    await committed(store, record, execution=active(NOW, status="failed", pending=(acceptance("p4"),)))
    assert await store.waiting(TENANT, ["user:u"]) == []


async def test_a_hand_off_waits_for_who_may_speak_and_an_operators_pause_does_not(store: Store) -> None:
    for id_, then in (("a", "next"), ("b", "ask")):
        pause = Pause(then, NOW + 3)  # type: ignore[arg-type]
        await committed(
            store, conversation(id_), execution=active(NOW, f"x-{id_}", status="paused", pause=pause)
        )
    expected = [Waiting(WaitPlace(NOW + 3, "x-a"), "handoff", "a")]
    assert await store.waiting(TENANT, ["scope:conversations:write"]) == expected
    assert await store.waiting(TENANT, ["scope:admin"]) == expected
    assert await store.waiting(TENANT, ["user:u", "scope:acceptance:decide"]) == []


async def test_an_inbox_is_paged_and_does_not_shift(store: Store) -> None:
    records = [
        await waits(store, f"c{n:02}", acceptance(f"p{n:02}", created_at=NOW + n // 3, by={"scope": "s"}))
        for n in range(12)
    ]
    asked = ["scope:s", "user:u"]
    first = await store.waiting(TENANT, asked, limit=5)
    await committed(store, records[1], execution=active(NOW, "x-c01"))
    await committed(store, records[7], execution=active(NOW, "x-c07"))
    await waits(store, "late", acceptance("p99", created_at=NOW + 99))
    second = await store.waiting(TENANT, asked, after=first[-1].place, limit=5)
    third = await store.waiting(TENANT, asked, after=second[-1].place, limit=5)
    seen = wait_ids([*first, *second, *third])
    assert seen == [f"p{n:02}" for n in range(12) if n != 7] + ["p99"]


async def test_what_waits_is_the_same_for_the_next_commit(store: Store) -> None:
    record = await waits(store, ID, acceptance("p1", by={"scope": "s"}))
    record = await committed(store, record, execution=record.execution, slots={"a": 1})
    assert wait_ids(await store.waiting(TENANT, ["scope:s"])) == ["p1"]
    two = (acceptance("p1", by={"scope": "s"}), acceptance("p2", by={"user": "v"}, created_at=1))
    await committed(store, record, execution=active(NOW, f"x-{ID}", pending=two))
    assert wait_ids(await store.waiting(TENANT, ["scope:s", "user:v"])) == ["p1", "p2"]
    await committed(store, conversation("other", "t2"), execution=active(NOW, pending=two))
    assert wait_ids(await store.waiting(TENANT, ["scope:s"])) == ["p1"]


async def test_what_may_be_decided_by_fewer_still_waits_for_the_rest(store: Store) -> None:
    pending = Pending("p1", "acceptance", "gate", by={"user": "u1", "scope": "team"}, created_at=NOW)
    record = await committed(store, conversation(), execution=execution(pending=(pending,)))
    fewer = execution(pending=(replace(pending, by={"user": "u1"}),))
    await committed(store, record, execution=fewer)
    assert [w.place.wait_id for w in await store.waiting(TENANT, ["user:u1"])] == ["p1"]
    assert await store.waiting(TENANT, ["scope:team"]) == []

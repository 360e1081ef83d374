"""Another tenant's conversation looks exactly like one that does not exist, whatever is asked."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from inspect import getmembers, isfunction, signature
from typing import Any

import pytest

from storage.base import CommitOutcome, Expected, Store
from storage.listing import ExecutionFilter, ExecutionPlace
from storage.models import FlowVersion
from tests.support.records import (
    EPOCH,
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

STRANGER = "t2"

Ask = Callable[[Store, str, str], Awaitable[Any]]


async def update(store: Store, tenant_id: str, id_: str) -> CommitOutcome:
    """Commit on top of what the owner's record is at."""
    commit = next_commit(conversation(id_, tenant_id), key="k9")
    return await store.commit(
        replace(commit, expected=Expected(1, 1), record=replace(commit.record, revision=2))
    )


ASKED: dict[str, Ask] = {
    "load": lambda s, t, c: s.load(t, c),
    "load_many": lambda s, t, c: s.load_many([(t, c)]),
    "commit": update,
    "renew": lambda s, t, c: s.renew(t, c, 1, "i1", NOW + 99, NOW + 99),
    "enqueue": lambda s, t, c: s.enqueue(t, c, entry("k9"), NOW),
    "events": lambda s, t, c: s.events(t, c, EPOCH, 0),
    "batch_at": lambda s, t, c: s.batch_at(t, c, EPOCH, 1),
    "find_key": lambda s, t, c: s.find_key(t, c, "k1"),
    "turn_end": lambda s, t, c: s.turn_end(t, c, EPOCH, "k1", 0),
    "messages": lambda s, t, c: s.messages(t, c, EPOCH, before=None, after=0, limit=9),
    "offsets": lambda s, t, c: s.offsets([(t, c)]),
    "conversation_ids": lambda s, t, c: s.conversation_ids(t, after="" if c == ID else "zz"),
    "find_execution": lambda s, t, c: s.find_execution(t, "x1" if c == ID else "missing"),
    "executions": lambda s, t, c: s.executions(t, ExecutionFilter(flow_id="book" if c == ID else "missing")),
    "conversations": lambda s, t, c: s.conversations(
        t, ExecutionFilter(flow_id="book" if c == ID else "missing")
    ),
    "count_conversations": lambda s, t, c: s.count_conversations(
        t, ExecutionFilter(flow_id="book" if c == ID else "missing")
    ),
    "waiting": lambda s, t, c: s.waiting(t, ["user:u" if c == ID else "user:missing"]),
    "remove_events": lambda s, t, c: s.remove_events(t, c),
    "flow_version": lambda s, t, c: s.flow_version(t, "f" if c == ID else "missing", 1),
    "archive_flow": lambda s, t, c: s.archive_flow(t, "f" if c == ID else "missing"),
}


@pytest.mark.parametrize("method", ASKED)
@pytest.mark.parametrize("deleted", [False, True])
async def test_a_foreign_conversation_is_a_missing_one(store: Store, method: str, deleted: bool) -> None:
    record = await committed(store, conversation(), key="k1", **leased(conversation()))
    await store.publish(
        FlowVersion(TENANT, "f", 0, "sha", "flow: f", "f.yaml"), name="f", description="", is_default=True
    )
    if deleted:
        record = await buried(store, record)
    ask = ASKED[method]
    foreign, missing = await ask(store, STRANGER, ID), await ask(store, STRANGER, "missing")
    own_missing = await ask(store, TENANT, "missing")
    assert foreign == missing == own_missing
    assert await store.load(TENANT, ID) == record
    assert len(await store.events(TENANT, ID, EPOCH, 0)) == 1
    assert len(await store.flows(TENANT)) == 1


async def test_every_method_that_names_a_tenant_is_asked() -> None:
    """A method that is added to the ports and forgotten here fails this test; keys have one of their own."""
    named = {
        name
        for name, method in getmembers(Store, isfunction)
        if not name.startswith("_") and {"tenant_id", "keys"} & signature(method).parameters.keys()
    }
    assert named == ASKED.keys() - {"commit"} | {"flows", "api_keys", "has_origin"}


async def test_two_tenants_have_conversations_of_one_name(store: Store) -> None:
    mine = await committed(store, conversation(), key="k1", execution=execution("x1"))
    theirs = await committed(
        store, conversation(tenant_id=STRANGER), ("a",), key="k1", execution=execution("x1"), slots={"a": 1}
    )
    assert await store.load(TENANT, ID) == mine
    assert await store.load(STRANGER, ID) == theirs
    await buried(store, mine)
    await store.remove_events(TENANT, ID)
    assert await store.load(STRANGER, ID) == theirs
    assert len(await store.events(STRANGER, ID, EPOCH, 0)) == 1
    assert await store.find_execution(STRANGER, "x1") == ExecutionPlace(ID, 1)


async def test_flows_of_other_tenants_are_not_listed(store: Store) -> None:
    for tenant_id in (TENANT, STRANGER):
        version = FlowVersion(tenant_id, "f", 0, tenant_id, "flow: f", "f.yaml")
        await store.publish(version, name=tenant_id, description="", is_default=True)
    assert [(f.name, f.is_default) for f in await store.flows(TENANT)] == [(TENANT, True)]
    assert [(f.name, f.is_default) for f in await store.flows(STRANGER)] == [(STRANGER, True)]
    assert await store.flows("t3") == []

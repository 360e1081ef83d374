"""Conversations and commits for tests of stores: small, plausible, numbered."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from storage.base import Commit, CommitOutcome, Expected, Store
from storage.models import (
    TOMBSTONE_MS,
    ApiKey,
    Attempt,
    Conversation,
    Event,
    EventBatch,
    Execution,
    Frame,
    InboxEntry,
    Lease,
    OpenTurn,
    Pause,
    Pending,
    Question,
    RecentKey,
    TimeMs,
)

NOW = 1_800_000_000_000
TENANT, ID, EPOCH = "t", "c", "e1"


def api_key(key_id: str = "k1", tenant_id: str = TENANT, **fields: Any) -> ApiKey:
    """Return a publishable key of a shop."""
    plain = ApiKey(
        key_id,
        tenant_id,
        "pk_",
        f"hash of {tenant_id} {key_id}",
        "Shop",
        origins=("https://shop.example",),
        created_by="u",
        created_at=NOW,
    )
    return replace(plain, **fields)


def conversation(id_: str = ID, tenant_id: str = TENANT, **fields: Any) -> Conversation:
    """Return a conversation that does not exist yet."""
    return Conversation(tenant_id, id_, "u", EPOCH, created_at=NOW, **fields)


def event(offset: int, kind: str = "step.started", command_id: str | None = None, **data: Any) -> Event:
    """Return an event."""
    return Event(offset, NOW + offset, kind, "x1", "who", command_id, None, data)


def next_commit(
    record: Conversation,
    kinds: Sequence[str] = ("message.received", "turn.completed"),
    *,
    key: str | None = None,
    data: Mapping[str, Any] | None = None,
    fence: int | None = None,
    commit_id: str | None = None,
    **fields: Any,
) -> Commit:
    """Return the commit that leads on from ``record`` (revision 0: not stored yet).

    ``kinds`` are the types of its events, none of them: no batch. ``fields`` change the new record.
    """
    revision, first = record.revision + 1, record.offset + 1
    commit_id = commit_id or f"{record.conversation_id}-{revision}"
    offset = record.offset + len(kinds)
    batch = None
    if kinds:
        batch_events = tuple(
            event(first + n, kind, command_id=key, **(data or {})) for n, kind in enumerate(kinds)
        )
        hash_ = f"hash of {key}" if key is not None else None
        batch = EventBatch(record.epoch, first, offset, commit_id, key, hash_, batch_events)
    defaults = {
        "offset": offset,
        "last_activity": NOW + revision,
        "fence": record.fence if fence is None else fence,
    }
    after = replace(record, revision=revision, commit_id=commit_id, **defaults | fields)
    return Commit(Expected(record.revision or None, record.fence), after, batch)


async def committed(store: Store, record: Conversation, *args: Any, **kwargs: Any) -> Conversation:
    """Make the next commit, which must succeed, and return the record after it."""
    commit = next_commit(record, *args, **kwargs)
    assert await store.commit(commit) is CommitOutcome.COMMITTED
    return commit.record


async def buried(
    store: Store, record: Conversation, deleted_at: TimeMs = NOW, wake_at: TimeMs | None = None
) -> Conversation:
    """Commit the tombstone of ``record`` and return it."""
    tombstone = Conversation(
        record.tenant_id,
        record.conversation_id,
        record.user_id,
        record.epoch,
        offset=record.offset,
        revision=record.revision + 1,
        fence=record.fence + 1,
        commit_id=f"{record.conversation_id}-tombstone",
        wake_at=wake_at,
        deleted_at=deleted_at,
        expires_at=deleted_at + TOMBSTONE_MS,
    )
    commit = Commit(Expected(record.revision, record.fence), tombstone, None)
    assert await store.commit(commit) is CommitOutcome.COMMITTED
    return tombstone


def execution(execution_id: str = "x1", **fields: Any) -> Execution:
    """Return an execution that waits for input."""
    return Execution(execution_id, "book", 1, fields.pop("status", "waiting_input"), "u", **fields)


def leased(record: Conversation, owner: str = "i1", until: TimeMs = NOW + 15_000) -> dict[str, Any]:
    """Return the fields of the record while an effect runs under a lease."""
    return {
        "execution": execution(status="running"),
        "lease": Lease(owner, until),
        "wake_at": until,
        "fence": record.fence + 1,
    }


def entry(key: str, text: str = "hi") -> InboxEntry:
    """Return an inbox entry."""
    command = {"type": "process", "text": text}
    return InboxEntry(
        key,
        f"hash of {key}",
        command,
        {"user_id": "u"},
        NOW + 5,
        correlation_id="corr",
        request_id="req",
    )


def full_conversation() -> Conversation:
    """Return a conversation in which every field, everywhere, has a value other than its default."""
    return Conversation(
        tenant_id=TENANT,
        conversation_id=ID,
        user_id="u",
        epoch=EPOCH,
        offset=7,
        revision=3,
        fence=2,
        lease=Lease("i1", NOW + 15_000),
        commit_id="c3",
        status="running",
        project_id="p",
        channel="api",
        locale="de",
        timezone="Europe/Berlin",
        slots={"Größe": "ü 😀", "n": 2**53, "f": 1.5, "nested": {"a": [None, True, {"b": -1}]}},
        variables={"booking": None},
        execution=_full_execution(),
        turn=OpenTurn("k9", "timer", NOW, ({"text": "hi"},), {"a": 1}, {"b": []}, ({"name": "find"},), 5),
        inbox=(entry("k10"), replace(entry("k11"), void=True)),
        recent=(RecentKey("k9", "h", "running", "x1", 5, 7), RecentKey("k8", "h", "queued", None, 3, 4)),
        ring_full=True,
        reset_offset=2,
        wake_at=NOW + 15_000,
        expires_at=NOW + 99,
        deleted_at=NOW + 98,
        created_at=NOW,
        last_activity=NOW + 3,
        message_count=12,
    )


def first_conversation() -> Conversation:
    """Return the full conversation as the first release wrote it: what came later has its default."""
    full = full_conversation()
    assert full.execution is not None
    first, *others = full.execution.frames
    frames = (replace(first, timer_at=None, awaits=None, happened=None), *others)
    (pending,) = full.execution.pending
    asked = (
        replace(
            pending,
            frame=0,
            answers={},
            binding=None,
            bound_to=None,
            votes=({"by": "u2"},),
            decided={"by": "u"},
        ),
    )
    execution = replace(
        full.execution, frames=frames, pending=asked, timeout_ms=None, subflows={}, pause=None
    )
    inbox = tuple(replace(waiting, correlation_id=None, request_id=None) for waiting in full.inbox)
    return replace(full, execution=execution, inbox=inbox)


def _full_execution() -> Execution:
    pending = Pending(
        pending_id="p1",
        kind="clarification",
        step_id="which",
        title="Which?",
        prompt="Say which",
        questions=(Question("q", "Part?", "choice", ("am", "pm"), False),),
        editable=("slots.date",),
        by={"scope": "acceptance:decide"},
        votes=({"by": "u2", "at": NOW, "accepted": True, "comment": None},),
        digest="d" * 64,
        deadline=NOW + 9,
        created_at=NOW,
        decided={
            "by": "u",
            "at": NOW,
            "accepted": None,
            "comment": None,
            "edits": {},
            "answers": {"q": "am"},
            "digest": None,
        },
        frame=1,
        answers={"q": "am"},
        binding="e" * 64,
        bound_to="x1:1:book:1",
    )
    attempt = Attempt(
        frame=0,
        step_id="find",
        visit=2,
        key="x1:0:find:2",
        message_id="m1",
        number=3,
        started_at=NOW,
        name="calendar.search",
        effect="read",
        arguments={"day": "2026-01-01"},
        retry_at=NOW + 500,
        reconciling=True,
    )
    return Execution(
        execution_id="x1",
        flow_id="book",
        flow_version=3,
        status="running",
        user_id="u",
        project_id="p",
        variant="b",
        input={"a": 1},
        output=[1, 2],
        error={"code": "step_failed"},
        current_step_id="find",
        completed_steps=("who",),
        frames=(
            Frame(
                *(0, None, "book", 3, "find", {"offers": []}, {"find": 2}, {"who": 1}),
                timer_at=NOW + 5,
                awaits="paid",
                happened={"cause": "signal", "payload": {"a": 1}},
            ),
            Frame(1, 0, "sub", 1, None),
        ),
        attempts=(attempt,),
        pending=(pending,),
        command_id="k9",
        correlation_id="corr",
        request_id="req",
        exposed=("offers",),
        running_ms=1234,
        started_at=NOW,
        updated_at=NOW + 1,
        completed_at=NOW + 2,
        timeout_ms=120_000,
        subflows={"sub": 1},
        pause=Pause("retry", NOW, "operator", "a look", NOW + 60_000, wanted=True),
    )

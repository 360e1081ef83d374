"""An execution whose user does not come back expires; nothing else does."""

from dataclasses import replace
from typing import Any

import pytest

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.schedule import HOUR_MS, wake_at
from storage.memory import MemoryStore
from storage.models import Pending
from tests.support.talk import TENANT, USER, Talk, replies
from tests.support.world import VirtualClock

FORM = """
flow: form
default: true
slots: {name: {type: text}, day: {type: text}}
steps:
  - {id: ask, collect: [name, day], ask: {name: "Name?", day: "Day?"}}
  - {id: end, end: completed}
"""
SESSION_MS = 48 * HOUR_MS
AGENT = Principal("boss", TENANT, scopes=frozenset({"conversations:write"}))


def talking(**more: Any) -> Talk:
    return Talk(FORM, session_ms=SESSION_MS, **more)


async def test_a_user_who_stays_away_finds_the_execution_expired() -> None:
    async with talking() as talk:
        await talk.say("hello")
        await talk.wait(SESSION_MS - 1)
        assert (await talk.record()).status == "waiting_input"
        await talk.wait(HOUR_MS)
        record = await talk.record()
        assert record.status == "expired"
        assert record.wake_at is None
        [expired] = await talk.events("execution.expired")
        assert (expired.cause, expired.command_id, expired.step_id) == ("session", None, "ask")
        assert expired.data["status"] == "expired"
        assert expired.data["error"]["code"] == "expired"
        assert talk.published[-1].batch is not None
        assert talk.published[-1].batch.events == (expired,)


async def test_the_next_message_starts_afresh() -> None:
    async with talking() as talk:
        await talk.say("hello")
        await talk.say("Ada")
        first = (await talk.record()).execution
        await talk.wait(SESSION_MS + HOUR_MS)
        assert replies(await talk.say("hello again")) == ["Name?"]
        second = (await talk.record()).execution
        assert first is not None
        assert second is not None
        assert first.execution_id != second.execution_id
        assert (await talk.record()).slots == {}


async def test_a_message_prolongs_the_session_whoever_wrote_it() -> None:
    async with talking() as talk:
        await talk.say("hello")
        for who in (USER, AGENT):
            await talk.wait(SESSION_MS - 1)
            await talk.say("Ada", who=who)
        await talk.wait(SESSION_MS - HOUR_MS)
        assert (await talk.record()).status == "waiting_input"
        await talk.wait(2 * HOUR_MS)
        assert (await talk.record()).status == "expired"


async def test_turns_of_one_hour_are_due_at_one_time() -> None:
    """So that the index of due times is seldom written."""
    clock = VirtualClock(1_800_000_000_000 // HOUR_MS * HOUR_MS)
    async with talking(clock=clock) as talk:
        due = set()
        for name in ("hello", "Ada"):
            clock.advance(10)
            await talk.say(name)
            due.add((await talk.record()).wake_at)
        assert due == {clock.now_ms // HOUR_MS * HOUR_MS + SESSION_MS + HOUR_MS}


async def test_what_has_ended_does_not_expire() -> None:
    async with talking() as talk:
        for text in ("hello", "Ada", "Monday"):
            await talk.say(text)
        assert (await talk.record()).wake_at is None
        await talk.wait(SESSION_MS * 2)
        assert (await talk.record()).status == "completed"


async def test_an_open_question_ends_with_the_session() -> None:
    """Whoever shows it is told that it is closed; and who answers it afterwards, that it is too late."""
    clarify = """
flow: questions
default: true
steps:
  - {id: which, clarify: {questions: [{id: part, text: "Morning or afternoon?"}]}}
"""
    async with Talk(clarify, session_ms=SESSION_MS) as talk:
        await talk.say("hello")
        [asked] = await talk.events("clarification.requested")
        await talk.wait(SESSION_MS + HOUR_MS)
        assert (await talk.record()).status == "expired"
        [closed] = await talk.events("pending.expired")
        assert closed.data["pending_id"] == asked.data["pending_id"]
        assert closed.cause == "session"
        body = {"pending_id": asked.data["pending_id"], "answers": {"part": "morning"}}
        with pytest.raises(Refused) as refused:
            await talk.send("clarification", body)
        assert refused.value.code is ErrorCode.PENDING_EXPIRED


async def test_a_deleted_conversation_does_not_expire() -> None:
    async with talking() as talk:
        await talk.say("hello")
        await talk.engine.delete(TENANT, "c1", USER)
        for _ in range(3):
            await talk.wait(SESSION_MS)
        record = await talk.record()
        assert record.deleted_at is not None
        assert record.execution is None


async def test_a_session_of_no_length_never_ends() -> None:
    async with Talk(FORM) as talk:
        await talk.say("hello")
        assert (await talk.record()).wake_at is None
        await talk.wait(100 * SESSION_MS)
        assert (await talk.record()).status == "waiting_input"


@pytest.mark.parametrize(
    ("status", "pending", "expires"),
    [
        ("waiting_input", (), True),
        ("waiting_clarification", (), True),
        ("paused", (), True),
        ("running", (), False),
        ("waiting_acceptance", (), False),
        ("waiting_timer", (), False),
        ("waiting_event", (), False),
        ("completed", (), False),
        ("waiting_clarification", (Pending("p", "clarification", "s", deadline=1 << 50),), False),
        ("waiting_clarification", (Pending("p", "clarification", "s", by={"scope": "x"}),), False),
        ("waiting_input", (Pending("p", "acceptance", "s"),), False),
        ("waiting_input", (Pending("p", "acceptance", "s", decided={"accepted": True}),), True),
    ],
)
async def test_only_what_waits_for_its_user_alone_expires(
    status: Any, pending: tuple[Pending, ...], expires: bool
) -> None:
    """What has a deadline ends by that; what waits for a decision waits for as long as that takes."""
    async with talking() as talk:
        await talk.say("hello")
        record = await talk.record()
        assert record.execution is not None
        execution = replace(record.execution, status=status, pending=pending)
        record = replace(record, status=status, execution=execution)
        due = record.last_activity + SESSION_MS + HOUR_MS
        assert (wake_at(record, talk.clock.now(), SESSION_MS) in range(due - HOUR_MS, due + 1)) is expires


async def test_a_longer_setting_counts_for_sessions_that_are_open() -> None:
    """The server is restarted with another setting: what was due is looked at, and given its new time."""
    clock = VirtualClock()
    store = MemoryStore(clock=clock.now)
    async with talking(store=store, clock=clock) as talk:
        await talk.say("hello")
    await store.open()
    async with Talk(FORM, store=store, clock=clock, session_ms=2 * SESSION_MS) as talk:
        await talk.wait(SESSION_MS + HOUR_MS)
        record = await talk.record()
        assert record.status == "waiting_input"
        assert record.wake_at is not None
        assert record.wake_at >= record.last_activity + 2 * SESSION_MS
        await talk.wait(SESSION_MS)
        assert (await talk.record()).status == "expired"


WAITING = """
flow: waiting
default: true
interruptible_by: [aside]
steps: [{id: pay, wait: {event: paid}}, {id: thanks, say: "Thanks."}]
"""
ASIDE = """
flow: aside
triggers: {intents: [{name: aside, keywords: [aside]}]}
slots: {name: {type: text}}
steps: [{id: ask, collect: name, ask: {name: "Name?"}}]
"""


async def test_what_has_come_already_keeps_no_session_open() -> None:
    """The event came while a digression asks: only the user is waited for now, and must come back in time."""
    async with Talk(WAITING, ASIDE, session_ms=SESSION_MS) as talk:
        await talk.say("hello")
        await talk.say("aside")
        assert (await talk.record()).status == "waiting_input"
        assert (await talk.record()).wake_at is None
        await talk.send("signal", {"name": "paid"})
        await talk.wait(SESSION_MS + HOUR_MS)
        assert (await talk.record()).status == "expired"

"""The Python SDK where a flow waits for people: questions, decisions, races, operators who watch."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import parley_client
import pytest
from parley_client import AsyncConversation, AsyncParley, events

from tests.support.server import RunningServer, running_server, token

ORDER = """\
flow: order
slots:
  day: {type: date}
  guests: {type: integer}
variables: {when: null, told: null}
steps:
  - id: what
    collect: [day]
    ask: {day: "Which day?"}
  - id: more
    clarify:
      questions:
        - {id: part, text: "Morning or afternoon?", options: [morning, afternoon]}
        - {id: note, text: "Anything else?", required: false}
      deadline: 15m
      on_timeout: none
    save: variables.when
  - id: gate
    accept:
      title: "A table on ${slots.day}, ${variables.when.part}?"
      by: {scope: "acceptance:decide"}
      editable: [slots.day]
      deadline: 4h
      on_timeout: {decide: reject}
    accepted: booked
    rejected: none
    save: variables.told
  - {id: booked, say: "Booked for ${slots.day}, ${variables.when.part}."}
  - {id: done, end: completed}
  - {id: none, say: "Nothing was booked.", goto: done}
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path, flows={"order": ORDER}) as server:
        yield server


def client(server: RunningServer, user: str = "ada", role: str = "user") -> AsyncParley:
    return AsyncParley(server.url, token=token(user, role=role), random=lambda: 0.0)


async def asked(chat: AsyncConversation) -> parley_client.Pending:
    """Talk up to the open questions."""
    await chat.ask("a table on 2031-05-20")
    (pending,) = chat.pending("clarification")
    return pending


async def at_the_gate(chat: AsyncConversation) -> None:
    await chat.answer(await asked(chat), part="morning")


async def test_questions_are_answered_as_a_form(server: RunningServer) -> None:
    async with client(server) as parley, parley.conversation() as chat:
        pending = await asked(chat)
        assert [(question.id, question.options, question.required) for question in pending.questions] == [
            ("part", ("morning", "afternoon"), True),
            ("note", (), False),
        ]
        assert pending.deadline is not None
        assert pending.created_at is not None
        open_for = parley_client.parse_time(pending.deadline) - parley_client.parse_time(pending.created_at)
        assert open_for.total_seconds() == 900
        stream = chat.events()
        turn = await chat.answer(pending, part="morning")
        assert turn.state == "gate"
        assert chat.pending() == ()
        stream.finish()
        (closed,) = [event async for event in stream if isinstance(event, events.PendingResolved)]
        assert closed.decided["by"] == "ada"
        assert closed.decided["answers"] == {"part": "morning", "note": None}


async def test_what_is_missing_is_told_and_the_request_stays_open(server: RunningServer) -> None:
    async with client(server) as parley, parley.conversation() as chat:
        pending = await asked(chat)
        with pytest.raises(parley_client.MissingAnswers) as half:
            await chat.answer(pending, note="by the window")
        assert half.value.missing == ("part",)
        with pytest.raises(parley_client.BadRequest) as wrong:
            await chat.answer(pending, part="midnight")
        assert wrong.value.field == "answers.part"
        assert chat.pending() == (pending,)
        assert (await chat.answer(pending, part="2")).state == "gate"


async def test_an_operator_sees_what_the_owner_does_not_and_decides(server: RunningServer) -> None:
    async with (
        client(server) as parley,
        client(server, "olga", "operator") as office,
        parley.conversation("c1") as chat,
        office.conversation("c1") as desk,
    ):
        await at_the_gate(chat)
        heard = chat.events()
        await until_open(desk)
        assert chat.pending() == ()
        (shown,) = desk.pending("acceptance")
        assert shown.title == "A table on 2031-05-20, morning?"
        assert shown.editable == ("day",)
        turn = await desk.accept(shown, comment="moved a day", edits={"day": "2031-05-21"})
        assert turn.text == "Booked for 2031-05-21, morning."
        assert desk.pending() == ()
        async for event in heard:
            if isinstance(event, events.MessageCompleted):
                assert event.message.text == "Booked for 2031-05-21, morning."
                break
        state = await chat.state()
        assert (state.status, state.slots["day"]) == ("completed", "2031-05-21")


async def test_the_owner_may_not_decide_what_is_for_others(server: RunningServer) -> None:
    async with (
        client(server) as parley,
        client(server, "olga", "operator") as office,
        parley.conversation("c1") as chat,
        office.conversation("c1") as desk,
    ):
        await at_the_gate(chat)
        await until_open(desk)
        with pytest.raises(parley_client.PermissionDenied):
            await chat.accept(desk.pending()[0])
        with pytest.raises(parley_client.BadRequest) as wrong:
            await desk.accept(desk.pending()[0], edits={"guests": 3})
        assert wrong.value.field == "edits.guests"
        assert wrong.value.suggestion is not None
        assert (await desk.reject(desk.pending()[0])).text == "Nothing was booked."


async def test_of_two_who_decide_at_once_one_is_first_and_the_other_is_told(server: RunningServer) -> None:
    async with (
        client(server) as parley,
        client(server, "olga", "operator") as one,
        client(server, "oleg", "operator") as other,
        parley.conversation("c1") as chat,
        one.conversation("c1") as first,
        other.conversation("c1") as second,
    ):
        await at_the_gate(chat)
        await until_open(first)
        await until_open(second)
        (pending,) = first.pending()
        done = await asyncio.gather(
            first.accept(pending), second.reject(pending, comment="no"), return_exceptions=True
        )
        (late,) = [each for each in done if isinstance(each, parley_client.PendingResolved)]
        (turn,) = [each for each in done if isinstance(each, parley_client.Turn)]
        assert late.decided["by"] == ("olga" if turn is done[0] else "oleg")
        assert late.decided["accepted"] == (turn is done[0])
        # asking again with a key of the past says the same
        with pytest.raises(parley_client.PendingResolved):
            await second.accept(pending)


async def test_a_decision_that_was_sent_twice_counts_once(server: RunningServer) -> None:
    async with (
        client(server) as parley,
        client(server, "olga", "operator") as office,
        parley.conversation("c1") as chat,
        office.conversation("c1") as desk,
    ):
        await at_the_gate(chat)
        await until_open(desk)
        (pending,) = desk.pending()
        first = await desk.accept(pending, idempotency_key="decision-1")
        again = await desk.accept(pending, idempotency_key="decision-1")
        assert again.duplicate
        assert again.text == first.text


async def test_what_is_open_is_known_to_who_enters_later(server: RunningServer) -> None:
    async with client(server) as parley, parley.conversation("c1") as chat:
        pending = await asked(chat)
    async with client(server) as parley, parley.conversation("c1") as chat:
        assert chat.pending() == (pending,)
        assert (await chat.state()).pending == chat.pending()


async def until_open(chat: AsyncConversation) -> None:
    """Wait until a request is known here."""
    async with asyncio.timeout(10):
        stream = chat.events()
        while not chat.pending():
            await anext(stream)

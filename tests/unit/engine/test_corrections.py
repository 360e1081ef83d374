"""Corrections of what was said before: they undo what rests on it, and nothing else."""

from typing import Any

import pytest

from server.engine.flow.dependencies import links_of
from server.engine.flow.loader import compile_flow
from tests.support.talk import TENANT, Talk

BOOK = """
flow: book
interruptible_by: [hours]
slots:
  service: {type: choice, options: [consultation, checkup]}
  day: {type: date, validate: [{if: "value < today", say: "That day has passed."}]}
  email: {type: email}
  sure: {type: boolean}
  note: {type: text}
variables: {offers: [], price: null, greeting: null, ref: null}
steps:
  - {id: who, collect: [service, day], ask: {service: "Which service?", day: "Which day?"}}
  - {id: find, action: lab.find, effect: read, with: {day: "${slots.day}"}, save: variables.offers}
  - {id: best, set: {variables.price: "${variables.offers[0]}"}}
  - {id: greet, set: {variables.greeting: "Hello ${user.id}"}}
  - {id: mail, collect: email, ask: {email: "Your email, for ${variables.price}?"}}
  - {id: last, collect: sure, ask: {sure: "Sure?"}}
  - id: book
    if: slots.sure
    action: lab.book
    effect: write
    with: {day: "${slots.day}"}
    save: variables.ref
  - {id: more, collect: note, ask: {note: "Anything to add?"}}
  - {id: done, say: "${slots.service} on ${slots.day}: ${slots.note}"}
"""
HOURS = """
flow: hours
triggers: {intents: [{name: hours, keywords: [hours]}]}
steps:
  - {id: tell, say: "Nine to five."}
"""


class Lab:
    """The days that were looked for, and those that were booked."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.booked: list[str] = []

    async def find(self, context: Any, day: str) -> list[str]:
        self.found.append(day)
        return [f"price {len(self.found)}"]

    async def book(self, context: Any, day: str) -> str:
        self.booked.append(day)
        return "A1"


def booking(lab: Lab) -> Talk:
    """The clock begins on Friday, 2027-01-15."""
    return Talk(BOOK, HOURS, actions={"lab.find": lab.find, "lab.book": lab.book})


async def say(talk: Talk, *texts: str) -> list[str]:
    """Say one after the other; return what the flow says to the last."""
    told = 0
    for text in texts:
        told = len(await talk.texts()) if await talk.store.load(TENANT, "c1") else 0
        await talk.say(text, flow_id="book")
        await talk.rest()
    return (await talk.texts())[told:]


async def test_a_correction_redoes_what_rests_on_it_and_asks_again() -> None:
    lab = Lab()
    async with booking(lab) as talk:
        assert await say(talk, "checkup", "tomorrow") == ["Your email, for price 1?"]
        assert await say(talk, "no, Monday") == ["Your email, for price 2?"]
        record = await talk.record()
        assert record.slots == {"service": "checkup", "day": "2027-01-18"}
        assert lab.found == ["2027-01-16", "2027-01-18"]
        assert record.variables["greeting"] == "Hello u1"
        started = [event.step_id for event in await talk.events("step.started")]
        assert started == ["who", "find", "best", "greet", "mail", "find", "best", "greet", "mail"]
        assert "mail" not in [event.step_id for event in await talk.events("step.completed")]


async def test_what_rests_on_a_corrected_slot_is_cleared_transitively() -> None:
    """``find`` reads the day, ``best`` what that found, the question for the email what ``best`` set."""
    lab = Lab()
    async with booking(lab) as talk:
        await say(talk, "checkup", "tomorrow", "ann@example.org")
        before = len(await talk.events())
        assert await say(talk, "actually, make it Monday") == ["Your email, for price 2?"]
        later = [event for event in await talk.events() if event.offset > before]
        cleared = [event.data for event in later if event.type.endswith(".updated")]
        assert {"slots": {"day": "2027-01-18", "email": None}} in cleared[:2]
        assert {"variables": {"offers": [], "price": None}} in cleared[:2]


async def test_a_correction_on_which_nothing_rests_only_asks_again() -> None:
    lab = Lab()
    async with booking(lab) as talk:
        await say(talk, "checkup", "tomorrow")
        assert await say(talk, "sorry, consultation") == ["Your email, for price 1?"]
        assert (await talk.record()).slots["service"] == "consultation"
        assert len(lab.found) == 1


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("Monday", "2027-01-18"),
        ("no, Monday", "2027-01-18"),
        ("Nein, Monday", "2027-01-18"),
        ("the day is monday", "2027-01-18"),
        ("tomorrow", "2027-01-16"),
        ("nobody on Monday or Tuesday", "2027-01-16"),
    ],
)
async def test_a_value_that_can_only_be_an_earlier_slots_corrects_it(said: str, day: str) -> None:
    """The same value again, and what could mean two things, correct nothing."""
    lab = Lab()
    async with booking(lab) as talk:
        await say(talk, "checkup", "tomorrow", said)
        assert (await talk.record()).slots["day"] == day


async def test_no_is_an_answer_where_the_rest_is_no_other_value() -> None:
    lab = Lab()
    async with booking(lab) as talk:
        await say(talk, "checkup", "tomorrow", "ann@example.org")
        assert await say(talk, "no, Monday") == ["Your email, for price 2?"]
        await say(talk, "ann@example.org", "no, thanks")
        assert (await talk.record()).slots["sure"] is False


async def test_a_text_slot_takes_what_does_not_begin_as_a_correction() -> None:
    lab = Lab()
    async with booking(lab) as talk:
        await say(talk, "checkup", "tomorrow", "ann@example.org", "no", "Please no consultation")
        assert (await talk.texts())[-1] == "checkup on 2027-01-16: Please no consultation"


async def test_a_correction_never_goes_back_across_a_write() -> None:
    """The slot has the new value; what the write was done with stays as it is."""
    lab = Lab()
    async with booking(lab) as talk:
        await say(talk, "checkup", "tomorrow", "ann@example.org", "yes")
        assert lab.booked == ["2027-01-16"]
        assert await say(talk, "no, Monday") == ["Anything to add?"]
        record = await talk.record()
        assert record.slots["day"] == "2027-01-18"
        assert (record.variables["ref"], record.variables["price"]) == ("A1", "price 1")
        assert (len(lab.found), len(lab.booked)) == (1, 1)


async def test_a_write_that_was_skipped_is_no_barrier() -> None:
    lab = Lab()
    async with booking(lab) as talk:
        await say(talk, "checkup", "tomorrow", "ann@example.org", "no")
        assert await say(talk, "no, Monday") == ["Your email, for price 2?"]
        assert lab.booked == []


async def test_a_value_against_the_slots_rules_corrects_nothing_and_says_why() -> None:
    lab = Lab()
    async with booking(lab) as talk:
        await say(talk, "checkup", "tomorrow")
        assert await say(talk, "no, 2026-01-01") == ["That day has passed.", "Your email, for price 1?"]
        assert (await talk.record()).slots["day"] == "2027-01-16"


async def test_a_digression_goes_before_a_value_that_was_only_mentioned() -> None:
    lab = Lab()
    async with booking(lab) as talk:
        await say(talk, "checkup", "tomorrow")
        assert await say(talk, "your hours on monday?") == ["Nine to five.", "Your email, for price 1?"]
        assert (await talk.record()).slots["day"] == "2027-01-16"


async def test_of_two_slots_of_a_type_the_one_that_is_named_is_corrected() -> None:
    source = """
flow: trip
slots: {out: {type: date}, back: {type: date}, email: {type: email}}
steps:
  - collect: [out, back, email]
"""
    async with Talk(source) as talk:
        for text in ("go", "2027-02-01", "2027-02-05"):
            await talk.say(text)
        await talk.say("no, 2027-02-06")
        assert (await talk.record()).slots == {"out": "2027-02-01", "back": "2027-02-06"}
        await talk.say("no, out on 2027-02-02")
        assert (await talk.record()).slots == {"out": "2027-02-02", "back": "2027-02-06"}


async def test_the_open_slot_goes_before_an_earlier_one_of_its_type_unless_that_is_named() -> None:
    source = "flow: trip\nslots: {out: {type: date}, back: {type: date}}\nsteps:\n  - collect: [out, back]\n"
    async with Talk(source) as talk:
        await talk.say("go")
        await talk.say("2027-02-01")
        await talk.say("sorry, out on 2027-02-02")
        assert (await talk.record()).slots == {"out": "2027-02-02"}
        await talk.say("actually 2027-02-09")
        assert (await talk.record()).slots == {"out": "2027-02-02", "back": "2027-02-09"}


async def test_a_flow_that_was_called_and_writes_is_not_gone_back_across() -> None:
    lab = Lab()
    outer = """
flow: outer
slots: {day: {type: date}, email: {type: email}}
steps:
  - {id: ask, collect: day}
  - {id: sub, call: inner, with: {day: "${slots.day}"}}
  - {id: mail, collect: email}
"""
    inner = """
flow: inner
variables: {day: null}
steps:
  - {id: book, action: lab.book, effect: write, with: {day: "${variables.day}"}}
"""
    async with Talk(outer, inner, actions={"lab.book": lab.book}) as talk:
        await talk.say("go", flow_id="outer")
        await talk.say("tomorrow")
        await talk.rest()
        await talk.say("no, Monday")
        await talk.rest()
        assert lab.booked == ["2027-01-16"]
        assert (await talk.record()).slots == {"day": "2027-01-18"}


def test_links_say_what_rests_on_what() -> None:
    flow = compile_flow(BOOK, "book.yaml")
    shown = [
        (link.step_id, sorted(map(".".join, link.reads)), sorted(map(".".join, link.saves)))
        for link in links_of(flow.steps, flow.slots)
    ]
    assert shown == [
        ("who", [], ["slots.service"]),
        ("who", [], ["slots.day"]),
        ("find", ["slots.day"], ["variables.offers"]),
        ("best", ["variables.offers"], ["variables.price"]),
        ("greet", [], ["variables.greeting"]),
        ("mail", ["variables.price"], ["slots.email"]),
        ("last", [], ["slots.sure"]),
        ("book", ["slots.day", "slots.sure"], ["variables.ref"]),
        ("more", [], ["slots.note"]),
        ("done", ["slots.day", "slots.note", "slots.service"], []),
    ]

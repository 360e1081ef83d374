"""What a conversation makes of what is said: slots of every type, in its own timezone and locale."""

from typing import Any

from tests.support.talk import Talk, replies

CLOCK = """
flow: clock
steps:
  - {id: tell, say: "${now} | ${timestamp(now).getHours()} | ${now.startsWith(today)}"}
"""


async def test_now_is_a_text_in_the_conversations_timezone() -> None:
    async with Talk(CLOCK, timezone="Asia/Kolkata") as talk:
        (told,) = replies(await talk.say("hello"))
    now, hours, same_day = told.split(" | ")
    assert now.endswith("+05:30")
    assert now[11:13] == f"{int(hours):02}"
    assert same_day == "true"


VISIT = """
flow: visit
slots:
  at:
    type: datetime
    validate:
      - {if: "timestamp(value) < timestamp(now) + duration('24h')", say: "That is too soon."}
  until: {type: time, validate: [{if: "value > '17:00'", say: "We close at 17:00."}]}
  phone: {type: phone, region: FR, pii: true}
  sites: {type: list, items: url, max: 2}
  sure: {type: boolean, options: [Gladly, "No thanks"]}
steps:
  - collect: [at, until, phone, sites, sure]
    ask: {at: "When?", until: "Until?", phone: "Phone?", sites: "Which sites?", sure: "Sure?"}
  - {id: done, end: completed}
"""


async def slots_of(talk: Talk) -> dict[str, Any]:
    return dict((await talk.record()).slots)


async def test_slots_of_every_type_are_asked_for_and_kept_in_their_normal_form() -> None:
    async with Talk(VISIT, timezone="Asia/Kolkata", locale="de-DE") as talk:
        assert replies(await talk.say("hello")) == ["When?"]
        assert replies(await talk.say("in 3 hours")) == ["That is too soon. When?"]
        (asked,) = replies(await talk.say("in two weeks"))
        assert "please add the time" in asked
        assert replies(await talk.say("in zwei Wochen um 14 Uhr")) == ["Until?"]
        assert replies(await talk.say("17:30")) == ["We close at 17:00. Until?"]
        assert replies(await talk.say("17 Uhr")) == ["Phone?"]
        assert replies(await talk.say("06 12 34 56 78")) == ["Which sites?"]
        assert replies(await talk.say("a.org, b.org and c.org")) == ["Please name at most 2. Which sites?"]
        assert replies(await talk.say("a.org and https://B.org/x")) == ["Sure?"]
        await talk.say(payload="Gladly")
        slots = await slots_of(talk)
    assert slots["at"].endswith("T14:00:00+05:30")
    assert {name: value for name, value in slots.items() if name != "at"} == {
        "until": "17:00",
        "phone": "+33612345678",
        "sites": ["https://a.org/", "https://b.org/x"],
        "sure": True,
    }


async def test_one_message_fills_slots_of_several_types() -> None:
    async with Talk(VISIT, timezone="Europe/Paris") as talk:
        await talk.say("hello")
        said = "the day after tomorrow at 2 pm, call +49 30 901820 about www.example.org"
        assert replies(await talk.say(said)) == ["Until?"]
        slots = await slots_of(talk)
    assert slots["phone"] == "+4930901820"
    assert slots["sites"] == ["https://www.example.org/"]
    assert "until" not in slots


STAY = """
flow: stay
slots:
  arrival: {type: date}
  departure: {type: date}
  smoking: {type: boolean}
steps:
  - collect: [arrival, departure, smoking]
    ask: {arrival: "From?", departure: "Until?", smoking: "Do you smoke?"}
  - {id: done, say: "${slots.arrival} ${slots.departure} ${slots.smoking}"}
"""


async def test_one_mention_fills_one_slot() -> None:
    """The answer to "from?" is not also the one to "until?", and so it is in the message that starts."""
    async with Talk(STAY) as talk:
        await talk.say("hello")
        assert replies(await talk.say("2031-05-20")) == ["Until?"]
        assert replies(await talk.say("2031-05-22")) == ["Do you smoke?"]
        assert replies(await talk.say("no")) == ["2031-05-20 2031-05-22 false"]


async def test_a_boolean_is_asked_with_buttons() -> None:
    async with Talk(STAY) as talk:
        await talk.say("hello")
        await talk.say("2031-05-20")
        await talk.say("2031-05-22")
        execution = (await talk.record()).execution
        assert execution is not None
        (question,) = execution.pending[0].questions
        asked = (await talk.events("message.completed"))[-1]
        assert question.options == ("yes", "no")
        assert [button["payload"] for button in asked.data["buttons"]] == ["yes", "no"]
        assert replies(await talk.say(payload="yes")) == ["2031-05-20 2031-05-22 true"]


TABLE = """
flow: table
slots: {day: {type: date}, time: {type: time}}
steps:
  - collect: [day, time]
    ask: {day: "Which day?", time: "At what time?"}
  - {id: done, say: "${slots.day} ${slots.time}"}
"""


async def test_a_day_and_its_time_fill_two_slots() -> None:
    async with Talk(TABLE) as talk:
        assert replies(await talk.say("hello")) == ["Which day?"]
        assert replies(await talk.say("20 May 2031 at 2 pm")) == ["2031-05-20 14:00"]

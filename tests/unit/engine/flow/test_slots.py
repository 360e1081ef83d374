"""Slots: what counts as a value when it was asked for, and what when it was only mentioned."""

import datetime
import re
from typing import Any

import pytest

from server.engine.flow.model import SLOT_TYPES, Slot
from server.engine.flow.slots import SlotInvalid, explain, normalise, question_options, read_slot

NOW_MS = int(datetime.datetime(2026, 11, 21, 9, tzinfo=datetime.UTC).timestamp() * 1000)
"""A Saturday."""

SERVICE = Slot(
    "service",
    "choice",
    ("consultation", "checkup", "deep clean"),
    {"consultation": ("consult", "Gespräch"), "checkup": ("check up",)},
)
SIZE = Slot("size", "choice", ("1", "2", "4"))
DATE = Slot("date", "date")
GUESTS = Slot("guests", "integer")
ROOM_COUNT = Slot("room_count", "integer")
PRICE = Slot("price", "number")
AGREED = Slot("agreed", "boolean")
EMAIL = Slot("email", "email")
NOTE = Slot("note", "text")


def read(
    slot: Slot,
    text: str,
    *,
    focused: bool = True,
    locale: str | None = None,
    timezone: str | None = "Europe/Paris",
    now_ms: int = NOW_MS,
) -> Any:
    """Return the value, having checked that its place is inside of the text."""
    found = read_slot(slot, text, now_ms=now_ms, timezone=timezone, locale=locale, focused=focused)
    if found is None:
        return None
    assert 0 <= found.start < found.end <= len(text)
    return found.value


def test_one_message_fills_several_slots() -> None:
    text = "A checkup tomorrow please, I am me@x.org"
    assert [read(slot, text, focused=False) for slot in (SERVICE, DATE, EMAIL, GUESTS, AGREED, NOTE)] == [
        "checkup",
        "2026-11-22",
        "me@x.org",
        None,
        None,
        None,
    ]


def test_a_reading_says_where_it_stands() -> None:
    found = read_slot(EMAIL, "Write to Me@X.org!", now_ms=NOW_MS, timezone=None, locale=None, focused=False)
    assert found is not None
    assert ("Write to Me@X.org!"[found.start : found.end], found.value) == ("Me@X.org", "Me@x.org")


@pytest.mark.parametrize(
    ("text", "asked", "mentioned"),
    [
        ("checkup", "checkup", "checkup"),
        ("CHECKUP!!", "checkup", "checkup"),
        ("a check up, please", "checkup", "checkup"),
        ("ein gesprach", "consultation", "consultation"),
        ("Gespräch", "consultation", "consultation"),
        ("deep  clean", "deep clean", "deep clean"),
        ("clean", None, None),
        ("not the checkup", None, None),
        ("checkup or consult", None, None),
        ("a checkup, yes a checkup", "checkup", "checkup"),
        ("no consultation, a checkup", "checkup", "checkup"),
        ("consul", "consultation", None),
        ("chekup", "checkup", None),
        ("checkups", "checkup", None),
        ("2", "checkup", None),
        ("option 2 please", "checkup", None),
        ("No. 2", "checkup", None),
        ("the second one", "checkup", None),
        ("the last", "deep clean", None),
        ("4", None, None),
        ("0", None, None),
        ("2 or 3", None, None),
        ("I have 2 children", None, None),
        ("none", None, None),
        ("what is a co", None, None),
        ("", None, None),
        ("😀", None, None),
    ],
)
def test_choice(text: str, asked: str | None, mentioned: str | None) -> None:
    assert (read(SERVICE, text), read(SERVICE, text, focused=False)) == (asked, mentioned)


def test_an_option_that_is_a_number_is_meant_before_its_place() -> None:
    assert [read(SIZE, text) for text in ("1", "2", "4", "the third one", "3")] == ["1", "2", "4", "4", "4"]


def test_the_longer_of_two_options_is_meant() -> None:
    cleaning = Slot("cleaning", "choice", ("clean", "clean windows", "windows"))
    said = ("clean", "clean windows", "windows", "the clean windows please")
    assert [read(cleaning, text) for text in said] == ["clean", "clean windows", "windows", "clean windows"]


def test_an_option_without_letters_can_be_said() -> None:
    assert read(Slot("sign", "choice", ("+", "-")), " + ") == "+"


@pytest.mark.parametrize(
    ("text", "asked", "mentioned"),
    [
        ("today", "2026-11-21", "2026-11-21"),
        ("Tomorrow at 2 pm?", "2026-11-22", "2026-11-22"),
        ("the day after tomorrow", "2026-11-23", "2026-11-23"),
        ("yesterday", "2026-11-20", "2026-11-20"),
        ("monday", "2026-11-23", "2026-11-23"),
        ("next monday", "2026-11-23", "2026-11-23"),
        ("saturday", "2026-11-28", "2026-11-28"),
        ("sun", "2026-11-22", None),
        ("the sun shines", "2026-11-22", None),
        ("in 3 days", "2026-11-24", "2026-11-24"),
        ("in two weeks", "2026-12-05", "2026-12-05"),
        ("in a week", "2026-11-28", "2026-11-28"),
        ("3 days", None, None),
        ("in 4000 days", "2037-11-03", "2037-11-03"),
        ("in 99999 days", None, None),
        ("21 Nov", "2026-11-21", "2026-11-21"),
        ("20 Nov", "2027-11-20", "2027-11-20"),
        ("Nov 21st", "2026-11-21", "2026-11-21"),
        ("the 1st of December", "2026-12-01", "2026-12-01"),
        ("December 1st, 2027", "2027-12-01", "2027-12-01"),
        ("29 Feb", "2028-02-29", "2028-02-29"),
        ("31 April", None, None),
        ("21.11.2026", "2026-11-21", "2026-11-21"),
        ("21.11.26", "2026-11-21", None),
        ("1.12.", "2026-12-01", None),
        ("1.12", "2026-12-01", None),
        ("2026-11-21", "2026-11-21", "2026-11-21"),
        ("2026/1/2", "2026-01-02", "2026-01-02"),
        ("2026-02-30", None, None),
        ("24/12/2026", "2026-12-24", "2026-12-24"),
        ("12/24/2026", "2026-12-24", "2026-12-24"),
        ("11/12/2026", None, None),
        ("5/5/2027", "2027-05-05", "2027-05-05"),
        ("the 3rd", "2026-12-03", None),
        ("from monday to friday", None, None),
        ("monday 23 Nov", "2026-11-23", "2026-11-23"),
        ("1 Dec or 2 Dec", None, None),
        ("heute", "2026-11-21", "2026-11-21"),
        ("Übermorgen", "2026-11-23", "2026-11-23"),
        ("am 3. Dezember", "2026-12-03", "2026-12-03"),
        ("morgen", "2026-11-22", None),
        ("guten Morgen", "2026-11-22", None),
        ("demain", "2026-11-22", "2026-11-22"),
        ("après-demain", "2026-11-23", "2026-11-23"),
        ("mañana", "2026-11-22", None),
        ("pasado mañana", "2026-11-23", None),
        ("le 3 février", "2027-02-03", "2027-02-03"),
        ("may I come", None, None),
        ("soon", None, None),
        ("192.168.1.10", None, None),
        ("call 555-12-3456", None, None),
        ("version 1.2.3.4", None, None),
        ("12", None, None),
    ],
)
def test_date(text: str, asked: str | None, mentioned: str | None) -> None:
    assert (read(DATE, text), read(DATE, text, focused=False)) == (asked, mentioned)


@pytest.mark.parametrize(
    ("locale", "date"),
    [
        ("en-US", "2026-11-12"),
        ("en_us", "2026-11-12"),
        ("en-GB", "2026-12-11"),
        ("de", "2026-12-11"),
        ("en", None),
    ],
)
def test_which_is_the_day_follows_the_locale(locale: str, date: str | None) -> None:
    assert read(DATE, "11/12/2026", locale=locale) == date


@pytest.mark.parametrize(
    ("timezone", "date"),
    [
        ("Pacific/Kiritimati", "2026-11-22"),
        ("Pacific/Pago_Pago", "2026-11-21"),
        ("No/Where", "2026-11-21"),
        ("../../etc/passwd", "2026-11-21"),
        ("", "2026-11-21"),
        (None, "2026-11-21"),
    ],
)
def test_today_is_the_conversations_day(timezone: str | None, date: str) -> None:
    late = NOW_MS + 2 * 3_600_000
    assert read(DATE, "today", timezone=timezone, now_ms=late) == date


@pytest.mark.parametrize(
    ("text", "asked", "mentioned"),
    [
        ("4", 4, None),
        ("we are 4", 4, None),
        ("four", 4, None),
        ("4 guests", 4, 4),
        ("a table, 4 guests, tomorrow", 4, 4),
        ("guests: 12", 12, 12),
        ("guest = 1", 1, 1),
        ("-3", -3, None),
        ("+3", 3, None),
        ("4.0", 4, None),
        ("2.5", None, None),
        ("2.5 guests", None, None),
        ("1,000", 1000, None),
        ("4 or 5", None, None),
        ("1e5", None, None),
        ("9" * 30, None, None),
        ("2026-11-21", None, None),
        ("12:30", None, None),
        ("many", None, None),
        ("room 4a", None, None),
        ("๓", None, None),
    ],
)
def test_integer(text: str, asked: int | None, mentioned: int | None) -> None:
    found = read(GUESTS, text), read(GUESTS, text, focused=False)
    assert found == (asked, mentioned)
    assert all(value is None or type(value) is int for value in found)


def test_a_slots_name_may_have_several_words() -> None:
    assert read(ROOM_COUNT, "the room count is 3", focused=False) == 3


@pytest.mark.parametrize(
    ("text", "locale", "value"),
    [
        ("12.50", None, 12.5),
        ("12,50", None, 12.5),
        ("1,250.75", None, 1250.75),
        ("1.250,75", None, 1250.75),
        ("1,250", None, 1250.0),
        ("1,250", "de-DE", 1.25),
        ("1.250", "de-DE", 1250.0),
        ("1.250", "en", 1.25),
        ("1 250", None, 1250.0),
        ("1'250'000.5", None, 1250000.5),
        ("$ 12", None, 12.0),
        ("12€", None, 12.0),
        (".5", None, 0.5),
        ("0", None, 0.0),
        ("1.2.3", None, None),
    ],
)
def test_number(text: str, locale: str | None, value: float | None) -> None:
    found = read(PRICE, text, locale=locale)
    assert found == value
    assert value is None or type(found) is float


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("Yes, please.", True),
        ("y", True),
        ("OK", True),
        ("sure", True),
        ("that's right", True),
        ("oui", True),
        ("Ja, gerne", True),
        ("sí", True),
        ("1", True),
        ("no", False),
        ("No thanks", False),
        ("nope", False),
        ("I don't", False),
        ("nein", False),
        ("0", False),
        ("yes and no", None),
        ("yes, but not then", None),
        ("no problem", None),
        ("no worries", None),
        ("maybe", None),
        ("1 or 2 things", None),
        ("I think that this might be ok for them", None),
        ("", None),
    ],
)
def test_boolean(text: str, value: bool | None) -> None:
    assert read(AGREED, text) is value
    assert read(AGREED, text, focused=False) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("me@x.org", "me@x.org"),
        ("It is <Ann.Lee+shop@Mail.Example.COM>.", "Ann.Lee+shop@mail.example.com"),
        ("me@x.org, that is me@X.ORG", "me@x.org"),
        ("me@x.org or you@x.org", None),
        ("o'neil@x.org", "o'neil@x.org"),
        ("ann@exämple.de", "ann@exämple.de"),
        ("me@x", None),
        ("me@x.o", None),
        ("@x.org", None),
        ("me@.org", None),
        ("me@-x.org", None),
        ("a..b@x.org", None),
        ("me@x.org@y.org", None),
        ("me at x dot org", None),
        ("@" * 2_000, None),
        ("a" * 2_000 + "@" + "b" * 2_000, None),
    ],
)
def test_email(text: str, value: str | None) -> None:
    assert read(EMAIL, text) == value
    assert read(EMAIL, text, focused=False) == value


def test_text_is_only_taken_when_asked_for() -> None:
    assert read(NOTE, "  something \n") == "something"
    assert read(NOTE, "   ") is None
    assert read(NOTE, "something", focused=False) is None


@pytest.mark.parametrize(
    ("slot", "value", "stored"),
    [
        (NOTE, "a", "a"),
        (NOTE, "", ""),
        (PRICE, 5, 5.0),
        (PRICE, 5.5, 5.5),
        (GUESTS, 5, 5),
        (GUESTS, 5.0, 5),
        (AGREED, False, False),
        (SERVICE, "checkup", "checkup"),
        (SERVICE, "Check up", "checkup"),
        (DATE, "2026-11-21", "2026-11-21"),
        (EMAIL, " Me@X.org ", "Me@x.org"),
        (DATE, None, None),
    ],
)
def test_values_of_programs_are_normalised(slot: Slot, value: Any, stored: Any) -> None:
    found = normalise(slot, value)
    assert found == stored
    assert type(found) is type(stored)


@pytest.mark.parametrize(
    ("slot", "value"),
    [
        (NOTE, 5),
        (NOTE, "x" * 10_001),
        (PRICE, "5"),
        (PRICE, True),
        (PRICE, float("nan")),
        (PRICE, float("inf")),
        (PRICE, 2**60),
        (GUESTS, 5.5),
        (GUESTS, float("nan")),
        (GUESTS, False),
        (AGREED, "yes"),
        (AGREED, 1),
        (SERVICE, "massage"),
        (SERVICE, ""),
        (SERVICE, ["checkup"]),
        (DATE, "tomorrow"),
        (DATE, "2026-02-30"),
        (DATE, "20261121"),
        (DATE, 20261121),
        (EMAIL, "me"),
        (EMAIL, "me@x.org, you@x.org"),
        (EMAIL, "a" * 64 + "@" + "b" * 60 + "." + "c" * 60 + "." + "d" * 60 + "." + "e" * 60 + ".org"),
        (EMAIL, {}),
    ],
)
def test_values_that_do_not_fit_are_refused(slot: Slot, value: Any) -> None:
    with pytest.raises(SlotInvalid) as refusal:
        normalise(slot, value)
    assert refusal.value.message.startswith(slot.name)


def test_explanations_say_what_would_be_right() -> None:
    assert explain(SERVICE, "massage") == "Please choose one of: consultation, checkup, deep clean."
    assert explain(EMAIL, "me") == "That is not an e-mail address."
    assert explain(AGREED, "maybe") == "Please answer yes or no."
    assert explain(GUESTS, "many") == "That is not a whole number."
    assert explain(PRICE, "much") == "That is not a number."
    assert explain(NOTE, " ") == "Please write something."
    assert explain(DATE, "soon") == "That is not a date; try 2026-11-21, 21 November or tomorrow."
    assert explain(DATE, "11/12/2026") == "That could be two dates; please write it like 2026-11-21."


def test_what_is_offered_as_buttons() -> None:
    assert question_options(SERVICE) == ("consultation", "checkup", "deep clean")
    assert question_options(AGREED) == ("yes", "no")
    assert question_options(DATE) == ()


@pytest.mark.parametrize("kind", SLOT_TYPES)
def test_what_was_read_is_normal(kind: Any) -> None:
    """A value that was read out of a message is one that a program may bring."""
    slot = Slot("s", kind, ("a", "b") if kind == "choice" else ())
    for text in ("a", "2", "yes", "tomorrow", "me@x.org", "1,5"):
        value = read(slot, text)
        assert normalise(slot, value) == value


def test_dates_are_stored_so_that_they_compare_as_text() -> None:
    found = [read(DATE, text) for text in ("yesterday", "today", "21 Dec", "1.1.2027", "2030-01-01")]
    assert found == sorted(found)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", value) for value in found)

"""Slots: what counts as a value when it was asked for, and what when it was only mentioned."""

import datetime
import re
import subprocess
import sys
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
AGREED_DE = Slot("agreed", "boolean", ("Ja", "Nein"))
EMAIL = Slot("email", "email")
NOTE = Slot("note", "text")
TIME = Slot("time", "time")
MOMENT = Slot("at", "datetime")
PHONE = Slot("phone", "phone")
URL = Slot("url", "url")
NOTES = Slot("notes", "list", items=NOTE)
NUMBERS = Slot("numbers", "list", items=GUESTS)
TOPPINGS = Slot("toppings", "list", items=Slot("toppings", "choice", ("ham", "olives")), minimum=0)
GUEST_ADDRESSES = Slot("addresses", "list", items=EMAIL, minimum=2, maximum=3)
DAYS = Slot("days", "list", items=DATE)


def reason(slot: Slot, text: str, *, locale: str | None = None) -> str:
    return explain(slot, text, now_ms=NOW_MS, timezone="Europe/Paris", locale=locale)


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
        ("in 2 months", "2027-01-21", "2027-01-21"),
        ("in a year please", "2027-11-21", "2027-11-21"),
        ("in a fortnight", "2026-12-05", "2026-12-05"),
        ("two weeks from now", "2026-12-05", "2026-12-05"),
        ("a week from tuesday", "2026-12-01", "2026-12-01"),
        ("3 days after tomorrow", "2026-11-25", "2026-11-25"),
        ("2 days before monday", "2026-11-21", "2026-11-21"),
        ("3 days before easter", None, None),
        ("in 3 months and 5 days", None, None),
        ("about 3 days", None, None),
        ("3 days ago", "2026-11-18", "2026-11-18"),
        ("next week", None, None),
        ("next month", None, None),
        ("monday next week", "2026-11-23", "2026-11-23"),
        ("last friday", "2026-11-20", "2026-11-20"),
        ("viernes pasado", "2026-11-20", "2026-11-20"),
        ("not tomorrow", None, None),
        ("not on monday, tuesday", "2026-11-24", "2026-11-24"),
        ("Friday in a week", None, None),
        ("Monday, 24 November", None, None),
        ("Tuesday, 24 November", "2026-11-24", "2026-11-24"),
        ("the first of march", "2027-03-01", "2027-03-01"),
        ("march 2027", None, None),
        ("20 may 1890", "1890-05-20", "1890-05-20"),
        ("20 may 1790", None, None),
        ("2127-01-01", None, None),
        ("in 300 years", None, None),
        ("dans trois mois", "2027-02-21", "2027-02-21"),
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


def test_a_month_from_its_last_day_is_the_next_ones_last() -> None:
    late = int(datetime.datetime(2027, 1, 31, 9, tzinfo=datetime.UTC).timestamp() * 1000)
    assert read(DATE, "in a month", now_ms=late) == "2027-02-28"


@pytest.mark.parametrize(
    ("locale", "text", "date"),
    [
        ("ru-RU", "через две недели", "2026-12-05"),
        ("ru", "в пятницу", "2026-11-27"),
        ("ru", "следующая неделя", None),
        ("ja", "明日", "2026-11-22"),
        ("ja", "3日後", "2026-11-24"),
        ("ja", "11月21日", None),
        ("ja", "来週", None),
        ("ja", "明日の午後3時", None),
        ("pl", "jutro", "2026-11-22"),
        ("de", "vor drei Tagen", "2026-11-18"),
        ("de", "15 Uhr", None),
        ("xx", "завтра", None),
        (None, "21 ноября", None),
    ],
)
def test_other_languages_are_the_librarys_where_it_is_certain(
    locale: str | None, text: str, date: str | None
) -> None:
    """Asked for, not overheard; and never a part of what was said, or a week for a day."""
    assert read(DATE, text, locale=locale) == date
    assert read(DATE, text, locale=locale, focused=False) is None


@pytest.mark.parametrize(
    ("text", "asked", "mentioned"),
    [
        ("14:30", "14:30", "14:30"),
        ("14:30:15", "14:30:15", "14:30:15"),
        ("02:30", "02:30", "02:30"),
        ("2:30", None, None),
        ("2 pm", "14:00", "14:00"),
        ("tomorrow at 2 P.M.", "14:00", "14:00"),
        ("2:30pm", "14:30", "14:30"),
        ("12 am", "00:00", "00:00"),
        ("12pm", "12:00", "12:00"),
        ("at noon", "12:00", "12:00"),
        ("midnight", "00:00", "00:00"),
        ("à midi", "12:00", "12:00"),
        ("at 14", "14:00", None),
        ("at 5", None, None),
        ("17", "17:00", None),
        ("5", None, None),
        ("3 o'clock", None, None),
        ("half past two", None, None),
        ("half past two in the afternoon", "14:30", "14:30"),
        ("quarter to five pm", "16:45", "16:45"),
        ("quarter to one am", "00:45", "00:45"),
        ("8 in the evening", "20:00", "20:00"),
        ("10 at night", "22:00", "22:00"),
        ("2 at night", "02:00", "02:00"),
        ("9 in the morning", "09:00", "09:00"),
        ("14h30", "14:30", None),
        ("14.30 Uhr", "14:30", "14:30"),
        ("14.30", None, None),
        ("9 Uhr", "09:00", None),
        ("in 3 hours", "13:00", None),
        ("in half an hour", "10:30", None),
        ("now", "10:00", None),
        ("25:00", None, None),
        ("13 pm", None, None),
        ("14:00 or 15:00", None, None),
        ("from 2 to 4 pm", None, None),
        ("morning", None, None),
        ("soon", None, None),
    ],
)
def test_time(text: str, asked: str | None, mentioned: str | None) -> None:
    assert (read(TIME, text), read(TIME, text, focused=False)) == (asked, mentioned)


@pytest.mark.parametrize(
    ("locale", "text", "time"),
    [
        ("fr", "9:30", "09:30"),
        ("en-US", "9:30", None),
        ("ja", "午後3時", "15:00"),
        ("ja", "3時", None),
        ("ru", "через час", None),
        ("ja", "正午", "12:00"),
    ],
)
def test_how_hours_are_written_follows_the_locale(locale: str, text: str, time: str | None) -> None:
    assert read(TIME, text, locale=locale) == time


@pytest.mark.parametrize(
    ("text", "asked", "mentioned"),
    [
        ("tomorrow at 2 PM", "2026-11-22T14:00:00+01:00", "2026-11-22T14:00:00+01:00"),
        ("next Friday at noon", "2026-11-27T12:00:00+01:00", "2026-11-27T12:00:00+01:00"),
        ("2 pm on dec 1", "2026-12-01T14:00:00+01:00", "2026-12-01T14:00:00+01:00"),
        ("21.11.2027 14:30", "2027-11-21T14:30:00+01:00", "2027-11-21T14:30:00+01:00"),
        ("1 July 2027, 14:30", "2027-07-01T14:30:00+02:00", "2027-07-01T14:30:00+02:00"),
        ("2026-11-22T14:00", "2026-11-22T14:00:00+01:00", "2026-11-22T14:00:00+01:00"),
        ("2026-11-22T14:00:00Z", "2026-11-22T15:00:00+01:00", "2026-11-22T15:00:00+01:00"),
        ("2026-11-22 14:00+05:30", "2026-11-22T09:30:00+01:00", "2026-11-22T09:30:00+01:00"),
        ("in two weeks at 14:00", "2026-12-05T14:00:00+01:00", "2026-12-05T14:00:00+01:00"),
        ("in 3 hours", "2026-11-21T13:00:00+01:00", "2026-11-21T13:00:00+01:00"),
        ("tonight at 8", "2026-11-21T20:00:00+01:00", None),
        ("at noon", "2026-11-21T12:00:00+01:00", None),
        ("9am", "2026-11-22T09:00:00+01:00", None),
        ("midnight", "2026-11-22T00:00:00+01:00", None),
        ("now", "2026-11-21T10:00:00+01:00", "2026-11-21T10:00:00+01:00"),
        ("tomorrow", None, None),
        ("tomorrow at 5", None, None),
        ("tomorrow at midnight", None, None),
        ("friday or saturday at 5pm", None, None),
        ("dec 1, 2 pm or 3 pm", None, None),
        ("05/06/2031 14:00", None, None),
        ("2026-02-30T14:00", None, None),
        ("2999-01-01T00:00", None, None),
        ("hello", None, None),
    ],
)
def test_datetime(text: str, asked: str | None, mentioned: str | None) -> None:
    assert (read(MOMENT, text), read(MOMENT, text, focused=False)) == (asked, mentioned)


def test_a_datetime_without_a_timezone_is_utc() -> None:
    assert read(MOMENT, "tomorrow at 2 pm", timezone=None) == "2026-11-22T14:00:00Z"


def test_a_time_that_the_clocks_skip_is_refused_and_said() -> None:
    text = "2027-03-28 02:30"
    assert read(MOMENT, text) is None
    assert reason(MOMENT, text) == "On 2027-03-28 the clocks skip 02:30; please choose another time."
    assert read(MOMENT, "2027-03-28 03:00") == "2027-03-28T03:00:00+02:00"


@pytest.mark.parametrize(
    ("day", "next_such"),
    [((2027, 3, 28), "2027-03-29T02:30:00+02:00"), ((2027, 10, 31), "2027-11-01T02:30:00+01:00")],
)
def test_a_time_that_has_passed_is_the_next_days_whatever_the_clocks_did(
    day: tuple[int, int, int], next_such: str
) -> None:
    afternoon = int(datetime.datetime(*day, 15, tzinfo=datetime.UTC).timestamp() * 1000)
    assert read(MOMENT, "at 02:30", now_ms=afternoon) == next_such


def test_a_time_that_the_clocks_show_twice_is_asked_for_with_its_offset() -> None:
    assert read(MOMENT, "2027-10-31 02:30") is None
    first, second = "2027-10-31T02:30:00+02:00", "2027-10-31T02:30:00+01:00"
    assert reason(MOMENT, "2027-10-31 02:30") == (
        f"On 2027-10-31 the clocks show 02:30 twice; please write {first} or {second}."
    )
    assert [read(MOMENT, text) for text in (first, second)] == [first, second]


def test_hours_from_now_are_elapsed_hours() -> None:
    before_the_change = int(datetime.datetime(2027, 3, 28, 0, 30, tzinfo=datetime.UTC).timestamp() * 1000)
    assert read(MOMENT, "in 2 hours", now_ms=before_the_change) == "2027-03-28T04:30:00+02:00"


@pytest.mark.parametrize(
    ("text", "locale", "region", "number", "overheard"),
    [
        ("+49 30 901820", None, None, "+4930901820", True),
        ("call me: +1 (202) 555-0143!", None, None, "+12025550143", True),
        ("(202) 555-0143", "en-US", None, "+12025550143", False),
        ("06 12 34 56 78", None, "FR", "+33612345678", False),
        ("06 12 34 56 78", "en-US", "FR", "+33612345678", False),
        ("(202) 555-0143", None, None, None, False),
        ("(202) 555-0143", "en", None, None, False),
        ("+1 202 555 0143 ext. 4", None, None, None, False),
        ("+49 30 901820 or +1 202 555 0143", None, None, None, False),
        ("2026-11-21", "en-US", None, None, False),
        ("12345", "en-US", None, None, False),
        ("+" * 2_000, None, None, None, False),
    ],
)
def test_phone(
    text: str, locale: str | None, region: str | None, number: str | None, overheard: bool
) -> None:
    slot = Slot("phone", "phone", region=region)
    assert read(slot, text, locale=locale) == number
    assert read(slot, text, locale=locale, focused=False) == (number if overheard else None)


@pytest.mark.parametrize(
    ("text", "asked", "mentioned"),
    [
        ("HTTPS://Example.org/a?b=1.", "https://example.org/a?b=1", "https://example.org/a?b=1"),
        ("see www.example.org", "https://www.example.org/", "https://www.example.org/"),
        ("example.org:443", "https://example.org/", None),
        ("exämple.de/ü", "https://xn--exmple-cua.de/%C3%BC", None),
        ("(http://x.org/A_(b))", "http://x.org/A_(b)", "http://x.org/A_(b)"),
        ("https://a.org, that is HTTPS://A.org/", "https://a.org/", "https://a.org/"),
        ("https://a.org and https://b.org", None, None),
        ("http://ann:secret@x.org", None, None),
        ("javascript:alert(1)", None, None),
        ("ftp://x.org", None, None),
        ("me@x.org", None, None),
        ("https://", None, None),
        ("https://x.org:99999", None, None),
        ("https://" + "a." * 1_000, None, None),
        ("a." * 1_000, None, None),
    ],
)
def test_url(text: str, asked: str | None, mentioned: str | None) -> None:
    assert (read(URL, text), read(URL, text, focused=False)) == (asked, mentioned)


@pytest.mark.parametrize(
    ("slot", "text", "asked", "mentioned"),
    [
        (NOTES, "salt, pepper and oil", ["salt", "pepper", "oil"], None),
        (NOTES, "- salt\n- pepper\n", ["salt", "pepper"], None),
        (NOTES, "1. salt; 2. pepper", ["salt", "pepper"], None),
        (NOTES, "salt", ["salt"], None),
        (NOTES, "salt, salt", ["salt"], None),
        (NOTES, " , ", None, None),
        (NUMBERS, "1, 2 and 3", [1, 2, 3], None),
        (NUMBERS, "1,2,3", None, None),
        (NUMBERS, "1, x", None, None),
        (TOPPINGS, "ham and olives, tomorrow", ["ham", "olives"], ["ham", "olives"]),
        (TOPPINGS, "ham but not olives", ["ham"], ["ham"]),
        (TOPPINGS, "2", ["olives"], None),
        (TOPPINGS, "none", [], None),
        (TOPPINGS, "tofu", None, None),
        (GUEST_ADDRESSES, "me@x.org and you@y.org", ["me@x.org", "you@y.org"], ["me@x.org", "you@y.org"]),
        (GUEST_ADDRESSES, "me@x.org", None, None),
        (GUEST_ADDRESSES, "a@x.org, b@x.org, c@x.org, d@x.org", None, None),
        (DAYS, "tomorrow, 3 Dec and friday", ["2026-11-22", "2026-12-03", "2026-11-27"], None),
        (DAYS, "December 1, 2027", None, None),
    ],
)
def test_list(slot: Slot, text: str, asked: list[Any] | None, mentioned: list[Any] | None) -> None:
    assert (read(slot, text), read(slot, text, focused=False)) == (asked, mentioned)


@pytest.mark.parametrize(
    "unit", ["in 3 days ", "1 ", "1, ", "12:", "tomorrow ", "+1 ", "a.", "https://", "9 pm "]
)
@pytest.mark.parametrize("kind", ["date", "time", "datetime", "phone", "url", "list"])
def test_a_long_message_is_read_or_not_but_not_for_long(kind: Any, unit: str) -> None:
    """The general parser would need a tenth of a second for some of these; the rules are linear."""
    slot = Slot("s", kind, items=Slot("s", "datetime") if kind == "list" else None)
    text = (unit * 2_000)[:2_000]
    read(slot, text)
    assert len(reason(slot, text)) < 400


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
        (TIME, "14:30:00", "14:30"),
        (TIME, "14:30:15", "14:30:15"),
        (MOMENT, "2026-11-21t14:30:00.5+0100", "2026-11-21T14:30:00+01:00"),
        (MOMENT, "2026-11-21T14:30+00:00", "2026-11-21T14:30:00Z"),
        (PHONE, "+49 (30) 901820", "+4930901820"),
        (Slot("phone", "phone", region="FR"), "06 12 34 56 78", "+33612345678"),
        (URL, " HTTP://X.org:80 ", "http://x.org/"),
        (NUMBERS, [1, 2.0, 1], [1, 2]),
        (TOPPINGS, [], []),
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
        (TIME, "2 pm"),
        (TIME, "24:00"),
        (TIME, 14),
        (MOMENT, "2026-11-21"),
        (MOMENT, "2026-11-21T14:30"),
        (MOMENT, "2026-11-21T24:00Z"),
        (MOMENT, "2026-02-30T14:30Z"),
        (MOMENT, "0001-01-01T00:00+14:00:00"),
        (PHONE, "030 901820"),
        (PHONE, "+49"),
        (PHONE, "x"),
        (URL, "example.org"),
        (URL, "ftp://x.org"),
        (URL, "http://ann@x.org"),
        (NUMBERS, []),
        (NUMBERS, "1"),
        (NUMBERS, list(range(21))),
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
    assert reason(DATE, "soon") == "That is not a date; try 2026-11-28, 28 November or tomorrow."
    assert reason(DATE, "2026-02-30") == reason(DATE, "soon")
    assert reason(DATE, "11/12/2026") == "That could be two dates; please write it like 2026-11-28."
    assert reason(MOMENT, "soon").startswith("That is not a date with a time; try 2026-11-28 14:30,")


def test_explanations_ask_for_what_is_missing() -> None:
    half = "Is that in the morning or in the afternoon? Please write it like 2 pm or 14:00."
    assert reason(TIME, "at 5") == reason(MOMENT, "tomorrow at 5") == half
    assert reason(TIME, "soon") == "That is not a time; try 14:30, 2 pm or noon."
    assert reason(MOMENT, "tomorrow") == "That is 2026-11-22; please add the time, such as 2026-11-22 14:30."
    assert reason(MOMENT, "tomorrow at midnight").startswith("Midnight could be the beginning of that day")
    assert reason(MOMENT, "11/12/2026 14:00") == "That could be two dates; please write it like 2026-11-28."
    assert reason(MOMENT, "2999-01-01T00:00") == "That is too far away from today."
    assert "country code" in reason(PHONE, "030 901820")
    assert reason(PHONE, "12", locale="en-US") == "That is not a phone number."
    assert reason(URL, "x") == "That is not a web address; try https://example.org."
    assert reason(NUMBERS, "1, many") == 'I do not understand "many". That is not a whole number.'
    assert reason(GUEST_ADDRESSES, "me@x.org") == "Please name at least 2."
    assert reason(GUEST_ADDRESSES, "a@x.org, b@x.org, c@x.org, d@x.org") == "Please name at most 3."
    assert reason(AGREED_DE, "vielleicht") == "Please answer Ja or Nein."


def test_a_booleans_options_are_its_yes_and_its_no() -> None:
    assert [read(AGREED_DE, text) for text in ("Ja", "nein", "yes")] == [True, False, True]
    stay = Slot("stay", "boolean", ("Stay here", "Go"))
    assert [read(stay, text) for text in ("stay here!", "go", "maybe")] == [True, False, None]


def test_what_is_offered_as_buttons() -> None:
    assert question_options(AGREED_DE) == ("Ja", "Nein")
    assert question_options(TOPPINGS) == ("ham", "olives")
    assert question_options(GUEST_ADDRESSES) == ()
    assert question_options(SERVICE) == ("consultation", "checkup", "deep clean")
    assert question_options(AGREED) == ("yes", "no")
    assert question_options(DATE) == ()


@pytest.mark.parametrize("kind", SLOT_TYPES)
def test_what_was_read_is_normal(kind: Any) -> None:
    """A value that was read out of a message is one that a program may bring."""
    slot = Slot("s", kind, ("a", "b") if kind == "choice" else (), items=NOTE if kind == "list" else None)
    for text in ("a", "2", "yes", "tomorrow", "me@x.org", "1,5"):
        value = read(slot, text)
        assert normalise(slot, value) == value


def test_the_libraries_are_not_imported_before_they_are_needed() -> None:
    """A server's start does not wait for them, nor does a turn that the rules can read."""
    program = (
        "import sys, server.app; from server.engine.flow.model import Slot; "
        "from server.engine.flow.slots import read_slot; "
        "said = [(Slot('s', 'date'), '2031-05-20'), (Slot('s', 'date'), 'next friday'), "
        "(Slot('s', 'datetime'), 'tomorrow at 2 pm'), (Slot('s', 'email'), 'me@x.org')]; "
        "print([bool(read_slot(slot, text, now_ms=0, timezone=None, locale='en', focused=True)) "
        "for slot, text in said], sorted({'dateparser', 'phonenumbers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True, True, True, True] []"


def test_dates_are_stored_so_that_they_compare_as_text() -> None:
    found = [read(DATE, text) for text in ("yesterday", "today", "21 Dec", "1.1.2027", "2030-01-01")]
    assert found == sorted(found)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", value) for value in found)

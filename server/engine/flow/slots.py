"""Slots: reading their values out of messages, checking values that programs bring, explaining refusals.

Pure: the time, the timezone and the locale are given. ``focused`` says that this slot was just asked for:
then "yes", "2" or "the 21st" are answers. Unfocused, only an unmistakable mention counts, so that one
message can fill several slots ("a checkup tomorrow, me@x.org") and none by accident.

A slot type is one reader and one normaliser in the tables at the end. A reader that sees what was meant
and must not guess raises ``Unclear``: the message fills nothing, and ``explain`` says what is missing.
"""

import calendar
import datetime
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from functools import lru_cache
from math import isfinite
from typing import Any, Final, NamedTuple

from server.engine.flow.dates import names_dates, read_date
from server.engine.flow.model import Json, Slot, SlotType
from server.engine.flow.moments import Unclear, read_datetime, read_time
from server.engine.flow.natural import natural_date
from server.engine.flow.phones import find_phones, phone_of, region_of
from server.engine.flow.urls import find_urls, url_of
from server.engine.flow.words import (
    Found,
    Phrases,
    Word,
    find_phrases,
    fold,
    phrase_table,
    word_set,
    words_of,
)
from server.engine.flow.zones import iso, local_date, local_now

__all__ = ["Reading", "SlotInvalid", "explain", "fold", "normalise", "question_options", "read_slot"]

MAX_TEXT_CHARS: Final = 10_000
_EXACT: Final = 2**53


class Reading(NamedTuple):
    """A value and where it stands in the text."""

    value: Json
    start: int
    end: int


class SlotInvalid(ValueError):  # noqa: N818 - what happened
    """A value does not fit its slot; ``message`` is user-safe."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class _Said(NamedTuple):
    """A message and what is needed to read it."""

    text: str
    focused: bool
    now_ms: int
    timezone: str | None
    locale: str | None


def read_slot(
    slot: Slot, text: str, *, now_ms: int, timezone: str | None, locale: str | None, focused: bool
) -> Reading | None:
    """Return the slot's value in ``text``, or ``None`` where there is none or it is not certain.

    The value has its stored form: dates are ISO dates, choices are options, numbers are floats. The
    slot's own ``validate`` rules are not applied here.
    """
    try:
        return _READERS[slot.type](slot, _Said(text, focused, now_ms, timezone, locale))
    except Unclear:
        return None


def normalise(slot: Slot, value: Json) -> Json:
    """Return a JSON value in the slot's stored form; null stays null.

    Raises:
        SlotInvalid: the value does not fit the type.
    """
    return None if value is None else _NORMALISERS[slot.type](slot, value)


def question_options(slot: Slot) -> tuple[str, ...]:
    """Return the answers to offer as buttons; of a list only where one item is enough."""
    if slot.type == "boolean":
        return slot.options or ("yes", "no")
    if slot.items is not None:
        return slot.items.options if slot.minimum <= 1 else ()
    return slot.options


def explain(
    slot: Slot, text: str, *, now_ms: int = 0, timezone: str | None = None, locale: str | None = None
) -> str:
    """Return a sentence for the user: why ``text`` is no value of the slot, and what would be one.

    Dates in it are a week ahead: one that has passed would seldom be taken.
    """
    day = local_date(now_ms, timezone) + datetime.timedelta(days=7)
    if slot.type in {"date", "datetime"} and _AMBIGUOUS_DATE.search(text):
        return f"That could be two dates; please write it like {day}."
    try:
        _READERS[slot.type](slot, _Said(text, True, now_ms, timezone, locale))
    except Unclear as unclear:
        return unclear.message
    if slot.type == "choice":
        return f"Please choose one of: {', '.join(slot.options)}."
    if slot.type == "boolean" and slot.options:
        return f"Please answer {slot.options[0]} or {slot.options[1]}."
    if slot.type == "phone" and (slot.region or region_of(locale)) is not None:
        return "That is not a phone number."
    return _EXPLANATIONS[slot.type].format(day=day, spoken=f"{day.day} {calendar.month_name[day.month]}")


_AMBIGUOUS_DATE: Final = re.compile(r"(?<![\w/-])\d{1,2}([/-])\d{1,2}(?:\1\d{2,4})?(?![\w/-])")
_EXPLANATIONS: Final[Mapping[SlotType, str]] = {
    "text": "Please write something.",
    "number": "That is not a number.",
    "integer": "That is not a whole number.",
    "boolean": "Please answer yes or no.",
    "date": "That is not a date; try {day}, {spoken} or tomorrow.",
    "time": "That is not a time; try 14:30, 2 pm or noon.",
    "datetime": "That is not a date with a time; try {day} 14:30, tomorrow at 2 pm or in 3 hours.",
    "email": "That is not an e-mail address.",
    "phone": "That is not a phone number; please write it with its country code, like +49 30 901820.",
    "url": "That is not a web address; try https://example.org.",
    "list": "Please write them with commas between.",
}


# -- text --------------------------------------------------------------------------------------------


def _read_text(slot: Slot, said: _Said) -> Reading | None:
    stripped = said.text.strip()
    return _whole(stripped, said.text) if said.focused and stripped else None


def _normal_text(slot: Slot, value: Json) -> str:
    if not isinstance(value, str):
        raise SlotInvalid(f"{slot.name} should be a text.")
    if len(value) > MAX_TEXT_CHARS:
        raise SlotInvalid(f"{slot.name} may have at most {MAX_TEXT_CHARS:,} characters.")
    return value


# -- numbers -----------------------------------------------------------------------------------------

_NUMBER: Final = re.compile(
    r"(?<![\w.,])[-+]?(?:\d{1,3}(?:([ .,'\u00a0\u202f])\d{3})(?:\1\d{3})*(?:[.,]\d+)?|\d+(?:[.,]\d+)?|\.\d+)"
    r"(?![.,]?\d|\w)",
    re.ASCII,
)
_DIGIT: Final = re.compile(r"[0-9]")
_COMMA_LANGUAGES: Final = frozenset(
    {"de", "fr", "es", "it", "pt", "nl", "pl", "ru", "sv", "da", "nb", "no", "fi", "cs", "tr", "el", "uk"}
)
_NUMBER_WORDS: Final = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
}


def _number_of(text: str, locale: str | None) -> float | None:
    """Return what a number's text means; which of dot and comma divides thousands follows the locale."""
    digits = re.sub(r"[ '\u00a0\u202f]", "", text)
    comma_decimal = (locale or "")[:2].lower() in _COMMA_LANGUAGES
    dots, commas = digits.count("."), digits.count(",")
    if dots and commas:
        decimal = max(".", ",", key=digits.rfind)
    elif dots + commas == 1:
        mark = "." if dots else ","
        grouped = re.fullmatch(r"[-+]?[1-9]\d{0,2}[.,]\d{3}", digits) is not None
        thousands = "." if comma_decimal else ","
        decimal = "" if grouped and mark == thousands else mark
    else:
        decimal = ""
    plain = "".join("." if c == decimal else "" if c in ".," else c for c in digits)
    try:
        value = float(plain)
    except ValueError:
        return None
    return value if isfinite(value) and abs(value) <= _EXACT else None


def _read_number(slot: Slot, said: _Said) -> Reading | None:
    if not said.focused:
        return _read_named_number(slot, said) if _DIGIT.search(said.text) else None
    found = list(_NUMBER.finditer(said.text))
    if len(found) == 1:
        value = _number_of(found[0].group(), said.locale)
        return Reading(value, *found[0].span()) if value is not None else None
    if found or any(c.isdigit() for c in said.text):
        return None
    named = [word for word in words_of(said.text) if word.text in _NUMBER_WORDS]
    if len(named) != 1:
        return None
    return Reading(float(_NUMBER_WORDS[named[0].text]), named[0].start, named[0].end)


def _read_named_number(slot: Slot, said: _Said) -> Reading | None:
    """Unasked, a number is the slot's only beside the slot's name: ``4 guests``, ``guests: 4``."""
    match = _named_number(slot.name).search(said.text)
    if match is None:
        return None
    group = 1 if match[1] else 2
    value = _number_of(match[group], said.locale)
    return Reading(value, *match.span(group)) if value is not None else None


@lru_cache(maxsize=1024)
def _named_number(name: str) -> re.Pattern[str]:
    words = r"[\s_-]+".join(re.escape(word.removesuffix("s")) + "s?" for word in name.split("_") if word)
    number = r"([-+]?\d{1,12}(?:[.,]\d{1,6})?)(?![.,]?\d)"
    return re.compile(
        rf"(?<![\w.,]){number}\s+{words}\b|\b{words}\s*(?:is|are|=|:)?\s*{number}(?!\w)", re.IGNORECASE
    )


def _read_integer(slot: Slot, said: _Said) -> Reading | None:
    found = _read_number(slot, said)
    if found is None or not found.value.is_integer():
        return None
    return Reading(int(found.value), found.start, found.end)


def _normal_number(slot: Slot, value: Json) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _EXACT
    if not good:
        raise SlotInvalid(f"{slot.name} should be a number.")
    return float(value)


def _normal_integer(slot: Slot, value: Json) -> int:
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _EXACT
    if not good or value != int(value):
        raise SlotInvalid(f"{slot.name} should be a whole number.")
    return int(value)


# -- boolean -----------------------------------------------------------------------------------------

_YES: Final = word_set(
    "yes y yeah yep yup sure ok okay true 1 correct right absolutely definitely certainly ja oui "
    "si sim da klar gerne"
)
_NO: Final = word_set("no n nope nah false 0 never not don't nein non nao nee nej wrong")
_FILLERS: Final = word_set(
    "please thanks thank you that that's is it's it i do the of course merci danke bitte gracias so be would"
)
_ANSWER_WORDS: Final = _YES | _NO | _FILLERS


def _read_boolean(slot: Slot, said: _Said) -> Reading | None:
    if not said.focused:
        return None
    words = words_of(said.text)
    if slot.options and fold(said.text) in (labels := [fold(option) for option in slot.options]):
        start, end = (words[0].start, words[-1].end) if words else (0, len(said.text))
        return Reading(labels.index(fold(said.text)) == 0, start, end) if end else None
    said_yes = [word for word in words if word.text in _YES]
    said_no = [word for word in words if word.text in _NO]
    if bool(said_yes) == bool(said_no):
        return None
    chosen = (said_yes or said_no)[0]
    rest = [word.text for word in words if word.text not in _ANSWER_WORDS]
    if chosen is not words[0] and len(rest) > 1:
        return None
    if (chosen.text in {"1", "0"} and len(words) > 1) or rest in (["problem"], ["worries"]):
        return None
    return Reading(bool(said_yes), chosen.start, chosen.end)


def _normal_boolean(slot: Slot, value: Json) -> bool:
    if not isinstance(value, bool):
        raise SlotInvalid(f"{slot.name} should be true or false.")
    return value


# -- choice ------------------------------------------------------------------------------------------

_ORDINALS: Final = {
    word: number
    for number, words in enumerate(
        ("first 1st", "second 2nd", "third 3rd", "fourth 4th", "fifth 5th", "sixth 6th"), 1
    )
    for word in words.split()
}
_NEGATIONS: Final = frozenset({"not", "no", "don't", "nicht", "kein", "keine", "pas", "without"})
_PICKERS: Final = frozenset(
    {"option", "number", "no", "nr", "the", "one", "please", "choice", "i", "take", "want"}
)


@lru_cache(maxsize=1024)
def _option_phrases(options: tuple[str, ...], aliases: tuple[tuple[str, tuple[str, ...]], ...]) -> Phrases:
    pairs = [(option, option) for option in options]
    pairs += [(alias, option) for option, names in aliases for alias in names]
    return phrase_table(pairs)


def _read_choice(slot: Slot, said: _Said) -> Reading | None:
    words = words_of(said.text)
    table = _option_phrases(slot.options, tuple(slot.aliases.items()))
    found = [f for f in find_phrases(words, table) if not _negated(words, f)]
    if found:
        if any(f.meaning != found[0].meaning for f in found):
            return None
        return Reading(found[0].meaning, words[found[0].first].start, words[found[0].last - 1].end)
    if not said.focused:
        return None
    stripped = said.text.strip()
    if stripped in slot.options:  # an option without letters, such as "+"
        start = said.text.index(stripped)
        return Reading(stripped, start, start + len(stripped))
    numbered = _read_option_number(slot, words)
    if numbered is not None or any(word.text in _NEGATIONS for word in words):
        return numbered
    return _read_near_option(words, table)


def _negated(words: tuple[Word, ...], found: Found) -> bool:
    return any(word.text in _NEGATIONS for word in words[max(0, found.first - 2) : found.first])


def _read_option_number(slot: Slot, words: tuple[Word, ...]) -> Reading | None:
    """``2``, ``option 2``, ``the second one``, ``the last``: alone, beside words that only point."""
    picked: list[tuple[int, Word]] = []
    for word in words:
        if word.text.isdecimal() and len(word.text) <= 4:
            picked.append((int(word.text), word))
        elif word.text in _ORDINALS:
            picked.append((_ORDINALS[word.text], word))
        elif word.text == "last":
            picked.append((len(slot.options), word))
        elif word.text not in _PICKERS:
            return None
    if len(picked) != 1 or not 1 <= picked[0][0] <= len(slot.options):
        return None
    number, word = picked[0]
    return Reading(slot.options[number - 1], word.start, word.end)


def _read_near_option(words: tuple[Word, ...], table: Phrases) -> Reading | None:
    """A beginning of an option (``consult``) or a misspelt one (``chekup``), if it can only be one."""
    found: set[str] = set()
    place: Word | None = None
    for word in words[:12]:
        if len(word.text) < 3:
            continue
        for first, entries in table.items():
            if _near(word.text, first):
                found |= {meaning for _, meaning in entries}
                place = place or word
    if len(found) != 1 or place is None:
        return None
    return Reading(found.pop(), place.start, place.end)


def _near(word: str, option: str) -> bool:
    if option.startswith(word) and len(word) >= 3:
        return True
    if abs(len(word) - len(option)) > 2 or len(word) < 4 or len(option) < 4:
        return False
    return SequenceMatcher(None, word, option, autojunk=False).ratio() >= 0.8


def _normal_choice(slot: Slot, value: Json) -> str:
    if isinstance(value, str):
        if value in slot.options:
            return value
        folded = fold(value)
        for option in slot.options:
            if folded and folded in {fold(name) for name in (option, *slot.aliases.get(option, ()))}:
                return option
    raise SlotInvalid(f"{slot.name} should be one of: {', '.join(slot.options)}.")


# -- date --------------------------------------------------------------------------------------------


def _read_date(slot: Slot, said: _Said) -> Reading | None:
    today = local_date(said.now_ms, said.timezone)
    found = read_date(said.text, today=today, locale=said.locale, focused=said.focused)
    if found is not None and found.date is not None:
        return Reading(found.date.isoformat(), found.start, found.end)
    if not said.focused or names_dates(said.text, today=today, locale=said.locale):
        return None
    day = natural_date(said.text, today=today, locale=said.locale)
    return _whole(day.isoformat(), said.text) if day is not None else None


def _whole(value: Json, text: str) -> Reading:
    stripped = text.strip()
    start = text.index(stripped)
    return Reading(value, start, start + len(stripped))


_ISO_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _normal_date(slot: Slot, value: Json) -> str:
    if isinstance(value, str) and _ISO_DATE.fullmatch(value):
        try:
            return datetime.date.fromisoformat(value).isoformat()
        except ValueError:
            pass
    raise SlotInvalid(f"{slot.name} should be a date such as 2026-11-21.")


# -- time, and date with time ------------------------------------------------------------------------


def _read_time(slot: Slot, said: _Said) -> Reading | None:
    now = local_now(said.now_ms, said.timezone)
    found = read_time(said.text, now=now, locale=said.locale, focused=said.focused)
    return Reading(_time(found.value), found.start, found.end) if found is not None else None


def _time(time: datetime.time) -> str:
    # Seconds only where there are some: so times compare as text, also with the '17:00' of a condition.
    return time.isoformat("seconds" if time.second else "minutes")


_ISO_TIME: Final = re.compile(r"(?!24)\d{2}:\d{2}(?::\d{2})?", re.ASCII)
"""From Python 3.14 on 24:00 would be read as 00:00, of the same day."""


def _normal_time(slot: Slot, value: Json) -> str:
    if isinstance(value, str) and _ISO_TIME.fullmatch(value):
        try:
            return _time(datetime.time.fromisoformat(value))
        except ValueError:
            pass
    raise SlotInvalid(f"{slot.name} should be a time such as 14:30.")


def _read_datetime(slot: Slot, said: _Said) -> Reading | None:
    now = local_now(said.now_ms, said.timezone)
    found = read_datetime(said.text, now=now, locale=said.locale, focused=said.focused)
    return Reading(iso(found.value), found.start, found.end) if found is not None else None


_ISO_DATETIME: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ](?!24)\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:[Zz]|[+-]\d{2}:?\d{2})", re.ASCII
)


def _normal_datetime(slot: Slot, value: Json) -> str:
    if isinstance(value, str) and _ISO_DATETIME.fullmatch(value):
        try:
            return iso(datetime.datetime.fromisoformat(value.upper()).replace(microsecond=0))
        except (ValueError, OverflowError):
            pass
    raise SlotInvalid(
        f"{slot.name} should be a date and time with its offset, such as 2026-11-21T14:30:00+01:00."
    )


# -- e-mail ------------------------------------------------------------------------------------------

_EMAIL: Final = re.compile(
    r"(?<![\w.%+'@-])[\w%+'-]{1,64}(?:\.[\w%+'-]{1,64}){0,8}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,63}(?![\w@-])"
)


def _read_email(slot: Slot, said: _Said) -> Reading | None:
    if "@" not in said.text:
        return None
    found = list(_EMAIL.finditer(said.text))
    addresses = {_email(match.group()) for match in found}
    if len(addresses) != 1:
        return None
    return Reading(addresses.pop(), *found[0].span())


def _email(text: str) -> str:
    local, _, domain = text.rpartition("@")
    return f"{local}@{domain.lower()}"


def _normal_email(slot: Slot, value: Json) -> str:
    if isinstance(value, str) and len(value) <= 254 and _EMAIL.fullmatch(value.strip()):
        return _email(value.strip())
    raise SlotInvalid(f"{slot.name} should be an e-mail address.")


# -- phone and web address ---------------------------------------------------------------------------


def _read_phone(slot: Slot, said: _Said) -> Reading | None:
    region = slot.region or region_of(said.locale)
    found = [m for m in find_phones(said.text, region) if said.focused or m.written_whole]
    if len({mention.number for mention in found}) != 1:
        return None
    return Reading(found[0].number, found[0].start, found[0].end)


def _normal_phone(slot: Slot, value: Json) -> str:
    number = phone_of(value, slot.region) if isinstance(value, str) else None
    if number is None:
        raise SlotInvalid(f"{slot.name} should be a phone number such as +4930901820.")
    return number


def _read_url(slot: Slot, said: _Said) -> Reading | None:
    if "." not in said.text and "://" not in said.text:
        return None
    found = [m for m in find_urls(said.text) if said.focused or not m.weak]
    written = [m for m in found if not m.weak] or found
    if len({mention.url for mention in written}) != 1:
        return None
    return Reading(written[0].url, written[0].start, written[0].end)


def _normal_url(slot: Slot, value: Json) -> str:
    url = url_of(value.strip()) if isinstance(value, str) else None
    if url is None:
        raise SlotInvalid(f"{slot.name} should be a web address such as https://example.org.")
    return url


# -- list --------------------------------------------------------------------------------------------

_BETWEEN: Final = re.compile(
    r"(?:[;\n\u2022]|,(?!\d)|(?<!\d),|&(?=\s)|(?<!\S)(?:and|und|et|y|e|en)(?!\S))+", re.IGNORECASE
)
_BULLET: Final = re.compile(r"\s*(?:[-*\u2022]|\d{1,2}[.)])\s+")
_OVERHEARD_ITEMS: Final = frozenset({"choice", "email", "phone", "url"})
_NOTHING: Final = word_set("none nothing keine keines nichts aucun aucune rien ninguno nada")
MAX_LIST_CHARS: Final = 4_000


def _read_list(slot: Slot, said: _Said) -> Reading | None:
    """Every part of the answer has to be an item; unasked, an option or address for itself will do."""
    item = slot.items
    if item is None or not said.text.strip() or (not said.focused and item.type not in _OVERHEARD_ITEMS):
        return None
    if len(said.text) > MAX_LIST_CHARS:
        raise Unclear("That is too long; please write only the items, with commas between.")
    if slot.minimum == 0 and said.focused and fold(said.text) in _NOTHING:
        return _whole([], said.text)
    items = _items(slot, item, said)
    if items.strange and said.focused:
        why = explain(item, items.strange, now_ms=said.now_ms, timezone=said.timezone, locale=said.locale)
        raise Unclear(f'I do not understand "{items.strange[:60]}". {why}')
    if not items.values:
        return None
    if not slot.minimum <= len(items.values) <= slot.maximum:
        raise Unclear(_count_problem(slot, len(items.values)))
    return Reading(items.values, items.start, items.end)


class _Items(NamedTuple):
    """The items of a text, each once, with where they stand; ``strange`` is the first part that is none."""

    values: list[Json]
    start: int
    end: int
    strange: str = ""


def _items(slot: Slot, item: Slot, said: _Said) -> _Items:
    if item.type == "choice" and (named := _named_options(item, said.text)).values:
        return named
    values: list[Json] = []
    first, last = len(said.text), 0
    for start, end in _parts(said.text):
        part = said.text[start:end]
        found = read_slot(
            item,
            part,
            now_ms=said.now_ms,
            timezone=said.timezone,
            locale=said.locale,
            focused=said.focused,
        )
        if found is None and said.focused:
            return _Items(values, 0, 0, part)
        if found is not None:
            first, last = min(first, start + found.start), max(last, start + found.end)
            values += [found.value] if found.value not in values else []
        if len(values) > slot.maximum:
            break
    return _Items(values, first, last)


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the parts of an enumeration begin and end, without space and bullets around."""
    start = 0
    for match in itertools.chain(_BETWEEN.finditer(text), [None]):
        end = match.start() if match is not None else len(text)
        bullet = _BULLET.match(text, start, end)
        part = text[bullet.end() if bullet else start : end]
        if part.strip():
            begin = end - len(part.lstrip())
            yield begin, begin + len(part.strip())
        start = match.end() if match is not None else end


def _named_options(item: Slot, text: str) -> _Items:
    words = words_of(text)
    table = _option_phrases(item.options, tuple(item.aliases.items()))
    found = [f for f in find_phrases(words, table) if not _negated(words, f)]
    if not found:
        return _Items([], 0, 0)
    return _Items(
        list(dict.fromkeys(f.meaning for f in found)),
        words[found[0].first].start,
        words[found[-1].last - 1].end,
    )


def _count_problem(slot: Slot, count: int) -> str:
    if slot.minimum == slot.maximum:
        return f"Please name {slot.minimum}."
    if count > slot.maximum:
        return f"Please name at most {slot.maximum}."
    return f"Please name at least {slot.minimum}."


def _normal_list(slot: Slot, value: Json) -> list[Json]:
    if slot.items is None or not isinstance(value, list):
        raise SlotInvalid(f"{slot.name} should be a list.")
    if not slot.minimum <= len(value) <= slot.maximum:
        raise SlotInvalid(f"{slot.name} should have {slot.minimum} to {slot.maximum} items.")
    item = replace(slot.items, name=f"an item of {slot.name}")
    if any(each is None for each in value):
        raise SlotInvalid(f"an item of {slot.name} should not be null.")
    return list({repr(each): each for each in (normalise(item, each) for each in value)}.values())


_READERS: Final[Mapping[SlotType, Callable[[Slot, _Said], Reading | None]]] = {
    "text": _read_text,
    "number": _read_number,
    "integer": _read_integer,
    "boolean": _read_boolean,
    "choice": _read_choice,
    "date": _read_date,
    "time": _read_time,
    "datetime": _read_datetime,
    "email": _read_email,
    "phone": _read_phone,
    "url": _read_url,
    "list": _read_list,
}
_NORMALISERS: Final[Mapping[SlotType, Callable[[Slot, Any], Json]]] = {
    "text": _normal_text,
    "number": _normal_number,
    "integer": _normal_integer,
    "boolean": _normal_boolean,
    "choice": _normal_choice,
    "date": _normal_date,
    "time": _normal_time,
    "datetime": _normal_datetime,
    "email": _normal_email,
    "phone": _normal_phone,
    "url": _normal_url,
    "list": _normal_list,
}

"""What the rules of ``dates`` and ``times`` do not know, asked of ``dateparser``: 200 locales.

The library is generous: "3 days after tomorrow" is tomorrow to it, "next week" a day, "10" an October.
So it is asked last, only for the answer to a question, and its answer counts only where it is a whole
day (or an hour of the clock), and where it accounts for every number that was said. It is imported, and
its languages are loaded, when first asked (measured: 0.1 s and 0.05 s); a question takes about 1 ms.
"""

import datetime
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from server.engine.flow.dates import UNITS
from server.engine.flow.words import Word, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CHARS: Final = 80
MAX_NUMBERS: Final = 4
_NUMBER: Final = re.compile(r"\d+")
_NUMERIC: Final = re.compile(r"\d\s*[./:-]\s*\d")
_ODD: Final = datetime.time(4, 7, 11)
"""The time of day of all questions: what the library leaves at 11 seconds was counted from it."""
_AROUND: Final = frozenset(
    [
        "please",
        "thanks",
        "thank",
        "you",
        "maybe",
        "perhaps",
        "say",
        "let's",
        "i",
        "i'd",
        "would",
        "like",
        "want",
        "on",
        "at",
        "for",
        "by",
        "about",
        "around",
        "it",
        "is",
        "it's",
        "ok",
        "okay",
        "well",
        "bitte",
        "gerne",
        "vielleicht",
        "am",
        "um",
        "ca",
        "merci",
        "vers",
        "environ",
        "por",
        "favor",
        "circa",
    ]
)


def natural_date(text: str, *, today: datetime.date, locale: str | None) -> datetime.date | None:
    """Return the day that the whole text means, or ``None`` where that is not certain."""
    for said in _askable(text):
        found = _ask(said, today, _language(locale))
        if found is None:
            continue
        moment, period, parts = found
        counted = moment.second == _ODD.second
        day = {"month", "day"} <= parts or (counted and period in {"month", "year"})
        if not day or period not in {"day", "week", "month", "year"} or moment.year > today.year + 100:
            return None
        apart = _apart(today, moment.date())
        # One week, month or year away is "next week" as well as "in a week".
        vague = period != "day" and abs(apart[period]) <= 1
        known = {moment.day, moment.month, moment.year, moment.year % 100, *map(abs, apart.values())}
        return None if vague or not _numbers(said) <= known else moment.date()
    return None


def natural_time(text: str, *, today: datetime.date, locale: str | None) -> datetime.time | None:
    """Return the time of day that the whole text means, or ``None`` where that is not certain."""
    for said in _askable(text):
        found = _ask(said, today, _language(locale))
        if found is None:
            continue
        moment, period, _ = found
        counted = moment.second == _ODD.second
        numbers = _numbers(said)
        known = {moment.hour, moment.hour % 12, moment.minute}
        certain = not numbers or (moment.hour >= 12 and numbers <= known)
        other_day = moment.date() - today > datetime.timedelta(days=1)
        return moment.time() if period == "time" and certain and not counted and not other_day else None
    return None


def _askable(text: str) -> "Iterator[str]":
    """Yield what to ask for: the text, then without polite words around; nothing where it is no phrase."""
    said = text.strip(" \t\r\n.!?,;")
    numbers = _NUMBER.findall(said)
    if (
        not 2 <= len(said) <= MAX_CHARS
        or len(numbers) > MAX_NUMBERS
        or any(len(n) > 4 for n in numbers)
        or _NUMERIC.search(said)
        or not any(c.isalpha() for c in said)
    ):
        return
    words = list(words_of(said))
    while words and words[0].text in _AROUND:
        words.pop(0)
    while words and words[-1].text in _AROUND:
        words.pop()
    if _is_span(words):
        return
    yield said
    inner = said[words[0].start : words[-1].end] if words else said
    if inner != said:
        yield inner


def _is_span(words: list[Word]) -> bool:
    """Tell whether this is how long, and not when: ``3 days``, for the library three days from now."""
    return len(words) == 2 and words[1].text in UNITS


def _numbers(text: str) -> set[int]:
    return {int(number) for number in _NUMBER.findall(text)}


def _apart(today: datetime.date, day: datetime.date) -> dict[str, int]:
    days = (day - today).days
    months = (day.year - today.year) * 12 + day.month - today.month
    return {"day": days, "week": int(days / 7), "month": months, "year": int(months / 12)}


def _language(locale: str | None) -> str:
    return re.split(r"[-_]", locale or "en", maxsplit=1)[0].lower()


@lru_cache(maxsize=256)
def _ask(
    text: str, today: datetime.date, language: str
) -> tuple[datetime.datetime, str, frozenset[str]] | None:
    # Imported here: a conversation that never needs it does not wait for it, nor does a server's start.
    from dateparser.data.languages_info import language_locale_dict  # type: ignore[import-untyped] # no types
    from dateparser.date import DateDataParser  # type: ignore[import-untyped] # no types

    languages = ["en"] if language not in language_locale_dict else list(dict.fromkeys([language, "en"]))
    settings: dict[str, Any] = {
        "RELATIVE_BASE": datetime.datetime.combine(today, _ODD),
        "PREFER_DATES_FROM": "future",
        "RETURN_TIME_AS_PERIOD": True,
        "TIMEZONE": "UTC",
        "RETURN_AS_TIMEZONE_AWARE": False,
        "PARSERS": ["relative-time", "absolute-time"],
        "CACHE_SIZE_LIMIT": 64,
    }
    try:
        found = DateDataParser(languages=languages, use_given_order=True, settings=settings).get_date_data(
            text
        )
    except (ValueError, OverflowError, TypeError, LookupError, AttributeError, ArithmeticError, re.error):
        return None  # what a message makes it trip over is no date
    moment = found.date_obj
    if moment is None:
        return None
    return moment.replace(tzinfo=None, microsecond=0), found.period, frozenset(found.parts or ())

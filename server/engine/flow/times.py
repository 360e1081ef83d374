"""Times of day in messages: ``14:30``, ``2 pm``, ``noon``, ``half past two in the afternoon``.

An hour that may be of the morning or of the afternoon is found, but has no time: whoever asks says so
instead of guessing. Two digits before a colon (``02:30``) are the 24-hour clock everywhere; one digit is
where the locale's language writes it.
"""

import datetime
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from server.engine.flow.words import Word, word_set, words_of

_HALF: Final = r"[ap]\.?\s?m\b\.?"
_CLOCK: Final = re.compile(
    r"(?<![\w.,:/+-])(?:"
    rf"(?P<hour>\d{{1,2}})(?::(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?|\.(?P<dotted>[0-5]\d)"
    rf"(?=\s*(?:{_HALF}|uhr\b)))(?:\s*(?:(?P<half>{_HALF})|(?:uhr|uur|h)\b))?"
    rf"|(?P<bare>\d{{1,2}})\s*(?:(?P<bare_half>{_HALF})|(?P<unit>uhr|uur|heures?|horas|h)\s?(?P<past>[0-5]\d)?\b"
    r"|(?P<oclock>o['’]?\s?clock\b))"  # noqa: RUF001 - typed by phones
    r"|(?:at|um|om|às|alle|a las)\s+(?P<at>\d{1,2})"
    rf"(?!\s*(?:{_HALF}|uhr|uur|heures?|horas|h\b|o['’]?\s?clock))"  # noqa: RUF001 - typed by phones
    r"(?=$|[^\w.,:/-]|[.,](?!\d))"
    r"|(?P<of>\d{1,2})(?=\s+(?:(?:in the|at|du|de la|am)\s+)?(?:morning|afternoon|evening|night|matin|soir"
    r"|tarde|noche|morgens|vormittags|nachmittags|abends|nachts)\b)"
    r")(?![\w:]|[.,]\d)",
    re.IGNORECASE | re.ASCII,
)
_ALONE: Final = re.compile(r"\s*(\d{1,2})[.!]?\s*", re.ASCII)
_NAMED: Final = {
    **dict.fromkeys(word_set("noon midday midi mittag mittags mediodia mezzogiorno"), datetime.time(12)),
    **dict.fromkeys(word_set("midnight minuit mitternacht medianoche mezzanotte"), datetime.time(0)),
}
_MORNING: Final = word_set("morning morgens vormittags vormittag matin mattina")
_AFTERNOON: Final = word_set(
    "afternoon evening tonight nachmittags nachmittag abends abend soir tarde pomeriggio sera avond"
)
_NIGHT: Final = word_set("night nachts nuit noche")
_PARTS: Final = _MORNING | _AFTERNOON | _NIGHT
_TWELVE_HOUR_LANGUAGES: Final = frozenset({"", "en", "ar", "bn", "hi", "ko", "ms", "ta", "te", "tl", "ur"})
_HOURS: Final = ("one two three four five six seven eight nine ten eleven twelve",)
_HOUR_WORDS: Final = {word: hour for names in _HOURS for hour, word in enumerate(names.split(), 1)}
_PAST_HOUR: Final = {"half": 30, "quarter": 15, "five": 5, "ten": 10, "twenty": 20}


class TimeMention(NamedTuple):
    """A time in a text; ``time`` is ``None`` where the half of the day is not certain.

    ``weak`` ones count only where a time was asked for. ``midnight`` was said by name: as part of a
    date it may be the beginning of the day or its end.
    """

    time: datetime.time | None
    start: int
    end: int
    weak: bool = False
    midnight: bool = False


def find_times(text: str, *, locale: str | None, focused: bool) -> tuple[TimeMention, ...]:
    """Return the times that the text names, in order of their kinds."""
    words = words_of(text)
    part = next((word.text for word in words if word.text in _PARTS), None)
    found = [*_written(text, part, locale), *_said(words, part)]
    if focused and not found and (alone := _ALONE.fullmatch(text)):
        hour = int(alone[1])
        if hour < 24:
            found = [TimeMention(_at(hour, 0, 0, None, None, hour > 12), *alone.span(1), weak=True)]
    return tuple([mention for mention in found if focused or not mention.weak])


def _written(text: str, part: str | None, locale: str | None) -> Iterator[TimeMention]:
    language = (locale or "")[:2].lower()
    by_day = language not in _TWELVE_HOUR_LANGUAGES
    for match in _CLOCK.finditer(text):
        digits = match["hour"] or match["bare"] or match["at"] or match["of"]
        hour = int(digits)
        minute = int(match["minute"] or match["dotted"] or match["past"] or 0)
        half = match["half"] or match["bare_half"]
        certain = by_day or len(digits) == 2 if match["hour"] else match["unit"] is not None
        certain = certain or hour > 12 or (hour == 0 and match["at"] is None)
        if hour > 23 or (half and not 1 <= hour <= 12):
            continue
        time = _at(hour, minute, int(match["second"] or 0), half, part, certain)
        yield TimeMention(time, *match.span(), weak=match["at"] is not None or match["unit"] is not None)


def _at(
    hour: int, minute: int, second: int, half: str | None, part: str | None, certain: bool
) -> datetime.time | None:
    """Return the time of a day that an hour of the clock means; ``None`` where it may be either half."""
    if half:
        hour = hour % 12 + (12 if half[0] in "pP" else 0)
    elif part is not None and 1 <= hour <= 12:
        afternoon = part in _AFTERNOON or (part in _NIGHT and 6 <= hour < 12)
        hour = hour % 12 + 12 if afternoon else hour % 12
    elif not certain:
        return None
    return datetime.time(hour, minute, second)


def _said(words: tuple[Word, ...], part: str | None) -> Iterator[TimeMention]:
    for index, word in enumerate(words):
        named = _NAMED.get(word.text)
        if named is not None:
            yield TimeMention(named, word.start, word.end, midnight=named.hour == 0)
        elif word.text in {"past", "to"} and 0 < index < len(words) - 1:
            minutes, hour = _minutes(words[index - 1].text), _hour(words[index + 1].text)
            if minutes is None or hour is None:
                continue
            if word.text == "to":
                minutes, hour = 60 - minutes, (hour - 2) % 12 + 1
            after = words[index + 2].text if index + 2 < len(words) else ""
            half = after if after in {"am", "pm"} else None
            end = words[index + 2 if half else index + 1].end
            yield TimeMention(_at(hour, minutes, 0, half, part, False), words[index - 1].start, end)


def _minutes(text: str) -> int | None:
    if text.isdecimal() and len(text) <= 2:
        return int(text) if 0 < int(text) < 60 else None
    return _PAST_HOUR.get(text)


def _hour(text: str) -> int | None:
    if text.isdecimal() and len(text) <= 2:
        return int(text) if 1 <= int(text) <= 12 else None
    return _HOUR_WORDS.get(text)

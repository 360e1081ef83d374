"""A time of day, or a moment (a date with a time), out of a message: rules first, then ``natural``.

What would be a guess is ``Unclear``: morning or afternoon, a date without a time, a time that the clocks
skip or show twice.
"""

import datetime
import re
from typing import Final, NamedTuple

from server.engine.flow.dates import MAX_YEARS_AHEAD, MAX_YEARS_BACK, names_dates, read_date
from server.engine.flow.natural import natural_date, natural_time
from server.engine.flow.times import TimeMention, find_times
from server.engine.flow.words import word_set, words_of
from server.engine.flow.zones import iso, moments

_ISO: Final = re.compile(
    r"(?<![\w.+-])(\d{4}-\d{2}-\d{2})[Tt ]((?!24)\d{2}:\d{2}(?::\d{2})?)(?:\.\d{1,9})?"
    r"\s?([Zz]|[+-]\d{2}:?\d{2})?(?![\w:+]|-\d)",
    re.ASCII,
)
_SPAN: Final = re.compile(
    r"\b(?:in|within|dans|en|tra|fra|over|em)\s+(?P<n>\d{1,4}|an?|one|eine[rm]?|une?|una|um|uma|een|half an"
    r"|two|three|four|five|six|ten|zwei|drei|deux|trois|dos|tres|due|tre|twee|drie)\s+"
    r"(?P<unit>hours?|hrs?|h|minutes?|mins?|stunden?|minuten?|heures?|horas?|minutos?|or[ea]|minut[io]|uur)\b",
    re.IGNORECASE | re.ASCII,
)
_COUNTS: Final = {
    **dict.fromkeys(word_set("two zwei deux dos due twee"), 2),
    **dict.fromkeys(word_set("three drei trois tres tre drie"), 3),
    "four": 4,
    "five": 5,
    "six": 6,
    "ten": 10,
    "half an": 0.5,
}
_NOW: Final = frozenset({"now", "right now", "jetzt", "maintenant", "ahora", "adesso", "nu", "agora"})
_AROUND_TIMES: Final = word_set(
    "at um a as alle om please thanks maybe about around say let's i i'd like would want is it it's ok good "
    "fine then today bitte gerne ca by for the in tonight the"
)


class Unclear(ValueError):  # noqa: N818 - what happened
    """What was meant is seen, and not enough; ``message`` asks for the rest and is user-safe."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class TimeReading(NamedTuple):
    """A time of day and where it stands."""

    value: datetime.time
    start: int
    end: int


class MomentReading(NamedTuple):
    """An aware moment in the conversation's timezone and where it stands."""

    value: datetime.datetime
    start: int
    end: int


def read_time(text: str, *, now: datetime.datetime, locale: str | None, focused: bool) -> TimeReading | None:
    """Return the one time of day that the text names, ``None`` for none or several.

    Raises:
        Unclear: the half of the day is not certain.
    """
    counted = _counted(text, now) if focused else None
    if counted is not None:
        return TimeReading(counted.value.time(), counted.start, counted.end)
    found = find_times(text, locale=locale, focused=focused)
    if found:
        mention = _one(found)
        return TimeReading(_certain(mention), mention.start, mention.end) if mention is not None else None
    if not focused:
        return None
    time = natural_time(text, today=now.date(), locale=locale)
    return TimeReading(time, *_span(text)) if time is not None else None


def read_datetime(
    text: str, *, now: datetime.datetime, locale: str | None, focused: bool
) -> MomentReading | None:
    """Return the one moment that the text names, ``None`` for none or several.

    A time without a date is the next such time. ``now`` is aware, in the conversation's timezone.

    Raises:
        Unclear: a date without a time, a half of the day that is not certain, a time that does not
            exist on that day or exists twice.
    """
    written = list(_ISO.finditer(text))
    if written:
        return _written(written[0], now) if len(written) == 1 else None
    counted = _counted(text, now)
    if counted is not None:
        return counted
    found = find_times(text, locale=locale, focused=focused)
    mention = _one(found) if found else None
    if found and mention is None:
        return None
    rest = text if mention is None else _without(text, mention)
    day = _day(rest, now, locale, focused)
    if mention is None:
        if day is None or not focused:
            return _natural(text, now, locale) if focused else None
        raise Unclear(
            f"That is {day[0].isoformat()}; please add the time, such as {day[0].isoformat()} 14:30."
        )
    if day is None and not (focused and _is_bare(rest)):
        return None
    time = _certain(mention)
    if mention.midnight and day is not None:
        raise Unclear("Midnight could be the beginning of that day or its end; please write 00:00 or 23:59.")
    if day is None:
        return MomentReading(_next(time, now), mention.start, mention.end)
    moment = _on(day[0], time, now)
    return MomentReading(moment, min(day[1], mention.start), max(day[2], mention.end))


def _one(found: tuple[TimeMention, ...]) -> TimeMention | None:
    return found[0] if all(mention.time == found[0].time for mention in found) else None


def _certain(mention: TimeMention) -> datetime.time:
    if mention.time is None:
        raise Unclear("Is that in the morning or in the afternoon? Please write it like 2 pm or 14:00.")
    return mention.time


def _without(text: str, mention: TimeMention) -> str:
    return text[: mention.start] + " " * (mention.end - mention.start) + text[mention.end :]


def _is_bare(rest: str) -> bool:
    return all(word.text in _AROUND_TIMES for word in words_of(rest))


def _span(text: str) -> tuple[int, int]:
    stripped = text.strip()
    start = text.index(stripped)
    return start, start + len(stripped)


def _day(
    text: str, now: datetime.datetime, locale: str | None, focused: bool
) -> tuple[datetime.date, int, int] | None:
    today = now.date()
    found = read_date(text, today=today, locale=locale, focused=focused)
    if found is not None and found.date is not None:
        return found.date, found.start, found.end
    if not focused or not text.strip() or names_dates(text, today=today, locale=locale):
        return None
    day = natural_date(text, today=today, locale=locale)
    return (day, *_span(text)) if day is not None else None


def _natural(text: str, now: datetime.datetime, locale: str | None) -> MomentReading | None:
    """A time that only the library knows, for itself: the next such time."""
    time = natural_time(text, today=now.date(), locale=locale)
    return MomentReading(_next(time, now), *_span(text)) if time is not None else None


def _counted(text: str, now: datetime.datetime) -> MomentReading | None:
    """``in 3 hours``, ``in half an hour``, ``now``: counted in elapsed time, whatever the clocks do."""
    if text.strip(" .!?\t\r\n").lower() in _NOW:
        return MomentReading(now, *_span(text))
    found = list(_SPAN.finditer(text))
    if len(found) != 1:
        return None
    said = found[0]["n"].lower()
    number = int(said) if said.isdecimal() else _COUNTS.get(said, 1)
    minutes = number * (1 if found[0]["unit"].lower().startswith("m") else 60)
    try:
        moment = now.astimezone(datetime.UTC) + datetime.timedelta(minutes=minutes)
        return MomentReading(moment.astimezone(now.tzinfo), *found[0].span())
    except OverflowError:
        return None


def _written(match: re.Match[str], now: datetime.datetime) -> MomentReading | None:
    date, time, offset = match.groups()
    try:
        shown = datetime.datetime.fromisoformat(f"{date}T{time}")
        if offset is None:
            return MomentReading(_on(shown.date(), shown.time(), now), *match.span())
        moment = datetime.datetime.fromisoformat(f"{date}T{time}{offset.upper()}").astimezone(now.tzinfo)
    except Unclear:
        raise
    except (ValueError, OverflowError):
        return None
    return MomentReading(_near(moment, now), *match.span())


def _near(moment: datetime.datetime, now: datetime.datetime) -> datetime.datetime:
    if not -MAX_YEARS_BACK <= moment.year - now.year <= MAX_YEARS_AHEAD:
        raise Unclear("That is too far away from today.")
    return moment


def _on(date: datetime.date, time: datetime.time, now: datetime.datetime) -> datetime.datetime:
    """Return the moment at which the clocks of ``now`` show this."""
    shown = datetime.datetime.combine(date, time)
    _near(shown, now)
    try:
        found = moments(shown, now.tzinfo or datetime.UTC)
    except OverflowError:
        raise Unclear("That is too far away from today.") from None
    if len(found) == 1:
        return found[0]
    day, clock = date.isoformat(), time.isoformat("minutes")
    if not found:
        raise Unclear(f"On {day} the clocks skip {clock}; please choose another time.")
    raise Unclear(f"On {day} the clocks show {clock} twice; please write {iso(found[0])} or {iso(found[1])}.")


def _next(time: datetime.time, now: datetime.datetime) -> datetime.datetime:
    """Return the next such time; of a day on which it has passed it does not matter what the clocks did."""
    has_passed = time < now.time()
    return _on(now.date() + datetime.timedelta(days=has_passed), time, now)

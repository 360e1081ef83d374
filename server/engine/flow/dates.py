"""Dates in messages: written, named and relative, in the conversation's timezone.

A few compact rules before the general parser (``natural``): that costs milliseconds a message where a
turn has microseconds, and guesses where a booking must not. A date that could be two dates is none.
"""

import calendar
import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from server.engine.flow.words import Word, word_set, words_of

_MONTH_NAMES: Final = (
    "january jan januar janvier janv enero ene gennaio gen janeiro januari",
    "february feb februar fevrier fevr febrero febbraio fevereiro februari",
    "march mar marz maerz mars marzo marco maart",
    "april apr avril avr abril aprile",
    "may mai mayo maggio maio mei",
    "june jun juni juin junio giugno junho",
    "july jul juli juillet juil julio luglio julho",
    "august aug aout agosto augustus ago",
    "september sep sept septembre septiembre settembre setembro",
    "october oct oktober okt octobre octubre ottobre outubro",
    "november nov novembre noviembre novembro",
    "december dec dezember dez decembre diciembre dicembre dezembro",
)
_WEEKDAY_NAMES: Final = (
    "monday montag lundi lunes lunedi maandag",
    "tuesday dienstag mardi martes martedi dinsdag",
    "wednesday mittwoch mercredi miercoles mercoledi woensdag",
    "thursday donnerstag jeudi jueves giovedi donderdag",
    "friday freitag vendredi viernes venerdi vrijdag",
    "saturday samstag samedi sabado sabato zaterdag",
    "sunday sonntag dimanche domingo domenica zondag",
)
_SHORT_WEEKDAYS: Final = ("mon", "tue tues", "wed", "thu thur thurs", "fri", "sat", "sun")
_RELATIVE: Final = {
    "today": 0,
    "tonight": 0,
    "heute": 0,
    "aujourd'hui": 0,
    "hoy": 0,
    "oggi": 0,
    "hoje": 0,
    "vandaag": 0,
    "tomorrow": 1,
    "tmrw": 1,
    "demain": 1,
    "domani": 1,
    "amanha": 1,
    "ubermorgen": 2,
    "uebermorgen": 2,
    "apres-demain": 2,
    "dopodomani": 2,
    "overmorgen": 2,
    "yesterday": -1,
    "gestern": -1,
    "hier": -1,
    "ayer": -1,
    "ieri": -1,
    "ontem": -1,
    "gisteren": -1,
}
_FOCUSED_RELATIVE: Final = {"morgen": 1, "manana": 1}
"""Words that also mean "morning": taken only as the answer to a question for a date."""
_COUNTS: Final = {
    word: number
    for number, words in enumerate(
        (
            "a an one ein einem einer un une una um uma een",
            "two zwei deux dos due dois duas twee",
            "three drei trois tres tre drie",
            "four vier quatre cuatro quattro quatro",
            "five funf cinq cinco cinque vijf",
            "six sechs seis sei zes",
            "seven sieben siete sette sete zeven",
            "eight acht huit ocho otto oito",
            "nine neun neuf nueve nove negen",
            "ten zehn dix diez dieci dez tien",
            "eleven elf onze once undici",
            "twelve zwolf douze doce dodici twaalf",
        ),
        1,
    )
    for word in words.split()
}
UNITS: Final = {
    **dict.fromkeys(word_set("day days tag tagen jour jours dia dias giorno giorni dag dagen"), (1, 0)),
    **dict.fromkeys(
        word_set("week weeks woche wochen semaine semaines semana semanas settimana settimane weken"),
        (7, 0),
    ),
    **dict.fromkeys(word_set("fortnight fortnights"), (14, 0)),
    **dict.fromkeys(word_set("month months monat monaten mois mes meses mese mesi maand maanden"), (0, 1)),
    **dict.fromkeys(word_set("year years jahr jahren annee annees ano anos anno anni jaar"), (0, 12)),
}
"""What a unit of time is in days and months."""
_IN: Final = frozenset({"in", "within", "dans", "en", "dentro", "tra", "fra", "em", "over"})
_FROM: Final = {"from": 1, "after": 1, "before": -1}
_NOW: Final = frozenset({"now", "today"})
_NEXT: Final = frozenset({"next", "following", "nachste", "nachsten", "nachster"})
_LAST: Final = frozenset({"last", "past", "letzten", "letzter", "vorigen"})
_LAST_BEHIND: Final = frozenset({"dernier", "pasado", "passato", "scorso", "passado"})
_NOT: Final = frozenset({"not", "nicht", "pas"})
_AND: Final = frozenset({"and", "und", "et", "y", "e", "en"})
_BETWEEN: Final = frozenset({"on", "the", "am", "le", "el", "this"})
_ORDINALS: Final = {
    word: number
    for number, words in enumerate(
        (
            "first erster ersten premier primero primo",
            "second zweiter zweiten",
            "third dritter dritten",
            "fourth",
            "fifth",
            "sixth",
            "seventh",
            "eighth",
            "ninth",
            "tenth",
        ),
        1,
    )
    for word in words.split()
}
_OF: Final = frozenset({"of", "de", "of the", "den", "the"})


def _table(groups: tuple[str, ...], first: int) -> dict[str, int]:
    return {word: number for number, words in enumerate(groups, first) for word in words.split()}


_MONTHS: Final[Mapping[str, int]] = _table(_MONTH_NAMES, 1)
_WEEKDAYS: Final[Mapping[str, int]] = _table(_WEEKDAY_NAMES, 0)
_SHORT: Final[Mapping[str, int]] = _table(_SHORT_WEEKDAYS, 0)
_HINTS: Final = frozenset(
    {*_MONTHS, *_WEEKDAYS, *_SHORT, *_RELATIVE, *_FOCUSED_RELATIVE, *UNITS, "apres", "pasado"}
)

_NUMERIC: Final = re.compile(
    r"(?<![\d./-])(?:"
    r"(?P<y1>\d{4})(?P<s1>[-/.])(?P<m1>\d{1,2})(?P=s1)(?P<d1>\d{1,2})"
    r"|(?P<a>\d{1,2})(?P<s2>[./-])(?P<b>\d{1,2})(?:(?P=s2)(?P<y2>\d{4}|\d{2})|(?P<dot>\.))?"
    r")(?![\d/-]|\.\d)"
)
_DIGIT: Final = re.compile(r"[0-9]")
_DAY: Final = re.compile(r"(\d{1,2})(st|nd|rd|th|er|e|o)?", re.ASCII)
_MONTH_FIRST: Final = frozenset({"us", "ph", "fm", "pw"})


MAX_YEARS_BACK: Final = 150
MAX_YEARS_AHEAD: Final = 100
"""How far from today a date in a message may lie: births and bonds, but no slip of a digit."""


class DateMention(NamedTuple):
    """A date in a text. ``weak`` ones count only where a date was asked for.

    No ``date`` says that something here is about dates and not understood ("3 days before Easter").
    """

    date: datetime.date | None
    start: int
    end: int
    weak: bool = False
    weekday: bool = False


def read_date(text: str, *, today: datetime.date, locale: str | None, focused: bool) -> DateMention | None:
    """Return the one date that the text names, or ``None`` for none, several, or an ambiguous one.

    A day without a year is the next such day, today included. A weekday is the next one after today,
    with "next" or without.
    """
    found = [m for m in _mentions(text, today, locale, focused) if focused or not m.weak]
    if len(found) == 1:
        return found[0] if _near(found[0].date, today) else None
    if found:
        found = [m for m in found if not any(_inside(m, other) for other in found)]
    written = [m for m in found if not m.weekday]
    chosen = written or found
    if not chosen or any(m.date != chosen[0].date for m in chosen) or not _near(chosen[0].date, today):
        return None
    day = chosen[0].date
    if day is None or any(m.date is not None and m.date.weekday() != day.weekday() for m in found):
        return None  # "Friday in a week" said on a Saturday, "Monday, 24 November" of a Tuesday
    return chosen[0]


def names_dates(text: str, *, today: datetime.date, locale: str | None) -> bool:
    """Tell whether the rules find anything about dates in the text, understood or not."""
    return next(_mentions(text, today, locale, True), None) is not None or bool(_NUMERIC.search(text))


def _near(date: datetime.date | None, today: datetime.date) -> bool:
    return date is not None and -MAX_YEARS_BACK <= date.year - today.year <= MAX_YEARS_AHEAD


def _inside(mention: DateMention, other: DateMention) -> bool:
    """Tell whether a mention is only part of a longer one: ``tuesday`` in ``a week from tuesday``."""
    within = other.start <= mention.start and mention.end <= other.end
    return within and other.end - other.start > mention.end - mention.start


def _mentions(text: str, today: datetime.date, locale: str | None, focused: bool) -> Iterator[DateMention]:
    for match in _NUMERIC.finditer(text) if _DIGIT.search(text) else ():
        mention = _numeric(match, today, locale)
        if mention is not None:
            yield mention
    words = words_of(text)
    hinted = [index for index, word in enumerate(words) if word.text in _HINTS]
    for index in hinted:
        mention = _named(words, index, today, focused)
        if mention is not None:
            yield mention
    if focused and not hinted:
        yield from _bare_day(words, today)


def _date(year: int, month: int, day: int) -> datetime.date | None:
    try:
        return datetime.date(year, month, day)
    except ValueError:
        return None


def _next(month: int, day: int, today: datetime.date) -> datetime.date | None:
    """Return the next such day; the 29th of February may be years away."""
    for year in range(today.year, min(today.year + 9, 9999) + 1):
        date = _date(year, month, day)
        if date is not None and date >= today:
            return date
    return None


def _full_year(text: str, today: datetime.date) -> int:
    year = int(text)
    return year if len(text) == 4 else today.year - today.year % 100 + year


def _numeric(match: re.Match[str], today: datetime.date, locale: str | None) -> DateMention | None:
    start, end = match.span()
    if match["y1"]:
        date = _date(int(match["y1"]), int(match["m1"]), int(match["d1"]))
        return DateMention(date, start, end) if date else None
    order = _day_and_month(int(match["a"]), int(match["b"]), match["s2"], locale)
    if order is None:
        return None
    day, month = order
    if match["y2"]:
        date = _date(_full_year(match["y2"], today), month, day)
        return DateMention(date, start, end, weak=len(match["y2"]) == 2) if date else None
    date = _next(month, day, today)
    return DateMention(date, start, end, weak=True) if date else None


def _day_and_month(a: int, b: int, separator: str, locale: str | None) -> tuple[int, int] | None:
    """Decide which is the day: dots put it first; otherwise the locale's region, else only what is sure."""
    if separator == "." or a > 12 or a == b:
        return a, b
    if b > 12:
        return b, a
    language, _, region = (locale or "").replace("_", "-").lower().partition("-")
    if region in _MONTH_FIRST:
        return b, a
    if region or (language and language != "en"):
        return a, b
    return None


def _named(words: tuple[Word, ...], index: int, today: datetime.date, focused: bool) -> DateMention | None:
    word = words[index]
    if word.text in _MONTHS:
        return _month(words, index, today)
    if word.text in UNITS:
        return _in_units(words, index, today)
    if _denied(words, index):
        return None
    days = _RELATIVE.get(word.text)
    if days is None and focused:
        days = _FOCUSED_RELATIVE.get(word.text)
    if days is not None:
        return _relative(words, index, days, today)
    weekday = _WEEKDAYS.get(word.text, _SHORT.get(word.text))
    if weekday is None:
        return None
    ahead = _weekday_ahead(words, index, weekday, today)
    return _later(today, ahead, word.start, word.end, weak=word.text in _SHORT, weekday=True)


def _later(
    today: datetime.date, days: int, start: int, end: int, *, weak: bool = False, weekday: bool = False
) -> DateMention | None:
    try:
        return DateMention(today + datetime.timedelta(days=days), start, end, weak, weekday)
    except OverflowError:
        return None


def _relative(words: tuple[Word, ...], index: int, days: int, today: datetime.date) -> DateMention | None:
    """``tomorrow``, but also ``the day after tomorrow``, ``apres demain``, ``pasado manana``."""
    start, before = words[index].start, [word.text for word in words[max(0, index - 2) : index]]
    if days == 1 and (before == ["day", "after"] or before[-1:] in (["apres"], ["pasado"])):
        days, start = 2, words[index - len(before)].start
    return _later(today, days, start, words[index].end)


def _denied(words: tuple[Word, ...], index: int) -> bool:
    """``not tomorrow``, ``not on Monday``."""
    before = [word.text for word in words[max(0, index - 2) : index]]
    return before[-1:] != [] and (
        before[-1] in _NOT or (len(before) == 2 and before[0] in _NOT and before[1] in _BETWEEN)
    )


def _weekday_ahead(words: tuple[Word, ...], index: int, weekday: int, today: datetime.date) -> int:
    """Return how many days away a weekday is: the next one, of next week, or the last one."""
    before = [word.text for word in words[max(0, index - 2) : index]]
    behind = [word.text for word in words[index + 1 : index + 4]]
    ahead = (weekday - today.weekday() - 1) % 7 + 1
    if (before[-1:] and before[-1] in _LAST) or (behind[:1] and behind[0] in _LAST_BEHIND):
        return (weekday - today.weekday()) % 7 - 7
    behind = behind[1:] if behind[:1] in (["of"], ["in"]) else behind
    for pair in (before, behind[:2]):
        if len(pair) == 2 and pair[0] in _NEXT and UNITS.get(pair[1]) == (7, 0):
            return 7 - today.weekday() + weekday
    return ahead


def _in_units(words: tuple[Word, ...], index: int, today: datetime.date) -> DateMention | None:
    """``in 3 days``, ``in a month``, ``two weeks from now``, ``3 days after tomorrow``, ``a year ago``."""
    if index < 1:
        return None
    text = words[index - 1].text
    number = int(text) if text.isdecimal() and len(text) <= 4 else _COUNTS.get(text)
    if number is None:
        return None
    behind = words[index + 1 : index + 3]
    first, last, base, sign = words[index - 1], words[index], today, 1
    if behind and behind[0].text == "ago":
        last, sign = behind[0], -1
    elif len(behind) == 2 and behind[0].text in _FROM:
        last, sign = behind[1], _FROM[behind[0].text]
        moved = _base(behind[1].text, today)
        if moved is None:
            return DateMention(None, first.start, last.end)
        base = moved
    elif index >= 2 and words[index - 2].text in _IN:
        first = words[index - 2]
    elif _goes_on(words, index):
        return DateMention(None, first.start, last.end)
    else:
        return None
    date = _moved(base, sign * number, *UNITS[words[index].text])
    return DateMention(date, first.start, last.end)


def _goes_on(words: tuple[Word, ...], index: int) -> bool:
    """Tell whether this continues a span: the days of ``in 3 months and 5 days``."""
    before = index - (3 if index >= 3 and words[index - 2].text in _AND else 2)
    return before >= 0 and words[before].text in UNITS


def _base(text: str, today: datetime.date) -> datetime.date | None:
    if text in _NOW:
        return today
    days = _RELATIVE.get(text)
    if days is None and text in _WEEKDAYS:
        days = (_WEEKDAYS[text] - today.weekday() - 1) % 7 + 1
    return None if days is None else _moved(today, days, 1, 0)


def _moved(base: datetime.date, count: int, days: int, months: int) -> datetime.date | None:
    """Return a date so many units away; the last of the month where it has no such day."""
    try:
        if not months:
            return base + datetime.timedelta(days=count * days)
        years, month = divmod(base.year * 12 + base.month - 1 + count * months, 12)
        last = calendar.monthrange(years, month + 1)[1]
        return base.replace(year=years, month=month + 1, day=min(base.day, last))
    except (OverflowError, ValueError):
        return None


def _month(words: tuple[Word, ...], index: int, today: datetime.date) -> DateMention | None:
    """``21 Nov``, ``21st of November 2026``, ``Nov 21``, ``November 21st, 2026``."""
    month = _MONTHS[words[index].text]
    before = index - 1
    if before >= 0 and words[before].text in _OF:
        before -= 1
    day = _day_number(words[before].text) if before >= 0 else None
    first, last = before, index
    if day is None:
        day = _day_number(words[index + 1].text) if index + 1 < len(words) else None
        first, last = index, index + 1
    if day is None:
        return None
    year = words[last + 1].text if last + 1 < len(words) else ""
    if len(year) == 4 and year.isdecimal() and year[0] in "12":
        date, last = _date(int(year), month, day), last + 1
    else:
        date = _next(month, day, today)
    return DateMention(date, words[first].start, words[last].end) if date else None


def _day_number(text: str) -> int | None:
    if text in _ORDINALS:
        return _ORDINALS[text]
    found = _DAY.fullmatch(text)
    return int(found[1]) if found and 1 <= int(found[1]) <= 31 else None


def _bare_day(words: tuple[Word, ...], today: datetime.date) -> Iterator[DateMention]:
    """``the 21st``, as an answer: the next 21st."""
    for word in words:
        found = _DAY.fullmatch(word.text)
        if found and found[2] in {"st", "nd", "rd", "th"}:
            for ahead in range(62):
                date = today + datetime.timedelta(days=ahead)
                if date.day == int(found[1]):
                    yield DateMention(date, word.start, word.end, weak=True)
                    break

"""Phone numbers in messages, by the rules of every country (``phonenumbers``), as E.164.

The library is imported when the first phone slot is read (measured: 0.02 s; a country's rules are loaded
when first needed).
"""

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from phonenumbers import PhoneNumber

MAX_CHARS: Final = 500
_DIGITS: Final = re.compile(r"\d\D{0,3}\d\D{0,3}\d\D{0,3}\d")


class PhoneMention(NamedTuple):
    """A number in a text, E.164. ``written_whole``: it was said with its country code."""

    number: str
    start: int
    end: int
    written_whole: bool


def find_phones(text: str, region: str | None) -> tuple[PhoneMention, ...]:
    """Return the valid numbers in the first 500 characters, in order.

    ``region`` (ISO 3166, ``FR``) says whose numbers those without a country code are; without it they
    are none. What has an extension is none, because E.164 has no place for it.
    """
    if not _DIGITS.search(text):
        return ()
    import phonenumbers

    matcher = phonenumbers.PhoneNumberMatcher(text[:MAX_CHARS], region, phonenumbers.Leniency.VALID, 100)
    return tuple(
        PhoneMention(
            _e164(match.number), match.start, match.end, match.raw_string.lstrip("( ").startswith("+")
        )
        for match in matcher
        if not match.number.extension
    )


def phone_of(text: str, region: str | None) -> str | None:
    """Return the whole text's number as E.164 if one can have it, else ``None``.

    For what programs bring: a number's length must be right, the ranges in use change too often.
    """
    import phonenumbers

    try:
        number = phonenumbers.parse(text[:MAX_CHARS], region)
    except phonenumbers.NumberParseException:
        return None
    possible = phonenumbers.is_possible_number(number) and not number.extension
    return _e164(number) if possible else None


def regions() -> frozenset[str]:
    """Return the regions whose numbers are known, as ISO 3166 codes."""
    import phonenumbers

    return frozenset(phonenumbers.SUPPORTED_REGIONS)


def region_of(locale: str | None) -> str | None:
    """Return the locale's region (``en-US``: US), if it has one whose numbers are known."""
    parts = (locale or "").replace("_", "-").split("-")
    region = next((part.upper() for part in parts[1:] if len(part) == 2 and part.isascii()), None)
    return region if region in regions() else None


def _e164(number: "PhoneNumber") -> str:
    import phonenumbers

    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)

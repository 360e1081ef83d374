"""Pages of lists: ``limit``, and a ``cursor`` that is a place in the list, opaque to clients."""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import orjson

from protocol.codec import MAX_NUMBER
from protocol.errors import ErrorCode, Refused
from storage.models import TimeMs

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 100
PAGE_PARAMETERS: Final = frozenset({"limit", "cursor"})
_MAX_CHARS: Final = 512


def read_limit(query: Mapping[str, str]) -> int:
    """Return how many items a page has, 1 to 100. Raises Refused."""
    text = query.get("limit", str(DEFAULT_LIMIT))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else 0
    if not 1 <= limit <= MAX_LIMIT:
        message = f"limit must be a number from 1 to {MAX_LIMIT}."
        raise Refused(ErrorCode.BAD_REQUEST, message, field="limit")
    return limit


def cursor_of(place: tuple[int, str] | None) -> str | None:
    """Return the cursor behind a place; None at the end of the list."""
    if place is None:
        return None
    return base64.urlsafe_b64encode(orjson.dumps(list(place))).decode().rstrip("=")


def read_cursor(query: Mapping[str, str]) -> tuple[int, str] | None:
    """Return the place that a cursor names, or None without one. Raises Refused."""
    text = query.get("cursor")
    if text is None:
        return None
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        number, name = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error):
        raise _bad_cursor() from None
    fits = type(number) is int and type(name) is str and 0 <= number <= MAX_NUMBER and len(name) <= _MAX_CHARS
    if not fits:
        raise _bad_cursor()
    return number, name


def _bad_cursor() -> Refused:
    return Refused(
        ErrorCode.BAD_REQUEST,
        "cursor is not one of this list's.",
        field="cursor",
        suggestion="Send the cursor of the page before, or none.",
    )


def read_time(query: Mapping[str, str], name: str) -> TimeMs | None:
    """Return a time, ISO 8601 with its offset from UTC, in milliseconds. Raises Refused."""
    return time_of(query.get(name), name)


def time_of(text: str | None, name: str) -> TimeMs | None:
    """Return the time that a field ``name`` says, likewise. Raises Refused."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return max(0, int(time.timestamp() * 1000))
    except (ValueError, OverflowError):
        pass
    raise Refused(
        ErrorCode.BAD_REQUEST,
        f"{name} is not a time such as 2026-01-31T09:00:00Z.",
        field=name,
    )

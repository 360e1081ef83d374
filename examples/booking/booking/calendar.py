"""A calendar that keeps its bookings in a SQLite file; the flows call its public functions as ``calendar.*``.

Every change is made under the idempotency key that Parley hands to it, ``context.key``, and its outcome is
kept under that key in the same transaction. So a change that is asked for again, because the server died
and does not know how the first attempt ended, finds its first outcome and happens once.

Two variables of the environment steer it: ``BOOKING_DB`` names the file (default ``bookings.db`` in the
example's folder); ``BOOKING_SECONDS`` makes ``reserve`` slow, so that there is time to kill the server.
"""

import asyncio
import datetime
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

OPENING_HOURS: Final = {"morning": ("09:00", "10:00", "11:00"), "afternoon": ("14:00", "15:00", "16:00")}
CAPACITY: Final = {"consultation": 1, "checkup": 2}
"""How many appointments of a service may be at the same time."""

REF_ALPHABET: Final = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""Without the letters and digits that are taken for each other."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS bookings (
    ref TEXT PRIMARY KEY, service TEXT NOT NULL, day TEXT NOT NULL, time TEXT NOT NULL, email TEXT NOT NULL,
    cancelled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS bookings_by_day ON bookings (service, day);
CREATE TABLE IF NOT EXISTS outcomes (key TEXT PRIMARY KEY, outcome TEXT NOT NULL);
"""

Booking = dict[str, Any]


class Context(Protocol):
    """The part of the action context that is used here; nothing of Parley has to be imported for it."""

    key: str


def search(_context: Context, *, service: str, day: str) -> list[dict[str, str]]:
    """Return the free times of a day, earliest first; none on weekends or for an unknown service."""
    if service not in CAPACITY or datetime.date.fromisoformat(day).weekday() >= 5:
        return []
    with _database() as database:
        return [
            {"id": f"{service}/{day}/{time}", "time": time, "part": part}
            for part, times in OPENING_HOURS.items()
            for time in times
            if _is_free(database, service, day, time)
        ]


def find(_context: Context, *, ref: str) -> Booking | None:
    """Return a booking by its confirmation number; None if there is none, or it was cancelled."""
    with _database() as database:
        return _booking(database, ref)


async def reserve(context: Context, *, offer: str, email: str) -> Booking:
    """Book an offer of ``search``; ``ref`` is the confirmation number, None if the time has been taken."""

    def book(database: sqlite3.Connection) -> Booking:
        service, day, time = offer.split("/")
        if not _is_free(database, service, day, time):
            return {"ref": None}
        ref = "".join(secrets.choice(REF_ALPHABET) for _ in range(6))
        database.execute(
            "INSERT INTO bookings (ref, service, day, time, email) VALUES (?, ?, ?, ?, ?)",
            (ref, service, day, time, email),
        )
        return {"ref": ref, "service": service, "day": day, "time": time}

    outcome = await asyncio.to_thread(_once, context.key, book)
    await asyncio.sleep(float(os.environ.get("BOOKING_SECONDS", "0")))
    return outcome


def move(context: Context, *, ref: str, offer: str) -> Booking:
    """Move a booking to another time; ``ref`` is None if that has been taken, or the booking is gone."""

    def rebook(database: sqlite3.Connection) -> Booking:
        service, day, time = offer.split("/")
        if _booking(database, ref) is None or not _is_free(database, service, day, time):
            return {"ref": None}
        database.execute("UPDATE bookings SET day = ?, time = ? WHERE ref = ?", (day, time, ref.upper()))
        return {"ref": ref.upper(), "service": service, "day": day, "time": time}

    return _once(context.key, rebook)


def cancel(context: Context, *, ref: str) -> Booking:
    """Cancel a booking; one that is cancelled stays so."""

    def drop(database: sqlite3.Connection) -> Booking:
        database.execute("UPDATE bookings SET cancelled = 1 WHERE ref = ?", (ref.upper(),))
        return {"ref": ref.upper()}

    return _once(context.key, drop)


def lookup(context: Context, **_arguments: Any) -> Booking | None:
    """Tell what became of a change whose outcome is unknown: its outcome, or None if it never happened."""
    with _database() as database:
        return _outcome(database, context.key)


def _once(key: str, change: Callable[[sqlite3.Connection], Booking]) -> Booking:
    """Make a change and keep its outcome, both or neither; of a known key, only return the outcome."""
    with _database() as database:
        database.execute("BEGIN IMMEDIATE")
        known = _outcome(database, key)
        if known is not None:
            return known
        outcome = change(database)
        database.execute("INSERT INTO outcomes (key, outcome) VALUES (?, ?)", (key, json.dumps(outcome)))
        return outcome


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """Open the file; commit what was done, or nothing of it."""
    default = Path(__file__).resolve().parents[1] / "bookings.db"
    database = sqlite3.connect(os.environ.get("BOOKING_DB", str(default)), timeout=10)
    try:
        database.executescript(SCHEMA)
        with database:
            yield database
    finally:
        database.close()


def _outcome(database: sqlite3.Connection, key: str) -> Booking | None:
    row = database.execute("SELECT outcome FROM outcomes WHERE key = ?", (key,)).fetchone()
    return json.loads(row[0]) if row else None


def _booking(database: sqlite3.Connection, ref: str) -> Booking | None:
    row = database.execute(
        "SELECT ref, service, day, time FROM bookings WHERE ref = ? AND NOT cancelled", (ref.upper(),)
    ).fetchone()
    return dict(zip(("ref", "service", "day", "time"), row, strict=True)) if row else None


def _is_free(database: sqlite3.Connection, service: str, day: str, time: str) -> bool:
    taken = database.execute(
        "SELECT count(*) FROM bookings WHERE (service, day, time) = (?, ?, ?) AND NOT cancelled",
        (service, day, time),
    ).fetchone()[0]
    return bool(taken < CAPACITY[service])

"""A ledger that keeps its payments in a SQLite file; the flow calls its public functions as ``ledger.*``.

A payment is written under the idempotency key that Parley hands over, ``context.key``. So a payment that is
asked for again, because the server died and does not know how the first attempt ended, is made once.

``LEDGER_DB`` names the file (default ``payments.db`` in the example's folder); ``LEDGER_SECONDS`` makes
``pay`` slow, so that there is time to kill the server.
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS payments (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, invoice TEXT NOT NULL, supplier TEXT NOT NULL,
    amount REAL NOT NULL
)
"""

Payment = dict[str, Any]


class Context(Protocol):
    """The part of the action context that is used here; nothing of Parley has to be imported for it."""

    key: str


async def pay(context: Context, *, invoice: str, supplier: str, amount: float) -> Payment:
    """Pay an invoice; ``number`` is the payment's, the same whenever this very payment is asked for again."""
    payment = await asyncio.to_thread(_pay, context.key, invoice, supplier, amount)
    await asyncio.sleep(float(os.environ.get("LEDGER_SECONDS", "0")))
    return payment


def lookup(context: Context, **_arguments: Any) -> Payment | None:
    """Tell what became of a payment whose outcome is unknown; None if it was never made."""
    with _database() as database:
        return _payment(database, context.key)


def _pay(key: str, invoice: str, supplier: str, amount: float) -> Payment:
    with _database() as database:
        database.execute(
            "INSERT INTO payments (key, invoice, supplier, amount) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (key) DO NOTHING",
            (key, invoice, supplier, amount),
        )
        payment = _payment(database, key)
        assert payment is not None
        return payment


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """Open the file; commit what was done, or nothing of it."""
    default = Path(__file__).resolve().parents[1] / "payments.db"
    database = sqlite3.connect(os.environ.get("LEDGER_DB", str(default)), timeout=10)
    try:
        database.execute(SCHEMA)
        with database:
            yield database
    finally:
        database.close()


def _payment(database: sqlite3.Connection, key: str) -> Payment | None:
    row = database.execute(
        "SELECT number, invoice, supplier, amount FROM payments WHERE key = ?", (key,)
    ).fetchone()
    return dict(zip(("number", "invoice", "supplier", "amount"), row, strict=True)) if row else None

"""What a turn costs when much is stored: by conversations in the store, and by events behind a conversation.

Every size has a store of its own, made by real turns; the conversations that are only there to be many are
copies of one of them. The servers run side by side and are measured in turn.
"""

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.deadlines import engine_on
from bench.load import FORM, Load, Round
from bench.measures import Latencies, Plan, Ratio, Row, by_round
from bench.servers import DATABASE, Server
from server.auth.principal import Principal
from server.engine.runner import Engine
from server.engine.types import Command

STORED: Final = (1_000, 10_000, 100_000, 1_000_000)
EVENTS: Final = (10, 1_000, 100_000)
TALKERS: Final = 4
EVENTS_A_TURN: Final = 5
GOAL: Final = 1.2


async def growth(plan: Plan) -> list[Row]:
    """Turns with 10^3 to 10^6 conversations in the store, and with 10 to 10^5 events behind them."""
    stored = STORED if plan.deadlines >= 10_000 else STORED[:2]
    folders = {f"{count:,} stored conversations": await _many(plan.directory, count) for count in stored}
    rows = await _side_by_side(plan, folders, 50)
    events = EVENTS if plan.deadlines >= 10_000 else EVENTS[:2]
    folders = {f"{count:,} events behind it": await _long(plan.directory, count) for count in events}
    return [*rows, *await _side_by_side(plan, folders, TALKERS)]


async def _side_by_side(plan: Plan, folders: Mapping[str, Path], connections: int) -> list[Row]:
    names = list(folders)
    rounds: dict[str, list[Round]] = {what: [] for what in names}
    servers = {what: Server("parley", plan.directory, store=folder) for what, folder in folders.items()}
    try:
        loads = {what: await Load(server, connections).open() for what, server in servers.items()}
        for number in range(plan.rounds):
            for what in names if number % 2 else reversed(names):
                rounds[what].append(await loads[what].run(plan.seconds / 2))
        for load in loads.values():
            load.close()
    finally:
        for server in servers.values():
            server.stop()
    rows: list[Row] = []
    for what, taken in rounds.items():
        rows.append(_row(f"turns with {what}", taken, rows[0] if rows else None))
    return rows


def _row(what: str, rounds: list[Round], least: Row | None) -> Row:
    latencies = Latencies()
    for taken in rounds:
        latencies.add(taken.latencies)
    rates = [taken.rate for taken in rounds]
    cpu_us = median(taken.cpu_us for taken in rounds)
    row = Row(what, median(rates), "/s", rates, latencies.ms(50), latencies.ms(99), cpu_us)
    if least is not None:
        ratio = by_round(least.samples, rates)
        row.ratios.append(Ratio("time of a turn with the fewest", ratio, GOAL, at_least=False))
    return row


async def _many(directory: Path, count: int) -> Path:
    """Return a store with ``count`` conversations, each after one turn."""
    folder = directory / f"stored-{count}"
    async with engine_on(folder, lambda: 1_800_000_000_000) as engine:
        await _turn(engine, "sample", 0)
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as database:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("BEGIN")
        database.execute("CREATE TEMP TABLE copies (id INTEGER PRIMARY KEY, name TEXT, execution TEXT)")
        database.execute(
            "WITH RECURSIVE n(id) AS (SELECT 1000 UNION ALL SELECT id + 1 FROM n WHERE id < ?) "
            "INSERT INTO copies SELECT id, lower(hex(randomblob(16))), lower(hex(randomblob(16))) FROM n",
            (1000 + count - 1,),
        )
        for table, changes in COPIED.items():
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            values = ", ".join(changes.get(column, f"t.{column}") for column in columns)
            database.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) "
                f"SELECT {values} FROM {table} AS t, copies AS c ORDER BY {ORDERED.get(table, 'c.id')}"
            )
        database.execute("COMMIT")
    return folder


COPIED: Final[Mapping[str, Mapping[str, str]]] = {
    "conversations": {"id": "c.id", "conversation_id": "c.name"},
    "events": {"conversation": "c.id"},
    "executions": {"conversation_id": "c.name", "execution_id": "c.execution"},
    "listing": {"conversation_id": "c.name", "user_id": "c.name", "active_at": "t.active_at + c.id"},
}
"""How a copy differs from the conversation that it was made of. Its record still names the other one."""
ORDERED: Final = {"executions": "c.execution", "listing": "c.name"}


async def _long(directory: Path, events: int) -> Path:
    """Return a store in which the talkers' conversations have that many events behind them."""
    folder = directory / f"events-{events}"
    async with engine_on(folder, None) as engine:
        await asyncio.gather(*(_talk(engine, number, events) for number in range(TALKERS)))
    return folder


async def _talk(engine: Engine, number: int, events: int) -> None:
    for turn in range(max(1, events // EVENTS_A_TURN)):
        await _turn(engine, f"bench-{number}", turn, f"user-{number}")


async def _turn(engine: Engine, conversation_id: str, turn: int, user_id: str = "user") -> None:
    content: dict[str, Any] = {
        "type": "text",
        "text": FORM[turn % len(FORM)],
        "payload": None,
        "metadata": {},
    }
    body = {
        "type": "process", "content": content, "channel": "web", "on_busy": "enqueue",
        "conversation_id": conversation_id, "flow_id": None, "user_id": user_id,
    }  # fmt: skip
    command = Command("process", conversation_id, f"made-{turn:012d}", "hash", body)
    await engine.submit(command, Principal(user_id, "bench"))

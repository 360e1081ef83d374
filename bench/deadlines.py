"""Many deadlines at once: how fast they are done, and what they leave of the live turns meanwhile.

The conversations that wait are made by an engine in this process whose clock stands still, so that the
deadlines of one round fall due in the same millisecond; the server is started on the store that this left.
Each round has a time of its own, and the live turns without are measured right before it.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from bench.load import Load, Round
from bench.measures import CONNECTIONS, Latencies, Plan, Ratio, Row, by_round
from bench.servers import DATABASE, FLOWS, Server
from server.auth.principal import Principal
from server.engine.actions import Actions
from server.engine.catalog import Catalog
from server.engine.clock import StoreClock
from server.engine.runner import Engine
from server.engine.types import Command
from storage.sqlite import SqliteStore

TENANT: Final = "bench"
FLOW: Final = "reminder"
WAIT_MS: Final = 3_600_000
"""How long ``bench/flows/reminder.yaml`` waits."""
AT_ONCE: Final = 64
MADE_A_SECOND: Final = 400
"""What even a slow machine makes of the conversations that wait."""
LONGEST_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02


class Burst(NamedTuple):
    """One round: seconds until all deadlines were done, live turns meanwhile and before."""

    seconds: float
    during: Round
    without: Round


async def deadlines(plan: Plan) -> list[Row]:
    """Deadlines that fall due at once, under 50 clients in a closed loop."""
    count = plan.deadlines
    apart = 4 * plan.seconds + count / 1000
    first = time.time() + 5 + plan.rounds * count / MADE_A_SECOND + 2 * plan.seconds
    dues = [round((first + apart * number) * 1000) for number in range(plan.rounds)]
    with Server("parley", plan.directory) as empty:
        empty_bytes = empty.rss_bytes()
    folder = plan.directory / "deadlines"
    await _make(folder, dues, count)
    with Server("parley", plan.directory, store=folder) as server:
        kib = max(0, server.rss_bytes() - empty_bytes) / 1024 / (count * plan.rounds)
        bursts = await _bursts(server, folder, dues, plan)
    _check(folder, count * plan.rounds)
    return [*_rows(bursts, count), Row("a conversation that waits, in memory", kib, "KiB", [kib])]


async def _make(folder: Path, dues: Sequence[int], count: int) -> None:
    """Leave a store in which ``count`` conversations wait for each of these times."""
    now = 0
    async with engine_on(folder, lambda: now) as engine:
        for round_number, due in enumerate(dues):
            now = due - WAIT_MS
            for start in range(0, count, AT_ONCE):
                numbers = range(start, min(count, start + AT_ONCE))
                await asyncio.gather(*(_begin(engine, f"waits-{round_number}-{n}") for n in numbers))


@asynccontextmanager
async def engine_on(folder: Path, clock: Callable[[], int] | None) -> AsyncIterator[Engine]:
    """Run an engine in this process, with the benchmarks' flows, on a new store in ``folder``."""
    folder.mkdir(exist_ok=True)
    store = SqliteStore(folder / DATABASE, clock=clock)
    await store.open()
    try:
        catalog = Catalog(store)
        await catalog.load_folder(FLOWS)
        yield Engine(
            store=store,
            clock=StoreClock(store),
            catalog=catalog,
            actions=Actions({}),
            publish=lambda publication: None,
            sole_writer=True,
        )
    finally:
        await store.close()


async def _begin(engine: Engine, conversation_id: str) -> None:
    content: dict[str, Any] = {"type": "text", "text": "remind me", "payload": None, "metadata": {}}
    body = {"type": "process", "content": content, "channel": "web", "on_busy": "enqueue"}
    body |= {"conversation_id": conversation_id, "flow_id": FLOW, "user_id": "sleeper"}
    command = Command("process", conversation_id, f"begin-{conversation_id}", "hash", body)
    await engine.submit(command, Principal("sleeper", TENANT))


async def _bursts(server: Server, folder: Path, dues: Sequence[int], plan: Plan) -> list[Burst]:
    load = await Load(server, CONNECTIONS).open()
    load.begin()
    bursts = []
    with closing(sqlite3.connect(f"file:{folder / DATABASE}?mode=ro", uri=True)) as database:
        for due in dues:
            left = due / 1000 - time.time() - plan.seconds - POLL_SECONDS
            if left < 0:
                raise RuntimeError("the deadlines came before all was ready: this machine is too slow")
            await asyncio.sleep(left)
            without = await load.measure(lambda: asyncio.sleep(plan.seconds))
            await asyncio.sleep(due / 1000 - time.time())
            began = time.perf_counter()
            during = await load.measure(lambda due=due: _until_done(database, due))  # type: ignore[misc]
            bursts.append(Burst(time.perf_counter() - began, during, without))
    await load.end()
    load.close()
    return bursts


async def _until_done(database: sqlite3.Connection, due: int) -> None:
    until = time.perf_counter() + LONGEST_SECONDS
    while database.execute("SELECT 1 FROM conversations WHERE wake_at <= ? LIMIT 1", (due,)).fetchone():
        if time.perf_counter() > until:
            raise RuntimeError(f"deadlines were left after {LONGEST_SECONDS:g} s")
        await asyncio.sleep(POLL_SECONDS)


def _check(folder: Path, count: int) -> None:
    """Raise unless every conversation that waited has ended, as the flow says."""
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        [(ended,)] = database.execute(
            "SELECT count(*) FROM conversations WHERE conversation_id LIKE 'waits-%' "
            "AND CAST(doc AS TEXT) ->> '$.status' = 'completed'"
        )
    if ended != count:
        raise RuntimeError(f"of {count} conversations that waited only {ended} have ended")


def _rows(bursts: Sequence[Burst], count: int) -> list[Row]:
    seconds = [burst.seconds for burst in bursts]
    done = Row(f"{count:,} deadlines at once, all done", median(seconds), "s", seconds)
    done.ratios.append(Ratio("10 s", median(seconds) / 10, 1.0, at_least=False))
    rates = [burst.during.rate for burst in bursts]
    latencies = Latencies()
    for burst in bursts:
        latencies.add(burst.during.latencies)
    live = Row("live turns meanwhile", median(rates), "/s", rates, latencies.ms(50), latencies.ms(99))
    without = [burst.without.rate for burst in bursts]
    against = f"without, {median(without):,.0f}/s"
    live.ratios.append(Ratio(against, by_round(rates, without), 0.7))
    return [done, live]

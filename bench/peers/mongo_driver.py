"""What the driver alone does for the writes of a turn: no server, no engine, no socket.

    python -m bench.peers.mongo_driver URL CALLERS SECONDS

Each caller has a conversation: a compare-and-set of a document equal to ours, and the document of its
events, which goes into the log with those of other callers that wait at that moment. Fields, lengths and
indexes are those of a turn of the benchmark's form, as a command listener saw them. Prints ``rate``,
``latencies`` and ``cpu_us`` as JSON.
"""

import asyncio
import json
import os
import secrets
import sys
import time
from typing import Any, Final

import uvloop
from pymongo import AsyncMongoClient, WriteConcern

from storage.mongo.schema import INDEXES, make

BODY: Final = os.urandom(2000)
ACCEPTED: Final = os.urandom(512)
EVENTS: Final = os.urandom(1640)


class Log:
    """Inserts what has come while the insert before was under way."""

    def __init__(self, events: Any) -> None:
        self._events = events
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def insert(self, document: dict[str, Any]) -> None:
        """Return once the document is in the log."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((document, done))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        await done

    async def _run(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            await self._events.insert_many([document for document, _ in group], ordered=False)
            for _, done in group:
                done.set_result(None)
        self._task = None


def _document(place: dict[str, str], revision: int, unflushed: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a conversation."""
    return {
        **place, "revision": revision, "fence": 0, "commit_id": secrets.token_hex(16), "epoch": "e" * 21,
        "offset": revision * 6, "body": BODY, "status": "waiting_input", "flow_id": "form",
        "user_id": "user", "project_id": None, "active_at": 1_800_000_000_000, "execution_id": "x" * 36,
        "execution_from": 1, "wake_at": 1_800_000_000_000, "accepted": ACCEPTED, "unflushed": unflushed,
        "flush_at": 1_800_000_000_000,
    }  # fmt: skip


def _entry(revision: int) -> dict[str, Any]:
    """Return the events of a turn."""
    first = revision * 6 + 1
    return {
        "epoch": "e" * 21, "first_offset": first, "last_offset": first + 5,
        "commit_id": secrets.token_hex(16), "key": f"{revision:021d}", "body_hash": "h" * 32,
        "execution_id": "x" * 36, "messages": 2, "ended": [f"{revision:021d}"], "events": EVENTS,
    }  # fmt: skip


async def main(url: str, callers: int, seconds: float) -> None:
    """Measure and print."""
    client: Any = AsyncMongoClient(url)
    name = f"driver_{secrets.token_hex(4)}"
    database = client.get_database(name, write_concern=WriteConcern("majority", j=True))
    await make(database, [index for index in INDEXES if index.collection in ("conversations", "events")])
    log = Log(database.events)
    latencies: list[float] = []
    measured = False

    async def call(number: int, until: float) -> None:
        place = {"tenant_id": "bench", "conversation_id": f"bench-{number}"}
        await database.conversations.insert_one(_document(place, 0, []))
        revision = 0
        while (began := time.perf_counter()) < until:
            entry = _entry(revision)
            changed = _document(place, revision + 1, [entry])
            done = await database.conversations.replace_one(
                {**place, "epoch": "e" * 21, "revision": revision, "fence": 0}, changed
            )
            assert done.matched_count == 1
            await log.insert({**place, **entry})
            revision += 1
            if measured:
                latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    warm = seconds / 5
    work = [asyncio.ensure_future(call(n, began + warm + seconds)) for n in range(callers)]
    await asyncio.sleep(warm)
    measured, start, cpu = True, time.perf_counter(), time.process_time()
    await asyncio.gather(*work)
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    await client.drop_database(name)
    await client.close()
    figures = {"rate": len(latencies) / took, "latencies": latencies, "cpu_us": cpu / len(latencies) * 1e6}
    print(json.dumps(figures))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))

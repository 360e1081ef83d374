"""What the driver alone does for the writes of a turn: no server, no engine, no socket.

    python -m bench.peers.mongo_driver URL CALLERS SECONDS

Each caller has a conversation: a compare-and-set of a document as long as ours, and the document of its
events, which goes into the log with those of other callers that wait at that moment. Prints ``rate``,
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

BODY: Final = os.urandom(1500)
EVENTS: Final = os.urandom(1800)


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


async def main(url: str, callers: int, seconds: float) -> None:
    """Measure and print."""
    client: Any = AsyncMongoClient(url)
    name = f"driver_{secrets.token_hex(4)}"
    database = client.get_database(name, write_concern=WriteConcern("majority", j=True))
    await database.conversations.create_index([("tenant_id", 1), ("conversation_id", 1)], unique=True)
    await database.events.create_index(
        [("tenant_id", 1), ("conversation_id", 1), ("epoch", 1), ("first_offset", 1)], unique=True
    )
    log = Log(database.events)
    latencies: list[float] = []
    measured = False

    async def call(number: int, until: float) -> None:
        place = {"tenant_id": "bench", "conversation_id": f"c-{number}"}
        document = {**place, "revision": 0, "fence": 0, "commit_id": "0" * 32, "body": BODY}
        await database.conversations.insert_one(dict(document))
        while (began := time.perf_counter()) < until:
            revision = document["revision"]
            assert isinstance(revision, int)
            document |= {"revision": revision + 1, "commit_id": secrets.token_hex(16)}
            done = await database.conversations.replace_one(
                {**place, "revision": revision, "fence": 0}, document
            )
            assert done.matched_count == 1
            first = revision * 5 + 1
            await log.insert(
                {
                    **place, "epoch": "e", "first_offset": first, "last_offset": first + 4,
                    "commit_id": document["commit_id"], "key": secrets.token_hex(16), "events": EVENTS,
                }
            )  # fmt: skip
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

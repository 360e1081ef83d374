"""Commits a second of a store alone: what the engine's durable turns could reach at most.

    python bench/raw_store.py [--store sqlite:PATH] [--commits 20000] [--rounds 3] [--pin 0]

Each caller has a conversation of its own and commits in a closed loop: a record of about 1.3 KB (with
``--ring`` its idempotency ring is full, about 11 KB) and a batch of five events. The busy rows repeat it
with 50 µs of Python in the event loop a commit, which is what a gateway and an engine do there. On a
machine that others use, the processor time a commit takes (``cpu µs``) tells more than the commits a second.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from storage.base import Commit, CommitOutcome, Expected, Store
from storage.memory import MemoryStore
from storage.models import Conversation, Event, EventBatch, Execution, Frame, Pending, Question, RecentKey
from storage.sqlite import SqliteStore

CALLERS = (1, 8, 50)
EXECUTION = "9b2f0c1e-1111-4222-8333-444455556666"


@dataclass(frozen=True)
class Result:
    """One measured cell."""

    callers: int
    commits_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


def first_record(caller: int, run: str, ring: bool) -> Conversation:
    """Return a conversation in the middle of a form."""
    execution = Execution(
        execution_id=f"{EXECUTION}-{run}-{caller}",
        flow_id="book_appointment",
        flow_version=3,
        status="waiting_input",
        user_id=f"user-{caller}",
        current_step_id="who",
        frames=(Frame(0, None, "book_appointment", 3, "who", {"offers": [], "booking": None}, {"who": 2}),),
        pending=(
            Pending("p1", "input", "who", prompt="Which day?", questions=(Question("date", "Which day?"),)),
        ),
        started_at=1_800_000_000_000,
        updated_at=1_800_000_000_000,
    )
    recent = tuple(
        RecentKey(f"{caller:08x}-{run}-{n:016x}", "a" * 64, "completed", EXECUTION, n * 5 + 1, n * 5 + 5)
        for n in range(64 if ring else 0)
    )
    return Conversation(
        "default",
        f"c-{run}-{caller:028x}",
        f"user-{caller}",
        "epoch-0123456789abcdef",
        status="waiting_input",
        locale="en",
        timezone="Europe/Paris",
        slots={"service": "consultation", "date": None, "email": None},
        variables={"offers": [], "booking": None},
        execution=execution,
        recent=recent,
    )


def events(first: int, key: str) -> tuple[Event, ...]:
    """Return what a turn of a form leaves in the log."""
    message: dict[str, object] = {
        "message_id": key[:32], "role": "user", "type": "text", "text": "I need a consultation",
        "payload": None, "buttons": [], "metadata": {}, "user_id": "user-1",
    }  # fmt: skip
    turn: dict[str, object] = {
        "conversation_id": "c", "current_state": "who", "response": {"messages": [message]},
        "context_updates": {"slots": {"service": "consultation"}, "variables": {}},
        "actions_performed": [], "processing_time_ms": 1, "success": True, "ab_variant": None,
    }  # fmt: skip
    kinds: Sequence[tuple[str, dict[str, object]]] = (
        ("message.received", message),
        ("slots.updated", {"slots": {"service": "consultation"}}),
        ("step.started", {"visit": 1, "attempt": 1, "error": None}),
        ("message.completed", message),
        ("turn.completed", turn),
    )
    return tuple(
        Event(first + n, 1_800_000_000_000, kind, EXECUTION, "who", key, None, data)
        for n, (kind, data) in enumerate(kinds)
    )


def next_commit(record: Conversation, run: str, ring: bool) -> Commit:
    """Return the commit of the next turn."""
    revision, first = record.revision + 1, record.offset + 1
    key = f"{record.conversation_id[-8:]}-{run}-{revision:020x}"
    batch = EventBatch(record.epoch, first, first + 4, f"{revision:032x}", key, "b" * 64, events(first, key))
    recent = record.recent
    if ring:
        recent = (*recent[1:], RecentKey(key, "b" * 64, "completed", EXECUTION, first, first + 4))
    record_after = replace(
        record,
        revision=revision,
        offset=first + 4,
        commit_id=batch.commit_id,
        message_count=record.message_count + 2,
        last_activity=record.last_activity + 1,
        recent=recent,
    )
    expected = Expected(record.revision or None, record.fence)
    return Commit(expected, record_after, batch)


def spin(microseconds: float) -> None:
    """Keep the event loop busy."""
    until = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < until:
        pass


def commits(caller: int, count: int, run: str, ring: bool) -> list[Commit]:
    """Return the commits of one caller, made beforehand: they are the engine's cost, not the store's."""
    made: list[Commit] = []
    record = first_record(caller, run, ring)
    for _ in range(count):
        made.append(next_commit(record, run, ring))
        record = made[-1].record
    return made


async def measure(store: Store, callers: int, count: int, run: str, ring: bool, busy_us: float) -> Result:
    """Make ``count`` commits with so many callers."""
    latencies: list[float] = []
    work = [commits(n, max(count // callers, 20), run, ring) for n in range(callers)]
    gc.collect()
    gc.disable()

    async def call(own: list[Commit]) -> None:
        for commit in own:
            if busy_us:
                spin(busy_us)
            started = time.perf_counter()
            outcome = await store.commit(commit)
            latencies.append(time.perf_counter() - started)
            if outcome is not CommitOutcome.COMMITTED:
                raise SystemExit(f"a commit was a {outcome.value}")

    started, cpu_started = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(call, work))
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    gc.enable()
    cuts = statistics.quantiles(latencies, n=100)
    return Result(
        callers, len(latencies) / elapsed, cuts[49] * 1000, cuts[98] * 1000, cpu / len(latencies) * 1e6
    )


def make_store(url: str, folder: str) -> Store:
    """Return the store to measure; without a path the file is a new one in ``folder``."""
    if url == "memory:":
        return MemoryStore()
    return SqliteStore(url.removeprefix("sqlite:") or str(Path(folder) / "raw.db"))


async def main() -> None:
    """Print one table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", default="sqlite:", help="sqlite:PATH or memory: (default: a new file)")
    parser.add_argument("--commits", type=int, default=20_000, help="a cell (a fifth with one caller)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pin", type=int, default=0, help="the core to run on (-1: any)")
    parser.add_argument("--ring", action="store_true", help="with full idempotency rings")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    if args.pin >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {args.pin})
    rows: dict[tuple[int, float], list[Result]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(args.store, folder)
        await store.open()
        for number in range(args.rounds):
            for callers in CALLERS:
                for busy_us in (0.0, 50.0):
                    run = f"{number}{int(busy_us):02d}{callers:02d}{os.getpid():x}"
                    count = args.commits if callers > 1 else args.commits // 5
                    result = await measure(store, callers, count, run, args.ring, busy_us)
                    rows.setdefault((callers, busy_us), []).append(result)
        await store.close()
    print(f"{'callers':>8} {'loop':>6} {'commits/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'cpu µs':>7}")
    figures = []
    for (callers, busy_us), results in rows.items():
        median = sorted(results, key=lambda r: r.commits_per_second)[len(results) // 2]
        kind = "busy" if busy_us else "idle"
        rate = f"{median.commits_per_second:10.0f}"
        print(f"{callers:8} {kind:>6} {rate} {median.p50_ms:8.2f} {median.p99_ms:8.2f} {median.cpu_us:7.1f}")
        figures.append({"loop": kind} | asdict(median))
    if args.json:
        args.json.write_text(
            json.dumps({"store": args.store, "ring": args.ring, "figures": figures}, indent=1)
        )


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())

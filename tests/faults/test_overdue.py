"""Deadlines that pass while no server runs: the next one does what they say, once, though it dies at it.

Nobody comes to these conversations after their requests; the sweep alone takes them on. The deadlines are the
real clock's, so the test waits for the last of them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from storage.sqlite import SqliteStore
from tests.support.checker import check
from tests.support.devices import Device
from tests.support.durable_log import Log
from tests.support.history import EffectLog, History
from tests.support.killable_server import Nursery
from tests.support.ports import free_port
from tests.support.server import SECRET, TENANT, token, write_flows

FLOW: Final = """
flow: gate
default: true
slots:
  item: {type: choice, options: [tea, milk]}
variables: {receipt: null}
steps:
  - {id: ask, collect: item, ask: {item: "Tea or milk?"}}
  - id: gate
    accept: {title: "Sell ${slots.item}?", deadline: 800ms, on_timeout: {decide: accept}}
    accepted: charge
    rejected: over
  - {id: charge, action: till.charge, effect: write, with: {item: "${slots.item}"}, save: variables.receipt, on_error: over}
  - {id: over, end: completed}
"""  # noqa: E501 - a step a line

DEATHS: Final = (
    "due.after:1", "commit.before:1", "commit.after:1", "sql.COMMIT:1",
    "till.charge.between:1", "till.charge.after:1", "commit.before:5",
)  # fmt: skip
"""Where the server dies that comes to do what is overdue."""
ROUNDS: Final = tuple(tuple(f"c{turn}-{number}" for number in range(4)) for turn in range(len(DEATHS)))
CONVERSATIONS: Final = tuple(name for names in ROUNDS for name in names)
DEADLINE_S: Final = 0.8


@pytest.mark.slow
async def test_a_deadline_that_passed_while_the_server_was_dead_is_done_once(tmp_path: Path) -> None:
    """Each request ends by its deadline, once; what that decides is done at most once, as it was shown."""
    write_flows(tmp_path, {"gate": FLOW})
    effects, history = EffectLog(tmp_path / "effects.log"), History()
    env = {
        "PARLEY_JWT_SECRET": SECRET, "PARLEY_ACTIONS": "tests.support.till", "PARLEY_SWEEP_SECONDS": "0.05",
        "PARLEY_FRAMES_PER_SECOND": "1000", "PARLEY_TEST_EFFECTS": str(effects.path),
    }  # fmt: skip
    async with Nursery.open(tmp_path, free_port(), env) as nursery:
        ann = Device(history, "ann", nursery.url, token("ann"), seed=1)
        life = await nursery.start()
        assert await nursery.ready(life)
        await ann.open(*CONVERSATIONS)
        for names, death in zip(ROUNDS, DEATHS, strict=True):
            await asyncio.gather(*(ann.say(name, "tea") for name in names))
            await nursery.kill(life)
            await _passed(time.time() + DEADLINE_S)
            life = await nursery.start(death)
            assert await nursery.ended(life, within_s=20), f"nobody came by {death}"
            life = await nursery.start()
            assert await nursery.ready(life)
            await _completed(ann, names)
        await ann.seen_to_the_end()
        await ann.close()
        await nursery.kill(life)
        logs = await _logs(nursery.database)
    assert check(history, logs, effects.read()) == []
    for log in logs.values():
        ends = [e for e in log.events if e.type in ("pending.resolved", "pending.expired")]
        found = [(event.type, event.cause, event.data["decided"]["accepted"]) for event in ends]
        assert found == [("pending.expired", "deadline", True)]
    done = Counter(line.key for line in effects.read() if line.phase == "after")
    assert set(done.values()) == {1}
    assert len(done) >= len(DEATHS), "hardly anything was done"


async def _passed(moment: float) -> None:
    while time.time() <= moment:
        await asyncio.sleep(0.02)


async def _completed(ann: Device, names: Sequence[str]) -> None:
    async with asyncio.timeout(30):
        while {(await ann.state(name))[1] for name in names} != {"completed"}:
            await asyncio.sleep(0.02)


async def _logs(database: Path) -> dict[str, Log]:
    store = SqliteStore(database)
    await store.open()
    try:
        found = [await Log.read(store, TENANT, name) for name in CONVERSATIONS]
    finally:
        await store.close()
    return {log.conversation_id: log for log in found if log is not None}

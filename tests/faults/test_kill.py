"""A server that is killed again and again loses nothing, doubles nothing, and shows nothing out of order.

Several people talk to one server over the SDK while it dies by SIGKILL, at a failpoint (between two lines
that matter) or at any moment, and starts again on the same file. After the storm everybody is answered,
and the history checker holds what each of them saw against the log and against what the world saw.

Seeds are fixed; ``PARLEY_TEST_SEED`` gives other ones, ``PARLEY_TEST_SCALE`` multiplies the number of lives.
"""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from storage.sqlite import SqliteStore
from tests.support.checker import check
from tests.support.devices import Device
from tests.support.durable_log import Log
from tests.support.history import EffectLog, History
from tests.support.killable_server import Life, Nursery
from tests.support.server import SECRET, TENANT, free_port, token, write_flows
from tests.support.till import FLOW

SCALE: Final = float(os.environ.get("PARLEY_TEST_SCALE", "1"))
SEED: Final = int(os.environ.get("PARLEY_TEST_SEED", "1"))
LIVES: Final = max(1, round(80 * SCALE))
CONVERSATIONS: Final = ("ann", "bob", "eve")
PLACES: Final = {
    "commit.before": 12,
    "commit.after": 12,
    "load.before": 3,
    "enqueue.before": 2,
    "enqueue.after": 2,
    "turn_end.before": 1,
    "due.after": 1,
    "sql.BEGIN": 12,
    "sql.INSERT": 20,
    "sql.UPDATE": 12,
    "sql.COMMIT": 12,
    "till.look.before": 2,
    "till.look.after": 2,
    "till.charge.before": 2,
    "till.charge.between": 2,
    "till.charge.after": 2,
    "till.note.between": 2,
    "till.note.after": 2,
}
"""Where it dies, and how often the place may be reached before, at most."""

DELAYED: Final = ("commit.before", "commit.after", "sql.COMMIT", "till.charge.before", "till.charge.after")
"""Where it dies a moment later: in the middle of a sync, of publishing, of a send."""


def at_failpoints(chance: random.Random, life: int) -> str | None:
    """Go through all places in turn, so that each of them kills several times."""
    names = sorted(PLACES)
    place = names[life % len(names)]
    return f"{place}:{chance.randint(1, PLACES[place])}"


def in_between(chance: random.Random, life: int) -> str | None:
    """At any moment from outside, or a moment after something began."""
    if life % 2:
        return None
    place = chance.choice(DELAYED)
    return f"{place}:{chance.randint(1, PLACES[place])}:{round(chance.expovariate(1 / 400))}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "seed"), [(at_failpoints, SEED), (in_between, SEED + 1)], ids=["failpoints", "anytime"]
)
async def test_nothing_is_lost_or_doubled_by_kills(
    tmp_path: Path, plan: Callable[[random.Random, int], str | None], seed: int
) -> None:
    """After at least 75 kills and a calm end, the checker finds nothing."""
    print(f"seed {seed}, {LIVES} lives")
    write_flows(tmp_path, {"shop": FLOW})
    history, effects = History(tmp_path), EffectLog(tmp_path / "effects.log")
    async with Nursery.open(tmp_path, free_port(), _environment(effects)) as nursery:
        devices = _devices(history, nursery.url, seed)
        stop = asyncio.Event()
        people = [asyncio.create_task(_person(device, stop)) for device in devices]
        chance = random.Random(seed)
        for life in range(LIVES):
            await _live_and_die(nursery, plan(chance, life), chance)
        last = await nursery.start()
        assert await nursery.ready(last), nursery.log.read_text()[-4000:]
        stop.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*people)
            await _calm(devices)
        await asyncio.gather(*(device.close() for device in devices))
        await nursery.kill(last)
    history.close()
    logs = await _logs(nursery.database)
    found = check(history, logs, effects.read())
    _tell(nursery.lives, logs, effects)
    assert not found, "\n".join(str(violation) for violation in found[:20])
    assert sum(life.signal == 9 for life in nursery.lives) >= LIVES
    assert sum(len(log.by_key) for log in logs.values()) >= 2 * LIVES, "hardly anybody got a word in"


async def _live_and_die(nursery: Nursery, failpoint: str | None, chance: random.Random) -> None:
    life = await nursery.start(failpoint)
    if failpoint is None:
        if chance.random() < 0.8:  # else it may die while it starts
            await nursery.ready(life)
        await asyncio.sleep(chance.uniform(0, 0.2))
    else:
        await nursery.ended(life, within_s=1.0)  # nobody may have come by the place
    await nursery.kill(life)


def _environment(effects: EffectLog) -> dict[str, str]:
    return {
        "PARLEY_JWT_SECRET": SECRET,
        "PARLEY_ACTIONS": "tests.support.till",
        "PARLEY_FRAMES_PER_SECOND": "1000",
        "PARLEY_SWEEP_SECONDS": "0.1",
        "PARLEY_TEST_EFFECTS": str(effects.path),
    }


def _devices(history: History, url: str, seed: int) -> list[Device]:
    """Ann has two devices in one conversation; Bob and Eve one each; an inspector watches all three."""
    owners = [("ann-phone", "ann"), ("ann-desk", "ann"), ("bob-phone", "bob"), ("eve-phone", "eve")]
    people = [Device(history, name, url, token(user), seed=seed) for name, user in owners]
    operator = token("operator", role="operator")
    return [*people, Device(history, "inspector", url, operator, seed=seed, audience="full")]


async def _person(device: Device, stop: asyncio.Event) -> None:
    mine = CONVERSATIONS if device.name == "inspector" else (device.name.partition("-")[0],)
    await device.open(*mine)
    if device.name == "inspector":
        await stop.wait()
    else:
        await device.talk(mine[0], stop)
        await device.answered()


async def _calm(devices: Sequence[Device]) -> None:
    """Wait until nothing moves: everybody who watches a conversation stands at its end."""
    inspector = devices[-1]
    for name in CONVERSATIONS:
        watching = [device for device in devices if device is inspector or device.name.startswith(name)]
        while True:
            states = [await device.state(name) for device in watching]
            at = {state.offset for state in states} | {device.cursor(name) for device in watching}
            if len(at) == 1 and states[0].status != "running":
                break
            await asyncio.sleep(0.05)


async def _logs(database: Path) -> dict[str, Log]:
    store = SqliteStore(database)
    await store.open()
    try:
        found = [await Log.read(store, TENANT, name) for name in CONVERSATIONS]
    finally:
        await store.close()
    return {log.conversation_id: log for log in found if log is not None}


def _tell(lives: Sequence[Life], logs: dict[str, Log], effects: EffectLog) -> None:
    turns = {name: len(log.by_key) for name, log in logs.items()}
    died = sum(life.signal == 9 for life in lives)
    early = sum(life.signal == 9 and not life.ready for life in lives)
    print(f"{died} kills ({early} before it was ready), turns {turns}, {len(effects.read())} effect lines")

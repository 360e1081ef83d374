"""Three instances, and a MongoDB that is restarted, hangs, and hangs up before it has answered.

Meanwhile commands are told ``store_unavailable`` and nothing is acked, readiness says 503, no socket ends;
when it is back everything goes on without a restart, and what happened although its reply was lost, once.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.ordeal import THOROUGH, Fault, Ordeal, cases, lasting
from tests.support.server import Client

pytestmark = [pytest.mark.slow, pytest.mark.needs("redis", "mongo"), pytest.mark.timeout(300)]

ROUNDS: Final = 3 if THOROUGH else 1
HANGS_S: Final = (2, 10, 60) if THOROUGH else (2,)
NOTICED_S: Final = 5
CUTS: Final = 40 if THOROUGH else 10


async def _restarts(ordeal: Ordeal) -> None:
    mongo = ordeal.fleet.mongo
    async with ordeal.visitor() as visitor:
        for number in range(ROUNDS):
            await asyncio.to_thread(mongo.stop)
            await ordeal.fleet.until(503, "store_unavailable")
            await _is_refused(visitor, f"restart-{number:05d}")
            await asyncio.to_thread(mongo.start)
            await ordeal.fleet.until(200, "ok")
            await _is_taken(visitor, f"restart-{number:05d}")
            await ordeal.goes_on()


async def _hangs(ordeal: Ordeal, seconds: int) -> None:
    ordeal.fleet.mongo.pause()
    try:
        async with lasting(seconds), ordeal.visitor() as visitor:
            if seconds > NOTICED_S:
                await ordeal.fleet.until(503, "store_unavailable")
                await _is_refused(visitor, "hang-00001")
    finally:
        ordeal.fleet.mongo.resume()
    await ordeal.fleet.until(200, "ok")
    async with ordeal.visitor() as visitor:  # the first hears no pings, and a minute is longer than it may
        await _is_taken(visitor, "hang-00001")


async def _hangs_up(ordeal: Ordeal) -> None:
    """Before it has answered: what was asked for happens, and the instance that asked cannot know."""
    line, chance = ordeal.fleet.to_mongo, ordeal.chance
    before = line.cut_off
    for number in range(CUTS):
        line.lose_answers()
        await asyncio.sleep(chance.expovariate(1 / 0.02))
        line.cut()
        if number % 5 == 4:
            await ordeal.goes_on(4)
        else:
            await asyncio.sleep(chance.expovariate(1 / 0.1))
    await ordeal.fleet.until(200, "ok")
    assert line.cut_off - before > CUTS


FAULTS: Final[dict[str, Fault]] = {
    "restarts": _restarts,
    **{f"hangs_{seconds}_s": partial(_hangs, seconds=seconds) for seconds in HANGS_S},
    "hangs_up": _hangs_up,
}


@pytest.mark.parametrize(("fault", "seed"), cases(FAULTS))
async def test_nothing_is_lost_or_doubled_by_mongodb(tmp_path: Path, fault: Fault, seed: int) -> None:
    async def with_sockets(ordeal: Ordeal) -> None:
        async with ordeal.sockets_stay():
            await fault(ordeal)

    await Ordeal(tmp_path, seed).passes(with_sockets)


async def _is_refused(visitor: Client, key: str) -> None:
    answer = await _say(visitor, key)
    assert (answer["type"], answer.get("error", {}).get("code")) == ("error", "store_unavailable"), answer
    assert answer["error"]["temporary"]


async def _is_taken(visitor: Client, key: str) -> None:
    """The command that was refused is taken now: the refusal has left nothing behind."""
    while (answer := await _say(visitor, key))["type"] == "error":
        assert answer["error"]["temporary"], answer
    assert answer["type"] == "ack"


async def _say(visitor: Client, key: str) -> dict[str, Any]:
    return await visitor.say("visit", "tea", idempotency_key=key)

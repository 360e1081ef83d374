"""Three instances, and a Redis that is not there, dies, hangs, hangs up, and does not wait for the slow.

What instances say to each other is lost meanwhile. Everybody is served all the same, readiness says
``degraded``, no socket ends, and within ten seconds of Redis' return everybody has seen everything.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.support.fleet import Fleet
from tests.support.ordeal import THOROUGH, Fault, Ordeal, cases, lasting

pytestmark = [pytest.mark.slow, pytest.mark.needs("redis", "mongo"), pytest.mark.timeout(300)]

ROUNDS: Final = 3 if THOROUGH else 1
HANGS_S: Final = (2, 10, 60) if THOROUGH else (2,)
NOTICED_S: Final = 5
"""An unanswered command of ours says so after that long."""
JUNK_BYTES: Final = 1 << 20
JUNK_MOST: Final = 64


async def _away_at_the_start(ordeal: Ordeal) -> None:
    await ordeal.fleet.until(200, "degraded")
    await asyncio.to_thread(ordeal.fleet.redis.start)
    await ordeal.fleet.until(200, "ok")


async def _restarts(ordeal: Ordeal) -> None:
    """Killed with all that it held, and started again."""
    redis = ordeal.fleet.redis
    for _ in range(ROUNDS):
        redis.stop()
        await ordeal.fleet.until(200, "degraded")
        await ordeal.goes_on()
        await asyncio.to_thread(redis.start)
        await ordeal.fleet.until(200, "ok")
        await ordeal.goes_on()


async def _hangs(ordeal: Ordeal, seconds: int) -> None:
    ordeal.fleet.redis.pause()
    try:
        async with lasting(seconds):
            await ordeal.goes_on()
            if seconds > NOTICED_S:
                await ordeal.fleet.until(200, "degraded")
                await ordeal.goes_on()
    finally:
        ordeal.fleet.redis.resume()
    await ordeal.fleet.until(200, "ok")


async def _hangs_up(ordeal: Ordeal) -> None:
    """``CLIENT KILL``, resets, and connections that are open and dead: of publishers, listeners, all."""
    redis, line, chance = ordeal.fleet.redis, ordeal.fleet.to_redis, ordeal.chance
    for number in range(4 * ROUNDS):
        match ("pubsub", "reset", "normal", "deaf")[number % 4]:
            case "reset":
                line.cut()
            case "deaf":
                line.lose_answers()
                await asyncio.sleep(chance.uniform(0, 0.2))
                line.cut()
            case kind:
                await asyncio.to_thread(redis.kill_clients, kind)
        await asyncio.sleep(chance.uniform(0, 0.4))
    await ordeal.fleet.until(200, "ok")


async def _overflows(ordeal: Ordeal) -> None:
    """What an instance is to hear is more than Redis keeps for it while it is held up; it is dropped."""
    fleet, slow = ordeal.fleet, ordeal.chance.choice(ordeal.fleet.instances)
    for _ in range(ROUNDS):
        slow.freeze()
        try:
            assert await asyncio.to_thread(_overflow, fleet), "nobody was dropped"
        finally:
            slow.thaw()
        await fleet.until(200, "ok")
        await ordeal.goes_on()


def _overflow(fleet: Fleet) -> bool:
    """Publish to all instances until Redis drops one that does not read; tell whether it did."""
    with fleet.redis.client() as client:
        client.config_set("client-output-buffer-limit", f"pubsub {JUNK_BYTES} 0 0")
        before = {each["id"] for each in client.client_list(_type="pubsub")}
        for _ in range(JUNK_MOST):
            client.publish("parley:engine", b"?" * JUNK_BYTES)
            if not before <= {each["id"] for each in client.client_list(_type="pubsub")}:
                return True
    return False


FAULTS: Final[dict[str, Fault]] = {
    "restarts": _restarts,
    **{f"hangs_{seconds}_s": partial(_hangs, seconds=seconds) for seconds in HANGS_S},
    "hangs_up": _hangs_up,
    "overflows": _overflows,
}


@pytest.mark.parametrize(("fault", "seed"), cases({"away_at_the_start": _away_at_the_start, **FAULTS}))
async def test_nobody_notices_more_of_redis_than_a_delay(tmp_path: Path, fault: Fault, seed: int) -> None:
    async def with_sockets(ordeal: Ordeal) -> None:
        async with ordeal.sockets_stay():
            await fault(ordeal)

    is_there = fault in FAULTS.values()
    await Ordeal(tmp_path, seed, redis=is_there).passes(with_sockets)

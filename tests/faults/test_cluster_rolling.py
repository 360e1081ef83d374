"""Three instances that are restarted one after the other, as a deployment does, and nobody notices."""

import asyncio
import time
from pathlib import Path
from typing import Final

import pytest

from tests.support.fleet import Instance
from tests.support.ordeal import SEEDS, THOROUGH, Ordeal

pytestmark = [pytest.mark.slow, pytest.mark.needs("redis", "mongo"), pytest.mark.timeout(900)]

CLIENTS: Final = 200 if THOROUGH else 30
SECONDS: Final = 180 if THOROUGH else 6
INSPECTED: Final = 40
"""Conversations that are watched from every instance, beside the devices of their owners."""
STANDS_STILL_S: Final = 5.0
PAUSE_S: Final = 4.0 if THOROUGH else 0.6


@pytest.mark.parametrize("seed", SEEDS)
async def test_rolling_restarts_are_not_noticed(tmp_path: Path, seed: int) -> None:
    async def fault(ordeal: Ordeal) -> None:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            for instance in ordeal.fleet.instances:
                late_s = ordeal.late_s
                ended_well, seen = await _ending(instance)
                assert ended_well, f"did not drain:\n{ordeal.fleet.log}"
                # It drains for a second or two; who was not there to look has not seen that.
                assert seen or ordeal.late_s > late_s, f"nobody was told:\n{ordeal.fleet.log}"
                await instance.serve()
                await asyncio.sleep(ordeal.chance.uniform(0, 0.5))

    people = [f"p{number:03d}" for number in range(CLIENTS)]
    ordeal = Ordeal(
        tmp_path, seed, people=people, inspects=people[:INSPECTED], pause_s=PAUSE_S, lines=False
    )  # fmt: skip
    await ordeal.passes(fault)
    # On a machine that stands still for so long, leases run out and the store times out without any drain.
    assert ordeal.unknown == 0 or ordeal.late_s > STANDS_STILL_S, "a drain cut a write short"


async def _ending(instance: Instance) -> tuple[bool, bool]:
    """SIGTERM, and look at what it says of its readiness until it is gone: it takes nobody any more.

    Return whether it ended well, and whether it was seen draining.
    """
    ending = asyncio.create_task(instance.terminate())
    drains = False
    while not ending.done():
        said = await instance.readyz()
        if said is not None:
            assert said[:2] == (503, "draining") or not drains, said
            drains = drains or said.status == "draining"
        await asyncio.sleep(0.02)
    return await ending, drains

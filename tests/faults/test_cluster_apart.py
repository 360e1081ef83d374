"""One of three instances hangs, or is cut off from the store or from the others, while these go on.

What it was at is taken over when its lease has run out; when it is back it finds that out, and what it had in
hand changes nothing (invariant 4).
"""

from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.support.fleet import Instance
from tests.support.ordeal import THOROUGH, Fault, Ordeal, cases, lasting

pytestmark = [pytest.mark.slow, pytest.mark.needs("redis", "mongo"), pytest.mark.timeout(300)]

SECONDS: Final = (2, 18) if THOROUGH else (1,)
"""A lease holds for 15 s."""
NOTICED_S: Final = 8


def _chosen(ordeal: Ordeal) -> Instance:
    return ordeal.chance.choice(ordeal.fleet.instances)


async def _hangs(ordeal: Ordeal, seconds: int) -> None:
    instance = _chosen(ordeal)
    instance.freeze()
    try:
        async with lasting(seconds):
            await ordeal.goes_on(4)
    finally:
        instance.thaw()
    await ordeal.fleet.until(200, "ok")


async def _without_the_store(ordeal: Ordeal, seconds: int) -> None:
    instance = _chosen(ordeal)
    instance.to_mongo.hold()
    try:
        async with lasting(seconds), ordeal.sockets_stay():
            await ordeal.goes_on(4)
            if seconds > NOTICED_S:
                await instance.until(503, "store_unavailable")
    finally:
        instance.to_mongo.let_go()
    await ordeal.fleet.until(200, "ok")


async def _without_the_bus(ordeal: Ordeal, seconds: int) -> None:
    instance = _chosen(ordeal)
    instance.to_redis.hold()
    try:
        async with lasting(seconds), ordeal.sockets_stay():
            await ordeal.goes_on()
            if seconds > NOTICED_S:
                await instance.until(200, "degraded")
                await ordeal.goes_on()
    finally:
        instance.to_redis.let_go()
    await ordeal.fleet.until(200, "ok")


FAULTS: Final[dict[str, Fault]] = {
    f"{name}_{seconds}_s": partial(fault, seconds=seconds)
    for name, fault in (
        ("hangs", _hangs), ("without_the_store", _without_the_store), ("without_the_bus", _without_the_bus)
    )
    for seconds in SECONDS
}  # fmt: skip


@pytest.mark.parametrize(("fault", "seed"), cases(FAULTS))
async def test_what_one_instance_cannot_do_the_others_do_once(
    tmp_path: Path, fault: Fault, seed: int
) -> None:
    """Who talks to an instance that hangs waits for it: his connection is as good as any that is silent."""
    hangs = isinstance(fault, partial) and fault.func is _hangs
    await Ordeal(tmp_path, seed, answers=not hangs).passes(fault)

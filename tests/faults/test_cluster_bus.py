"""Three instances that hear each other late, twice, or never: the bus is only a hint (invariant 3)."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.support.ordeal import HEALED_WITHIN_S, SEEDS, SLACK_S, THOROUGH, Ordeal

pytestmark = [pytest.mark.slow, pytest.mark.needs("redis", "mongo"), pytest.mark.timeout(300)]
each_seed = pytest.mark.parametrize("seed", SEEDS)

LOSSY: Final = "tests.support.lossy_bus:open_bus"
ROUND_S: Final = 8.0
"""Within this an instance looks at every conversation that is watched there."""
TURNS: Final = 200 if THOROUGH else 60


async def _talk(ordeal: Ordeal) -> None:
    for _ in range(TURNS // 10):  # who waits for what another instance did may wait for seconds
        await ordeal.goes_on(10)


async def _wait_for_a_round(ordeal: Ordeal) -> None:
    """Wait until each instance has looked at each conversation once, whoever is still served meanwhile."""
    await asyncio.sleep(ROUND_S + ordeal.late_s)


@each_seed
async def test_messages_are_lost_doubled_and_late(tmp_path: Path, seed: int) -> None:
    env = {"PARLEY_BUS": LOSSY, "PARLEY_TEST_BUS_FAULTS": f"0.25:0.25:0.25:{seed}"}
    await Ordeal(tmp_path, seed, env=env).passes(_talk)


@each_seed
async def test_every_message_is_lost(tmp_path: Path, seed: int) -> None:
    """There is no gap to see: instances find out by looking."""
    env = {"PARLEY_BUS": LOSSY, "PARLEY_TEST_BUS_FAULTS": f"1:0:0:{seed}"}
    await Ordeal(tmp_path, seed, env=env).passes(_talk)


async def test_instances_that_do_not_look_are_caught(tmp_path: Path) -> None:
    """Broken on purpose: the store says that nothing has happened since somebody first looked."""
    env = {
        "PARLEY_BUS": LOSSY,
        "PARLEY_TEST_BUS_FAULTS": "1:0:0:1",
        "PARLEY_STORE": "tests.support.killable_server:open_store",
        "PARLEY_TEST_STALE_OFFSETS": "1",
    }
    patience_s = HEALED_WITHIN_S + SLACK_S + 2
    found = await Ordeal(tmp_path, 1, env=env).run(_wait_for_a_round, patience_s=patience_s)
    # What a busy machine is excused for may be longer than this patience; who never comes to rest is not.
    assert {"late", "answers"} & {violation.rule for violation in found}

"""A server that is killed again and again loses nothing, doubles nothing, and shows nothing out of order.

Several people talk to one server over the SDK while it dies by SIGKILL, at a failpoint (between two lines
that matter) or at any moment, and starts again on the same file. After the storm everybody is answered,
and the history checker holds what each of them saw against the log and against what the world saw.

Seeds are fixed; ``PARLEY_TEST_SEED`` gives other ones, ``PARLEY_TEST_SCALE`` multiplies the number of lives.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from storage.sqlite import SqliteStore
from tests.support import desk
from tests.support.checker import check
from tests.support.crowd import Crowd, Places, environment, read_logs
from tests.support.evidence import Violation, is_unknown
from tests.support.history import EffectLog, History
from tests.support.killable_server import Life, Nursery
from tests.support.ports import free_port
from tests.support.server import write_flows
from tests.support.till import FLOW

SCALE: Final = float(os.environ.get("PARLEY_TEST_SCALE", "1"))
SEED: Final = int(os.environ.get("PARLEY_TEST_SEED", "1"))
LIVES: Final = max(1, round(80 * SCALE))
SHOP: Final = {"shop": FLOW}
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

IN_A_WRITE: Final = ("till.charge.before", "till.charge.between", "till.charge.after", "till.charge.between")
"""Its intent is committed, its result is not."""

IN_WRITES: Final = max(1, round(100 * SCALE))

Plan = Callable[[random.Random, int], str | None]
"""Chooses the failpoint of a life, by its number; None: it is killed from outside."""

End = Callable[[Nursery, str | None, random.Random], Awaitable[None]]
"""Starts a server and sees it end."""

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


def at_decisions_and_writes(chance: random.Random, life: int) -> str | None:
    """Five times out of six around the write; else where requests are asked, decided and found overdue."""
    if life % 6:
        return f"{IN_A_WRITE[life % len(IN_A_WRITE)]}:1"
    place = chance.choice(("commit.before", "commit.after", "sql.COMMIT", "due.after", "till.note.between"))
    return f"{place}:{chance.randint(1, 8)}"


@pytest.mark.slow
@pytest.mark.timeout(120 * max(1, SCALE))
@pytest.mark.parametrize(
    ("plan", "seed"), [(at_failpoints, SEED), (in_between, SEED + 1)], ids=["failpoints", "anytime"]
)
async def test_nothing_is_lost_or_doubled_by_kills(tmp_path: Path, plan: Plan, seed: int) -> None:
    """After at least 80 kills and a calm end, the checker finds nothing."""
    storm = Storm(tmp_path, seed)
    found = await storm.rage(plan, LIVES)
    assert not found, "\n".join(str(violation) for violation in found[:20])
    assert sum(life.signal == 9 for life in storm.lives) >= LIVES
    assert storm.turns >= 2 * LIVES, "hardly anybody got a word in"
    assert storm.unknown > 0, "no kill has hit a write"


@pytest.mark.slow
@pytest.mark.timeout(400 * max(1, SCALE))
async def test_what_runs_once_is_what_was_approved_whatever_is_killed(tmp_path: Path) -> None:
    """Owners and two operators decide, deadlines pass while the server is dead, and it dies in the writes."""
    storm = Storm(tmp_path, SEED + 2, flows=desk.FLOWS, deciders=2)
    found = await storm.rage(at_decisions_and_writes, 4 * IN_WRITES, in_writes=IN_WRITES)
    assert not found, "\n".join(str(violation) for violation in found[:20])
    assert storm.killed_in_a_write >= IN_WRITES, "too few kills have hit a write"
    assert storm.ended["pending.resolved"] > 10, "hardly anybody decided"
    assert storm.ended["pending.expired"] > 10, "hardly any deadline passed"


@pytest.mark.slow
async def test_nothing_is_lost_or_doubled_by_drains(tmp_path: Path) -> None:
    """SIGTERM under the same crowd: what runs is let end, and nobody notices but for the reconnection."""
    storm = Storm(tmp_path, SEED)
    found = await storm.rage(lambda chance, life: None, max(1, round(8 * SCALE)), end=_live_and_drain)
    assert not found, "\n".join(str(violation) for violation in found[:20])
    assert storm.unknown == 0, "a drain cut a write short"


@pytest.mark.slow
async def test_a_store_that_answers_before_it_has_written_is_caught(tmp_path: Path) -> None:
    """What is acked and then lost shows: the storm is strong enough, and the checker looks."""
    storm = Storm(tmp_path, SEED, PARLEY_TEST_ANSWER_EARLY_MS="30")
    found = await storm.rage(in_between, 12, patience_s=3)
    assert {"durable", "offsets"} <= {violation.rule for violation in found}


@pytest.mark.slow
async def test_a_write_that_is_run_again_is_caught(tmp_path: Path) -> None:
    """A flow that asks for its writes to be repeated gets what the others are spared; as approved, though."""
    flow = desk.FLOW.replace("effect: write", "effect: write\n    on_unknown: retry")
    storm = Storm(tmp_path, SEED, flows={**desk.FLOWS, "desk": flow}, deciders=2)
    found = await storm.rage(lambda chance, life: "till.charge.between:1", 8)
    assert {violation.rule for violation in found} == {"effects"}
    assert all("is a write and was run" in violation.what for violation in found)


class Storm:
    """A server that dies and dies again under people who talk to it.

    Args:
        folder: holds everything that the run leaves behind.
        seed: of all that is left to chance.
        flows: what the people talk to, by file name.
        deciders: how many operators decide what the flows ask.
        env: more variables for the server.
    """

    def __init__(
        self, folder: Path, seed: int, *, flows: Mapping[str, str] = SHOP, deciders: int = 0, **env: str
    ) -> None:
        self._folder, self._seed, self._env = folder, seed, env
        self._history, self._effects = History(folder), EffectLog(folder / "effects.log")
        self.lives: Sequence[Life] = ()
        self.turns = self.unknown = self.killed_in_a_write = 0
        self.ended = Counter[str]()
        self._deciders = deciders
        write_flows(folder, flows)

    async def rage(
        self, plan: Plan, lives: int, *, patience_s: float = 60, end: End | None = None,
        in_writes: int | None = None,
    ) -> list[Violation]:  # fmt: skip
        """Let it end that often, then let everybody come to rest; return what is not as promised.

        With ``in_writes`` it is enough once so many lives have ended in a write.
        Who waits longer than ``patience_s`` for the calm is not asked about it.
        """
        end = end or _live_and_die
        print(f"seed {self._seed}, {lives} lives")
        chance = random.Random(self._seed)
        async with self._open_nursery() as nursery:
            self.lives = nursery.lives
            places = Places(nursery.url, [nursery.url])
            crowd = Crowd(self._history, places, self._seed, deciders=self._deciders)
            crowd.begin()
            try:
                for life in range(lives):
                    place = plan(chance, life)
                    await end(nursery, place, chance)
                    self.killed_in_a_write += _died_at(place, nursery.lives[-1])
                    if in_writes is not None and self.killed_in_a_write >= in_writes:
                        break
                last = await nursery.start()
                assert await nursery.ready(last), nursery.log.read_text()[-4000:]
                calm = await crowd.come_to_rest(patience_s)
            finally:
                await crowd.leave()
            await nursery.kill(last)
        return await self._check(nursery.database, calm=calm)

    @contextlib.asynccontextmanager
    async def _open_nursery(self) -> AsyncIterator[Nursery]:
        env = {**self._env, **environment(self._effects)}
        with contextlib.closing(self._history):
            async with Nursery.open(self._folder, free_port(), env) as nursery:
                yield nursery

    async def _check(self, database: Path, *, calm: bool) -> list[Violation]:
        logs, effects = await read_logs(lambda: SqliteStore(database)), self._effects.read()
        self.turns = sum(len(log.by_key) for log in logs.values())
        self.unknown = sum(is_unknown(event) for log in logs.values() for event in log.events)
        self.ended = Counter(event.type for log in logs.values() for event in log.events)
        early = sum(not life.ready for life in self.lives)
        print(
            f"{len(self.lives)} lives ({early} never got ready), {self.turns} turns, {len(effects)} effects"
        )
        found = check(self._history, logs, effects, calm=calm)
        return found if calm else [*found, Violation("answers", "all", "they never came to rest")]


def _died_at(place: str | None, life: Life) -> bool:
    """Tell whether a life ended by itself, in a write: between its intent and its result."""
    return place is not None and place.startswith(IN_A_WRITE) and life.by_itself


async def _live_and_die(nursery: Nursery, failpoint: str | None, chance: random.Random) -> None:
    life = await nursery.start(failpoint)
    if failpoint is None:
        if chance.random() < 0.8:  # else it may die while it starts
            await nursery.ready(life)
        await asyncio.sleep(chance.uniform(0, 0.2))
    else:
        await nursery.ended(life, within_s=1.0)  # nobody may have come by the place
    await nursery.kill(life)


async def _live_and_drain(nursery: Nursery, failpoint: str | None, chance: random.Random) -> None:
    life = await nursery.start(failpoint)
    assert await nursery.ready(life), nursery.log.read_text()[-4000:]
    await asyncio.sleep(chance.uniform(0.1, 0.6))
    assert await nursery.terminate(life), nursery.log.read_text()[-4000:]

"""An ordeal: a crowd talks to a fleet, something is done to the fleet, and the history checker decides.

What is asked of every one of them: nothing lost, doubled or reordered, effects once, the same offsets for
all; no request without an answer for longer than five seconds; and whoever was watching has been shown
everything within ten seconds of the faults' end (``docs/explanation/guarantees.md``).

Times are those of the history. A machine that is too busy to run this process on time is too busy for the
servers, too: so what a metronome in this process came too late is added to what is allowed.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from storage.base import StoreUnavailable
from tests.support import observers
from tests.support.checker import check
from tests.support.crowd import PEOPLE, Crowd, Places, environment, read_logs
from tests.support.durable_log import Log
from tests.support.evidence import Evidence, Violation, is_unknown
from tests.support.fleet import PATIENCE_S, Fleet
from tests.support.history import EffectLog, History
from tests.support.server import Client, RemoteServer, token, write_flows
from tests.support.till import FLOW

HEALED_WITHIN_S: Final = 10.0
ANSWERED_WITHIN_S: Final = 5.0
SLACK_S: Final = 2.0
"""What sockets, timers and a busy core may add to either."""
BEAT_S: Final = 0.05
HOW_MANY: Final = int(os.environ.get("PARLEY_TEST_SEEDS", "1"))
FIRST: Final = int(os.environ.get("PARLEY_TEST_SEED", "1"))
SEEDS: Final = range(FIRST, FIRST + HOW_MANY)
THOROUGH: Final = HOW_MANY > 1
"""Whether what takes minutes is run, too: ``make faults``."""
SHOP: Final = {"shop": FLOW}


Fault = Callable[["Ordeal"], Awaitable[None]]
"""Does something to the fleet of an ordeal; when it returns, that is over."""


def cases(faults: Mapping[str, Fault]) -> list[Any]:
    """Return what a test of these faults is run with: (fault, seed).

    Each by itself where there is time, with every seed; else one after the other on one fleet.
    """

    async def in_turn(ordeal: "Ordeal") -> None:
        for fault in faults.values():
            await fault(ordeal)

    chosen = faults if THOROUGH else {"-".join(faults): in_turn}
    return [
        pytest.param(fault, seed, id=f"{name}-{seed}") for name, fault in chosen.items() for seed in SEEDS
    ]


@contextlib.asynccontextmanager
async def lasting(seconds: float) -> AsyncIterator[None]:
    """Be in this block for at least so long."""
    end = asyncio.create_task(asyncio.sleep(seconds))
    try:
        yield
        await end
    finally:
        end.cancel()


class Metronome:
    """Wakes up regularly; ``late_s`` is what it came too late, in all."""

    def __init__(self) -> None:
        self.late_s = 0.0

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beat for a block."""
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(BEAT_S)
            late_s = time.monotonic() - begun - BEAT_S
            if late_s > BEAT_S:
                self.late_s += late_s


class Ordeal:
    """One run.

    Args:
        folder: holds everything that the run leaves behind.
        seed: of what people do, and of the faults.
        flows: what they talk to, by file name.
        people: by whom.
        deciders: how many operators decide what the flows ask.
        pause_s: how long a person rests between two things, on average.
        inspects: the conversations that are seen from every instance; all of them unless said otherwise.
        redis: whether Redis is there when the servers start.
        answers: whether every request is to be answered in time.
        lines: see ``Fleet.open``.
        env: more variables for the servers.
    """

    def __init__(
        self, folder: Path, seed: int, *, flows: Mapping[str, str] = SHOP, people: Sequence[str] = PEOPLE,
        deciders: int = 0, pause_s: float = 0.03, inspects: Sequence[str] | None = None, redis: bool = True,
        answers: bool = True, lines: bool = True, env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.chance = random.Random(seed)
        self.fleet: Fleet
        self.history = History(folder)
        self.turns = self.unknown = 0
        self._effects = EffectLog(folder / "effects.log")
        self._folder, self._seed, self._people, self._redis = folder, seed, people, redis
        self._answers, self._lines = answers, lines
        self._deciders, self._pause_s, self._inspects = deciders, pause_s, inspects
        self._env = {**environment(self._effects), **(env or {})}
        self._metronome = Metronome()
        self._crowd: Crowd
        self._seen = self._settled = 0
        self._calm_at = 0.0
        write_flows(folder, flows)

    async def passes(self, fault: Fault) -> None:
        """``run``, and assert that nothing is wrong."""
        found = await self.run(fault)
        assert not found, "\n".join(str(violation) for violation in found[:20])

    async def run(self, fault: Fault, *, patience_s: float = PATIENCE_S) -> list[Violation]:
        """Let people talk, do what ``fault`` does, let them talk on and come to rest; return what is wrong.

        Who waits longer than ``patience_s`` for the rest is not asked about it.
        """
        print(f"seed {self._seed}")
        with contextlib.closing(self.history):
            async with Fleet.open(
                self._folder, self._env, redis=self._redis, lines=self._lines
            ) as self.fleet:
                places = Places(self.fleet.front.url, [each.url for each in self.fleet.instances])
                self._crowd = Crowd(
                    self.history, places, self._seed, people=self._people, deciders=self._deciders,
                    inspects=self._inspects, pause_s=self._pause_s,
                )  # fmt: skip
                self._crowd.begin()
                async with self._metronome.beating():
                    try:
                        await self.goes_on()
                        await fault(self)
                        self._calm_at = time.monotonic()
                        calm = await self._comes_to_rest(patience_s)
                    finally:
                        await self._crowd.leave()
                return await self._judge(calm=calm)

    @property
    def late_s(self) -> float:
        """How much this process was late so far, for want of processor time."""
        return self._metronome.late_s

    async def _comes_to_rest(self, patience_s: float) -> bool:
        # People are answered as late as this process gets to read it.
        patience_s += self.late_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self.goes_on()
                return await self._crowd.come_to_rest(patience_s)
        return False

    async def _judge(self, *, calm: bool) -> list[Violation]:
        logs = await self._logs()
        effects, late_s = self._effects.read(), self.late_s
        self.turns = sum(len(log.by_key) for log in logs.values())
        self.unknown = sum(is_unknown(event) for log in logs.values() for event in log.events)
        print(f"{self.turns} turns, {len(effects)} effects, {late_s:.1f} s late")
        found = check(self.history, logs, effects, calm=calm)
        evidence = Evidence(self.history.entries, self.history.audiences, logs, effects)
        slack_s = SLACK_S + late_s
        found += observers.late(
            evidence, self.history.epoch_s, self._calm_at, HEALED_WITHIN_S + slack_s
        )  # fmt: skip
        if self._answers:
            found += observers.hanging(evidence, ANSWERED_WITHIN_S + slack_s)
        # First, since the rest may follow from it: what was read was still being written.
        return found if calm else [Violation("answers", "all", "they never came to rest"), *found]

    async def _logs(self) -> dict[str, Log]:
        """Read what the store has; it may still be behind with what it was asked before."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(StoreUnavailable):
                    return await read_logs(self.fleet.store, self._people)
                await asyncio.sleep(1)

    # --- what a fault may ask -------------------------------------------------------------------

    async def goes_on(self, commands: int = 12) -> None:
        """Wait until so many more commands are settled: people are served, here and now."""
        enough = self._count_settled() + commands
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self._count_settled() < enough:
                    self._crowd.check_on()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"nobody is served any more:\n{self.fleet.log}") from None

    def _count_settled(self) -> int:
        new = self.history.entries[self._seen :]
        self._seen += len(new)
        self._settled += sum(entry.kind == "settled" for entry in new)
        return self._settled

    @contextlib.asynccontextmanager
    async def sockets_stay(self) -> AsyncIterator[None]:
        """Assert that nobody's connection to a server ends in this block."""
        begun = len(self.history.entries)
        yield
        ended = [each.client for each in self.history.entries[begun:] if each.kind == "closed"]
        watching = {device.name for device in self._crowd.inspectors}
        assert not watching.intersection(ended), f"cut off were {watching.intersection(ended)}"

    @contextlib.asynccontextmanager
    async def visitor(self, instance: int = 0) -> AsyncIterator[Client]:
        """Connect somebody to one instance, beside the crowd and out of the history."""
        server = RemoteServer(self.fleet.instances[instance].url)
        async with await server.connect(token("visitor")) as client:
            yield client

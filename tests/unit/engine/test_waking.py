"""Many conversations that wait, engines that race for them, clocks that jump, servers that were down."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.engine.schedule import HOUR_MS
from storage.base import Commit, CommitOutcome, StorageError
from storage.memory import MemoryStore
from storage.models import Conversation
from storage.sqlite import SqliteStore
from tests.support.talk import Talk, replies
from tests.support.world import VirtualClock

FORM = """
flow: form
default: true
slots: {name: {type: text}}
steps:
  - {id: ask, collect: [name], ask: {name: "Name?"}}
  - {id: bye, say: "Bye."}
"""
ACT = """
flow: act
default: true
variables: {got: null}
steps:
  - {id: run, action: lab.run, effect: idempotent, retry: {max: 5, delay: 300ms, factor: 1}}
  - {id: bye, say: "Bye."}
"""
SESSION_MS = HOUR_MS
OVER_MS = SESSION_MS + HOUR_MS


def talking(**more: Any) -> Talk:
    return Talk(FORM, session_ms=SESSION_MS, **more)


class HeldStore(MemoryStore):
    """A memory store that other instances may write, too; commits and renewals wait while it is held."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock.now)
        self.embedded = False
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.loads: list[tuple[str, str]] = []
        self.unreadable: set[str] = set()

    async def load(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        self.loads.append((tenant_id, conversation_id))
        if conversation_id in self.unreadable:
            raise StorageError("not a document")
        return await super().load(tenant_id, conversation_id)

    async def load_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Conversation]:
        if any(conversation_id in self.unreadable for _, conversation_id in keys):
            raise StorageError("not a document")
        return await super().load_many(keys)

    async def renew(self, *args: Any) -> bool:
        await self.open_gate.wait()
        return await super().renew(*args)

    async def commit(self, commit: Commit) -> CommitOutcome:
        await self.open_gate.wait()
        return await super().commit(commit)


async def test_who_waits_costs_no_task_and_no_cached_record_is_needed() -> None:
    async with talking(cache_bytes=0) as talk:
        before = len(asyncio.all_tasks())
        for number in range(300):
            await talk.say("hello", to=f"c{number}")
        await talk.rest()
        assert len(asyncio.all_tasks()) == before
        await talk.wait(OVER_MS)
        ended = {(await talk.record(f"c{number}")).status for number in range(300)}
        assert ended == {"expired"}


async def test_a_sweep_leaves_those_who_talk_in_the_cache() -> None:
    clock = VirtualClock()
    store = HeldStore(clock)
    async with talking(store=store, clock=clock, cache_bytes=20_000) as talk:
        for number in range(50):
            await talk.say("hello", to=f"c{number}")
        clock.advance(OVER_MS)
        await talk.say("hello", to="live")
        await talk.sweeper.sweep()
        assert (await talk.record("c49")).status == "expired"
        store.loads.clear()
        await talk.say("Ada", to="live")
        assert store.loads == []


async def test_one_record_that_cannot_be_read_does_not_keep_the_others_waiting() -> None:
    clock = VirtualClock()
    store = HeldStore(clock)
    async with talking(store=store, clock=clock, cache_bytes=0) as talk:
        for number in range(5):
            await talk.say("hello", to=f"c{number}")
        store.unreadable.add("c2")
        await talk.wait(OVER_MS)
        store.unreadable.clear()
        ended = [(await talk.record(f"c{number}")).status for number in range(5)]
        assert ended == ["expired", "expired", "waiting_input", "expired", "expired"]


@pytest.mark.parametrize("first", ["message", "deadline"])
async def test_a_deadline_and_a_message_that_race_have_one_outcome(first: str) -> None:
    """Two instances over one store; both have read the record before either commits."""
    clock = VirtualClock()
    store = HeldStore(clock)
    async with talking(store=store, clock=clock, sole_writer=False) as one:
        two = talking(store=store, clock=clock, sole_writer=False, instance_id="i2")
        await one.say("hello")
        clock.advance(OVER_MS)
        store.open_gate.clear()
        async with asyncio.TaskGroup() as racing:
            if first == "deadline":
                racing.create_task(two.sweeper.sweep())
                await one.rest()
            saying = racing.create_task(one.say("Ada"))
            await one.rest()
            if first == "message":
                racing.create_task(two.sweeper.sweep())
                await one.rest()
            store.open_gate.set()
        ends = [e.type for e in await one.events() if e.type in ("execution.expired", "execution.completed")]
        answered = saying.result()
        if first == "message":
            assert (ends, replies(answered)) == (["execution.completed"], ["Bye."])
        else:
            assert (ends, replies(answered)) == (["execution.expired"], ["Name?"])
        assert len(await one.events("turn.completed")) == 2


async def test_two_instances_share_what_is_due_and_double_nothing() -> None:
    clock = VirtualClock()
    store = HeldStore(clock)
    async with talking(store=store, clock=clock, sole_writer=False) as one:
        two = talking(store=store, clock=clock, sole_writer=False, instance_id="i2")
        for number in range(200):
            await one.say("hello", to=f"c{number}")
        clock.advance(OVER_MS)
        await asyncio.gather(one.sweeper.sweep(), two.sweeper.sweep())
        batches = [p.batch for talk in (one, two) for p in talk.published if p.batch is not None]
        expired = [e.execution_id for batch in batches for e in batch.events if e.type == "execution.expired"]
        assert len(expired) == len(set(expired)) == 200


async def test_a_server_that_was_down_catches_up_in_order(tmp_path: Path) -> None:
    """What fell due meanwhile is done at its start, what was due first before the rest."""
    clock = VirtualClock()
    store = SqliteStore(tmp_path / "parley.db", clock=clock.now)
    await store.open()
    async with talking(store=store, clock=clock) as talk:
        for name in ("first", "second", "third"):
            await talk.say("hello", to=name)
            clock.advance(HOUR_MS)
        await talk.say("hello", to="later")
    clock.advance(4 * HOUR_MS - 10 * 60_000)
    store = SqliteStore(tmp_path / "parley.db", clock=clock.now)
    await store.open()
    async with talking(store=store, clock=clock) as talk:
        await talk.say("hello", to="later")
        await talk.sweeper.start()
        async with asyncio.timeout(20):
            while len(talk.published) < 4:
                await asyncio.sleep(0.001)
        ended = [p.record.conversation_id for p in talk.published if p.record.status == "expired"]
        await talk.sweeper.stop()
    assert ended == ["first", "second", "third"]


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
async def test_a_clock_that_jumps_neither_loses_nor_doubles_a_deadline(jump_ms: int) -> None:
    """Set on by an hour, sessions end sooner; set back, later; each once."""
    async with talking() as talk:
        await talk.say("hello")
        talk.clock.jump(jump_ms)
        for _ in range(5):
            await talk.wait(HOUR_MS)
        assert (await talk.record()).status == "expired"
        assert len(await talk.events("execution.expired")) == 1


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
async def test_a_clock_that_jumps_ends_a_retried_turn_once(jump_ms: int) -> None:
    calls: list[int] = []

    async def run(context: Any) -> int:
        calls.append(context.attempt)
        if len(calls) < 3:
            raise ConnectionError
        return 1

    async with Talk(ACT, actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.rest()
        talk.clock.jump(jump_ms)
        for _ in range(3):
            await talk.wait(HOUR_MS)
        assert calls == [1, 2, 3]
        assert len(await talk.events("turn.completed")) == 1


class Effect:
    """An idempotent action that ends when it is told to."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.go = asyncio.Event()

    async def run(self, context: Any) -> int:
        self.keys.append(context.key)
        await self.go.wait()
        return 1


async def test_a_clock_that_leaps_over_a_lease_ends_the_turn_once() -> None:
    """Another instance runs the effect again, under its key; what the first one reports is void."""
    clock = VirtualClock()
    store = HeldStore(clock)
    effect = Effect()
    actions = {"lab.run": effect.run}
    async with Talk(ACT, actions=actions, store=store, clock=clock, sole_writer=False) as one:
        two = Talk(ACT, actions=actions, store=store, clock=clock, sole_writer=False, instance_id="i2")
        await one.say("go")
        await one.rest()
        clock.jump(HOUR_MS)
        await two.sweeper.sweep()
        await two.rest()
        assert len(effect.keys) == 2
        assert len(set(effect.keys)) == 1
        effect.go.set()
        await one.rest()
        assert len(await one.events("turn.completed")) == 1
        assert (await one.texts()) == ["Bye."]
        await two.engine.stop(0)


async def test_an_effect_outlives_a_leap_where_nobody_else_can_have_taken_it() -> None:
    """A laptop that slept: its own store's renewal is waited for, instead of stopping what runs."""
    clock = VirtualClock()
    store = HeldStore(clock)
    effect = Effect()
    async with Talk(ACT, actions={"lab.run": effect.run}, store=store, clock=clock) as talk:
        await talk.say("go")
        await talk.rest()
        store.open_gate.clear()
        clock.jump(HOUR_MS)
        await talk.wait(5_000, sweep=False)
        await talk.wait(500, sweep=False)
        store.open_gate.set()
        await talk.rest()
        await talk.wait(1_000)
        effect.go.set()
        await talk.rest()
        assert len(effect.keys) == 1
        assert len(await talk.events("turn.completed")) == 1


async def test_a_retry_is_done_in_time_by_the_sweeper() -> None:
    """Between two looks: the engine says when something falls due, and nothing sleeps for it meanwhile."""
    calls: list[int] = []

    async def run(context: Any) -> int:
        calls.append(context.attempt)
        if len(calls) < 3:
            raise ConnectionError
        return 1

    async with Talk(ACT, actions={"lab.run": run}) as talk:
        await talk.sweeper.start()
        await talk.rest()
        await talk.say("go")
        await talk.rest()
        for _ in range(2):
            await talk.wait(300, sweep=False)
        assert calls == [1, 2, 3]
        await talk.sweeper.stop()

"""The commit algorithm under everything that can go wrong at once.

Hypothesis plays clients that send and resend, two instances that crash between any two awaits, a store
whose replies get lost, and a bus that loses, repeats and reorders. Then calm returns, and a history
checker compares what the clients were told, what the log holds, and what the world saw of effects.
"""

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from server.engine.schedule import HOUR_MS
from server.engine.types import Accepted
from storage.base import Store
from storage.memory import MemoryStore
from storage.models import Conversation, Event, EventBatch
from storage.sqlite import SqliteStore
from tests.support.split_store import SplitStore
from tests.support.world import SESSION_MS, TENANT, Sent, VirtualClock, World

RUNS = {"memory": 900, "split": 900, "sqlite": 220}
SCALE = float(os.environ.get("PARLEY_TEST_SCALE", "1"))
CONVERSATIONS = ("c1", "c2")
KINDS = ("reset", "cancel", "signal", "signal", "pause", "resume", "resume", "retry")
TEXTS = ("milk", "milk", "bread please", "bread please", "nonsense", "/restart")


@contextmanager
def _store(kind: str, clock: VirtualClock) -> Iterator[Store]:
    if kind == "memory":
        yield MemoryStore(clock=clock.now)
    elif kind == "split":
        yield SplitStore(clock=clock.now)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield SqliteStore(Path(folder) / "parley.db", clock=clock.now)


class EngineMachine(RuleBasedStateMachine):
    """Two instances over one store; see the module's docstring."""

    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = VirtualClock()
        self._scope = _store(self.kind, self.clock)
        self.store = self._scope.__enter__()
        self.do(self.store.open())
        self.world = World(self.store, self.clock)
        self.hours_off = 0

    def do(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(_as_coroutine(work))

    @initialize(ready=st.booleans())
    def begin(self, ready: bool) -> None:
        self.do(self.world.start())
        if ready:  # past the shallow beginnings: an effect is about to run
            self.say(0, "c1", "milk", "enqueue")
            self.go_on([0] * 12)

    @rule(at=st.integers(0, 1), where=st.sampled_from(CONVERSATIONS), text=st.sampled_from(TEXTS),
          on_busy=st.sampled_from(["enqueue", "enqueue", "reject", "interrupt"]))  # fmt: skip
    def say(self, at: int, where: str, text: str, on_busy: str) -> None:
        self.do(self.world.send(at, where, "process", text, on_busy))

    @rule(at=st.integers(0, 1), where=st.sampled_from(CONVERSATIONS), kind=st.sampled_from(KINDS))
    def command(self, at: int, where: str, kind: str) -> None:
        self.do(self.world.send(at, where, kind, "paid"))

    @rule(at=st.integers(0, 1), where=st.sampled_from(CONVERSATIONS), accepted=st.booleans(),
          request=st.sampled_from([-1, -1, 0]))  # fmt: skip
    def decide(self, at: int, where: str, accepted: bool, request: int) -> None:
        self.do(self.world.decide(at, where, accepted, request))

    @rule(where=st.sampled_from(CONVERSATIONS), accepted=st.tuples(st.booleans(), st.booleans()))
    def decide_twice_at_the_deadline(self, where: str, accepted: tuple[bool, bool]) -> None:
        """Both instances are asked, and both sweep, in whatever order the awaits then come."""
        self.do(self.world.decide(0, where, accepted[0], -1))
        self.do(self.world.advance(4_000))
        self.do(self.world.decide(1, where, accepted[1], -1))
        self.do(self.world.sweep(0))
        self.do(self.world.sweep(1))

    @precondition(lambda self: self.world.sent)
    @rule(at=st.integers(0, 1), which=st.integers(0, 30))
    def resend(self, at: int, which: int) -> None:
        self.do(self.world.resend(at, self.world.sent[which % len(self.world.sent)]))

    @precondition(lambda self: self.world.points)
    @rule(picks=st.lists(st.integers(0, 7), min_size=1, max_size=25))
    def go_on(self, picks: list[int]) -> None:
        for which in picks:
            self.do(self.world.release(which))

    @precondition(lambda self: self.world.points)
    @rule()
    def go_on_to_the_end(self) -> None:
        for _ in range(200):
            if not self.world.points:
                break
            self.do(self.world.release(0))

    @precondition(lambda self: any("effect" in point.name for point in self.world.points))
    @rule(word=st.sampled_from(["go", "go", "lose"]))
    def finish_effect(self, word: str) -> None:
        self.do(self.world.release_named("effect", word))

    @precondition(lambda self: self.world.points)
    @rule(which=st.integers(0, 20))
    def lose(self, which: int) -> None:
        self.do(self.world.release(which, "lose"))

    @precondition(lambda self: any("effect" in point.name for point in self.world.points))
    @rule(finish=st.booleans())
    def crash_at_an_effect(self, finish: bool) -> None:
        """The owner dies around its effect; the other instance finds out when the lease has run out."""
        owner = self.world.owner_of_effect()
        if finish:
            self.do(self.world.release_named("effect", "go"))
        self.do(self.world.crash(owner))
        self.do(self.world.advance(16_000))
        self.do(self.world.sweep(owner + 1))
        self.go_on_to_the_end()

    @rule(at=st.integers(0, 1))
    def crash(self, at: int) -> None:
        self.do(self.world.crash(at))

    @rule(ms=st.sampled_from([10, 600, 1_100, 6_000, 16_000, 3_600_000]))
    def time_passes(self, ms: int) -> None:
        self.do(self.world.advance(ms))

    @rule(hours_off=st.sampled_from([-1, 0, 1]))
    def the_clock_is_set(self, hours_off: int) -> None:
        self.world.clock.jump((hours_off - self.hours_off) * HOUR_MS)
        self.hours_off = hours_off

    @rule(at=st.integers(0, 1))
    def everybody_stays_away(self, at: int) -> None:
        """Long enough for sessions to end, if the sweep gets to it before somebody comes back."""
        self.do(self.world.advance(SESSION_MS + HOUR_MS))
        self.do(self.world.sweep(at))

    @rule(at=st.integers(0, 1))
    def sweep(self, at: int) -> None:
        self.do(self.world.sweep(at))

    @precondition(lambda self: self.world.bus)
    @rule(at=st.integers(0, 1), position=st.integers(0, 9), fate=st.sampled_from(["once", "lose", "repeat"]))
    def bus(self, at: int, position: int, fate: str) -> None:
        self.do(self.world.deliver(at, position, fate))

    @precondition(lambda self: len(self.world.sent) > 4 and "c2" not in self.world.deleted)
    @rule(at=st.integers(0, 1))
    def delete(self, at: int) -> None:
        self.do(self.world.delete(at, "c2"))

    def teardown(self) -> None:
        try:
            self.do(self._check())
        finally:
            self.do(self.world.close())
            self.do(self.store.close())
            self._scope.__exit__(None, None, None)
            self.loop.close()

    async def _check(self) -> None:
        world = self.world
        await world.calm_down()
        for sent in list(world.sent):  # every client settles what it does not know
            if not sent.answers or not sent.accepted:
                continue
            await world.resend(0, sent)
            await world.calm_down()
        for conversation_id in CONVERSATIONS:
            record = await self.store.load(TENANT, conversation_id)
            if record is not None and record.deleted_at is None:
                batches = await _log(self.store, record)
                check_log(record, batches)
                check_commands([s for s in world.sent if s.conversation_id == conversation_id], batches)
                check_publications(world, record, batches)
                check_fold(record, batches)
                check_requests(record, batches)
        check_effects(world)


async def _as_coroutine(work: Awaitable[Any]) -> Any:
    return await work


async def _log(store: Store, record: Conversation) -> list[EventBatch]:
    batches: list[EventBatch] = []
    while True:
        after = batches[-1].last_offset if batches else 0
        page = await store.events(TENANT, record.conversation_id, record.epoch, after)
        if not page:
            return batches
        batches += page


def check_log(record: Conversation, batches: list[EventBatch]) -> None:
    """Offsets are contiguous from 1 to the record's; the execution came to rest."""
    offsets = [event.offset for batch in batches for event in batch.events]
    assert offsets == list(range(1, record.offset + 1))
    assert not record.inbox
    assert record.lease is None
    assert record.execution is None or record.execution.status != "running"


def check_commands(sent: list[Sent], batches: list[EventBatch]) -> None:
    """What was acknowledged is in the log once and ended once; what was refused is not there at all."""
    keys = Counter(batch.key for batch in batches if batch.key is not None)
    ends = Counter(
        event.command_id
        for batch in batches
        for event in batch.events
        if event.type in ("turn.completed", "turn.failed")
    )
    received = Counter(
        event.command_id for batch in batches for event in batch.events if event.type == "message.received"
    )
    assert all(count == 1 for count in keys.values()), keys
    assert all(count == 1 for count in ends.values()), ends
    assert all(count == 1 for count in received.values()), received
    for one in sent:
        key = one.command.key
        if one.accepted:
            assert keys[key] == 1, f"{key} was acknowledged and is lost"
            assert ends[key] == 1, f"{key} never ended"
            final = one.answers[-1]
            assert isinstance(final, Accepted)
            assert final.duplicate
            assert final.status in ("completed", "failed")
            assert final.result is not None
        elif keys[key]:
            assert ends[key] == 1


def check_publications(world: World, record: Conversation, batches: list[EventBatch]) -> None:
    """Whatever was published is what the store holds."""
    stored = {batch.first_offset: batch for batch in batches}
    for publication in world.published:
        batch = publication.batch
        if (
            batch is None
            or publication.record.conversation_id != record.conversation_id
            or batch.epoch != record.epoch
        ):
            continue
        assert stored[batch.first_offset].commit_id == batch.commit_id


def check_fold(record: Conversation, batches: list[EventBatch]) -> None:
    """Folding the events gives the state."""
    slots: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    messages = 0
    status = "idle"
    for event in _events(batches):
        if event.type == "slots.updated":
            slots = {**slots, **event.data["slots"]}
        elif event.type == "variables.updated":
            variables = {**variables, **event.data["variables"]}
        elif event.type == "conversation.reset":
            slots, variables, status = {}, {}, "idle"
        elif event.type == "execution.started":
            variables, status = {}, "running"
        elif event.type.startswith("execution."):
            status = event.data["status"]
        elif event.type in ("message.received", "message.completed"):
            messages += 1
    assert {name: value for name, value in slots.items() if value is not None} == dict(record.slots)
    assert variables == dict(record.variables)
    assert messages == record.message_count
    assert status == record.status


def check_requests(record: Conversation, batches: list[EventBatch]) -> None:
    """Each request is decided, or closed by time or by the flow, once; who came second was told."""
    requested = [e.data["pending_id"] for e in _events(batches) if e.type == "acceptance.requested"]
    ended = Counter(
        event.data["pending_id"]
        for event in _events(batches)
        if event.type in ("pending.resolved", "pending.expired")
    )
    known = record.execution.pending if record.execution is not None else ()
    still = {p.pending_id for p in known if p.kind == "acceptance" and p.decided is None}
    assert all(ended[pending_id] == (pending_id not in still) for pending_id in requested), (ended, still)
    assert set(ended) <= set(requested)


def _events(batches: list[EventBatch]) -> Iterator[Event]:
    for batch in batches:
        yield from batch.events


def check_effects(world: World) -> None:
    """A ``write`` is never run twice: its ``on_unknown`` does not allow it."""
    writes = Counter(key for name, key in world.effects if name == "buy")
    assert all(count == 1 for count in writes.values()), writes


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["memory", "split", "sqlite"])
def test_nothing_is_lost_doubled_or_reordered(kind: str) -> None:
    """Whatever happens, acknowledged commands are durable, done once, and end once."""
    machine = type(f"Machine_{kind}", (EngineMachine,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, round(RUNS[kind] * SCALE)),
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )

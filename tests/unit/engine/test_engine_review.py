"""Races, odd flows and limits: what a second reading of the engine found."""

import asyncio
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ErrorCode, Refused
from server.engine.actions import ActionContext, ActionFailed
from storage.base import Commit, CommitOutcome, CommitUnknown, StoreUnavailable
from storage.memory import MemoryStore
from storage.models import COMMIT_MAX_BYTES, EVENT_MAX_BYTES, RECORD_MAX_BYTES, FlowVersion, InboxEntry
from storage.sizes import batch_bytes, event_bytes, record_bytes
from storage.sqlite import SqliteStore
from tests.support.talk import USER, Talk, replies
from tests.support.world import VirtualClock

GUIDE = """
flow: guide
default: true
interruptible_by: [faq]
slots:
  what: {type: choice, options: [milk, bread]}
  count: {type: integer, validate: [{if: "value > 10 + variables.spare", say: "At most ten."}]}
variables: {spare: 0, secret: hidden}
steps:
  - {id: ask, collect: [what, count], ask: {what: "What?", count: "How many?"}}
  - {id: done, say: "Done."}
"""

ACT = """
flow: act
default: true
steps:
  - {id: before, say: "One moment."}
  - id: call
    action: lab.run
    effect: read
    timeout: 1h
    save: variables.result
    on_error: sorry
  - {id: after, say: "Got ${variables.result.n}."}
  - {id: done, end: completed}
  - {id: sorry, say: "Sorry."}
"""


def faq(*steps: str, variables: str = "{}") -> str:
    lines = "".join(f"  - {step}\n" for step in steps)
    intents = "triggers: {intents: [{name: hours, keywords: [open]}]}"
    return f"flow: faq\n{intents}\nvariables: {variables}\nsteps:\n{lines}"


async def test_two_digressions_never_share_an_effect_key() -> None:
    """Frame numbers are not reused: the second visit is another one to whoever sees the key."""
    keys: list[str] = []

    async def book(context: ActionContext, **_: Any) -> Any:
        keys.append(context.key)
        return 1

    side = faq("{id: b, action: lab.book, effect: write}")
    async with Talk(GUIDE, side, actions={"lab.book": book}) as talk:
        await talk.say("hello")
        for _ in range(2):
            await talk.say("open?")
            await talk.rest()
        assert len(keys) == len(set(keys)) == 2


async def test_a_digression_sees_its_own_variables() -> None:
    """What a rule of the interrupted flow looked at does not linger."""
    side = faq("{id: a, say: '${variables.hours}'}", variables="{hours: Nine to five.}")
    async with Talk(GUIDE, side) as talk:
        await talk.say("hello")
        assert replies(await talk.say("open? count 20")) == ["Nine to five.", "What?"]


async def test_a_digressions_variables_stay_its_own() -> None:
    """State shows the root frame's variables; so do the events, and so does ``expose``."""
    side = faq(
        "{id: s, set: {variables.secret: loud, variables.spare: 5}, expose: true}",
        "{id: a, say: '${variables.secret}'}",
        variables="{secret: null, spare: null}",
    )
    async with Talk(GUIDE, side) as talk:
        await talk.say("hello")
        before = await talk.events("variables.updated")
        said = await talk.say("open?")
        assert replies(said) == ["loud", "What?"]
        assert said.result is not None
        assert said.result["context_updates"]["variables"] == {}
        assert await talk.events("variables.updated") == before
        record = await talk.record()
        assert record.variables == {"spare": 0, "secret": "hidden"}
        assert record.execution is not None
        assert record.execution.exposed == ()


async def test_progress_does_not_take_back_a_renewal() -> None:
    """A commit from a record that was read before the renewal leaves the lease at least as long."""
    go = asyncio.Event()

    async def run(context: ActionContext, **_: Any) -> Any:
        await go.wait()
        await context.progress("half")
        await asyncio.get_running_loop().create_future()

    async with Talk(ACT, actions={"lab.run": run}, sole_writer=False) as talk:
        await talk.say("go")
        for _ in range(4):
            await talk.wait(5_000, sweep=False)
        go.set()
        await talk.rest()
        assert await talk.events("flow.custom")
        lease = (await talk.record()).lease
        assert lease is not None
        assert lease.until > talk.clock.now()
        assert await talk.store.due(talk.clock.now(), 10) == []


async def test_an_action_that_ends_as_cancelled_is_a_failure() -> None:
    """A cancellation that nobody asked for, from inside the action, is a crash like any other."""

    async def run(context: ActionContext, **_: Any) -> Any:
        raise asyncio.CancelledError

    async with Talk(ACT, actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.rest()
        assert (await talk.texts())[-1] == "Sorry."
        assert talk.engine.running_effects == 0


async def test_an_action_that_exits_is_a_failure() -> None:
    async def run(context: ActionContext, **_: Any) -> Any:
        sys.exit(1)

    async with Talk(ACT, actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.rest()
        assert (await talk.texts())[-1] == "Sorry."


class Held:
    """A store whose calls of one kind wait until the test lets them go."""

    def __init__(self, store: Any, *kinds: str) -> None:
        self._store = store
        self.kinds = set(kinds)
        self.go = asyncio.Event()
        self.away: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._store, name)
        if not inspect.iscoroutinefunction(inner):
            return inner

        async def call(*args: Any, **kwargs: Any) -> Any:
            if name in self.away:
                raise StoreUnavailable("away")
            result = await inner(*args, **kwargs)
            if name in self.kinds:
                await self.go.wait()
            return result

        return call


async def held(clock: VirtualClock, *kinds: str) -> Held:
    store = MemoryStore(clock=clock.now)
    await store.open()
    return Held(store, *kinds)


async def test_a_hint_that_is_late_does_not_stop_a_newer_effect() -> None:
    """``on_bus`` may look at a record that is older than what runs here."""
    clock = VirtualClock()
    store = await held(clock)
    calls: list[str] = []

    async def run(context: ActionContext, **_: Any) -> Any:
        calls.append(context.key)
        await asyncio.get_running_loop().create_future()

    idle = "flow: idle\nsteps:\n  - {id: a, say: Hi.}\n"
    async with Talk(ACT, idle, actions={"lab.run": run}, store=store, clock=clock, sole_writer=False) as talk:
        await talk.say("go", flow_id="idle")
        store.kinds = {"load"}
        talk.engine.on_bus("t", "c1")
        await talk.rest()
        store.kinds = set()
        await talk.say("go", flow_id="act")
        await talk.rest()
        store.go.set()
        await talk.rest()
        assert talk.engine.running_effects == len(calls) == 1


async def test_an_effect_that_is_stopped_before_it_began_is_forgotten() -> None:
    """Or its lease would be renewed for ever, with nobody on the work."""

    async def run(context: ActionContext, **_: Any) -> Any:
        return {"n": 1}

    async with Talk(ACT, actions={"lab.run": run}) as talk:
        await talk.say("go")
        for running in list(talk.engine._running.values()):
            running.task.cancel()
        await talk.rest()
        assert talk.engine.running_effects == 0
        await talk.wait(16_000)
        assert (await talk.texts())[-1] == "Got 1."


async def test_a_result_outlives_a_store_that_is_away() -> None:
    """An owner that cannot renew stops its effect, not the result of one that has ended."""
    clock = VirtualClock()
    store = await held(clock)
    calls: list[str] = []

    async def run(context: ActionContext, **_: Any) -> Any:
        calls.append(context.key)
        store.away = {"commit", "renew", "load"}
        return {"n": 1}

    write = ACT.replace("effect: read", "effect: write")
    async with Talk(write, actions={"lab.run": run}, store=store, clock=clock) as talk:
        await talk.say("go")
        for _ in range(8):
            await talk.wait(5_000, sweep=False)
        store.away = set()
        await talk.wait(2_000)
        assert (await talk.texts())[-1] == "Got 1."
        assert len(calls) == 1


async def test_an_owner_stops_at_its_own_deadline_though_a_renewal_hangs() -> None:
    """A store that does not answer is one that cannot renew; and one hanging call delays no other."""
    clock = VirtualClock()
    store = await held(clock)

    async def run(context: ActionContext, **_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async with Talk(ACT, actions={"lab.run": run}, store=store, clock=clock) as talk:
        await talk.say("go")
        await talk.rest()
        until = (await talk.record()).lease
        assert until is not None
        store.kinds = {"renew"}
        for _ in range(3):
            await talk.wait(4_999, sweep=False)
        assert clock.now() < until.until
        assert talk.engine.running_effects == 0


async def test_leases_are_kept_after_an_error_of_the_store() -> None:
    """Whatever one renewal or one sweep raises, the next is tried."""
    clock = VirtualClock()
    store = await held(clock)
    failing = ["renew"]
    inner = store._store.renew

    async def renew(*args: Any) -> bool:
        if failing:
            raise RuntimeError(failing.pop())
        return await inner(*args)  # type: ignore[no-any-return]

    store._store.renew = renew

    async def run(context: ActionContext, **_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async with Talk(ACT, actions={"lab.run": run}, store=store, clock=clock) as talk:
        await talk.say("go")
        for _ in range(4):
            await talk.wait(5_000, sweep=False)
        lease = (await talk.record()).lease
        assert lease is not None
        assert lease.until > clock.now()
        assert talk.engine.running_effects == 1


async def test_a_version_that_no_longer_compiles_ends_its_execution() -> None:
    """And ``reset`` gets the conversation out of it."""
    async with Talk(GUIDE) as talk:
        await talk.say("hello")
        await talk.store.publish(
            FlowVersion("*", "guide", 0, "0" * 64, "flow: guide\nsteps: [{id: a, sing: x}]\n", "guide.yaml"),
            name="guide", description="", is_default=True,
        )  # fmt: skip
        del talk.catalog._versions["guide", 1]
        failed = await talk.say("milk")
        assert failed.status == "failed"
        assert failed.result is not None
        assert failed.result["error"]["code"] == "flow_not_found"
        assert (await talk.send("reset", {"reason": "r"})).status == "completed"


async def test_a_flow_that_finds_no_room_fails_its_turn() -> None:
    """What a flow brings to its start may be what exceeds a limit."""
    fill = "".join(f"  - {{id: a{i}, action: lab.run, effect: read, save: slots.s{i}}}\n" for i in range(3))
    slots = ", ".join(f"s{i}: {{type: text, keep: true}}" for i in range(3))
    full = f"flow: full\ndefault: true\nslots: {{{slots}}}\nsteps:\n{fill}"
    more = f"flow: more\nvariables: {{x: '{'x' * 5000}'}}\nsteps:\n  - {{id: a, say: Hi.}}\n"

    async def run(context: ActionContext, **_: Any) -> Any:
        return "x" * 195_000

    async with Talk(full, more, actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.rest(200)
        assert (await talk.record()).status == "completed"
        said = await talk.say("go", flow_id="more")
        assert said.status == "failed"
        assert (await talk.send("reset", {"reason": "r"})).status == "completed"


async def test_the_sweeper_outlives_whatever_a_sweep_raises() -> None:
    clock = VirtualClock()
    store = await held(clock)
    failing = ["due"]
    inner = store._store.due

    async def due(*args: Any) -> Any:
        if failing:
            raise RuntimeError(failing.pop())
        looked.append(1)
        return await inner(*args)

    looked: list[int] = []
    store._store.due = due
    async with Talk(GUIDE, store=store, clock=clock) as talk:
        await talk.sweeper.start()
        await talk.rest()
        await talk.wait(1_000, sweep=False)
        assert looked
        await talk.sweeper.stop()


async def test_a_dropped_key_in_the_inbox_is_not_processed_again() -> None:
    """Whoever stalled between reading and enqueueing may queue what is done and out of the ring."""
    for detects in (True, False):
        clock = VirtualClock()
        store = MemoryStore(clock=clock.now)
        store.detects_duplicates = detects
        lab: list[str] = []

        async def run(context: ActionContext, lab: list[str] = lab, **_: Any) -> Any:
            lab.append(context.key)
            return {"n": 1}

        await store.open()
        async with Talk(
            ACT, actions={"lab.run": run}, store=store, clock=clock, ring_size=2, sole_writer=False
        ) as talk:
            await talk.say("go", key="done-long-ago")
            await talk.rest()
            for _ in range(3):
                await talk.send("reset", {"reason": "r"})
            before = await talk.record()
            old = InboxEntry(
                "done-long-ago",
                "h",
                {"type": "process", "content": {"text": "go"}},
                USER.to_record(),
                clock.now(),
            )
            store._put(replace(before, inbox=(old,), revision=before.revision + 1, wake_at=clock.now()))
            talk.engine.on_bus("t", "c1")
            await talk.rest(200)
            after = await talk.record()
            assert (after.inbox, after.wake_at, after.offset) == ((), None, before.offset)
            assert len(lab) == 1


async def test_a_fold_goes_on_although_its_commit_missed() -> None:
    """Somebody else queued a command meanwhile: the same input is reduced again, not 15 s later."""
    steps = "".join(f"  - {{id: s{i}, say: '{'x' * 20_000}'}}\n" for i in range(12))
    clock = VirtualClock()
    store = await held(clock)
    inner = store._store.commit
    outcomes = [CommitOutcome.COMMITTED, CommitOutcome.CONFLICT]

    async def commit(commit: Commit) -> CommitOutcome:
        if outcomes and outcomes.pop(0) is CommitOutcome.CONFLICT:
            return CommitOutcome.CONFLICT
        return await inner(commit)  # type: ignore[no-any-return]

    store._store.commit = commit
    async with Talk(f"flow: long\nsteps:\n{steps}", store=store, clock=clock, sole_writer=False) as talk:
        await talk.say("go")
        await talk.rest(200)
        assert (await talk.record()).status == "completed"


async def test_going_on_with_a_fold_leaves_others_effects_alone() -> None:
    """The fold may have been pre-empted, and an effect of a newer turn may run elsewhere."""

    async def run(context: ActionContext, **_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async with Talk(ACT, actions={"lab.run": run}, sole_writer=False) as talk:
        await talk.say("go")
        await talk.rest()
        async with Talk(
            ACT, actions={"lab.run": run}, store=talk.store, clock=talk.clock, instance_id="i2",
            sole_writer=False,
        ) as other:  # fmt: skip
            await other.engine._continue(("t", "c1"))
            await other.rest()
            assert other.engine.running_effects == 0
            assert (await talk.record()).fence == 1


async def test_interrupt_does_not_wait_for_a_back_off() -> None:
    """Nothing runs between two attempts: that is a safe point."""
    calls: list[int] = []

    async def run(context: ActionContext, **_: Any) -> Any:
        calls.append(context.attempt)
        if len(calls) == 1:
            raise ConnectionError
        return {"n": len(calls)}

    flow = ACT.replace("timeout: 1h", "retry: {max: 3, delay: 30s}")
    async with Talk(flow, actions={"lab.run": run}) as talk:
        await talk.say("go", key="first-turn")
        await talk.rest()
        await talk.say("instead", on_busy="interrupt", key="second-turn")
        await talk.rest()
        failed = await talk.events("turn.failed")
        assert [(e.command_id, e.data["error"]["code"]) for e in failed] == [("first-turn", "cancelled")]
        assert (await talk.texts())[-1] == "Got 2."


async def test_a_write_that_is_being_reconciled_is_open_like_a_write() -> None:
    """It is not interrupted, and a command that pre-empts it records it as unknown."""
    go = asyncio.Event()

    async def run(context: ActionContext, **_: Any) -> Any:
        raise ActionFailed("Lost.", unknown=True)

    async def lookup(context: ActionContext, **_: Any) -> Any:
        await go.wait()
        return {"n": 9}

    flow = ACT.replace("effect: read", "effect: write\n    on_unknown: {reconcile: lab.lookup}")
    async with Talk(flow, actions={"lab.run": run, "lab.lookup": lookup}) as talk:
        await talk.say("go")
        await talk.rest()
        await talk.say("instead", on_busy="interrupt")
        await talk.rest()
        assert await talk.events("turn.failed") == []
        await talk.send("cancel", {})
        codes = [e.data["error"]["code"] for e in await talk.events("step.failed")]
        assert codes == ["unknown"]


async def test_whoever_pre_empts_tells_the_owner() -> None:
    """Its effect is stopped at once, not when its lease is renewed next."""
    told: list[tuple[str, str, str]] = []

    async def run(context: ActionContext, **_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async with Talk(ACT, actions={"lab.run": run}, sole_writer=False) as talk:
        await talk.say("go")
        await talk.rest()
        async with Talk(
            ACT, store=talk.store, clock=talk.clock, instance_id="i2", sole_writer=False
        ) as other:
            other.engine._tell_owner = lambda *key: told.append(key)
            await other.send("cancel", {}, key="pre-empting")
            assert told == [("t", "c1", "i1")]
            talk.engine.on_bus("t", "c1", "i3")
            await talk.rest()
            assert talk.engine.running_effects == 1  # it was said to somebody else
            talk.engine.on_bus(*told[0])
            await talk.rest()
            assert talk.engine.running_effects == 0


async def test_a_caller_that_leaves_during_its_commit_changes_nothing_else() -> None:
    """What follows a commit follows it whoever still listens: effects, pre-emption, the inbox, counters."""
    clock = VirtualClock()
    store = await held(clock)

    async def run(context: ActionContext, **_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async with Talk(ACT, actions={"lab.run": run}, store=store, clock=clock) as talk:
        await talk.say("go")
        await talk.say("queued")
        await talk.rest()
        store.kinds = {"commit"}
        leaving = asyncio.ensure_future(talk.send("cancel", {}))
        await talk.rest()
        leaving.cancel()
        store.kinds = set()
        await talk.rest()
        assert talk.engine.running_effects == 1
        assert talk.engine.stats.turns_completed == 1
        assert (await talk.record()).inbox == ()
        offsets = [p.batch.last_offset for p in talk.published if p.batch is not None]
        assert offsets == sorted(offsets)
        assert [p.record.offset for p in talk.published if p.batch is not None] == offsets


async def test_a_caller_that_leaves_while_its_commit_is_unknown_leaves_no_lease_behind() -> None:
    clock = VirtualClock()
    store = await held(clock)
    inner = store._store.commit

    async def commit(commit: Commit) -> CommitOutcome:
        await inner(commit)
        store.go.clear()
        raise CommitUnknown("lost")

    store._store.commit = commit

    async def run(context: ActionContext, **_: Any) -> Any:
        return {"n": 1}

    async with Talk(ACT, actions={"lab.run": run}, store=store, clock=clock) as talk:
        store.kinds = {"load"}
        store.go.set()
        leaving = asyncio.ensure_future(talk.say("go"))
        await talk.rest()
        store._store.commit = inner
        leaving.cancel()
        store.go.set()
        await talk.rest()
        assert await talk.texts() == ["One moment.", "Got 1."]


async def test_an_intent_that_is_known_too_late_is_not_run() -> None:
    """Its lease has run out: whoever looks for what is due has it, or will."""
    clock = VirtualClock()
    store = await held(clock, "commit")
    calls: list[int] = []

    async def run(context: ActionContext, **_: Any) -> Any:
        calls.append(context.attempt)
        return {"n": 1}

    async with Talk(ACT, actions={"lab.run": run}, store=store, clock=clock) as talk:
        slow = asyncio.ensure_future(talk.say("go"))
        await talk.rest()
        clock.advance(15_000)
        store.kinds = set()
        store.go.set()
        await slow
        await talk.rest()
        assert calls == []
        await talk.wait(1_000)
        assert calls == [2]


async def check_sizes(talk: Talk) -> None:
    record = await talk.record()
    assert record_bytes(record) <= RECORD_MAX_BYTES
    for batch in await talk.store.events("t", "c1", record.epoch, 0, limit=10_000, max_bytes=1 << 30):
        assert batch_bytes(batch) <= COMMIT_MAX_BYTES
        assert max(map(event_bytes, batch.events)) <= EVENT_MAX_BYTES


async def test_a_long_turn_does_not_grow_the_record() -> None:
    """What the turn's event will not repeat is not gathered for it; it says so."""
    steps = "".join(f"  - {{id: s{i}, say: '${{variables.x}}'}}\n" for i in range(80))
    last = "  - {id: call, action: lab.run, effect: read}\n"
    go = asyncio.Event()

    async def run(context: ActionContext, **_: Any) -> Any:
        await go.wait()

    async with Talk(
        f"flow: long\nvariables: {{x: {'x' * 20_000}}}\nsteps:\n{steps}{last}", actions={"lab.run": run}
    ) as talk:
        await talk.say("go")
        await talk.rest(1000)
        await check_sizes(talk)
        go.set()
        await talk.rest()
        response = (await talk.events("turn.completed"))[0].data["response"]
        assert response["truncated"]
        assert len(response["messages"]) == 1


@pytest.mark.parametrize("letter", ["x", "\\"])
async def test_the_event_of_a_turn_that_did_much_is_no_larger_than_others(letter: str) -> None:
    """What it repeats of messages, values and actions has its room each, in bytes as they are stored."""
    text = letter * 500
    names = range(30)
    slots = ", ".join(f"s{i}: {{type: text}}" for i in names)
    sets = "".join(
        f"  - set: {{slots.s{i}: '{text}', variables.v{i}: '{text}'}}\n    expose: true\n" for i in names
    )
    says = f"  - say: '{text}'\n" * 43
    calls = "  - {action: lab.run, effect: read}\n" * 170
    flow = f"flow: much\nslots: {{{slots}}}\nsteps:\n{says}{sets}{calls}"

    async def run(context: ActionContext, **_: Any) -> Any:
        return None

    async with Talk(flow, actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.rest(3000)
        done = (await talk.events("turn.completed"))[0].data
        assert done["actions_performed"][-1]["name"] == "lab.run"
        await check_sizes(talk)


async def test_large_values_are_not_kept_twice() -> None:
    saves = "".join(
        f"  - {{id: a{i}, action: lab.run, effect: read, save: variables.v{i}, expose: true}}\n"
        for i in range(3)
    )
    waits = "  - {id: z, action: lab.wait, effect: read}\n"
    flow = f"flow: full\nvariables: {{v0: null, v1: null, v2: null}}\nsteps:\n{saves}{waits}"

    async def run(context: ActionContext, **_: Any) -> Any:
        return "x" * 190_000

    async def wait(context: ActionContext, **_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async with Talk(flow, actions={"lab.run": run, "lab.wait": wait}) as talk:
        await talk.say("go")
        await talk.rest(200)
        assert talk.engine.running_effects == 1
        await check_sizes(talk)


@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}", '"', "\x01"])
async def test_sizes_are_those_of_what_is_stored(letter: str) -> None:
    """Characters take up to four bytes, or six where JSON escapes them."""

    async def run(context: ActionContext, **_: Any) -> Any:
        return letter * 5_000

    says = "".join(f"  - {{id: s{i}, say: '${{variables.x}}'}}\n" for i in range(12))
    call = "  - {id: a, action: lab.run, effect: read, save: variables.x}\n"
    flow = f"flow: wide\nvariables: {{x: ''}}\nsteps:\n{call}{says}"
    async with Talk(flow, actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.rest(400)
        assert (await talk.record()).status == "completed"
        await check_sizes(talk)


@pytest.mark.parametrize("use", ["with: {a: '${variables.x}', b: '${variables.x}'}", ""])
async def test_what_is_too_large_to_be_called_with_or_to_be_an_output_fails_the_step(use: str) -> None:
    async def run(context: ActionContext, **_: Any) -> Any:
        assert not _
        return "x" * 200_000

    using = (
        f"action: lab.run\n    effect: read\n    {use}"
        if use
        else "end: completed\n    output: '${variables.x}'"
    )
    flow = (
        "flow: big\nvariables: {x: null}\nsteps:\n"
        "  - {id: a, action: lab.run, effect: read, save: variables.x}\n"
        f"  - id: b\n    {using}\n    on_error: sorry\n"
        "  - {id: c, end: completed}\n  - {id: sorry, say: Sorry.}\n"
    )
    async with Talk(flow, actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.rest(200)
        assert await talk.texts() == ["Sorry."]
        await check_sizes(talk)


@pytest.mark.parametrize(
    "message", ["x" * 300_000, "half \ud800 of a pair", None, ValueError("no text at all")]
)
async def test_whatever_an_action_says_of_its_failure_can_be_stored(message: Any) -> None:
    async def run(context: ActionContext, **_: Any) -> Any:
        await context.progress("half \ud800 of a pair")
        raise ActionFailed(message)

    async with Talk(ACT, actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.rest()
        assert (await talk.texts())[-1] == "Sorry."
        await check_sizes(talk)


async def test_a_result_that_is_nested_too_deeply_is_a_bad_one() -> None:
    """It would be JSON by itself, and none inside of a record."""

    async def run(context: ActionContext, **_: Any) -> Any:
        value: Any = []
        for _i in range(250):
            value = [value]
        return value

    async with Talk(ACT, actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.rest()
        assert (await talk.texts())[-1] == "Sorry."
        await check_sizes(talk)


async def test_a_value_that_a_flow_nests_deeper_and_deeper_fails_its_step() -> None:
    """It would be no JSON in the end, and no commit of the conversation's would be possible any more."""
    flow = """
flow: deeper
variables: {x: null, n: 0}
steps:
  - id: nest
    set: {variables.x: {before: "${variables.x}"}, variables.n: "${variables.n + 1}"}
    on_error: sorry
  - {id: again, branch: [{if: "variables.n % 50 != 0", goto: nest}, {else: pause}]}
  - {id: pause, wait: {for: 1s}, goto: nest}
  - {id: sorry, say: Sorry.}
"""
    async with Talk(flow) as talk:
        await talk.say("go")
        for _ in range(6):
            await talk.wait(2_000)
        assert (await talk.texts(), (await talk.record()).status) == (["Sorry."], "completed")
        await check_sizes(talk)


async def test_a_message_that_outgrows_an_event_is_refused() -> None:
    async with Talk(GUIDE) as talk:
        with pytest.raises(Refused) as refused:
            await talk.say(payload="x" * 65_000)
        assert (refused.value.code, refused.value.field) == (ErrorCode.PAYLOAD_TOO_LARGE, "content")
        await talk.say(payload="x" * 64_000)
        await check_sizes(talk)


async def test_a_question_that_outgrows_an_event_fails_the_step() -> None:
    flow = GUIDE.replace("variables: {", f"variables: {{long: {'x' * 30_000}, ").replace(
        '"What?"', '"${variables.long}"'
    )
    async with Talk(flow) as talk:
        assert (await talk.say("hello")).status == "failed"
        await check_sizes(talk)


async def test_whatever_a_reset_causes_carries_its_command() -> None:
    async with Talk(GUIDE) as talk:
        await talk.say("hello")
        await talk.send("reset", {"reason": "r"}, key="reset-key")
        cancelled = (await talk.events("execution.cancelled"))[0]
        assert cancelled.command_id == "reset-key"


async def test_a_step_tells_which_attempt_it_was() -> None:
    outcomes: list[Any] = [ConnectionError(), {"n": 1}, ConnectionError(), ConnectionError()]

    async def run(context: ActionContext, **_: Any) -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    flow = ACT.replace("timeout: 1h", "retry: {max: 2, delay: 1s}")
    async with Talk(flow, actions={"lab.run": run}) as talk:
        for _ in range(2):
            await talk.say("go")
            await talk.rest()
            await talk.wait(1_001)
        ends = [*await talk.events("step.completed"), *await talk.events("step.failed")]
        assert [e.data["attempt"] for e in ends if e.step_id == "call"] == [2, 2]


async def test_a_tombstone_does_not_outlive_its_days_in_the_cache() -> None:
    async with Talk(GUIDE) as talk:
        await talk.say("hello")
        await talk.engine.delete("t", "c1", USER)
        await talk.wait(61_000)
        with pytest.raises(Refused):
            await talk.say("hello")
        await talk.wait(31 * 24 * 3_600_000)
        assert replies(await talk.say("hello")) == ["What?"]


async def test_what_is_published_was_prepared_while_the_disk_worked(tmp_path: Path) -> None:
    clock = VirtualClock()
    store = SqliteStore(tmp_path / "parley.db", clock=clock.now)
    await store.open()
    async with Talk(GUIDE, store=store, clock=clock) as talk:
        for text in ("hi", "milk", "3"):
            await talk.say(text)
        assert len(talk.published) == 3
        for prepared, published in zip(talk.prepared, talk.published, strict=True):
            assert prepared.batch is published.batch
            assert prepared.record is published.record

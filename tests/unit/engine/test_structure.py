"""Flows that wait for time and events, call each other, are handed over, paused, resumed and tried again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.actions import ActionFailed
from storage.memory import MemoryStore
from storage.models import EVENT_MAX_BYTES
from tests.support.talk import TENANT, Talk, replies
from tests.support.world import VirtualClock

OPERATOR = Principal("op", TENANT, scopes=frozenset({"conversations:write"}))
MINUTE_MS = 60_000

WAIT = """
flow: wait
interruptible_by: [hours]
variables: {got: "nothing yet"}
steps:
  - {id: first, say: "One moment."}
  - id: pause
    wait: {SPEC}
    save: variables.got
    while_waiting: "Still at it."
  - {id: then, say: "Got ${variables.got == null ? 'nothing' : variables.got.n}."}
  - {id: done, end: completed}
"""
HOURS = """
flow: hours
triggers: {intents: [{name: hours, keywords: [hours]}]}
steps:
  - {id: no, say: "Nine to five."}
"""
ASKING_HOURS = """
flow: hours
triggers: {intents: [{name: hours, keywords: [hours]}]}
slots: {day: {type: date}}
steps:
  - {id: which, collect: day, ask: {day: "Of which day?"}}
  - {id: tell, say: "Nine to five."}
"""


def waiting(spec: str) -> str:
    return WAIT.replace("{SPEC}", spec)


async def signal(talk: Talk, name: str, payload: Any = None, **more: Any) -> Any:
    return await talk.send("signal", {"name": name, "payload": payload}, **more)


# --- wait, emit -----------------------------------------------------------------------------------


async def test_a_wait_ends_at_its_time() -> None:
    async with Talk(waiting("{for: 5m}")) as talk:
        assert replies(await talk.say("go", flow_id="wait")) == ["One moment."]
        record = await talk.record()
        assert (record.status, record.wake_at) == ("waiting_timer", talk.clock.now() + 5 * MINUTE_MS)
        await talk.wait(5 * MINUTE_MS - 1)
        assert (await talk.record()).status == "waiting_timer"
        await talk.wait(1)
        assert (await talk.record()).status == "completed"
        assert (await talk.texts())[-1] == "Got nothing."
        resumed = (await talk.events("execution.resumed"))[0]
        assert (resumed.cause, resumed.command_id) == ("timer", None)
        after = [event for event in await talk.events() if event.offset >= resumed.offset]
        assert {(event.cause, event.command_id) for event in after} == {("timer", None)}
        assert len(await talk.events("turn.completed")) == 1


@pytest.mark.parametrize(
    ("until", "zone", "waits_ms"),
    [
        ("2027-01-15T10:00:00+01:00", None, 60 * MINUTE_MS),
        ("2027-01-15T09:00:00Z", None, 60 * MINUTE_MS),
        ("2027-01-15T10:00:00", "Europe/Berlin", 60 * MINUTE_MS),
        ("2027-01-16", "Europe/Berlin", 15 * 60 * MINUTE_MS),
        ("${timestamp(now) + duration('90m')}", None, 90 * MINUTE_MS),
    ],
)
async def test_a_wait_until_counts_in_the_conversations_zone(
    until: str, zone: str | None, waits_ms: int
) -> None:
    """The clock begins at 2027-01-15T08:00:00Z."""
    async with Talk(waiting(f'{{until: "{until}"}}'), timezone=zone) as talk:
        await talk.say("go", flow_id="wait")
        assert (await talk.record()).wake_at == talk.clock.now() + waits_ms


@pytest.mark.parametrize(
    ("until", "status"),
    [("2020-01-01", "completed"), ("some day", "failed"), ("2099-01-01", "failed"), ("9999-12-31", "failed")],
)
async def test_a_time_that_has_passed_does_not_wait_and_one_that_is_none_fails(
    until: str, status: str
) -> None:
    async with Talk(waiting(f'{{until: "{until}"}}')) as talk:
        await talk.say("go", flow_id="wait")
        assert (await talk.record()).status == status


async def test_a_signal_ends_the_wait_for_its_event_and_brings_a_payload() -> None:
    async with Talk(waiting("{event: paid, for: 1h}")) as talk:
        await talk.say("go", flow_id="wait")
        assert (await talk.record()).status == "waiting_event"
        with pytest.raises(Refused) as other:
            await signal(talk, "shipped")
        assert other.value.code is ErrorCode.WRONG_STATE
        assert other.value.details == {"status": "waiting_event", "awaits": "paid"}
        assert replies(await signal(talk, "paid", {"n": 7})) == ["Got 7."]
        record = await talk.record()
        assert (record.status, record.wake_at) == ("completed", None)
        with pytest.raises(Refused, match="wrong_state"):
            await signal(talk, "paid", {"n": 8})


async def test_whichever_comes_first_ends_the_wait() -> None:
    async with Talk(waiting("{event: paid, for: 1h}")) as talk:
        await talk.say("go", flow_id="wait")
        await talk.wait(60 * MINUTE_MS)
        assert (await talk.texts())[-1] == "Got nothing."
        with pytest.raises(Refused, match="wrong_state"):
            await signal(talk, "paid")


async def test_a_message_meanwhile_is_recorded_and_gets_the_steps_words() -> None:
    async with Talk(waiting("{for: 5m}"), HOURS) as talk:
        await talk.say("go", flow_id="wait")
        assert replies(await talk.say("and now?")) == ["Still at it."]
        assert replies(await talk.say("your hours?")) == ["Nine to five."]
        record = await talk.record()
        assert record.status == "waiting_timer"
        assert record.wake_at == talk.clock.now() + 5 * MINUTE_MS
        assert replies(await talk.say("/restart")) == ["One moment."]


async def test_a_digression_keeps_the_timer_of_the_wait_below_it() -> None:
    """It falls due while the digression asks its own question, and is followed when that one has ended."""
    async with Talk(waiting("{for: 5m}"), ASKING_HOURS) as talk:
        await talk.say("go", flow_id="wait")
        assert replies(await talk.say("your hours?")) == ["Of which day?"]
        record = await talk.record()
        assert (record.status, record.wake_at) == ("waiting_input", talk.clock.now() + 5 * MINUTE_MS)
        await talk.wait(5 * MINUTE_MS)
        assert (await talk.record()).status == "waiting_input"
        assert replies(await talk.say("tomorrow")) == ["Nine to five.", "Got nothing."]


async def test_a_timer_below_a_digression_that_waits_itself_leaves_that_alone() -> None:
    hours = HOURS.replace('say: "Nine to five."', "wait: {for: 10m}")
    async with Talk(waiting("{for: 5m}"), hours) as talk:
        await talk.say("go", flow_id="wait")
        await talk.say("your hours?")
        await talk.wait(5 * MINUTE_MS)
        record = await talk.record()
        assert (record.status, record.wake_at) == ("waiting_timer", talk.clock.now() + 5 * MINUTE_MS)
        assert await talk.events("execution.resumed") == []
        await talk.wait(5 * MINUTE_MS)
        assert (await talk.texts())[-1] == "Got nothing."
        assert len(await talk.events("execution.resumed")) == 1


async def test_a_timer_below_a_digression_that_runs_an_effect_is_noted_once() -> None:
    """It neither disturbs the effect nor stays due while that runs."""
    gate = asyncio.Event()

    async def run(context: Any) -> None:
        await gate.wait()

    hours = HOURS.replace('say: "Nine to five."', "action: lab.run, effect: write, timeout: 1h")
    async with Talk(waiting("{for: 5s}"), hours, actions={"lab.run": run}) as talk:
        await talk.say("go", flow_id="wait")
        await talk.say("your hours?")
        await talk.wait(5_000)
        record = await talk.record()
        assert record.lease is not None
        assert (record.status, record.wake_at) == ("running", record.lease.until)
        await talk.wait(5_000, sweep=False)  # the lease is renewed
        assert (await talk.record()).wake_at == talk.clock.now() + 15_000
        gate.set()
        await talk.rest()
        assert (await talk.texts())[-1] == "Got nothing."


async def test_a_signal_to_a_wait_below_a_digression_is_kept() -> None:
    async with Talk(waiting("{event: paid}"), ASKING_HOURS) as talk:
        await talk.say("go", flow_id="wait")
        await talk.say("your hours?")
        assert replies(await signal(talk, "paid", {"n": 3})) == []
        with pytest.raises(Refused, match="wrong_state"):
            await signal(talk, "paid", {"n": 4})
        assert replies(await talk.say("tomorrow")) == ["Nine to five.", "Got 3."]


async def test_a_payload_that_outgrows_an_event_is_refused() -> None:
    async with Talk(waiting("{event: paid}")) as talk:
        await talk.say("go", flow_id="wait")
        with pytest.raises(Refused, match="payload_too_large"):
            await signal(talk, "paid", "x" * EVENT_MAX_BYTES)


async def test_emit_tells_the_watchers() -> None:
    source = """
flow: tell
slots: {n: {type: integer, default: 4}}
steps:
  - {emit: appointment.created, with: {n: "${slots.n}"}}
  - emit: {name: second, payload: "${slots.n + 1}"}
  - emit: third
"""
    async with Talk(source) as talk:
        await talk.say("go")
        told = await talk.events("flow.custom")
        assert [event.data for event in told] == [
            {"name": "appointment.created", "payload": {"n": 4}},
            {"name": "second", "payload": 5},
            {"name": "third", "payload": None},
        ]
        assert {event.audience for event in told} == {"owner"}


# --- call, link -----------------------------------------------------------------------------------

CALLER = """
flow: caller
slots: {city: {type: text}}
variables: {n: 1, total: null}
steps:
  - {id: sub, call: adder, with: {a: "${variables.n}", b: 41}, save: variables.total EXTRA}
  - {id: tell, say: "It is ${variables.total}, n is ${variables.n}, for ${slots.city}."}
  - {id: done, end: completed}
  - {id: sorry, say: "Sorry."}
"""
ADDER = """
flow: adder
slots: {city: {type: text}}
variables: {a: 0, b: 0, n: 99}
steps:
  - {id: ask, collect: city, ask: {city: "Which city?"}}
  - {id: add, set: {variables.n: "${variables.a + variables.b}"}}
  - {id: done, end: END, output: "${variables.n}"}
"""


def caller(extra: str = "") -> str:
    return CALLER.replace(" EXTRA", extra)


def adder(end: str = "completed") -> str:
    return ADDER.replace("END", end)


async def test_a_called_flow_has_its_own_variables_shares_slots_and_returns_its_output() -> None:
    async with Talk(caller(), adder()) as talk:
        assert replies(await talk.say("go", flow_id="caller")) == ["Which city?"]
        assert (await talk.record()).variables == {"n": 1, "total": None}
        assert replies(await talk.say("Rome")) == ["It is 42, n is 1, for Rome."]
        assert (await talk.record()).variables == {"n": 1, "total": 42}


@pytest.mark.parametrize("end", ["failed", "cancelled"])
@pytest.mark.parametrize("caught", [True, False])
async def test_a_called_flow_that_does_not_complete_fails_the_call(end: str, caught: bool) -> None:
    async with Talk(caller(", on_error: sorry" if caught else ""), adder(end)) as talk:
        await talk.say("go", flow_id="caller")
        last = await talk.say("Rome")
        assert (await talk.record()).status == ("completed" if caught else "failed")
        assert last.status == ("completed" if caught else "failed")
        if not caught:
            assert last.result is not None
            assert last.result["error"]["details"]["status"] == end


async def test_a_failure_inside_goes_to_the_on_error_of_the_nearest_caller() -> None:
    middle = "flow: middle\nsteps:\n  - {id: inner, call: broken}\n"
    broken = 'flow: broken\nvariables: {x: 1}\nsteps:\n  - {id: no, say: "${variables.x.y}"}\n'
    outer = """
flow: outer
steps:
  - {id: sub, call: middle, on_error: sorry}
  - {id: done, end: completed}
  - {id: sorry, say: "Sorry."}
"""
    async with Talk(outer, middle, broken) as talk:
        assert replies(await talk.say("go", flow_id="outer")) == ["Sorry."]
        failed = [event.step_id for event in await talk.events("step.failed")]
        assert failed == ["no", "inner", "sub"]
        assert (await talk.record()).status == "completed"


async def test_calls_are_bounded_in_depth() -> None:
    endless = "flow: endless\nsteps:\n  - {id: again, call: endless}\n"
    async with Talk(endless) as talk:
        last = await talk.say("go")
        assert last.result is not None
        assert "too deeply" in last.result["error"]["message"]
        record = await talk.record()
        assert record.execution is not None
        assert len(record.execution.frames) == 16


async def test_a_flow_that_is_not_there_fails_the_step() -> None:
    async with Talk("flow: f\nsteps:\n  - {id: go, call: gone}\n") as talk:
        last = await talk.say("go")
        assert last.result is not None
        assert last.result["error"]["code"] == "flow_not_found"


async def test_an_execution_keeps_the_versions_of_its_subflows() -> None:
    """A version that is published after the start is for those who start after it."""
    first = "flow: leaf\nsteps:\n  - {id: tell, say: Old.}\n"
    asking = """
flow: caller
slots: {name: {type: text}}
steps:
  - {id: ask, collect: name}
  - {id: sub, call: leaf}
"""
    async with Talk(asking, first) as talk:
        await talk.say("go", flow_id="caller")
        talk.offer(first.replace("Old", "New"), 2)
        assert replies(await talk.say("Ada")) == ["Old."]
        await talk.say("go", flow_id="caller", to="c2")
        assert replies(await talk.say("Ada", to="c2")) == ["New."]


async def test_the_versions_of_subflows_outlive_a_restart(tmp_path: Path) -> None:
    """The flow that is called was published anew meanwhile, and the server knows only that one by heart."""
    asking = "flow: caller\nslots: {name: {type: text}}\nsteps:\n  - collect: name\n  - call: leaf\n"
    (tmp_path / "caller.yaml").write_text("default: true\n" + asking)
    (tmp_path / "leaf.yaml").write_text("flow: leaf\nsteps:\n  - say: Old.\n")
    clock = VirtualClock()
    store = MemoryStore(clock=clock.now)
    await store.open()
    async with Talk(store=store, clock=clock) as talk:
        await talk.catalog.load_folder(tmp_path)
        await talk.say("go")
    (tmp_path / "leaf.yaml").write_text("flow: leaf\nsteps:\n  - say: New.\n")
    await store.open()
    async with Talk(store=store, clock=clock) as talk:
        await talk.catalog.load_folder(tmp_path)
        assert replies(await talk.say("Ada", key="after-1")) == ["Old."]
        await talk.say("go", key="after-2")
        assert replies(await talk.say("Ada", key="after-3")) == ["New."]


async def test_link_goes_over_for_good() -> None:
    here = """
flow: here
variables: {a: 1}
steps:
  - {id: over, link: there}
  - {id: never, say: "Never."}
"""
    there = """
flow: there
slots: {city: {type: text}}
variables: {b: 2}
timeout: 1m
steps:
  - {id: ask, collect: city, ask: {city: "Which city?"}}
  - {id: tell, say: "${variables.b} for ${slots.city}."}
"""
    async with Talk(here, there) as talk:
        assert replies(await talk.say("go", flow_id="here")) == ["Which city?"]
        record = await talk.record()
        assert record.execution is not None
        assert (record.execution.flow_id, len(record.execution.frames)) == ("there", 1)
        assert record.variables == {"b": 2}
        assert replies(await talk.say("Rome")) == ["2 for Rome."]
        ended = (await talk.events("execution.completed"))[0]
        assert ended.data["flow_id"] == "there"
        assert len(await talk.events("execution.started")) == 1


async def test_link_inside_a_called_flow_returns_to_the_caller() -> None:
    outer = "flow: outer\nvariables: {x: 0}\nsteps:\n  - {call: one, save: variables.x}\n"
    outer += '  - say: "${variables.x}"\n'
    one = "flow: one\nsteps:\n  - link: two\n"
    two = "flow: two\nsteps:\n  - {end: completed, output: 5}\n"
    async with Talk(outer, one, two) as talk:
        assert replies(await talk.say("go", flow_id="outer")) == ["5"]


async def test_flows_that_go_over_to_each_other_for_ever_are_stopped() -> None:
    one, two = "flow: one\nsteps:\n  - link: two\n", "flow: two\nsteps:\n  - link: one\n"
    async with Talk(one, two) as talk:
        await talk.say("go", flow_id="one")
        await talk.rest()
        failed = (await talk.events("turn.failed"))[0]
        assert failed.data["error"]["code"] == "loop_detected"


# --- digressions ----------------------------------------------------------------------------------

FORM = """
flow: order
interruptible_by: [hours, outer]
slots: {count: {type: integer}}
steps:
  - {id: ask, collect: count, ask: {count: "How many?"}}
  - {id: thanks, say: "${slots.count} it is."}
"""


@pytest.mark.parametrize(
    "broken",
    ['say: "${variables.x.y}"', "goto: no, set: {}", "call: gone", "action: lab.run, effect: read"],
    ids=["expression", "loop", "call", "action"],
)
async def test_a_failing_digression_ends_only_itself(broken: str) -> None:
    hours = HOURS.replace('say: "Nine to five."', broken) + "variables: {x: 1}\n"

    async def run(context: Any) -> None:
        raise ActionFailed("no luck")

    async with Talk(FORM, hours, actions={"lab.run": run}) as talk:
        await talk.say("go", flow_id="order")
        await talk.say("hours?")
        await talk.rest()
        assert (await talk.texts())[1:] == ["Sorry, I have no answer to that just now.", "How many?"]
        assert [event.type for event in await talk.events("turn.completed", "turn.failed")] == [
            "turn.completed", "turn.completed",
        ]  # fmt: skip
        assert replies(await talk.say("3")) == ["3 it is."]


async def test_a_call_inside_a_digression_fails_the_digression_alone() -> None:
    outer = "flow: outer\ntriggers: {intents: [{name: o, keywords: [else]}]}\nsteps:\n  - call: hours\n"
    broken = 'flow: hours\nvariables: {x: 1}\nsteps:\n  - say: "${variables.x.y}"\n'
    async with Talk(FORM, outer, broken) as talk:
        await talk.say("go", flow_id="order")
        assert replies(await talk.say("something else"))[-1] == "How many?"
        record = await talk.record()
        assert record.execution is not None
        assert len(record.execution.frames) == 1


# --- time-outs ------------------------------------------------------------------------------------

SLOW = """
flow: slow
timeout: 30s
slots: {go: {type: boolean}}
steps:
  - {id: ask, collect: go, ask: {go: "Go?"}}
  - {id: one, action: lab.run, effect: EFFECT, timeout: 5m}
  - {id: two, action: lab.run, effect: EFFECT, timeout: 5m}
  - {id: done, say: "Done."}
"""


@pytest.mark.parametrize(("effect", "code"), [("read", "cancelled"), ("write", "unknown")])
async def test_running_time_beyond_the_flows_timeout_expires_it(effect: str, code: str) -> None:
    """Waiting for an answer does not count; the effect that runs is given up."""

    async def run(context: Any) -> None:
        await asyncio.Event().wait()

    async with Talk(SLOW.replace("EFFECT", effect), actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.wait(10 * MINUTE_MS)
        turn = await talk.say("yes")
        assert turn.status == "running"
        await talk.wait(29_999)
        assert (await talk.record()).status == "running"
        await talk.wait(1)
        record = await talk.record()
        assert record.status == "expired"
        assert talk.engine.running_effects == 0
        failed = (await talk.events("turn.failed"))[0]
        assert (failed.data["error"]["code"], failed.cause, failed.command_id) == (
            "expired", "timeout", turn.command_id,
        )  # fmt: skip
        assert (await talk.events("execution.expired"))[0].cause == "timeout"
        assert [e.data["error"]["code"] for e in await talk.events("step.failed")] == [code]


async def test_running_time_adds_up_over_several_effects() -> None:
    """The result that comes in last is kept; the step behind it is not entered."""
    gates: list[asyncio.Event] = []

    async def run(context: Any) -> str:
        gates.append(asyncio.Event())
        await gates[-1].wait()
        return "ok"

    async with Talk(SLOW.replace("EFFECT", "read"), actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.say("yes")
        await talk.rest()
        await talk.wait(20_000)
        gates[0].set()
        await talk.rest()
        talk.clock.advance(10_000)
        gates[1].set()
        await talk.rest()
        assert (await talk.record()).status == "expired"
        assert [e.step_id for e in await talk.events("step.completed")] == ["ask", "one", "two"]
        assert "Done." not in await talk.texts()


async def test_a_timeout_is_found_by_whoever_sweeps_while_the_owner_renews() -> None:
    async def run(context: Any) -> None:
        await asyncio.Event().wait()

    async with Talk(SLOW.replace("EFFECT", "read"), actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.say("yes")
        for _ in range(6):
            await talk.wait(5_000)
        assert (await talk.record()).status == "expired"

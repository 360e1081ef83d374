"""What the engine does with each command in each status, seen through its public surface."""

import asyncio
from typing import Any

import pytest

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.actions import ActionContext, ActionFailed
from server.engine.types import Command
from storage.models import INBOX_MAX_ENTRIES
from tests.support.talk import USER, Talk, replies
from tests.support.world import VirtualClock

FORM = """
flow: order
slots:
  what: {type: choice, options: [milk, bread], aliases: {bread: [loaf]}}
  count: {type: integer, validate: [{if: "value > 10", say: "At most ten."}]}
  note: {type: text}
steps:
  - id: ask
    collect: [what, count, note]
    ask: {what: "What?", count: "How many?", note: "Anything else?"}
    max_attempts: 2
    on_exhausted: give_up
  - {id: thanks, say: "${slots.count} ${slots.what}: ${slots.note}."}
  - {id: done, end: completed, output: {ordered: "${slots.what}"}}
  - {id: give_up, say: "Never mind."}
"""

ACT = """
flow: act
slots: {x: {type: integer}}
steps:
  - {id: before, say: "One moment."}
  - id: call
    action: lab.run
    effect: EFFECT
    with: {x: 1}
    timeout: 5s
    EXTRA
    save: variables.result
  - {id: after, say: "Got ${variables.result.n}."}
  - {id: done, end: completed}
  - {id: sorry, say: "Sorry."}
"""


def act(effect: str = "read", extra: str = "on_error: sorry") -> str:
    return ACT.replace("EFFECT", effect).replace("EXTRA", extra)


async def test_a_form_asks_reads_and_answers() -> None:
    """A turn without effects is one commit; several slots come out of one message."""
    async with Talk(FORM) as talk:
        first = await talk.say("hello")
        assert (first.status, first.duplicate) == ("completed", False)
        assert replies(first) == ["What?"]
        assert replies(await talk.say("bread")) == ["How many?"]
        assert replies(await talk.say("3")) == ["Anything else?"]
        last = await talk.say("no thanks")
        assert replies(last) == ["3 bread: no thanks."]
        record = await talk.record()
        assert record.status == "completed"
        assert record.execution is not None
        assert record.execution.output == {"ordered": "bread"}
        assert record.revision == 4


async def test_the_starting_message_fills_slots_but_not_text_ones() -> None:
    async with Talk(FORM) as talk:
        assert replies(await talk.say("some milk please")) == ["How many?"]
        assert (await talk.record()).slots == {"what": "milk"}


async def test_an_invalid_value_is_asked_again_and_exhausts() -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        assert replies(await talk.say("99")) == ["At most ten. How many?"]
        assert replies(await talk.say("98"))[-1] == "Never mind."
        assert (await talk.record()).status == "completed"


async def test_offsets_are_contiguous_and_events_carry_the_command() -> None:
    async with Talk(FORM) as talk:
        one = await talk.say("milk", key="first-key")
        events = await talk.events()
        assert [event.offset for event in events] == list(range(1, one.offset + 1))
        assert {event.command_id for event in events} == {"first-key"}
        assert [event.type for event in events][:3] == [
            "conversation.created", "message.received", "execution.started",
        ]  # fmt: skip
        assert events[-1].type == "turn.completed"


async def test_a_repeated_key_returns_the_first_outcome() -> None:
    async with Talk(FORM) as talk:
        first = await talk.say("milk", key="same-key-1")
        again = await talk.say("milk", key="same-key-1")
        assert again.duplicate
        assert again.result == first.result
        assert again.offset == first.offset
        with pytest.raises(Refused) as refused:
            await talk.say("bread", key="same-key-1")
        assert refused.value.code is ErrorCode.IDEMPOTENCY_CONFLICT


async def test_a_key_that_the_ring_has_dropped_is_found_in_the_log() -> None:
    async with Talk(FORM, ring_size=2) as talk:
        first = await talk.say("milk", key="same-key-1")
        for _ in range(4):
            await talk.send("reset", {"reason": "r"})
        again = await talk.say("milk", key="same-key-1")
        assert again.duplicate
        assert again.result == first.result
        assert len((await talk.record()).recent) == 2
        with pytest.raises(Refused, match="idempotency_conflict"):
            await talk.say("bread", key="same-key-1")


async def test_a_dropped_key_wins_over_a_refusal() -> None:
    """The first outcome is told, even where the same command would now be refused."""
    async with Talk(FORM, ring_size=2) as talk:
        await talk.say("milk")
        cancelled = await talk.send("cancel", {}, key="cancel-key")
        for _ in range(4):
            await talk.send("reset", {"reason": "r"})
        again = await talk.send("cancel", {}, key="cancel-key")
        assert again.duplicate
        assert again.result == cancelled.result


async def test_another_owner_and_another_tenant_find_nothing() -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        with pytest.raises(Refused) as foreign:
            await talk.say("bread", who=Principal("u2", "t"))
        assert foreign.value.code is ErrorCode.CONVERSATION_NOT_FOUND
        created = await talk.say("bread", who=Principal("u1", "t2"))
        assert created.offset > 0
        assert (await talk.record()).slots == {"what": "milk"}


async def test_an_agent_speaks_without_moving_the_flow() -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        agent = Principal("agent", "t", scopes=frozenset({"conversations:write"}))
        said = await talk.say("I am here to help", who=agent)
        assert replies(said) == []
        last = (await talk.events("message.received"))[-1]
        assert (last.data["role"], last.data["user_id"]) == ("agent", "agent")
        assert (await talk.record()).status == "waiting_input"


async def test_restart_begins_anew() -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        assert replies(await talk.say("/restart")) == ["What?"]
        assert (await talk.record()).slots == {}


async def test_reset_clears_and_is_an_ordinary_event() -> None:
    async with Talk(FORM) as talk:
        before = await talk.say("milk")
        done = await talk.send("reset", {"reason": "over"})
        assert done.status == "completed"
        record = await talk.record()
        assert (record.slots, record.variables, record.execution, record.status) == ({}, {}, None, "idle")
        assert record.epoch == before.epoch
        reset = (await talk.events("conversation.reset"))[0]
        assert reset.data == {"reason": "over"}
        assert record.reset_offset == reset.offset
        assert replies(await talk.say("hi")) == ["What?"]


@pytest.mark.parametrize("kind", ["reset", "cancel", "acceptance", "clarification"])
async def test_commands_to_a_missing_conversation_are_refused(kind: str) -> None:
    async with Talk(FORM) as talk:
        with pytest.raises(Refused) as refused:
            await talk.send(kind, {"pending_id": "p", "accepted": True, "answers": {}, "reason": "r"})
        assert refused.value.code is ErrorCode.CONVERSATION_NOT_FOUND


async def test_cancel_ends_what_waits_and_refuses_what_has_ended() -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        with pytest.raises(Refused) as other:
            await talk.send("cancel", {"execution_id": "another"})
        assert other.value.code is ErrorCode.EXECUTION_NOT_FOUND
        done = await talk.send("cancel", {})
        assert done.status == "completed"
        assert (await talk.record()).status == "cancelled"
        with pytest.raises(Refused) as refused:
            await talk.send("cancel", {})
        assert refused.value.code is ErrorCode.WRONG_STATE


@pytest.mark.parametrize("kind", ["acceptance", "clarification"])
@pytest.mark.parametrize("status", ["waiting_input", "ended"])
async def test_decisions_go_by_their_pending_id(kind: str, status: str) -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        if status == "ended":
            await talk.send("cancel", {})
        with pytest.raises(Refused) as refused:
            await talk.send(kind, {"pending_id": "unknown", "accepted": True, "answers": {}})
        assert refused.value.code is ErrorCode.PENDING_NOT_FOUND


async def test_an_unknown_flow_is_refused_and_creates_nothing() -> None:
    async with Talk(FORM) as talk:
        with pytest.raises(Refused) as refused:
            await talk.say("hi", flow_id="nope")
        assert refused.value.code is ErrorCode.FLOW_NOT_FOUND
        assert await talk.store.load("t", "c1") is None


async def test_flow_id_counts_only_when_a_flow_starts() -> None:
    async with Talk(FORM) as talk:
        await talk.say("hi")
        assert replies(await talk.say("milk", flow_id="nope")) == ["How many?"]


class StoppedClock(VirtualClock):
    """The clock of an instance that is stalled: time goes on for the others, its own sleeps never end."""

    def __init__(self) -> None:
        super().__init__()
        self.others = VirtualClock()

    def now(self) -> int:
        return self.others.now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.get_running_loop().create_future()


class Lab:
    """An action that the test lets go when it likes."""

    def __init__(self) -> None:
        self.calls: list[ActionContext] = []
        self.go = asyncio.Event()
        self.outcomes: list[Any] = []

    async def run(self, context: ActionContext, **arguments: Any) -> Any:
        self.calls.append(context)
        if self.outcomes:
            outcome = self.outcomes.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome
        await self.go.wait()
        return {"n": len(self.calls)}


async def test_an_effect_has_an_intent_before_and_a_result_after() -> None:
    lab = Lab()
    async with Talk(act(), actions={"lab.run": lab.run}) as talk:
        first = await talk.say("go", key="turn-key-1")
        assert first.status == "running"
        record = await talk.record()
        assert record.lease is not None
        assert record.execution is not None
        assert [a.number for a in record.execution.attempts] == [1]
        await talk.rest()
        assert lab.calls[0].key == f"{record.execution.execution_id}:0:call:1"
        lab.go.set()
        await talk.rest()
        record = await talk.record()
        assert (record.status, record.lease) == ("completed", None)
        assert await talk.texts() == ["One moment.", "Got 1."]
        again = await talk.say("go", key="turn-key-1")
        assert (again.duplicate, again.status) == (True, "completed")
        assert replies(again) == ["One moment.", "Got 1."]


async def test_commands_wait_in_line_while_an_effect_runs() -> None:
    lab = Lab()
    async with Talk(act(), actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        queued = await talk.say("again", key="queued-key")
        assert (queued.status, queued.execution_id) == ("queued", None)
        assert (await talk.say("again", key="queued-key")).duplicate
        lab.go.set()
        await talk.rest()
        ends = await talk.events("turn.completed")
        assert [event.command_id for event in ends] == ["key-00001", "queued-key"]
        assert (await talk.record()).inbox == ()


async def test_the_inbox_is_bounded() -> None:
    lab = Lab()
    async with Talk(act(), actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        for _ in range(INBOX_MAX_ENTRIES):
            await talk.say("more")
        with pytest.raises(Refused) as refused:
            await talk.say("too much")
        assert refused.value.code is ErrorCode.INBOX_FULL


async def test_on_busy_reject_refuses() -> None:
    lab = Lab()
    async with Talk(act(), actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        with pytest.raises(Refused) as refused:
            await talk.say("again", on_busy="reject")
        assert refused.value.code is ErrorCode.CONVERSATION_BUSY
        assert refused.value.temporary


async def test_a_key_that_the_ring_has_dropped_does_not_wait_in_line_again() -> None:
    """Enqueueing writes no key, so the log is asked before."""
    lab = Lab()
    async with Talk(act(), FORM, actions={"lab.run": lab.run}, ring_size=2) as talk:
        first = await talk.say("hello", key="first-key", flow_id="order")
        for _ in range(3):
            await talk.send("reset", {"reason": "r"})
        await talk.say("go", flow_id="act")
        again = await talk.say("hello", key="first-key", flow_id="order")
        assert again.duplicate
        assert again.result == first.result
        assert (await talk.record()).inbox == ()


async def test_interrupt_stops_a_read_at_once() -> None:
    lab = Lab()
    async with Talk(act(), actions={"lab.run": lab.run}) as talk:
        await talk.say("go", key="first-turn")
        await talk.rest()
        lab.outcomes = [{"n": 7}]
        await talk.say("instead", on_busy="interrupt", key="second-turn")
        await talk.rest()
        failed = (await talk.events("turn.failed"))[0]
        assert (failed.command_id, failed.data["error"]["code"]) == ("first-turn", "cancelled")
        assert (await talk.texts())[-1] == "Got 7."


async def test_interrupt_lets_a_write_end_first() -> None:
    lab = Lab()
    async with Talk(act("write"), actions={"lab.run": lab.run}) as talk:
        await talk.say("go", key="first-turn")
        await talk.say("instead", on_busy="interrupt", key="second-turn")
        await talk.rest()
        assert await talk.events("turn.failed") == []
        lab.go.set()
        await talk.rest()
        assert (await talk.events("turn.failed"))[0].command_id == "first-turn"
        assert (await talk.events("action.performed"))[0].data["success"]


@pytest.mark.parametrize("kind", ["reset", "cancel"])
async def test_a_preempting_command_ends_the_running_turn(kind: str) -> None:
    lab = Lab()
    async with Talk(act("write"), actions={"lab.run": lab.run}) as talk:
        await talk.say("go", key="first-turn")
        await talk.say("queued", key="queued-key")
        before = (await talk.record()).fence
        done = await talk.send(kind, {"reason": "r"}, key="preempting")
        assert done.status == "completed"
        assert (await talk.record()).fence > before
        await talk.rest()
        failed = {event.command_id: event.data["error"]["code"] for event in await talk.events("turn.failed")}
        assert failed["first-turn"] == "cancelled"
        assert (failed.get("queued-key") == "cancelled") is (kind == "reset")
        unknown = [e for e in await talk.events("step.failed") if e.data["error"]["code"] == "unknown"]
        assert len(unknown) == 1
        lab.go.set()
        await talk.rest()
        assert (await talk.events("action.performed") == []) or kind == "cancel"


async def test_retries_back_off_in_virtual_time() -> None:
    lab = Lab()
    lab.outcomes = [ConnectionError(), ConnectionError(), {"n": 3}]
    retry = "retry: {max: 3, delay: 500ms, factor: 2}"
    async with Talk(act(extra=retry), actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        await talk.rest()
        assert len(lab.calls) == 1
        await talk.wait(499, sweep=False)
        assert len(lab.calls) == 1
        await talk.wait(2)
        assert len(lab.calls) == 2
        await talk.wait(1001)
        assert (await talk.texts())[-1] == "Got 3."
        assert [call.attempt for call in lab.calls] == [1, 2, 3]
        assert len({call.key for call in lab.calls}) == 1
        assert len(await talk.events("step.retrying")) == 2


async def test_a_failure_goes_to_on_error_or_fails_the_turn() -> None:
    lab = Lab()
    lab.outcomes = [ActionFailed("The shop is closed."), ActionFailed("The shop is closed.")]
    async with Talk(act(), actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        await talk.rest()
        assert (await talk.texts())[-1] == "Sorry."
    lab.outcomes = [ActionFailed("The shop is closed.")]
    async with Talk(act(extra="retry: {max: 1}"), actions={"lab.run": lab.run}) as talk:
        await talk.say("go", key="first-turn")
        await talk.rest()
        error = (await talk.events("turn.failed"))[0].data["error"]
        assert (error["code"], error["message"]) == ("step_failed", "The shop is closed.")
        assert (await talk.say("go", key="first-turn")).status == "failed"


async def test_an_exception_never_shows_its_text() -> None:
    lab = Lab()
    lab.outcomes = [RuntimeError("secret 42")]
    async with Talk(act(extra="retry: {max: 1}"), actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        await talk.rest()
        assert "secret" not in repr(await talk.events())


async def test_a_timeout_of_a_write_is_unknown_and_asks_on_unknown() -> None:
    lab = Lab()
    looked: list[str] = []

    async def lookup(context: ActionContext, **_: Any) -> Any:
        looked.append(context.key)
        return {"n": 9}

    extra = "on_unknown: {reconcile: lab.lookup, found: after, missing: retry}"
    async with Talk(act("write", extra), actions={"lab.run": lab.run, "lab.lookup": lookup}) as talk:
        await talk.say("go")
        await talk.rest()
        await talk.wait(5_001, sweep=False)
        assert (await talk.texts())[-1] == "Got 9."
        assert looked == [lab.calls[0].key]


async def test_a_reconciliation_that_finds_nothing_runs_the_write_again() -> None:
    lab = Lab()

    async def lookup(context: ActionContext, **_: Any) -> Any:
        lab.outcomes = [{"n": 5}]
        return None

    extra = "on_unknown: {reconcile: lab.lookup, missing: retry}"
    async with Talk(act("write", extra), actions={"lab.run": lab.run, "lab.lookup": lookup}) as talk:
        await talk.say("go")
        await talk.rest()
        await talk.wait(5_001, sweep=False)
        assert (await talk.texts())[-1] == "Got 5."
        assert len({call.key for call in lab.calls}) == 1


@pytest.mark.parametrize(
    ("effect", "extra", "calls", "said"),
    [
        ("read", "on_error: sorry", 2, "Got 2."),
        ("idempotent", "on_error: sorry", 2, "Got 2."),
        ("write", "on_error: sorry", 1, "Sorry."),
        ("write", "on_unknown: retry", 2, "Got 2."),
    ],
)
async def test_another_instance_recovers_what_a_dead_one_left(
    effect: str, extra: str, calls: int, said: str
) -> None:
    """read and idempotent effects are run again; a write follows its on_unknown."""
    lab = Lab()
    clock = StoppedClock()
    dead = Talk(
        act(effect, extra), actions={"lab.run": lab.run}, clock=clock, instance_id="dead", sole_writer=False
    )
    await dead.store.open()
    await dead.say("go", key="first-turn")
    await dead.rest()
    lab.outcomes = [{"n": 2}]
    async with Talk(
        act(effect, extra),
        actions={"lab.run": lab.run},
        store=dead.store,
        clock=clock.others,
        sole_writer=False,
    ) as talk:
        await talk.wait(14_000)
        assert len(lab.calls) == 1
        await talk.wait(2_000)
        assert len(lab.calls) == calls
        assert (await talk.texts())[-1] == said
        end = (await talk.events("turn.completed"))[0]
        assert (end.command_id, end.cause) == ("first-turn", "recovery")
        lab.go.set()
        await dead.rest()
        assert (await talk.texts())[-1] == said
        await dead.engine.stop(0)


async def test_progress_is_told_while_an_effect_runs() -> None:
    async def run(context: ActionContext, **_: Any) -> Any:
        await context.progress("half")
        return {"n": 1}

    async with Talk(act(), actions={"lab.run": run}) as talk:
        await talk.say("go")
        await talk.rest()
        custom = (await talk.events("flow.custom"))[0]
        assert custom.data["payload"]["text"] == "half"
        assert (await talk.texts())[-1] == "Got 1."


async def test_a_loop_fails_the_execution_and_shows_itself() -> None:
    loop = "flow: loop\nsteps:\n  - {id: a, set: {variables.x: 1}}\n  - {id: b, say: x, goto: a}\n"
    async with Talk(loop) as talk:
        await talk.say("go")
        await talk.rest()
        error = (await talk.events("turn.failed"))[0].data["error"]
        assert error["code"] == "loop_detected"
        assert "a -> b" in error["message"] or "b -> a" in error["message"]
        assert (await talk.record()).status == "failed"


async def test_a_turn_that_outgrows_a_commit_is_split_at_a_step() -> None:
    steps = "".join(f"  - {{id: s{i}, say: '{'x' * 20_000}'}}\n" for i in range(12))
    async with Talk(f"flow: long\nsteps:\n{steps}") as talk:
        first = await talk.say("go", key="first-turn")
        assert first.status == "running"
        await talk.rest(200)
        record = await talk.record()
        assert (record.status, record.lease) == ("completed", None)
        assert len(await talk.texts()) == 12
        assert (await talk.say("go", key="first-turn")).status == "completed"
        batches = await talk.store.events("t", "c1", record.epoch, 0, limit=10_000, max_bytes=1 << 30)
        assert len(batches) >= 3


async def test_a_value_that_is_too_large_fails_the_step_only() -> None:
    async def big(context: ActionContext, **_: Any) -> Any:
        return {"n": "x" * 300_000}

    async with Talk(act(), actions={"lab.run": big}) as talk:
        await talk.say("go")
        await talk.rest()
        assert (await talk.texts())[-1] == "Sorry."
        assert (await talk.record()).status == "completed"


async def test_a_large_value_is_kept_and_named_in_its_event() -> None:
    async def big(context: ActionContext, **_: Any) -> Any:
        return {"n": "x" * 100_000}

    async with Talk(act().replace("Got ${variables.result.n}.", "Got it."), actions={"lab.run": big}) as talk:
        await talk.say("go")
        await talk.rest()
        assert len((await talk.record()).variables["result"]["n"]) == 100_000
        assert (await talk.events("variables.updated"))[-1].data == {"variables": {}, "omitted": ["result"]}


async def test_a_digression_returns_to_the_open_question() -> None:
    faq = (
        "flow: faq\ntriggers: {intents: [{name: hours, keywords: [open]}]}\n"
        "steps:\n  - {id: a, say: 'Nine to five.'}\n"
    )
    async with Talk(
        FORM.replace("flow: order", "flow: order\ndefault: true\ninterruptible_by: [faq]"), faq
    ) as talk:
        await talk.say("hello")
        said = await talk.say("when are you open?")
        assert replies(said) == ["Nine to five.", "What?"]
        assert (await talk.record()).status == "waiting_input"
        assert replies(await talk.say("milk")) == ["How many?"]


async def test_deletion_leaves_a_tombstone_and_nothing_else() -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        epoch = (await talk.record()).epoch
        with pytest.raises(Refused):
            await talk.engine.delete("t", "c1", Principal("u2", "t"))
        assert await talk.engine.delete("t", "c1", Principal("u1", "t"))
        record = await talk.record()
        assert record.deleted_at is not None
        assert (record.slots, record.user_id, record.execution) == ({}, None, None)
        assert await talk.store.events("t", "c1", epoch, 0) == []
        with pytest.raises(Refused) as refused:
            await talk.say("hello")
        assert refused.value.code is ErrorCode.CONVERSATION_NOT_FOUND
        assert not await talk.engine.delete("t", "c1", Principal("u1", "t"))
        await talk.wait(61_000)
        assert (await talk.record()).wake_at is None
        await talk.wait(31 * 24 * 3_600_000)
        assert await talk.store.load("t", "c1") is None
        assert (await talk.say("hello")).epoch != epoch


async def test_stopping_gives_a_running_effect_its_time() -> None:
    lab = Lab()
    talk = Talk(act(), actions={"lab.run": lab.run})
    await talk.store.open()
    await talk.engine.start()
    await talk.say("go")
    await talk.rest()
    stopping = asyncio.ensure_future(talk.engine.stop(5))
    await talk.rest()
    with pytest.raises(Refused) as refused:
        await talk.say("more")
    assert refused.value.code is ErrorCode.OVERLOADED
    lab.go.set()
    await stopping
    assert (await talk.texts())[-1] == "Got 1."


async def test_what_is_left_at_the_end_of_a_drain_is_handed_over() -> None:
    lab = Lab()
    talk = Talk(act(), actions={"lab.run": lab.run})
    await talk.store.open()
    await talk.engine.start()
    await talk.say("go")
    await talk.rest()
    await talk.engine.stop(0)
    record = await talk.record()
    assert record.wake_at is not None
    assert record.wake_at <= talk.clock.now()
    lab.outcomes = [{"n": 2}]
    async with Talk(act(), actions={"lab.run": lab.run}, store=talk.store, clock=talk.clock) as other:
        await other.wait(1)
        assert (await other.texts())[-1] == "Got 2."


async def test_a_skipped_step_takes_its_goto_with_it() -> None:
    """``{if, goto}`` is a jump that is taken only where the condition holds."""
    flow = (
        "flow: jump\nvariables: {far: FAR}\nsteps:\n"
        "  - {id: a, if: variables.far, say: Far., goto: c}\n  - {id: b, say: Near.}\n"
        "  - {id: c, say: End.}\n"
    )
    async with Talk(flow.replace("FAR", "false")) as talk:
        assert replies(await talk.say("go")) == ["Near.", "End."]
        assert [event.step_id for event in await talk.events("step.skipped")] == ["a"]
        assert [event.step_id for event in await talk.events("step.completed")] == ["b", "c"]
    async with Talk(flow.replace("FAR", "true")) as talk:
        assert replies(await talk.say("go")) == ["Far.", "End."]


async def test_a_command_that_waited_keeps_the_ids_of_its_request() -> None:
    """What it starts is found under the correlation id that its request came with."""
    gate = asyncio.Event()

    async def slow(context: ActionContext) -> None:
        await gate.wait()

    flow = "flow: f\ndefault: true\nsteps: [{id: a, action: m.slow, effect: read}, {id: b, end: completed}]"
    async with Talk(flow, actions={"m.slow": slow}) as talk:
        await talk.say("one")
        body = {"content": {"type": "text", "text": "two", "payload": None, "metadata": {}}, "user_id": "u1"}
        command = Command("process", "c1", "key-second", "h", body, correlation_id="corr", request_id="req")
        assert (await talk.engine.submit(command, USER)).status == "queued"
        gate.set()
        await talk.rest()
        execution = (await talk.record()).execution
        assert execution is not None
        assert (execution.correlation_id, execution.request_id) == ("corr", "req")

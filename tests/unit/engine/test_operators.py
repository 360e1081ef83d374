"""What operators do to executions: take over, pause, resume, try again, start, cancel."""

import asyncio
from typing import Any

import pytest

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.actions import ActionFailed
from server.engine.views import open_pending
from tests.support.talk import TENANT, USER, Talk, replies

OPERATOR = Principal("op", TENANT, scopes=frozenset({"conversations:write"}))
MINUTE_MS = 60_000

HANDOFF = """
flow: help
steps:
  - {id: human, handoff: {to: support, deadline: 1h, on_timeout: nobody}}
  - {id: bye, say: "I hope that helped.", goto: over}
  - {id: nobody, say: "Nobody is here."}
  - {id: over, end: completed}
"""
FORM = """
flow: order
slots: {what: {type: choice, options: [milk, bread]}, count: {type: integer}}
steps:
  - {id: ask, collect: [what, count], ask: {what: "What?", count: "How many?"}}
  - {id: thanks, say: "${slots.count} ${slots.what}."}
"""
ACT = """
flow: act
steps:
  - {id: call, action: lab.run, effect: EFFECT, save: variables.result EXTRA}
  - {id: tell, say: "Got ${variables.result}."}
"""


def act(effect: str = "read", extra: str = "") -> str:
    return ACT.replace("EFFECT", effect).replace(" EXTRA", extra)


class Lab:
    """An action that waits for its gate, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.gate = asyncio.Event()
        self.failures = failures
        self.keys: list[str] = []

    async def run(self, context: Any) -> int:
        self.keys.append(context.key)
        await self.gate.wait()
        if len(self.keys) <= self.failures:
            raise ActionFailed("The lab is closed.", kind="unavailable")
        return len(self.keys)


# --- handoff --------------------------------------------------------------------------------------


async def test_a_handoff_pauses_until_it_is_resumed() -> None:
    """Meanwhile people speak, each in their role, and the flow does not move."""
    async with Talk(HANDOFF) as talk:
        first = await talk.say("help")
        assert first.result is not None
        assert first.result["current_state"] == "human"
        assert (await talk.events("handoff.requested"))[0].data == {"to": "support"}
        assert [e.type for e in await talk.events("execution.paused", "execution.waiting")] == [
            "execution.paused"
        ]
        assert replies(await talk.say("anybody?")) == []
        assert replies(await talk.say("I am here.", who=OPERATOR)) == []
        said = await talk.events("message.received")
        assert [(m.data["role"], m.data["user_id"]) for m in said][1:] == [("user", "u1"), ("agent", "op")]
        assert (await talk.record()).status == "paused"
        assert replies(await talk.send("resume", {"comment": "done"}, who=OPERATOR)) == [
            "I hope that helped."
        ]
        record = await talk.record()
        assert (record.status, record.wake_at) == ("completed", None)


async def test_a_handoff_that_nobody_takes_goes_on_at_its_deadline() -> None:
    async with Talk(HANDOFF) as talk:
        await talk.say("help")
        await talk.wait(60 * MINUTE_MS)
        assert (await talk.texts())[-1] == "Nobody is here."
        assert (await talk.events("execution.resumed"))[0].cause == "deadline"


# --- pause and resume -----------------------------------------------------------------------------


async def test_a_paused_question_is_asked_again_when_it_is_resumed() -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        paused = await talk.send("pause", {"reason": "a look"}, who=OPERATOR)
        assert paused.status == "completed"
        assert replies(await talk.say("3")) == []
        record = await talk.record()
        assert (record.status, record.slots) == ("paused", {"what": "milk"})
        assert open_pending(record.execution) == ()  # what is said now is no answer to it
        assert replies(await talk.send("resume", {}, who=OPERATOR)) == ["How many?"]
        assert replies(await talk.say("3")) == ["3 milk."]


async def test_a_pause_ends_at_its_deadline() -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        await talk.send("pause", {"deadline_ms": MINUTE_MS}, who=OPERATOR)
        await talk.wait(MINUTE_MS)
        assert (await talk.record()).status == "waiting_input"
        assert await talk.texts() == ["How many?", "How many?"]


async def test_a_timer_that_falls_due_in_a_pause_is_followed_after_it() -> None:
    source = "flow: w\nsteps:\n  - {id: w, wait: {for: 5m}}\n  - {id: t, say: There.}\n"
    async with Talk(source) as talk:
        await talk.say("go")
        await talk.send("pause", {}, who=OPERATOR)
        await talk.wait(6 * MINUTE_MS)
        record = await talk.record()
        assert (record.status, record.wake_at) == ("paused", None)
        assert replies(await talk.send("resume", {}, who=OPERATOR)) == ["There."]


async def test_a_pause_while_an_effect_runs_waits_for_it_and_stops_before_the_next_step() -> None:
    lab = Lab()
    async with Talk(act(), actions={"lab.run": lab.run}) as talk:
        turn = await talk.say("go")
        await talk.rest()
        paused = await talk.send("pause", {"reason": "stop"}, who=OPERATOR)
        assert paused.status == "completed"
        with pytest.raises(Refused, match="wrong_state"):
            await talk.send("pause", {"reason": "again"}, who=OPERATOR)
        assert (await talk.record()).status == "running"
        lab.gate.set()
        await talk.rest()
        record = await talk.record()
        assert (record.status, record.variables) == ("paused", {"result": 1})
        ends = await talk.events("turn.completed", "turn.failed")
        assert [(e.type, e.command_id) for e in ends] == [
            ("turn.completed", paused.command_id),
            ("turn.completed", turn.command_id),
        ]
        assert replies(await talk.send("resume", {}, who=OPERATOR)) == ["Got 1."]
        assert len(lab.keys) == 1


async def test_a_pause_in_a_back_off_holds_the_retry_until_it_is_resumed() -> None:
    lab = Lab(failures=1)
    lab.gate.set()
    source = act(extra=", retry: {max: 3, delay: 1s}")
    async with Talk(source, actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        await talk.rest()
        await talk.send("pause", {}, who=OPERATOR)
        assert (await talk.record()).status == "paused"
        await talk.wait(MINUTE_MS)
        assert len(lab.keys) == 1
        await talk.send("resume", {}, who=OPERATOR)
        await talk.rest()
        assert (await talk.texts())[-1] == "Got 2."
        assert len(set(lab.keys)) == 1


async def test_a_pause_before_a_back_off_stops_there() -> None:
    lab = Lab(failures=1)
    source = act(extra=", retry: {max: 3, delay: 1s}")
    async with Talk(source, actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        await talk.rest()
        await talk.send("pause", {}, who=OPERATOR)
        lab.gate.set()
        await talk.rest()
        assert (await talk.record()).status == "paused"
        await talk.send("resume", {}, who=OPERATOR)
        await talk.rest()
        assert (await talk.texts())[-1] == "Got 2."


async def test_an_effect_that_ends_the_flow_leaves_no_pause() -> None:
    lab = Lab()
    source = "flow: act\nsteps:\n  - {id: call, action: lab.run, effect: write}\n"
    async with Talk(source, actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        await talk.rest()
        await talk.send("pause", {}, who=OPERATOR)
        lab.gate.set()
        await talk.rest()
        record = await talk.record()
        assert record.execution is not None
        assert (record.status, record.execution.pause) == ("completed", None)


@pytest.mark.parametrize("kind", ["pause", "resume"])
async def test_the_owner_neither_pauses_nor_resumes(kind: str) -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        with pytest.raises(Refused, match="permission_denied"):
            await talk.send(kind, {}, who=USER)


@pytest.mark.parametrize("kind", ["pause", "resume", "retry", "cancel", "signal"])
async def test_a_command_for_another_execution_is_refused(kind: str) -> None:
    async with Talk(FORM) as talk:
        await talk.say("milk")
        with pytest.raises(Refused, match="execution_not_found"):
            await talk.send(kind, {"execution_id": "another", "name": "x"}, who=OPERATOR)


async def test_a_pause_wished_in_a_called_flow_holds_at_the_caller() -> None:
    """The effect that runs is the called flow's last step: what follows is the caller's, and is not begun."""
    lab = Lab()
    outer = "flow: outer\nsteps:\n  - {id: sub, call: inner}\n  - {id: two, action: lab.run, effect: write}\n"
    inner = "flow: inner\nsteps: [{id: one, action: lab.run, effect: write}]\n"
    async with Talk(outer, inner, actions={"lab.run": lab.run}) as talk:
        await talk.say("go", flow_id="outer")
        await talk.rest()
        await talk.send("pause", {}, who=OPERATOR)
        lab.gate.set()
        await talk.rest()
        record = await talk.record()
        assert record.execution is not None
        assert (record.status, record.execution.current_step_id, len(lab.keys)) == ("paused", "two", 1)
        await talk.send("resume", {}, who=OPERATOR)
        await talk.rest()
        assert ((await talk.record()).status, len(lab.keys)) == ("completed", 2)


async def test_a_pause_wished_in_a_digression_holds_at_the_open_question() -> None:
    lab = Lab()
    aside = "flow: aside\ntriggers: {intents: [{name: aside, keywords: [aside]}]}\n"
    aside += "steps: [{id: look, action: lab.run, effect: read}]\n"
    form = FORM.replace("flow: order\n", "flow: order\ndefault: true\ninterruptible_by: [aside]\n")
    async with Talk(form, aside, actions={"lab.run": lab.run}) as talk:
        await talk.say("hello")
        await talk.say("aside")
        await talk.rest()
        await talk.send("pause", {}, who=OPERATOR)
        lab.gate.set()
        await talk.rest()
        assert (await talk.record()).status == "paused"
        await talk.send("resume", {}, who=OPERATOR)
        record = await talk.record()
        assert record.execution is not None
        assert (record.status, record.execution.pause) == ("waiting_input", None)


# --- retry ----------------------------------------------------------------------------------------


async def test_a_retry_runs_the_failed_step_again_under_the_same_key() -> None:
    lab = Lab(failures=1)
    lab.gate.set()
    async with Talk(act("write"), actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        await talk.rest()
        assert (await talk.record()).status == "failed"
        again = await talk.send("retry", {})
        await talk.rest()
        record = await talk.record()
        assert record.execution is not None
        assert (record.status, record.execution.error) == ("completed", None)
        assert len(lab.keys) == 2
        assert len(set(lab.keys)) == 1
        assert (await talk.events("turn.completed"))[-1].command_id == again.command_id


async def test_a_retry_goes_on_inside_the_flow_that_was_called() -> None:
    """What that flow has done before is not done again."""
    lab = Lab(failures=2)
    lab.gate.set()
    outer = "flow: outer\nvariables: {x: 0}\nsteps:\n  - {id: sub, call: inner, save: variables.x}\n"
    outer += '  - {id: tell, say: "${variables.x}"}\n'
    inner = "flow: inner\nsteps:\n  - {id: one, say: First.}\n"
    inner += "  - {id: two, action: lab.run, effect: write}\n  - {id: out, end: completed, output: 5}\n"
    async with Talk(outer, inner, actions={"lab.run": lab.run}) as talk:
        await talk.say("go", flow_id="outer")
        await talk.rest()
        for _ in range(2):
            assert (await talk.record()).status == "failed"
            await talk.send("retry", {}, who=OPERATOR)
            await talk.rest()
        assert await talk.texts() == ["First.", "5"]
        assert len(set(lab.keys)) == 1


async def test_what_may_have_been_done_is_tried_again_by_an_operator_alone() -> None:
    """Who owns the conversation cannot have looked whether the write happened."""
    lab = Lab()
    async with Talk(act("write", ", timeout: 1s"), actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        await talk.rest()
        await talk.wait(1000)
        execution = (await talk.record()).execution
        assert execution is not None
        assert execution.error is not None
        assert execution.error["details"]["outcome"] == "unknown"
        with pytest.raises(Refused) as refused:
            await talk.send("retry", {})
        assert refused.value.code is ErrorCode.PERMISSION_DENIED
        lab.gate.set()
        await talk.send("retry", {}, who=OPERATOR)
        await talk.rest()
        assert (await talk.record()).status == "completed"
        assert len(set(lab.keys)) == 1


async def test_what_ended_as_its_flow_says_is_not_tried_again() -> None:
    async with Talk("flow: f\nsteps:\n  - {id: no, end: failed}\n") as talk:
        await talk.say("go")
        assert (await talk.record()).status == "failed"
        with pytest.raises(Refused, match="wrong_state"):
            await talk.send("retry", {})


# --- start ----------------------------------------------------------------------------------------

WORKFLOW = """
flow: approve
slots:
  amount: {type: integer, validate: [{if: "value > 100", say: "Too much."}]}
  comment: {type: text}
variables: {order: null}
steps:
  - {id: tell, say: "${slots.amount} for ${variables.order.ref}, ${input.source}."}
  - {id: more, wait: {event: paid}}
"""


async def start(talk: Talk, context: dict[str, Any] | None = None, **body: Any) -> Any:
    who = body.pop("who", OPERATOR)
    to, key = body.pop("to", "c1"), body.pop("key", None)
    whole = {"flow_id": "approve", "version": None, "initial_context": context or {}, **body}
    return await talk.send("start", whole, who=who, to=to, key=key)


async def test_a_workflow_is_started_with_values_and_without_a_user() -> None:
    async with Talk(WORKFLOW) as talk:
        context = {"amount": 12, "order": {"ref": "A1"}, "input": {"source": "shop"}}
        started = await start(talk, context, user_id=None, channel="api", project_id="p7")
        assert replies(started) == ["12 for A1, shop."]
        record = await talk.record()
        assert (record.user_id, record.channel, record.slots) == (None, "api", {"amount": 12})
        assert record.execution is not None
        assert (record.execution.project_id, record.execution.input) == ("p7", {"source": "shop"})
        assert [e.type for e in await talk.events()][:2] == ["conversation.created", "execution.started"]
        with pytest.raises(Refused, match="conversation_not_found"):
            await talk.say("mine?", who=USER)
        again = await start(talk, context, user_id=None, channel="api", project_id="p7", key="key-00001")
        assert again.duplicate


@pytest.mark.parametrize(
    ("context", "field"),
    [({"amount": "lots"}, "amount"), ({"amount": 101}, "amount"), ({"amuont": 1}, "amuont")],
)
async def test_values_that_fit_nothing_are_refused_and_create_nothing(
    context: dict[str, Any], field: str
) -> None:
    async with Talk(WORKFLOW) as talk:
        with pytest.raises(Refused) as refused:
            await start(talk, {"order": {"ref": "A"}, **context})
        assert (refused.value.code, refused.value.field) == (
            ErrorCode.BAD_REQUEST, f"initial_context.{field}",
        )  # fmt: skip
        assert await talk.store.load(TENANT, "c1") is None


async def test_a_start_of_an_older_version_runs_that() -> None:
    async with Talk("flow: approve\nsteps:\n  - say: One.\n") as talk:
        talk.offer("flow: approve\nsteps:\n  - say: Two.\n", 2)
        assert replies(await start(talk, to="a")) == ["Two."]
        assert replies(await start(talk, to="b", version=1)) == ["One."]
        for missing in ({"version": 3}, {"flow_id": "other"}):
            with pytest.raises(Refused, match="flow_not_found"):
                await start(talk, to="c", **missing)


async def test_a_start_interrupts_where_it_is_told_to() -> None:
    context = {"amount": 1, "order": {"ref": "A"}, "input": {"source": "x"}}
    async with Talk(WORKFLOW) as talk:
        first = await start(talk, context)
        for on_busy in (None, "reject", "enqueue"):
            with pytest.raises(Refused, match="conversation_busy"):
                await start(talk, context, on_busy=on_busy)
        second = await start(talk, context, on_busy="interrupt")
        assert second.execution_id != first.execution_id
        cancelled = (await talk.events("execution.cancelled"))[0]
        assert (cancelled.execution_id, cancelled.command_id) == (first.execution_id, second.command_id)


async def test_a_start_waits_in_line_where_it_is_told_to() -> None:
    lab = Lab()
    async with Talk(act(), WORKFLOW, actions={"lab.run": lab.run}) as talk:
        await talk.say("go", flow_id="act")
        await talk.rest()
        with pytest.raises(Refused, match="conversation_busy"):
            await start(talk, {"order": {"ref": "A"}, "amount": 1}, input={"source": "x"})
        waits = await start(
            talk, {"order": {"ref": "A"}, "amount": 1}, input={"source": "x"}, on_busy="enqueue"
        )
        assert waits.status == "queued"
        lab.gate.set()
        await talk.rest()
        assert await talk.texts() == ["Got 1.", "1 for A, x."]


async def test_a_signal_that_comes_while_an_effect_runs_waits_for_its_wait() -> None:
    lab = Lab()
    source = (
        act()
        + '  - {id: w, wait: {event: paid}, save: variables.paid}\n  - {id: t, say: "${variables.paid}"}\n'
    )
    async with Talk(source, actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        await talk.rest()
        assert (await talk.send("signal", {"name": "paid", "payload": 9})).status == "queued"
        lab.gate.set()
        await talk.rest()
        assert (await talk.texts())[-1] == "9"


# --- what cannot be worked on ---------------------------------------------------------------------


async def test_a_queued_command_that_cannot_be_worked_on_does_not_block_the_next() -> None:
    lab = Lab()
    async with Talk(act(), actions={"lab.run": lab.run}) as talk:
        await talk.say("go")
        await talk.rest()
        broken = await talk.send("process", {"content": None})
        await talk.say("hello")
        lab.gate.set()
        await talk.rest()
        assert (await talk.record()).inbox == ()
        failed = (await talk.events("turn.failed"))[0]
        assert (failed.command_id, failed.data["error"]["code"]) == (broken.command_id, "step_failed")
        assert len(lab.keys) == 2


async def test_a_reconciliation_that_fails_leaves_the_outcome_unknown() -> None:
    async def run(context: Any) -> None:
        raise ActionFailed("It may have happened.", unknown=True)

    async def lookup(context: Any) -> None:
        raise ActionFailed("The lab is closed.")

    source = act("write", ", on_unknown: {reconcile: lab.lookup}")
    async with Talk(source, actions={"lab.run": run, "lab.lookup": lookup}) as talk:
        await talk.say("go")
        await talk.rest()
        error = (await talk.events("turn.failed"))[0].data["error"]
        assert (error["message"], error["details"]["outcome"]) == ("The lab is closed.", "unknown")


async def test_who_starts_a_flow_sets_its_variables_only_as_an_operator() -> None:
    """They are the flow's inner workings; who may not set them is not told which there are, either."""
    flow = "flow: f\nslots: {n: {type: integer}}\nvariables: {limit: 10}\n"
    flow += "steps: [{say: 'Up to ${variables.limit}'}]\n"
    async with Talk(flow) as talk:
        messages = set()
        for name in ("limit", "limjt"):
            with pytest.raises(Refused) as refused:
                await talk.send("start", {"flow_id": "f", "initial_context": {name: 99}})
            assert (refused.value.code, refused.value.field) == (
                ErrorCode.BAD_REQUEST,
                f"initial_context.{name}",
            )
            messages.add((refused.value.message, refused.value.suggestion))
        assert len(messages) == 1
        started = await talk.send("start", {"flow_id": "f", "initial_context": {"limit": 99}}, who=OPERATOR)
        assert replies(started) == ["Up to 99"]

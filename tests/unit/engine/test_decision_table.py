"""The rows `acceptance` and `clarification` of the status table, cell by cell: the golden vectors."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest

from protocol.errors import Refused
from server.auth.principal import Principal
from tests.support.talk import TENANT, Talk

VECTORS: Final = Path(__file__).parents[3] / "protocol" / "vectors" / "decisions.json"
CASES: Final[list[dict[str, Any]]] = json.loads(VECTORS.read_text())["cases"]
OPERATOR: Final = Principal("op", TENANT, scopes=frozenset({"conversations:write"}))

DEADLINE_MS: Final = 10_000
ASK: Final = {
    "acceptance": """accept: {title: "Sure?", deadline: 10s, on_timeout: over}
    accepted: over
    rejected: over""",
    "clarification": """clarify:
      questions: [{id: n, text: "How many?", type: integer}]
      deadline: 10s
      on_timeout: over""",
}
OUTER: Final = """
flow: outer
default: true
interruptible_by: [above]
steps:
  - id: gate
    ASK
  - {id: over, end: completed}
"""
ABOVE: Final = {
    "waiting_input": "{id: s, collect: x}",
    "waiting_clarification": '{id: s, clarify: {questions: [{id: q, text: "Which?"}]}}',
    "waiting_acceptance": '{id: s, accept: {title: "Really?"}, rejected: s}',
    "waiting_timer": "{id: s, wait: {for: 9h}}",
    "waiting_event": "{id: s, wait: {event: paid}}",
    "paused": "{id: s, handoff: support}",
    "running": "{id: s, action: lab.run, effect: read}",
}
ANSWER: Final[dict[str, dict[str, Any]]] = {
    "acceptance": {"accepted": True},
    "clarification": {"answers": {"n": 1}},
}


def flows(case: dict[str, Any]) -> tuple[str, str]:
    step = ABOVE.get(case["status"], "{say: Hi}")
    above = "flow: above\ntriggers: {intents: [{name: i, keywords: [above]}]}\nslots: {x: {type: integer}}\n"
    return OUTER.replace("ASK", ASK[case["command"]["type"]]), f"{above}steps:\n  - {step}\n"


async def run(context: Any) -> None:
    await asyncio.Event().wait()


async def bring_about(talk: Talk, case: dict[str, Any]) -> str:
    """Do what the case says came before; return the id that its command names."""
    kind, request, status = case["command"]["type"], case["request"], case["status"]
    await talk.say("go")
    execution = (await talk.record()).execution
    assert execution is not None
    pending_id = execution.pending[0].pending_id
    if request == "expired" and status == "cancelled":
        await talk.wait(DEADLINE_MS, sweep=False)
    if status == "cancelled":
        await talk.send("cancel", {})
    elif status == "none":
        await talk.send("reset", {"reason": "r"})
    elif status != "completed" and case["above"]:
        await talk.say("above")
        await talk.rest()
    if request == "decided":
        await talk.send(kind, {"pending_id": pending_id, **ANSWER[kind]})
    elif request == "expired" and status != "cancelled":
        await talk.wait(DEADLINE_MS, sweep=False)
    assert (await talk.record()).status == ("idle" if status == "none" else status)
    return "unknown" if request == "unknown" else pending_id


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
async def test_each_cell(case: dict[str, Any]) -> None:
    async with Talk(*flows(case), actions={"lab.run": run}) as talk:
        pending_id = await bring_about(talk, case)
        kind = case["command"]["type"]
        command = {**case["command"], "pending_id": pending_id}
        if case["request"] == "other kind":
            kind = "acceptance" if kind == "clarification" else "clarification"
            command = {"pending_id": pending_id, **ANSWER[kind]}
        before = await talk.record()
        expect = case["expect"]
        if "error" in expect:
            with pytest.raises(Refused, match=expect["error"]) as refused:
                await talk.send(kind, command)
            if expect["error"] == "pending_expired":  # that is committed before anybody is told so
                assert refused.value.details is not None
                assert refused.value.details["decided"]["by"] is None
                assert len(await talk.events("pending.expired")) == 1
                before = await talk.record()
                with pytest.raises(Refused, match=expect["error"]):
                    await talk.send(kind, command)
            assert await talk.record() == before
            if expect["error"] == "pending_resolved":
                assert refused.value.details is not None
                assert refused.value.details["decided"]["by"] == "u1"
            return
        accepted = await talk.send(kind, command)
        assert accepted.status == "completed"
        assert (await talk.record()).status == expect["status"]
        ends = [
            event.type
            for event in await talk.events("turn.completed", "turn.failed", "pending.resolved")
            if event.command_id == accepted.command_id
        ]
        assert ends == ["pending.resolved", "turn.completed"]


def test_the_table_has_every_cell() -> None:
    cells = {(case["command"]["type"], case["status"], case["request"]) for case in CASES if case["above"]}
    states = ("open", "decided", "expired", "unknown", "other kind")
    wanted = {(kind, status, state) for kind in ASK for status in ABOVE for state in states}
    assert wanted <= cells
    assert {status for _, status, _ in cells} == {*ABOVE, "none", "completed", "cancelled"}

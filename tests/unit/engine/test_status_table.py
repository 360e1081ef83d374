"""What each command does in each status, cell by cell: the golden vectors."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from protocol.errors import Refused
from server.auth.principal import Principal
from server.engine.actions import ActionFailed
from tests.support.talk import TENANT, USER, Talk

OPERATOR: Final = Principal(
    "op", TENANT, scopes=frozenset({"conversations:write", "conversations:read", "acceptance:decide"})
)

FLOWS: Final = {
    "completed": "flow: f\nsteps:\n  - {id: over, end: completed}\n",
    "failed": "flow: f\nsteps:\n  - {id: call, action: lab.fail, effect: read}\n",
    "running": "flow: f\nsteps:\n  - {id: call, action: lab.run, effect: read}\n",
    "waiting_input": "flow: f\nslots: {n: {type: integer}}\nsteps:\n  - {id: ask, collect: n}\n",
    "waiting_clarification": (
        "flow: f\nsteps:\n"
        "  - {id: which, clarify: {questions: [{id: part, text: Part, options: [am, pm]}]}}\n"
    ),
    "waiting_acceptance": (
        "flow: f\nsteps:\n"
        "  - {id: gate, accept: {title: Go}, accepted: over, rejected: over, while_waiting: Later.}\n"
        "  - {id: over, end: completed}\n"
    ),
    "waiting_timer": "flow: f\nsteps:\n  - {id: w, wait: {for: 5m}, while_waiting: Later.}\n",
    "waiting_event": "flow: f\nsteps:\n  - {id: w, wait: {event: paid}, while_waiting: Later.}\n",
    "paused": "flow: f\nsteps:\n  - {id: human, handoff: support}\n",
}
STATUSES: Final = ("none", *FLOWS)
WAITS: Final = (
    "waiting_input", "waiting_clarification", "waiting_acceptance", "waiting_timer", "waiting_event",
)  # fmt: skip

VECTORS: Final = Path(__file__).parents[3] / "protocol" / "vectors" / "statuses.json"
CASES: Final[list[dict[str, Any]]] = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
COMMANDS: Final = frozenset(
    {
        "process",
        "start",
        "cancel",
        "reset",
        "pause",
        "resume",
        "retry",
        "signal",
        "acceptance",
        "clarification",
    }
)


@asynccontextmanager
async def in_status(status: str) -> AsyncIterator[Talk]:
    """A conversation whose execution is in this status; ``lab.run`` never ends."""

    async def run(context: Any) -> None:
        await asyncio.Event().wait()

    async def fail(context: Any) -> None:
        raise ActionFailed("No.")

    flow = FLOWS.get(status, FLOWS["running"])
    other = "flow: other\nsteps:\n  - {id: over, end: completed}\n"
    async with Talk(flow + "default: true\n", other, actions={"lab.run": run, "lab.fail": fail}) as talk:
        if status != "none":
            await talk.say("go")
            await talk.rest()
            assert (await talk.record()).status == status
        yield talk


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
async def test_each_cell(case: dict[str, Any]) -> None:
    """A refusal changes nothing; what is accepted ends in one turn, or goes on running."""
    command, expect = case["command"], case["expect"]
    body = {name: value for name, value in command.items() if name != "type"}
    async with in_status(case["status"]) as talk:
        before = await talk.store.load(TENANT, "c1")
        who = USER if command["type"] == "process" else OPERATOR
        if "error" in expect:
            with pytest.raises(Refused, match=expect["error"]):
                await talk.send(command["type"], body, who=who)
            assert await talk.store.load(TENANT, "c1") == before
            return
        accepted = await talk.send(command["type"], body, who=who)
        found = {"ack": accepted.status, "status": (await talk.record()).status}
        assert expect.items() <= found.items()
        turns = [
            event.type
            for event in await talk.events("turn.completed", "turn.failed")
            if event.command_id == accepted.command_id
        ]
        assert len(turns) == (0 if accepted.status in ("running", "queued") else 1)


def test_the_table_has_every_cell() -> None:
    cells = [(case["command"]["type"], case["status"]) for case in CASES]
    assert sorted(cells) == sorted((command, status) for command in COMMANDS for status in STATUSES)


@pytest.mark.parametrize("status", ["waiting_acceptance", "waiting_timer", "waiting_event"])
async def test_a_message_to_a_wait_gets_the_steps_words(status: str) -> None:
    async with in_status(status) as talk:
        await talk.say("and?")
        assert (await talk.texts())[-1] == "Later."


DECISIONS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "waiting_clarification": ("clarification", {"answers": {"part": "am"}}),
    "waiting_acceptance": ("acceptance", {"accepted": True}),
}


@pytest.mark.parametrize("status", DECISIONS)
async def test_a_decision_goes_by_its_request_also_while_it_is_paused(status: str) -> None:
    """It is taken in the pause and followed behind it; who comes later learns who decided."""
    kind, body = DECISIONS[status]
    async with in_status(status) as talk:
        execution = (await talk.record()).execution
        assert execution is not None
        body = {**body, "pending_id": execution.pending[0].pending_id}
        await talk.send("pause", {"reason": "r"}, who=OPERATOR)
        assert (await talk.send(kind, body)).status == "completed"
        assert (await talk.record()).status == "paused"
        with pytest.raises(Refused, match="pending_resolved"):
            await talk.send(kind, body)
        await talk.send("resume", {"comment": "c"}, who=OPERATOR)
        assert (await talk.record()).status == "completed"


@pytest.mark.parametrize("status", ["running", *WAITS, "paused"])
async def test_a_start_that_interrupts_takes_the_place_of_whatever_has_not_ended(status: str) -> None:
    async with in_status(status) as talk:
        await talk.send(
            "start", {"flow_id": "other", "initial_context": {}, "on_busy": "interrupt"}, who=OPERATOR
        )
        await talk.rest()
        record = await talk.record()
        assert record.execution is not None
        assert (record.execution.flow_id, record.status) == ("other", "completed")
        assert len(await talk.events("execution.cancelled")) == 1

"""People at a real server: who sees a request, who decides it, and what all the others learn."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Client, RunningServer, running_server, token

GATE = """
flow: gate
default: true
slots: {note: {type: text}}
steps:
  - {id: ask, collect: note, ask: {note: "What for?"}}
  - id: gate
    accept: {title: "Do ${slots.note}?", BY editable: [slots.note]}
    accepted: done
    rejected: no
  - {id: done, say: "Done: ${slots.note}."}
  - {id: over, end: completed}
  - {id: no, say: "Not done."}
"""
FORM = """
flow: form
default: true
steps:
  - id: which
    clarify:
      questions: [{id: part, text: "Part?", options: [am, pm]}, {id: n, text: "How many?", type: integer}]
    save: variables.answers
  - {id: done, say: "${variables.answers.n} in the ${variables.answers.part}."}
"""
OPERATOR = ("acceptance:decide", "conversations:read")


@pytest.fixture(params=["{scope: 'acceptance:decide', user: '${user.id}'},"])
async def server(request: Any, tmp_path: Path) -> AsyncIterator[RunningServer]:
    flow = request.param if "flow:" in request.param else gate(request.param)
    async with running_server(tmp_path, flows={"flow": flow}) as running:
        yield running


def gate(by: str) -> str:
    return GATE.replace("BY", f"by: {by}" if by else "")


async def device(server: RunningServer, user_id: str = "u1", **options: Any) -> Client:
    """Connect somebody who watches ``c1``."""
    client = await server.connect(token(user_id, **options))
    await client.ask("subscribe", conversation_id="c1")
    return client


async def event(client: Client, type_: str) -> dict[str, Any]:
    """Return the next event of a type that the client sees, or has seen."""
    while True:
        for frame in client.seen:
            for found in frame.get("events", ()):
                if found["type"] == type_:
                    return dict(found)
        await client.receive()


async def requested(client: Client) -> dict[str, Any]:
    await client.say("c1", "hello")
    await client.say("c1", "tea")
    return dict((await event(client, "acceptance.requested"))["data"])


async def test_two_operators_and_three_devices_decide_at_once(server: RunningServer) -> None:
    """One decision, which everybody sees; who was slower is told by whom and what was decided."""
    devices = [await device(server) for _ in range(3)]
    operators = [await device(server, name, role="operator", scopes=OPERATOR) for name in ("ann", "bob")]
    everybody = [*devices, *operators]
    pending = await requested(devices[0])
    answers = await asyncio.gather(
        *(
            client.ask(
                "acceptance",
                conversation_id="c1",
                pending_id=pending["pending_id"],
                accepted=place % 2 == 0,
                digest=pending["digest"],
            )
            for place, client in enumerate(everybody)
        )
    )
    seen = [(await event(client, "pending.resolved"))["data"] for client in everybody]
    assert all(data == seen[0] for data in seen)
    decided = seen[0]["decided"]
    won = [answer for answer in answers if answer["type"] == "ack"]
    lost = [answer["error"] for answer in answers if answer["type"] == "error"]
    assert (len(won), len(lost)) == (1, 4)
    for error in lost:
        assert error["code"] == "pending_resolved"
        assert error["details"] == {"decided": decided}
    text = "Done: tea." if decided["accepted"] else "Not done."
    assert won[0]["result"]["response"]["messages"][0]["text"] == text
    state = (await devices[2].ask("state", conversation_id="c1"))["result"]
    assert (state["status"], state["pending"]) == ("completed", [])


@pytest.mark.parametrize("server", ["{scope: 'acceptance:decide'},"], indirect=True)
async def test_a_request_for_operators_is_theirs_to_see_and_to_decide(server: RunningServer) -> None:
    owner = await device(server)
    watcher = await device(server, "eve", scopes=("conversations:read",))
    await owner.say("c1", "hello")
    waiting = await owner.say("c1", "tea")
    assert waiting["result"]["current_state"] == "gate"
    pending = (await event(watcher, "acceptance.requested"))["data"]
    assert (await owner.ask("state", conversation_id="c1"))["result"]["pending"] == []
    decision = {"conversation_id": "c1", "pending_id": pending["pending_id"], "accepted": True}
    assert (await owner.ask("acceptance", **decision))["error"]["code"] == "permission_denied"
    assert (await watcher.ask("acceptance", **decision))["error"]["code"] == "conversation_not_found"
    async with await server.connect(token("ann", scopes=("acceptance:decide",))) as decider:
        unknown = await decider.ask("acceptance", **{**decision, "pending_id": "p0"})
        assert unknown["error"]["code"] == "conversation_not_found"
        edited = await decider.ask("acceptance", **decision, edits={"note": "coffee"})
        assert (edited["type"], edited["status"], edited["result"]) == ("ack", "completed", None)
    assert (await event(watcher, "pending.resolved"))["data"]["decided"]["by"] == "ann"
    said = await event(owner, "execution.completed")
    assert said["command_id"] == edited["command_id"]
    types = {found["type"] for frame in owner.seen for found in frame.get("events", ())}
    assert not types & {"acceptance.requested", "pending.resolved"}
    texts = [
        found["data"]["text"]
        for frame in owner.seen
        for found in frame.get("events", ())
        if found["type"] == "message.completed"
    ]
    assert texts[-1] == "Done: coffee."


@pytest.mark.parametrize("server", [""], indirect=True)
async def test_a_service_decides_for_a_user_only_with_the_scope(server: RunningServer) -> None:
    owner = await device(server)
    pending = await requested(owner)
    decision = {
        "conversation_id": "c1", "pending_id": pending["pending_id"], "accepted": False, "user_id": "u1",
    }  # fmt: skip
    async with await server.connect(token("s", scopes=("conversations:write",))) as service:
        refused = await service.ask("acceptance", **decision)
        assert (refused["error"]["code"], refused["error"]["field"]) == ("permission_denied", "user_id")
    async with await server.connect(token("s", scopes=("users:act",))) as service:
        assert (await service.ask("acceptance", **decision))["type"] == "ack"
    assert (await event(owner, "pending.resolved"))["data"]["decided"]["by"] == "u1"


@pytest.mark.parametrize("server", [FORM], indirect=True)
async def test_answers_are_taken_together_or_refused_with_what_is_missing(server: RunningServer) -> None:
    owner = await device(server)
    asked = await owner.say("c1", "hello")
    assert asked["result"]["response"]["messages"][0]["type"] == "form"
    pending = (await event(owner, "clarification.requested"))["data"]
    answers = {"conversation_id": "c1", "pending_id": pending["pending_id"]}
    missing = (await owner.ask("clarification", **answers, answers={"part": "am"}))["error"]
    assert (missing["code"], missing["details"]) == ("missing_answers", {"missing": ["n"]})
    wrong = (await owner.ask("clarification", **answers, answers={"part": "noon", "n": 1}))["error"]
    assert (wrong["code"], wrong["field"]) == ("bad_request", "answers.part")
    other = await device(server)
    taken = await other.ask("clarification", **answers, answers={"part": "am", "n": 2})
    assert taken["result"]["response"]["messages"][0]["text"] == "2 in the am."
    assert (await event(owner, "pending.resolved"))["data"]["decided"]["answers"] == {"part": "am", "n": 2}
    late = (await owner.ask("clarification", **answers, answers={"part": "pm", "n": 1}))["error"]
    assert (late["code"], late["details"]["decided"]["by"]) == ("pending_resolved", "u1")


@pytest.mark.parametrize("server", ["{scope: 'acceptance:decide'},"], indirect=True)
async def test_a_request_is_no_less_foreign_than_the_conversation(server: RunningServer) -> None:
    """Somebody else, and another tenant's decider: the same bytes as for what does not exist."""
    owner = await device(server)
    watcher = await device(server, "eve", scopes=("conversations:read",))
    await owner.say("c1", "hello")
    await owner.say("c1", "tea")
    pending_id = (await event(watcher, "acceptance.requested"))["data"]["pending_id"]
    for credential in (
        token("u2"), token("ann", tenant_id="t2", scopes=("acceptance:decide", "admin")),
        token("s", scopes=("users:act",)),
    ):  # fmt: skip
        async with await server.connect(credential) as stranger:
            raw = []
            for place in ("c1", "c9"):
                frame = {"type": "acceptance", "id": "x", "conversation_id": place, "pending_id": pending_id}
                await stranger.send({**frame, "accepted": True})
                raw.append(await stranger.socket.recv())
            assert raw[0] == raw[1]
            assert b"conversation_not_found" in str(raw[0]).encode()

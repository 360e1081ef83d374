"""Conversations over REST: said and answered, waited for, streamed, read, followed, deleted; and who may."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import Gate, gates
from tests.support.rest import Answer, call, streamed
from tests.support.server import FLOW, RunningServer, running_server, token

SLOW = """
flow: slow
variables: {done: null}
steps:
  - {id: begun, say: "One moment."}
  - {id: work, action: gate.hold, with: {gate: "${input.text}"}, effect: read, save: variables.done}
  - {id: told, say: "It is ${variables.done}."}
  - {id: over, end: completed}
"""
BROKEN = """
flow: broken
variables: {list: []}
steps:
  - {id: look, set: {variables.list: "${variables.list[3]}"}}
  - {id: done, end: completed}
"""
FLOWS = {"greet": FLOW, "slow": SLOW, "broken": BROKEN}
READER = token("re", scopes=("conversations:read",))
INSPECTOR = token("in", scopes=("conversations:inspect",))
SERVICE = token("svc", scopes=("users:act",))
STRANGER = token("u2")
FOREIGN = token("u1", tenant_id="t2", role="admin")
KEY = "key-0123456789"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    gates.clear()
    async with running_server(tmp_path, flows=FLOWS, actions=("tests.support.gate",)) as running:
        yield running
        for gate in gates.values():
            gate.open()


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"content": {"type": "text", "text": text}, **fields}


async def say(
    server: RunningServer, text: str, id_: str = "c1", who: str | None = None, **more: Any
) -> Answer:
    headers: dict[str, Any] = {name: more.pop(name) for name in list(more) if name[0].isupper()}
    path = f"/conversations/{id_}/process"
    return await call(server, "POST", path, said(text, **more), who=who, **headers)


async def get(server: RunningServer, path: str, who: str | None = None, **headers: str) -> Answer:
    return await call(server, "GET", f"/conversations/{path}", None, who=who, **headers)


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


def texts(data: dict[str, Any]) -> list[str]:
    return [message["text"] for message in data["response"]["messages"]]


async def stream(server: RunningServer, message_id: str, index: int, delta: str) -> None:
    """Have a piece of a message told that is being written in c1."""
    record = await server.application.engine.read("t1", "c1")
    assert record is not None
    server.application.hub.publish_delta("t1", "c1", record.epoch, "x", message_id, index, delta)


async def let_go(server: RunningServer) -> None:
    """Return once no stream holds anything any more; fail if that does not come."""
    for _ in range(200):
        if not (server.application.gateway.counter.count or server.application.hub.watched):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("a stream was left open")


async def gate(name: str) -> Gate:
    """Return the gate once an action waits at it."""
    for _ in range(200):
        if name in gates:
            return gates[name]
        await asyncio.sleep(0.02)
    raise AssertionError("the action was not begun")


# --- making and saying ----------------------------------------------------------------------------


async def test_an_id_is_made_and_the_first_message_begins_the_conversation(server: RunningServer) -> None:
    made = await call(server, "POST", "/conversations", {})
    assert made.status == 201
    id_ = made.json["conversation_id"]
    assert len(id_) == 32
    assert made.headers["location"] == f"/v1/conversations/{id_}"
    assert refusal(await get(server, f"{id_}/state")) == (404, "conversation_not_found")
    assert (await say(server, "hi", id_)).status == 200
    assert (await get(server, f"{id_}/state")).json["user_id"] == "u1"
    assert (await call(server, "POST", "/conversations")).json["conversation_id"] != id_


async def test_an_id_made_again_under_its_key_is_the_same(server: RunningServer) -> None:
    one = await call(server, "POST", "/conversations", {}, Idempotency_Key=KEY)
    again = await call(server, "POST", "/conversations", {}, Idempotency_Key=KEY)
    theirs = await call(server, "POST", "/conversations", {}, who=STRANGER, Idempotency_Key=KEY)
    assert one.json == again.json != theirs.json


async def test_a_message_is_answered_by_its_turn(server: RunningServer) -> None:
    answer = await say(server, "hi")
    assert answer.status == 200
    assert answer.json["success"] is True
    assert texts(answer.json) == ["What is your name?"]
    assert answer.json["current_state"] == "ask"
    after = await say(server, "Ada")
    assert after.json["context_updates"]["slots"] == {"name": "Ada"}
    assert after.json["actions_performed"] == []


async def test_the_same_key_is_the_same_turn_over_rest_and_socket(server: RunningServer) -> None:
    first = await say(server, "hi", Idempotency_Key=KEY)
    again = await say(server, "hi", idempotency_key=KEY)
    client = await server.connect()
    ack = await client.say("c1", "hi", idempotency_key=KEY)
    assert first.headers["idempotency-key"] == KEY
    assert first.json == again.json == ack["result"]
    assert ack["duplicate"] is True
    assert refusal(await say(server, "ho", Idempotency_Key=KEY)) == (422, "idempotency_conflict")
    differ = await say(server, "hi", Idempotency_Key=KEY, idempotency_key=KEY + "x")
    assert refusal(differ) == (400, "bad_request")
    assert (await get(server, "c1/state")).json["message_count"] == 2


async def test_the_requests_ids_reach_the_execution(server: RunningServer) -> None:
    answer = await say(server, "hi", X_Correlation_ID="corr-1", X_Request_ID="req-1")
    assert answer.headers["x-correlation-id"] == "corr-1"
    listed = (await call(server, "GET", "/executions")).json["executions"]
    assert (listed[0]["correlation_id"], listed[0]["request_id"]) == ("corr-1", "req-1")


async def test_a_turn_that_fails_is_told_as_such(server: RunningServer) -> None:
    answer = await say(server, "hi", flow_id="broken")
    assert answer.status == 200
    assert answer.json["error"]["code"] == "step_failed"
    assert "success" not in answer.json


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "bad_request", "content"),
        (said("hi", nope=1), "bad_request", "nope"),
        (said("hi", type="process"), "bad_request", "type"),
        (said("hi", conversation_id="c2"), "bad_request", "conversation_id"),
        (said("hi", channel="fax"), "bad_request", "channel"),
        (said(" "), "bad_request", "content.text"),
        (said("x" * 2001), "bad_request", "content.text"),
        (said("hi", idempotency_key="short"), "bad_request", "idempotency_key"),
        (said("hi", flow_id="nothing"), "flow_not_found", "flow_id"),
        (said("hi", user_id="u2"), "permission_denied", "user_id"),
        (said("hi", tenant_id="t2"), "permission_denied", "tenant_id"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_its_field(
    server: RunningServer, body: dict[str, Any], code: str, field: str
) -> None:
    answer = await call(server, "POST", "/conversations/c1/process", body)
    assert (answer.json["error"]["code"], answer.json["error"]["field"]) == (code, field)
    assert refusal(await get(server, "c1/state")) == (404, "conversation_not_found")


async def test_an_id_that_cannot_be_is_refused(server: RunningServer) -> None:
    for path in ("a%20b/state", "x" * 65 + "/history", "%00/context", "a!/events"):
        assert refusal(await get(server, path)) == (400, "bad_request")
    assert refusal(await get(server, "c1/state?x=1")) == (400, "bad_request")


# --- waiting --------------------------------------------------------------------------------------


async def test_a_turn_that_takes_longer_is_waited_for(server: RunningServer) -> None:
    asking = asyncio.create_task(say(server, "a", flow_id="slow"))
    (await gate("a")).open()
    answer = await asking
    assert answer.status == 200
    assert texts(answer.json) == ["One moment.", "It is open."]


async def test_who_will_not_wait_gets_a_receipt(server: RunningServer) -> None:
    answer = await say(server, "b", flow_id="slow", Prefer="respond-async", Idempotency_Key=KEY)
    assert answer.status == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert (answer.json["status"], answer.json["command_id"]) == ("running", KEY)
    assert (answer.json["conversation_id"], answer.json["result"]) == ("c1", None)
    behind = await say(server, "hello?", Prefer="respond-async")
    assert (behind.status, behind.json["status"]) == (202, "queued")
    (await gate("b")).open()
    settled = await say(server, "b", flow_id="slow", Prefer="wait=20", Idempotency_Key=KEY)
    assert (settled.status, settled.headers["preference-applied"]) == (200, "wait=20")
    assert texts(settled.json) == ["One moment.", "It is open."]


async def test_a_wait_is_bounded(server: RunningServer) -> None:
    answer = await say(server, "c", flow_id="slow", Prefer="wait=0")
    assert (answer.status, answer.json["status"]) == (202, "running")
    slow = await say(server, "again", id_="c1", Prefer="wait=1", on_busy="enqueue")
    assert (slow.status, slow.json["status"]) == (202, "queued")
    assert refusal(await say(server, "x", on_busy="reject")) == (409, "conversation_busy")


async def test_a_command_that_ends_at_once_is_a_receipt_to_who_will_not_wait(server: RunningServer) -> None:
    answer = await say(server, "hi", Prefer="respond-async")
    assert answer.status == 202
    assert (answer.json["status"], texts(answer.json["result"])) == ("completed", ["What is your name?"])


async def test_who_waits_is_answered_when_the_server_goes(server: RunningServer) -> None:
    asking = asyncio.create_task(say(server, "d", flow_id="slow"))
    await gate("d")
    server.application.drain.begin()
    answer = await asking
    assert (answer.status, answer.json["status"]) == (202, "running")
    assert not server.application.hub.turns


# --- a turn as a stream ---------------------------------------------------------------------------


async def test_a_turn_is_streamed_as_it_is_said(server: RunningServer) -> None:
    async with streamed(server, "/conversations/c1/process", said("s", flow_id="slow")) as events:
        assert events.status == 200
        assert events.headers["content-type"] == "text/event-stream"
        first = (await events.next()).data
        assert first.keys() == {"chunk", "done", "metadata", "error"}
        assert (first["chunk"], first["done"], first["error"]) == ("One moment.", False, None)
        (await gate("s")).open()
        assert (await events.next()).data["chunk"] == "It is open."
        last = (await events.next()).data
        assert (last["chunk"], last["done"], last["metadata"]["success"]) == ("", True, True)
        assert (await events.next()).name == "end"
    await let_go(server)


async def test_deltas_are_chunks_and_the_whole_message_is_what_is_left_of_it(server: RunningServer) -> None:
    async with streamed(server, "/conversations/c1/process", said("t", flow_id="slow")) as events:
        assert (await events.next()).data["chunk"] == "One moment."
        for index, delta in ((0, "It "), (1, "is"), (1, "is"), (3, "hole")):
            await stream(server, "m-streamed", index, delta)
        assert [(await events.next()).data["chunk"] for _ in range(2)] == ["It ", "is"]
        (await gate("t")).open()
        assert [told.data["chunk"] for told in await events.rest()] == ["It is open.", ""]


async def test_a_turn_that_has_ended_is_told_again(server: RunningServer) -> None:
    for _ in range(2):
        path = "/conversations/c1/process"
        async with streamed(server, path, said("hi"), Idempotency_Key=KEY) as events:
            told = await events.rest()
        assert [(event.data["chunk"], event.data["done"]) for event in told] == [
            ("What is your name?", False),
            ("", True),
        ]
    async with streamed(server, "/conversations/c2/process", said("hi", flow_id="broken")) as events:
        (last,) = await events.rest()
    assert (last.data["done"], last.data["error"]["code"]) == (True, "step_failed")


async def test_a_turn_that_waits_is_streamed_without_what_others_say(server: RunningServer) -> None:
    await say(server, "u", flow_id="slow", Prefer="respond-async")
    await gate("u")
    async with streamed(server, "/conversations/c1/process", said("hi")) as events:
        await stream(server, "m1", 0, "not ours")
        gates["u"].open()
        told = await events.rest()
    assert [event.data["chunk"] for event in told] == ["What is your name?", ""]


async def test_a_stream_that_is_refused_is_an_error_like_any_other(server: RunningServer) -> None:
    path = "/conversations/c1/process"
    async with streamed(server, path, said("hi", flow_id="nothing")) as events:
        assert (events.status, events.headers["content-type"]) == (404, "application/json")
    await say(server, "hi")
    async with streamed(server, path, said("hi"), who=STRANGER) as events:
        assert events.status == 404
    async with streamed(server, path, said("hi", user_id="u1"), who=SERVICE) as events:
        assert (await events.rest())[-1].data["done"] is True


async def test_a_turns_stream_says_so_when_the_server_goes(server: RunningServer) -> None:
    async with streamed(server, "/conversations/c1/process", said("v", flow_id="slow")) as events:
        await events.next()
        server.application.drain.begin()
        (last,) = await events.rest()
        assert (last.data["done"], last.data["error"]["code"]) == (True, "overloaded")


# --- reading --------------------------------------------------------------------------------------


async def test_a_conversation_is_shown_as_in_the_list_with_who_is_there_for_who_helps(
    server: RunningServer,
) -> None:
    await say(server, "hi")
    listed = (await call(server, "GET", "/conversations")).json["conversations"][0]
    assert (await get(server, "c1")).json == {**listed, "presence": None}
    assert (await get(server, "c1", READER)).json["presence"] == []
    async with await server.connect(conversation_id="c1"), await server.connect(INSPECTOR) as inspector:
        await inspector.ask("subscribe", conversation_id="c1")
        expected = [{"user_id": "in", "connections": 1}, {"user_id": "u1", "connections": 1}]
        assert (await get(server, "c1", READER)).json["presence"] == expected
        assert (await get(server, "c1", INSPECTOR)).json["presence"] == expected
        await inspector.ask("unsubscribe", conversation_id="c1")
        assert (await get(server, "c1", READER)).json["presence"] == expected[1:]
    for who in (STRANGER, FOREIGN):
        assert refusal(await get(server, "c1", who)) == (404, "conversation_not_found")
    assert refusal(await get(server, "c1?x=1")) == (400, "bad_request")


async def test_state_context_and_history_are_those_of_the_socket(server: RunningServer) -> None:
    for text in ("hi", "Ada", "green"):
        await say(server, text)
    client = await server.connect()
    state = (await client.ask("state", conversation_id="c1"))["result"]
    page = (await client.ask("history", conversation_id="c1", limit=3))["result"]
    assert (await get(server, "c1/state")).json == state
    assert (await get(server, "c1/history?limit=3")).json == page
    older = await get(server, f"c1/history?before={page['before']}")
    assert len(older.json["messages"]) == 3
    assert older.json["before"] is None
    context = (await get(server, "c1/context")).json
    assert context["slots"] == {"name": "Ada", "colour": "green"}
    assert context.keys() == {"conversation_id", "slots", "variables", "epoch", "offset"}
    for query in ("limit=0", "limit=101", "before=-1", "before=x", "nope=1", "limit=1&limit=2"):
        assert refusal(await get(server, f"c1/history?{query}")) == (400, "bad_request")


async def test_each_audience_sees_what_it_sees_over_a_socket(server: RunningServer) -> None:
    await say(server, "a", flow_id="slow", Prefer="respond-async")
    (await gate("a")).open()
    await say(server, "hi")
    await say(server, "Ada")
    for who in (token("u1"), READER, INSPECTOR):
        client = await server.connect(who)
        for what in ("state", "history"):
            over_socket = (await client.ask(what, conversation_id="c1"))["result"]
            assert (await get(server, f"c1/{what}", who)).json == over_socket
    assert (await get(server, "c1/context")).json["slots"] == {"name": "Ada"}
    assert (await get(server, "c1/context", READER)).json["slots"] == {}


async def test_others_conversations_look_like_none(server: RunningServer) -> None:
    await say(server, "hi")
    ids = {"X_Request_ID": "r", "X_Correlation_ID": "c"}
    for what in ("state", "context", "history"):
        missing = await get(server, f"c9/{what}", **ids)
        assert refusal(missing) == (404, "conversation_not_found")
        for who in (STRANGER, FOREIGN, SERVICE):
            assert await get(server, f"c1/{what}", who, **ids) == missing
    for method, path, body in (("POST", "reset", {}), ("DELETE", "", None)):
        missing = await call(server, method, f"/conversations/c9/{path}".rstrip("/"), body, **ids)
        for who in (STRANGER, FOREIGN):
            answer = await call(server, method, f"/conversations/c1/{path}".rstrip("/"), body, who=who, **ids)
            assert answer == missing
    assert refusal(await say(server, "hi", who=STRANGER)) == (404, "conversation_not_found")
    assert (await say(server, "hi", who=FOREIGN)).status in (200, 404)  # another conversation altogether
    assert (await get(server, "c1/state")).json["message_count"] == 2


async def test_nobody_reads_without_a_token(server: RunningServer) -> None:
    answer = await call(server, "GET", "/conversations/c1/state", who="nonsense")
    assert refusal(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


# --- resetting and deleting -----------------------------------------------------------------------


async def test_a_reset_clears_and_is_a_command(server: RunningServer) -> None:
    await say(server, "hi")
    await say(server, "Ada")
    reset = await call(server, "POST", "/conversations/c1/reset", {"reason": "enough"}, Idempotency_Key=KEY)
    assert (reset.status, reset.json["status"], reset.json["duplicate"]) == (200, "completed", False)
    assert (await get(server, "c1/context")).json["slots"] == {}
    assert (await get(server, "c1/history")).json["messages"] == []
    again = await call(server, "POST", "/conversations/c1/reset", {"reason": "enough"}, Idempotency_Key=KEY)
    assert again.json["duplicate"] is True
    assert (await call(server, "POST", "/conversations/c1/reset")).status == 200


async def test_a_deleted_conversation_is_gone_for_everybody(server: RunningServer) -> None:
    await say(server, "hi")
    client = await server.connect(conversation_id="c1")
    assert refusal(await call(server, "DELETE", "/conversations/c1", who=READER)) == (
        404,
        "conversation_not_found",
    )
    gone = await call(server, "DELETE", "/conversations/c1")
    assert (gone.status, gone.body) == (204, b"")
    assert (await client.until("unsubscribed"))["conversation_id"] == "c1"
    assert refusal(await get(server, "c1/history")) == (404, "conversation_not_found")
    assert refusal(await call(server, "DELETE", "/conversations/c1")) == (404, "conversation_not_found")
    await say(server, "hi", "c2")
    deleter = token("dpo", scopes=("conversations:delete",))
    assert (await call(server, "DELETE", "/conversations/c2", who=deleter)).status == 204


# --- following ------------------------------------------------------------------------------------


async def test_a_stream_tells_the_events_of_the_socket(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1")
    async with streamed(server, "/conversations/c1/events") as events:
        assert events.headers["content-type"] == "text/event-stream"
        await say(server, "hi")
        frame = await client.until("events")
        for event in frame["events"]:
            told = await events.next()
            assert (told.name, told.data) == (event["type"], event)
            assert told.id == f"{frame['epoch']}:{event['offset']}"
        await stream(server, "m1", 0, "He")
        delta = await events.next()
        assert (delta.name, delta.data["delta"], delta.id) == ("message.delta", "He", None)


async def test_who_comes_back_misses_nothing_and_gets_nothing_twice(server: RunningServer) -> None:
    path = "/conversations/c1/events"
    seen = []
    async with streamed(server, path) as events:
        await say(server, "hi")
        seen = [await events.next() for _ in range(3)]
    await say(server, "Ada")
    async with streamed(server, path, Last_Event_ID=seen[-1].id or "") as events:
        while (told := await events.next()).name != "turn.completed" or told.data["offset"] < 8:
            seen.append(told)
            if len(seen) > 50:
                break
    offsets = [told.data["offset"] for told in seen]
    assert offsets == sorted(set(offsets))
    assert [told.name for told in seen].count("snapshot") == 0
    epoch = str(seen[0].id).partition(":")[0]
    whole = await server.connect(conversation_id="c1", resume={"epoch": epoch, "offset": 0})
    frame = await whole.until("events")
    assert [told.data for told in seen] == frame["events"][: len(seen)]


async def test_who_cannot_be_brought_up_gets_a_snapshot(server: RunningServer) -> None:
    await say(server, "hi")
    places: list[Any] = [{}, {"Last_Event_ID": "other:1"}, {"Last_Event_ID": "e:999999"}]
    for headers in places:
        async with streamed(server, "/conversations/c1/events", **headers) as events:
            told = await events.next()
            assert told.name == "snapshot"
            assert told.id == f"{told.data['epoch']}:{told.data['offset']}"
            assert [message["text"] for message in told.data["messages"]] == ["hi", "What is your name?"]


async def test_what_an_audience_may_not_see_moves_its_place_all_the_same(server: RunningServer) -> None:
    await say(server, "a", flow_id="slow", Prefer="respond-async")
    await gate("a")
    async with streamed(server, "/conversations/c1/events") as owner:
        snapshot = await owner.next()
        gates["a"].open()
        told = await owner.until("turn.completed")
    assert told.data["data"]["actions_performed"] == []
    client = await server.connect(
        INSPECTOR, conversation_id="c1", resume={"epoch": snapshot.data["epoch"], "offset": 0}
    )
    kinds = {event["type"] for event in (await client.until("events"))["events"]}
    assert "action.performed" in kinds


@pytest.mark.parametrize("bad", ["x", "e1", "e1:", ":1", "e1:-1", "e1:1:2x", "e1:99999999999999999", "e 1:1"])
async def test_a_place_that_is_none_is_refused(server: RunningServer, bad: str) -> None:
    answer = await get(server, "c1/events", Last_Event_ID=bad)
    assert (refusal(answer), answer.json["error"]["field"]) == ((400, "bad_request"), "Last-Event-ID")


async def test_others_cannot_follow(server: RunningServer) -> None:
    await say(server, "hi")
    for who in (STRANGER, SERVICE):
        assert refusal(await get(server, "c1/events", who)) == (404, "conversation_not_found")
    async with streamed(server, "/conversations/c5/events", who=STRANGER) as events:
        await say(server, "hi", "c5")  # u1 was first
        with pytest.raises(TimeoutError):
            await events.next(timeout=0.3)
    await let_go(server)


async def test_a_stream_ends_with_its_conversation_its_token_and_the_server(server: RunningServer) -> None:
    await say(server, "hi")
    async with streamed(server, "/conversations/c1/events") as events:
        await events.until("snapshot")
        await call(server, "DELETE", "/conversations/c1")
        assert [told.name for told in await events.rest()] == ["unsubscribed"]
    async with streamed(server, "/conversations/c2/events", who=token("u1", ttl_s=-3)) as events:
        told = await events.until("disconnect")
        assert (told.data["code"], told.data["reconnect"]) == (4002, True)
    async with streamed(server, "/conversations/c2/events") as events:
        server.application.drain.begin()
        assert (await events.until("disconnect")).data["code"] == 4001
        assert (await events.next()).name == "end"
    assert refusal(await get(server, "c2/events")) == (503, "overloaded")


async def test_streams_are_connections(tmp_path: Path) -> None:
    async with running_server(tmp_path, connections_per_principal=1) as server:
        async with streamed(server, "/conversations/c1/events") as events:
            assert events.status == 200
            refused = await get(server, "c1/events")
            assert refusal(refused) == (429, "rate_limited")
            with pytest.raises(TimeoutError):
                await events.next(timeout=0.2)
        await let_go(server)


# --- amending -------------------------------------------------------------------------------------


async def test_slots_are_amended_and_told_to_who_watches(server: RunningServer) -> None:
    await say(server, "hi")
    client = await server.connect(conversation_id="c1")
    await client.until("snapshot")
    body = {"slots": {"colour": "green"}}
    answer = await call(server, "PATCH", "/conversations/c1/context", body, Idempotency_Key=KEY)
    assert (answer.status, answer.json["status"], answer.json["command_id"]) == (200, "completed", KEY)
    kinds = [event["type"] for event in (await client.until("events"))["events"]]
    assert kinds == ["slots.updated", "turn.completed"]
    assert (await get(server, "c1/context")).json["slots"] == {"colour": "green"}
    again = await call(server, "PATCH", "/conversations/c1/context", body, Idempotency_Key=KEY)
    assert again.json["duplicate"] is True
    texts_ = texts((await say(server, "Ada")).json)
    assert texts_ == ["Hello Ada, you like green."]


async def test_who_may_not_amend_changes_nothing(server: RunningServer) -> None:
    await say(server, "hi")

    async def amend(body: dict[str, Any], who: str | None = None) -> tuple[int, str]:
        return refusal(await call(server, "PATCH", "/conversations/c1/context", body, who=who))

    assert await amend({"slots": {"name": "Eve"}}, STRANGER) == (404, "conversation_not_found")
    assert await amend({"slots": {"name": "Eve"}}, READER) == (404, "conversation_not_found")
    assert await amend({"variables": {"x": 1}}) == (403, "permission_denied")
    assert await amend({"slots": {"colour": "pink"}}) == (400, "bad_request")
    assert await amend({"slots": 1}) == (400, "bad_request")
    assert (await get(server, "c1/context")).json["slots"] == {}


async def test_while_an_effect_runs_an_amendment_waits_its_turn(server: RunningServer) -> None:
    await say(server, "w", flow_id="slow", Prefer="respond-async")
    await gate("w")
    body = {"slots": {"name": "Ada"}}
    amending = asyncio.create_task(call(server, "PATCH", "/conversations/c1/context", body))
    await asyncio.sleep(0.1)
    gates["w"].open()
    answer = await amending
    assert (answer.status, answer.json["status"]) == (200, "failed")
    assert answer.json["result"]["error"]["code"] == "wrong_state"  # by then the flow had ended


# --- listing --------------------------------------------------------------------------------------


async def listed(server: RunningServer, query: str = "", who: str | None = None) -> Any:
    answer = await call(server, "GET", f"/conversations{query}", who=who)
    assert answer.status == 200, answer.json
    return answer.json


async def test_everybody_lists_what_they_may_read(server: RunningServer) -> None:
    for id_, who in (("c1", token("u1")), ("c2", STRANGER), ("c3", token("u1"))):
        await say(server, "hi", id_, who)
    await call(server, "POST", "/conversations/c3/reset", {})

    async def ids(query: str = "", who: str | None = None) -> set[str]:
        return {item["conversation_id"] for item in (await listed(server, query, who))["conversations"]}

    assert await ids() == {"c1", "c3"}
    assert await ids(who=STRANGER) == {"c2"}
    assert await ids(who=FOREIGN) == set()
    assert await ids(who=READER) == {"c1", "c2", "c3"}
    assert await ids("?user_id=u2", READER) == {"c2"}
    assert await ids("?user_id=u2") == set()
    assert await ids("?status=idle") == {"c3"}
    assert await ids("?status=waiting_input&flow_id=greet", READER) == {"c1", "c2"}
    assert await ids("?until=2001-01-01T00:00:00Z", READER) == set()


async def test_a_list_has_pages_and_on_demand_a_total(server: RunningServer) -> None:
    for n in range(5):
        await say(server, "hi", f"c{n}")
    first = await listed(server, "?limit=3&count=true")
    assert (len(first["conversations"]), first["total"]) == (3, 5)
    second = await listed(server, f"?limit=3&cursor={first['cursor']}")
    assert (second["cursor"], second["total"]) == (None, None)
    found = [item["conversation_id"] for item in (*first["conversations"], *second["conversations"])]
    assert sorted(found) == [f"c{n}" for n in range(5)]
    item = first["conversations"][0]
    assert (item["status"], item["flow_id"], item["message_count"]) == ("waiting_input", "greet", 2)
    assert "slots" not in item
    for query in ("?count=1", "?status=nope", "?limit=0", "?cursor=x", "?since=now", "?x=1"):
        assert refusal(await call(server, "GET", f"/conversations{query}")) == (400, "bad_request")
    assert (await listed(server, "?user_id=u9&count=true"))["total"] == 0

"""Every frame over a real socket: what it does and what it answers."""

from typing import Any

import pytest

from tests.support.server import RunningServer, token

ACK_FIELDS = {"type", "id", "duplicate", "command_id", "status", "execution_id", "epoch", "offset", "result"}


async def test_hello_is_answered_by_welcome(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1", client={"name": "test", "version": "1"})
    welcome = client.welcome
    assert welcome["type"] == "welcome"
    assert welcome["protocol"] == "parley.v1"
    assert (welcome["conversation_id"], welcome["epoch"], welcome["offset"]) == ("c1", None, 0)
    assert welcome["recovered"] is True
    assert welcome["principal"] == {
        "user_id": "u1", "tenant_id": "t1", "role": "user", "scopes": [], "tier": "standard",
    }  # fmt: skip
    assert welcome["ping_interval"] == 25
    assert 3590 <= welcome["token_expires_in"] <= 3600
    assert welcome["limits"] == {"max_frame_bytes": 65536, "frames_per_second": 1000}


async def test_hello_without_a_conversation_only_authenticates(server: RunningServer) -> None:
    client = await server.connect()
    assert client.welcome["conversation_id"] is None
    assert client.welcome["epoch"] is None
    await client.say("c1", "hi")
    await client.nothing()


async def test_frames_behind_hello_wait_for_welcome(server: RunningServer) -> None:
    client = await server.open()
    await client.send({"type": "hello", "id": "1", "token": token(), "conversation_id": "c1"})
    await client.send({"type": "state", "id": "2", "conversation_id": "c1"})
    await client.send({"type": "subscribe", "id": "3", "conversation_id": "c2"})
    got = [await client.receive() for _ in range(3)]
    assert [(frame["type"], frame["id"]) for frame in got] == [("welcome", "1"), ("error", "2"), ("ack", "3")]


async def test_process_starts_the_flow_and_its_events_come_to_who_watches(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1")
    ack = await client.say("c1", "hi", idempotency_key="key-00000001")
    assert ack.keys() == ACK_FIELDS
    assert (ack["duplicate"], ack["command_id"], ack["status"]) == (False, "key-00000001", "completed")
    events = next(frame for frame in client.seen if frame["type"] == "events")
    assert events["from"] == 1
    assert events["to"] == ack["offset"]
    assert events["epoch"] == ack["epoch"]
    types = [event["type"] for event in events["events"]]
    assert types[0] == "conversation.created"
    assert types[-1] == "turn.completed"
    assert all(event["command_id"] == "key-00000001" for event in events["events"])
    assert events["events"][-1]["data"] == ack["result"]
    assert ack["result"]["response"]["messages"][0]["text"] == "What is your name?"


async def test_a_whole_conversation_runs(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1")
    for text in ("hi", "Ada", "blue"):
        ack = await client.say("c1", text)
    assert ack["result"]["response"]["messages"][-1]["text"] == "Hello Ada, you like blue."
    assert ack["result"]["current_state"] == "idle"


async def test_process_does_not_subscribe(server: RunningServer) -> None:
    client = await server.connect()
    assert (await client.say("c1", "hi"))["type"] == "ack"
    await client.nothing()


async def test_a_command_without_a_key_gets_one(server: RunningServer) -> None:
    client = await server.connect()
    first, second = await client.say("c1", "hi"), await client.say("c1", "hi")
    assert len({first["command_id"], second["command_id"]}) == 2
    assert len(first["command_id"]) == 32


async def test_a_resent_command_changes_nothing_and_reports_the_first_outcome(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1")
    first = await client.say("c1", "hi", idempotency_key="key-00000001")
    again = await client.say("c1", "hi", idempotency_key="key-00000001")
    assert again["duplicate"] is True
    assert again["status"] == "completed"
    assert again["result"] == first["result"]
    assert again["offset"] == first["offset"]
    await client.nothing()


async def test_a_key_with_another_body_is_a_conflict(server: RunningServer) -> None:
    client = await server.connect()
    await client.say("c1", "hi", idempotency_key="key-00000001")
    error = await client.say("c1", "ho", idempotency_key="key-00000001")
    assert error["error"]["code"] == "idempotency_conflict"


async def test_one_s_own_user_id_written_out_is_the_same_command(server: RunningServer) -> None:
    client = await server.connect()
    await client.say("c1", "hi", idempotency_key="key-00000001")
    again = await client.say("c1", "hi", idempotency_key="key-00000001", user_id="u1")
    assert again["duplicate"] is True


async def test_state_is_the_state_record(server: RunningServer) -> None:
    client = await server.connect()
    for text in ("hi", "Ada"):
        await client.say("c1", text)
    ack = await client.ask("state", conversation_id="c1")
    state = ack["result"]
    assert ack["duplicate"] is False
    assert ack["command_id"] is None
    assert (state["current_state"], state["status"], state["flow_id"]) == ("ask", "waiting_input", "greet")
    assert state["slots"] == {"name": "Ada"}
    assert (state["epoch"], state["offset"]) == (ack["epoch"], ack["offset"])


async def test_history_pages_oldest_first_with_before_exclusive(server: RunningServer) -> None:
    client = await server.connect()
    for text in ("hi", "Ada", "blue"):
        await client.say("c1", text)
    whole = (await client.ask("history", conversation_id="c1"))["result"]
    assert [m["role"] for m in whole["messages"]] == ["user", "assistant"] * 3
    assert whole["before"] is None
    collected: list[Any] = []
    before = None
    while True:
        page = (await client.ask("history", conversation_id="c1", limit=4, before=before))["result"]
        assert len(page["messages"]) <= 4
        collected = page["messages"] + collected
        before = page["before"]
        if before is None:
            break
        assert page["messages"][0]["offset"] == before
    assert collected == whole["messages"]
    assert [m["offset"] for m in collected] == sorted(m["offset"] for m in collected)


async def test_history_before_the_first_message_is_empty(server: RunningServer) -> None:
    client = await server.connect()
    await client.say("c1", "hi")
    for before in (0, 1):
        page = (await client.ask("history", conversation_id="c1", before=before))["result"]
        assert page == {"messages": [], "before": None}


async def test_reset_clears_and_hides_what_was_before(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1")
    for text in ("hi", "Ada"):
        await client.say("c1", text)
    ack = await client.ask("reset", conversation_id="c1", reason="over")
    assert ack["status"] == "completed"
    last = [frame for frame in client.seen if frame["type"] == "events"][-1]["events"]
    reset = next(event for event in last if event["type"] == "conversation.reset")
    assert reset["data"] == {"reason": "over"}
    assert last[-1]["type"] == "turn.completed"
    state = (await client.ask("state", conversation_id="c1"))["result"]
    assert (state["status"], state["slots"]) == ("idle", {})
    assert (await client.ask("history", conversation_id="c1"))["result"]["messages"] == []
    boss = await server.connect(token("boss", scopes=("conversations:inspect",)))
    assert len((await boss.ask("history", conversation_id="c1"))["result"]["messages"]) == 4


async def test_cancel_ends_the_execution(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1")
    execution_id = (await client.say("c1", "hi"))["execution_id"]
    error = await client.ask("cancel", conversation_id="c1", execution_id="x-other")
    assert error["error"]["code"] == "execution_not_found"
    ack = await client.ask("cancel", conversation_id="c1", execution_id=execution_id)
    assert ack["status"] == "completed"
    assert (await client.ask("state", conversation_id="c1"))["result"]["status"] == "cancelled"
    assert (await client.ask("cancel", conversation_id="c1"))["error"]["code"] == "wrong_state"


@pytest.mark.parametrize(
    ("type_", "fields"), [("acceptance", {"accepted": True}), ("clarification", {"answers": {"a": "b"}})]
)
async def test_a_decision_about_nothing_is_pending_not_found(
    server: RunningServer, type_: str, fields: dict[str, Any]
) -> None:
    client = await server.connect()
    await client.say("c1", "hi")
    answer = await client.ask(type_, conversation_id="c1", pending_id="p1", **fields)
    assert answer["error"]["code"] == "pending_not_found"


async def test_subscribe_and_unsubscribe(server: RunningServer) -> None:
    speaker, watcher = await server.connect(), await server.connect()
    await speaker.say("c1", "hi")
    ack = await watcher.ask("subscribe", conversation_id="c1")
    assert ack["result"] == {
        "conversation_id": "c1", "epoch": ack["epoch"], "offset": ack["offset"], "recovered": False,
    }  # fmt: skip
    snapshot = await watcher.until("snapshot")
    assert snapshot["offset"] == ack["offset"]
    assert [m["text"] for m in snapshot["messages"]] == ["hi", "What is your name?"]
    assert snapshot["state"]["status"] == "waiting_input"
    assert snapshot["pending"] == snapshot["state"]["pending"]
    assert snapshot["before"] is None
    await speaker.say("c1", "Ada")
    events = await watcher.until("events")
    assert events["from"] == snapshot["offset"] + 1
    assert (await watcher.ask("unsubscribe", conversation_id="c1"))["type"] == "ack"
    await speaker.say("c1", "blue")
    await watcher.nothing()


async def test_subscribe_by_execution(server: RunningServer) -> None:
    client = await server.connect()
    execution_id = (await client.say("c1", "hi"))["execution_id"]
    ack = await client.ask("subscribe", execution_id=execution_id)
    assert ack["result"]["conversation_id"] == "c1"
    await client.until("snapshot")
    missing = await client.ask("subscribe", execution_id="x-none")
    stranger = await server.connect(token("u2"))
    foreign = await stranger.ask("subscribe", execution_id=execution_id)
    assert missing["error"]["code"] == "execution_not_found"
    assert foreign["error"] == missing["error"]


@pytest.mark.parametrize("fields", [{}, {"conversation_id": "c1", "execution_id": "x1"}])
async def test_subscribe_takes_one_of_two_names(server: RunningServer, fields: dict[str, str]) -> None:
    client = await server.connect()
    assert (await client.ask("subscribe", **fields))["error"]["code"] == "bad_request"


async def test_several_connections_see_the_same_events(server: RunningServer) -> None:
    clients = [await server.connect(conversation_id="c1") for _ in range(3)]
    for text in ("hi", "Ada", "blue"):
        await clients[0].say("c1", text)
    await clients[0].ask("unsubscribe", conversation_id="none")
    seen = []
    for client in clients:
        await client.ask("unsubscribe", conversation_id="none")
        seen.append([frame for frame in client.seen if frame["type"] == "events"])
    assert seen[0] == seen[1] == seen[2]
    assert [frame["from"] for frame in seen[0]][1:] == [frame["to"] + 1 for frame in seen[0]][:-1]


async def test_typing_is_told_to_the_others(server: RunningServer) -> None:
    first, second = await server.connect(), await server.connect()
    await first.say("c1", "hi")
    for client in (first, second):
        await client.ask("subscribe", conversation_id="c1")
        await client.until("snapshot")
    await first.send({"type": "typing", "conversation_id": "c1", "typing": True})
    assert await second.until("typing") == {
        "type": "typing", "conversation_id": "c1", "user_id": "u1", "typing": True,
    }  # fmt: skip
    await first.nothing()


async def test_a_second_hello_is_a_bad_request(server: RunningServer) -> None:
    client = await server.connect()
    assert (await client.ask("hello", token=token()))["error"]["code"] == "bad_request"
    assert (await client.say("c1", "hi"))["type"] == "ack"


async def test_an_unknown_flow_is_named(server: RunningServer) -> None:
    client = await server.connect()
    error = await client.say("c1", "hi", flow_id="no_such_flow")
    assert error["error"]["code"] == "flow_not_found"
    assert error["error"]["field"] == "flow_id"


async def test_a_new_conversation_takes_locale_and_time_zone_over_from_hello(server: RunningServer) -> None:
    client = await server.connect(locale="fr", timezone="Europe/Paris")
    await client.say("c1", "hi")
    assert (await client.ask("state", conversation_id="c1"))["result"]["locale"] == "fr"
    record = await server.application.engine.read("t1", "c1")
    assert record is not None
    assert record.timezone == "Europe/Paris"


async def test_a_resume_after_reconnecting_brings_exactly_what_was_missed(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1")
    ack = await client.say("c1", "hi")
    await client.socket.close()
    other = await server.connect()
    later = await other.say("c1", "Ada")
    client = await server.connect(
        conversation_id="c1", resume={"epoch": ack["epoch"], "offset": ack["offset"]}
    )
    assert client.welcome["recovered"] is True
    assert client.welcome["offset"] == later["offset"]
    events = await client.until("events")
    assert (events["from"], events["to"]) == (ack["offset"] + 1, later["offset"])
    await client.nothing()


async def test_a_resume_may_enter_a_commit_in_its_middle(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1")
    ack = await client.say("c1", "hi")
    whole = next(frame for frame in client.seen if frame["type"] == "events")
    late = await server.connect(conversation_id="c1", resume={"epoch": ack["epoch"], "offset": 2})
    events = await late.until("events")
    assert (events["from"], events["to"]) == (3, ack["offset"])
    assert events["events"] == [event for event in whole["events"] if event["offset"] > 2]


async def test_deletion_is_told_and_the_conversation_is_missing_from_then_on(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1")
    ack = await client.say("c1", "hi")
    engine, principal = (
        server.application.engine,
        next(iter(server.application.gateway.connections)).principal,
    )
    assert await engine.delete("t1", "c1", principal)
    assert await client.until("unsubscribed") == {
        "type": "unsubscribed", "conversation_id": "c1", "code": "conversation_not_found",
    }  # fmt: skip
    assert (await client.say("c1", "hi"))["error"]["code"] == "conversation_not_found"
    assert (await client.ask("state", conversation_id="c1"))["error"]["code"] == "conversation_not_found"
    resume = {"epoch": ack["epoch"], "offset": ack["offset"]}
    late = await server.connect(conversation_id="c1", resume=resume)
    assert (late.welcome["epoch"], late.welcome["recovered"]) == (None, False)
    assert (await late.until("snapshot"))["state"] is None

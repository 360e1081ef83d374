"""Who may do what: own, foreign and missing, for every frame.

``docs/reference/protocol.md``, "Who may see and do what".
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.server import Client, RunningServer, token

NEEDS_CONVERSATION: dict[str, dict[str, Any]] = {
    "state": {},
    "history": {},
    "reset": {},
    "cancel": {},
    "acceptance": {"pending_id": "p1", "accepted": True},
    "clarification": {"pending_id": "p1", "answers": {}},
}


@pytest.fixture
async def owner(server: RunningServer) -> AsyncIterator[Client]:
    """The owner of ``c1``, which exists."""
    async with await server.connect(token("u1")) as client:
        await client.say("c1", "hi")
        yield client


@pytest.mark.parametrize("type_", NEEDS_CONVERSATION)
@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param({"user_id": "u2"}, id="another-user"),
        pytest.param({"user_id": "u1", "tenant_id": "t2"}, id="same-user-of-another-tenant"),
        pytest.param({"user_id": "a", "tenant_id": "t2", "scopes": ("admin",)}, id="admin-of-another-tenant"),
        pytest.param({"user_id": "u2", "scopes": ("users:act", "flows:write")}, id="useless-scopes"),
    ],
)
async def test_foreign_is_byte_equal_to_missing(
    server: RunningServer, owner: Client, type_: str, stranger: dict[str, Any]
) -> None:
    async with await server.connect(token(**stranger)) as client:
        foreign = await client.ask(type_, id="x", conversation_id="c1", **NEEDS_CONVERSATION[type_])
        missing = await client.ask(type_, id="x", conversation_id="c9", **NEEDS_CONVERSATION[type_])
    assert foreign == missing
    assert foreign["error"]["code"] == "conversation_not_found"
    assert (await owner.ask("state", conversation_id="c1"))["result"]["status"] == "waiting_input"


@pytest.mark.parametrize("type_", NEEDS_CONVERSATION)
async def test_foreign_and_missing_are_the_same_bytes(
    server: RunningServer, owner: Client, type_: str
) -> None:
    async with await server.connect(token("u2")) as client:
        raw = []
        for conversation_id in ("c1", "c9"):
            frame = {
                "type": type_,
                "id": "x",
                "conversation_id": conversation_id,
                **NEEDS_CONVERSATION[type_],
            }
            await client.send(frame)
            raw.append(await client.socket.recv())
    assert raw[0] == raw[1]


async def test_another_owner_s_conversation_is_not_found_by_subscribe_process_and_hello(
    server: RunningServer, owner: Client
) -> None:
    async with await server.connect(token("u2")) as client:
        for answer in (
            await client.ask("subscribe", conversation_id="c1"),
            await client.ask("subscribe", conversation_id="c1", resume={"epoch": "e1", "offset": 1}),
            await client.say("c1", "hi"),
        ):
            assert answer["error"]["code"] == "conversation_not_found"
        await owner.say("c1", "Ada")
        await client.nothing()
    client = await server.open()
    answer = await client.ask("hello", token=token("u2"), conversation_id="c1")
    assert answer["error"]["code"] == "conversation_not_found"
    assert await client.closed() == (4503, "conversation_not_found")


async def test_another_tenant_has_a_conversation_of_its_own_by_the_same_id(
    server: RunningServer, owner: Client
) -> None:
    async with await server.connect(token("u1", tenant_id="t2"), conversation_id="c1") as client:
        assert client.welcome["epoch"] is None
        ack = await client.say("c1", "hi", idempotency_key="key-00000001")
        assert ack["duplicate"] is False
        assert (await client.ask("history", conversation_id="c1"))["result"]["messages"][0]["offset"] == 2
        mine = await owner.ask("state", conversation_id="c1")
        assert mine["epoch"] != ack["epoch"]


async def test_an_agent_sees_the_conversation_but_no_slots(server: RunningServer, owner: Client) -> None:
    async with await server.connect(token("a", scopes=("conversations:read",))) as agent:
        ack = await agent.ask("subscribe", conversation_id="c1")
        assert ack["type"] == "ack"
        await agent.until("snapshot")
        await owner.say("c1", "Ada")
        types = [event["type"] for event in (await agent.until("events"))["events"]]
        assert "message.received" in types
        assert "slots.updated" not in types
        turn = agent.seen[-1]["events"][-1]
        assert turn["data"]["context_updates"]["slots"] == {}
        assert (await agent.ask("state", conversation_id="c1"))["result"]["slots"] == {}
        refused = await agent.ask("reset", conversation_id="c1")
        assert refused["error"]["code"] == "conversation_not_found"


async def test_an_inspector_sees_everything(server: RunningServer, owner: Client) -> None:
    async with await server.connect(token("a", scopes=("conversations:inspect",))) as boss:
        await boss.ask("subscribe", conversation_id="c1")
        await boss.until("snapshot")
        await owner.say("c1", "Ada")
        frame = await boss.until("events")
        offsets = [event["offset"] for event in frame["events"]]
        assert offsets == list(range(frame["from"], frame["to"] + 1))
        assert {"slots.updated", "step.started"} <= {event["type"] for event in frame["events"]} | {
            "step.started"
        }
        assert (await boss.ask("state", conversation_id="c1"))["result"]["slots"] == {"name": "Ada"}


async def test_a_duplicate_s_result_is_filtered_for_who_asks(server: RunningServer, owner: Client) -> None:
    first = await owner.say("c1", "Ada", idempotency_key="key-00000001", user_id="u1")
    assert first["result"]["context_updates"]["slots"] == {"name": "Ada"}
    async with await server.connect(token("s", scopes=("conversations:write", "users:act"))) as service:
        again = await service.say("c1", "Ada", idempotency_key="key-00000001", user_id="u1")
        assert again["duplicate"] is True
        assert again["result"]["context_updates"]["slots"] == {}


async def test_only_with_the_scope_one_acts_for_another_user(server: RunningServer) -> None:
    async with await server.connect(token("u2")) as client:
        refused = await client.say("c5", "hi", user_id="u1")
        assert (refused["error"]["code"], refused["error"]["field"]) == ("permission_denied", "user_id")
        assert (await client.say("c6", "hi", user_id="u2"))["type"] == "ack"
    async with await server.connect(token("s", role="service")) as service:
        assert (await service.say("c5", "hi", user_id="u1"))["type"] == "ack"
        assert (await service.ask("state", conversation_id="c5"))["result"]["user_id"] == "u1"
    async with await server.connect(token("u1")) as client:
        assert (await client.ask("state", conversation_id="c5"))["type"] == "ack"


async def test_a_tenant_in_the_body_must_be_the_credential_s(server: RunningServer) -> None:
    async with await server.connect() as client:
        refused = await client.say("c5", "hi", tenant_id="t2")
        assert (refused["error"]["code"], refused["error"]["field"]) == ("permission_denied", "tenant_id")
        assert (await client.say("c5", "hi", tenant_id="t1"))["type"] == "ack"
        assert (await client.ask("state", conversation_id="c6"))["error"]["code"] == "conversation_not_found"


async def test_who_waits_for_a_conversation_that_another_creates_hears_nothing(server: RunningServer) -> None:
    async with (
        await server.connect(token("u2"), conversation_id="c1") as waiting,
        await server.connect(token("u1"), conversation_id="c1") as owner,
    ):
        assert (await owner.say("c1", "hi"))["type"] == "ack"
        await owner.say("c1", "Ada")
        await waiting.nothing()


async def test_typing_of_who_may_not_see_goes_nowhere(server: RunningServer, owner: Client) -> None:
    await owner.ask("subscribe", conversation_id="c1")
    await owner.until("snapshot")
    async with await server.connect(token("u2")) as stranger:
        await stranger.send({"type": "typing", "conversation_id": "c1", "typing": True})
        await stranger.nothing()
    await owner.nothing()

"""A store that is away for long: nothing dies of it, nothing piles up, and the log is not flooded."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog

from server.app import PATIENCE_S
from tests.support.cluster import cluster
from tests.support.gate import gate_named, gates
from tests.support.rest import call, streamed
from tests.support.server import FLOW, token

SLOW = """
flow: slow
variables: {done: null}
steps:
  - {id: work, action: gate.hold, with: {gate: "${input.text}"}, effect: read, save: variables.done}
  - {id: told, say: "It is ${variables.done}."}
  - {id: over, end: completed}
"""
HELP = """
flow: help
steps:
  - {id: human, handoff: support}
  - {id: done, end: completed}
"""
SETTINGS: dict[str, Any] = {
    "flows": {"greet": FLOW, "slow": SLOW, "help": HELP}, "actions": ("tests.support.gate",),
    "sweep_seconds": 0.05,
}  # fmt: skip


@pytest.fixture(autouse=True)
def open_gates() -> Any:
    gates.clear()
    yield
    for gate in gates.values():
        gate.open()


async def test_a_long_outage_of_the_store_leaves_everything_at_work(
    tmp_path: Path, log_without_errors: list[structlog.typing.EventDict]
) -> None:
    operator, service = token("op", role="operator"), token("svc", role="service")
    async with (
        cluster(tmp_path, 2, **SETTINGS) as (one, two),
        streamed(two, "/inbox", who=operator) as inbox,
        streamed(two, "/conversations/c0/events") as events,
    ):
        assert (await inbox.next()).name == "ready"
        watchers = [await two.connect(conversation_id=f"c{number}") for number in range(20)]
        here = await one.connect()
        await here.say("slow", "slow", flow_id="slow")
        gate = gate_named("slow")
        await gate.reached()
        tasks = len(asyncio.all_tasks())

        one.connection.away = two.connection.away = True
        gate.open()  # a result that cannot be committed yet
        calls = one.connection.calls + two.connection.calls
        for _ in range(5):
            refused = await here.say("c1", "hi", idempotency_key="key-00000001")
            assert refused["error"]["code"] == "store_unavailable"
            late = await two.connect()
            assert (await late.ask("state", conversation_id="c1"))["error"]["code"] == "store_unavailable"
            two.application.hub.restored()  # as if the bus flickered
            await asyncio.sleep(0.5)
        asked = one.connection.calls + two.connection.calls - calls
        assert asked < 400  # two sweepers at 20 a second, 20 watched conversations, and no busy loop
        assert len(asyncio.all_tasks()) < tasks + 60
        assert sum(line["log_level"] == "warning" for line in log_without_errors) < 60

        one.connection.away = two.connection.away = False
        ack = await here.say("c1", "hi", idempotency_key="key-00000001")
        assert (ack["type"], ack["duplicate"]) == ("ack", False)
        await watchers[1].until("events", to=ack["offset"])
        assert (await here.say("c0", "hi"))["type"] == "ack"
        assert (await events.next()).name == "conversation.created"
        assert (await call(one, "POST", "/flows/help/start", {}, who=service)).status == 202
        assert (await inbox.next()).name == "opened"
        async with asyncio.timeout(10):
            while (await here.ask("state", conversation_id="slow"))["result"]["status"] != "completed":
                await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) < 10


async def test_a_store_that_hangs_keeps_nobody_waiting_for_long(tmp_path: Path) -> None:
    """Not those either who wait behind somebody; and what hung may happen, once, when it goes on."""
    async with cluster(tmp_path, 1, **SETTINGS) as (one,):
        clients = [await one.connect() for _ in range(3)]
        first = await clients[0].say("c1", "hi")
        one.connection.answers.clear()
        async with asyncio.timeout(PATIENCE_S + 2):
            refused = await asyncio.gather(
                *(
                    client.say("c1", "Ada", idempotency_key=f"key-0000000{number}")
                    for number, client in enumerate(clients)
                )
            )
        assert [answer["error"]["code"] for answer in refused] == ["store_unavailable"] * 3
        one.connection.answers.set()
        again = await clients[0].say("c1", "Ada", idempotency_key="key-00000000")
        assert again["type"] == "ack"
        history = await clients[1].ask("history", conversation_id="c1")
        texts = [message["text"] for message in history["result"]["messages"]]
        assert texts.count("Ada") == 1
        assert again["offset"] > first["offset"]

"""Two instances that meet in a real Redis: what crosses it beside commits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import wall_ms
from tests.support.rest import call
from tests.support.server import RunningServer, running_server, token
from tests.support.split_store import SplitStore

pytestmark = pytest.mark.needs("redis")

OPERATOR = token("op", role="operator")


@pytest.fixture
async def two(tmp_path: Path, redis_url: str) -> AsyncIterator[list[RunningServer]]:
    """Two instances over one store."""
    store: Any = SplitStore(wall_ms)
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_server(tmp_path, store=store, bus=redis_url))
            for _ in range(2)
        ]


async def presence(server: RunningServer, who: str = OPERATOR) -> Any:
    return (await call(server, "GET", "/conversations/c1", who=who)).json["presence"]


async def until_present(server: RunningServer, **expected: int) -> None:
    """Return once exactly these users have so many connections."""
    wanted = [{"user_id": user, "connections": count} for user, count in sorted(expected.items())]
    async with asyncio.timeout(20):
        while await presence(server) != wanted:
            await asyncio.sleep(0.02)


async def test_a_turn_on_one_instance_is_seen_on_the_other(two: list[RunningServer]) -> None:
    here, there = two
    async with await here.connect() as one, await there.connect(conversation_id="c1") as other:
        assert (await one.say("c1", "hi"))["type"] == "ack"
        assert (await other.until("events"))["events"][0]["type"] == "conversation.created"


async def test_typing_is_seen_on_the_other_instance(two: list[RunningServer]) -> None:
    here, there = two
    async with await here.connect() as one:
        await one.say("c1", "hi")
        async with await there.connect(OPERATOR, conversation_id="c1") as operator:
            await one.ask("subscribe", conversation_id="c1")
            await one.send({"type": "typing", "conversation_id": "c1", "typing": True})
            told = await operator.until("typing")
            assert (told["conversation_id"], told["user_id"], told["typing"]) == ("c1", "u1", True)
            await operator.send({"type": "typing", "conversation_id": "c1", "typing": False})
            assert (await one.until("typing"))["user_id"] == "op"


async def test_an_operator_sees_who_is_connected_to_any_instance(two: list[RunningServer]) -> None:
    here, there = two
    async with await here.connect() as one:
        await one.say("c1", "hi")
        await one.ask("subscribe", conversation_id="c1")
        async with (
            await there.connect(conversation_id="c1"),
            await there.connect(OPERATOR, conversation_id="c1"),
        ):
            await until_present(here, u1=2, op=1)
            await until_present(there, u1=2, op=1)
            assert await presence(there, token("u1")) is None
        await until_present(here, u1=1)
        await until_present(there, u1=1)
    await until_present(here)
    await until_present(there)

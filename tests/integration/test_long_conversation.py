"""A conversation of ten thousand events opens like a short one: its newest page, and the rest on demand."""

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from parley_client import AsyncParley

from storage.memory import MemoryStore
from storage.models import EventBatch
from tests.support.server import RunningServer, running_server, token

FLOW = """
flow: echo
steps:
  - {id: one, say: "You said: ${input.text}"}
  - {id: done, end: completed}
"""
TURNS = 1_200
EVENTS_OF_A_TURN = 9


class CountingStore(MemoryStore):
    """Counts the events that it gives out."""

    given = 0

    async def messages(
        self, tenant_id: str, conversation_id: str, epoch: str, *, before: int | None, after: int, limit: int
    ) -> list[EventBatch]:
        found = await super().messages(
            tenant_id, conversation_id, epoch, before=before, after=after, limit=limit
        )
        self.given += sum(len(batch.events) for batch in found)
        return found

    async def events(
        self,
        tenant_id: str,
        conversation_id: str,
        epoch: str,
        after: int,
        *,
        limit: int = 1000,
        max_bytes: int = 512 * 1024,
    ) -> list[EventBatch]:
        found = await super().events(
            tenant_id, conversation_id, epoch, after, limit=limit, max_bytes=max_bytes
        )
        self.given += sum(len(batch.events) for batch in found)
        return found


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
async def server(tmp_path: Path, store: CountingStore) -> AsyncIterator[RunningServer]:
    async with running_server(
        tmp_path, flows={"echo": FLOW}, store=store, frames_per_second=100_000
    ) as running:
        client = await running.connect(token("u1"))
        for number in range(TURNS):
            answer = await client.say("long", f"say {number}")
            assert answer["type"] == "ack", answer
        store.given = 0
        yield running


async def test_it_opens_with_its_newest_page(server: RunningServer) -> None:
    client = await server.connect(token("u1"), conversation_id="long")
    snapshot = await client.until("snapshot")
    assert snapshot["offset"] >= 10_000
    assert len(snapshot["messages"]) == 50
    assert snapshot["messages"][-1]["text"] == f"You said: say {TURNS - 1}"
    assert len(orjson.dumps(snapshot)) <= 256 * 1024
    page = await client.ask("history", conversation_id="long", before=snapshot["before"], limit=100)
    texts = [message["text"] for message in page["result"]["messages"]]
    assert len(texts) == 100
    assert texts[-1] == f"You said: say {TURNS - 1 - 25}"


async def test_opening_it_reads_its_end_only(server: RunningServer, store: CountingStore) -> None:
    async with (
        AsyncParley(server.url, token("u1")) as parley,
        parley.conversation("long") as chat,
    ):
        await chat.ready()
        assert len(chat.messages) == 50
        assert chat.cursor[1] >= 10_000
    assert 0 < store.given <= 30 * EVENTS_OF_A_TURN

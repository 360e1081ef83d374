"""When something behind the sockets fails: typed errors, no detail, and the sockets stay."""

from pathlib import Path
from typing import Any

import pytest
import structlog

from storage.base import Commit, CommitOutcome, StoreUnavailable
from storage.memory.store import MemoryStore
from storage.models import Conversation
from tests.support.server import running_server, token


class FailingStore(MemoryStore):
    """Fails with ``failure`` as long as there is one."""

    failure: Exception | None = None

    async def load(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        self._fail()
        return await super().load(tenant_id, conversation_id)

    async def commit(self, commit: Commit) -> CommitOutcome:
        self._fail()
        return await super().commit(commit)

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


async def test_while_the_store_is_away_commands_are_refused_and_sockets_stay(tmp_path: Path) -> None:
    store = FailingStore()
    async with running_server(tmp_path, store=store) as server:
        client = await server.connect(conversation_id="c1")
        first = await client.say("c1", "hi")
        store.failure = StoreUnavailable("secret path")
        for answer in (
            await client.say("c1", "Ada", idempotency_key="key-00000001"),
            await client.say("c2", "hi"),
            await client.ask("state", conversation_id="c2"),
            await client.ask("subscribe", conversation_id="c2"),
        ):
            assert answer["error"]["code"] == "store_unavailable"
            assert answer["error"]["temporary"] is True
            assert answer["error"]["retry_after_ms"] > 0
            assert "secret" not in str(answer)
        store.failure = None
        again = await client.say("c1", "Ada", idempotency_key="key-00000001")
        assert again["duplicate"] is False
        events = [frame for frame in client.seen if frame["type"] == "events"]
        assert [frame["from"] for frame in events] == [1, first["offset"] + 1]


async def test_hello_to_a_conversation_while_the_store_is_away_closes_4007(tmp_path: Path) -> None:
    store = FailingStore()
    async with running_server(tmp_path, store=store) as server:
        store.failure = StoreUnavailable("away")
        client = await server.open()
        answer = await client.ask("hello", token=token(), conversation_id="c1")
        assert answer["error"]["code"] == "store_unavailable"
        assert (await client.closed())[0] == 4007
        assert (await server.connect()).welcome["type"] == "welcome"


@pytest.mark.usefixtures("expects_errors")
async def test_what_nobody_foresaw_is_logged_with_ids_and_told_without_detail(
    tmp_path: Path, log_without_errors: list[structlog.typing.EventDict]
) -> None:
    store = FailingStore()
    async with running_server(tmp_path, store=store) as server:
        client = await server.connect()
        store.failure = RuntimeError("secret detail")
        answer = await client.say("c1", "hi")
        assert answer["error"]["code"] == "internal"
        assert answer["error"]["temporary"] is True
        assert "secret" not in str(answer)
        line = next(line for line in log_without_errors if line["event"] == "unforeseen")
        assert line["connection_id"] == client.welcome["connection_id"]
        assert line["frame"] == "process"
        assert isinstance(line["exc_info"], RuntimeError)
        store.failure = None
        assert (await client.say("c1", "hi"))["type"] == "ack"


@pytest.mark.usefixtures("expects_errors")
async def test_an_unforeseen_failure_of_hello_closes_4000(tmp_path: Path) -> None:
    store = FailingStore()
    async with running_server(tmp_path, store=store) as server:
        store.failure = RuntimeError("secret detail")
        client = await server.open()
        answer = await client.ask("hello", token=token(), conversation_id="c1")
        assert answer["error"]["code"] == "internal"
        assert (await client.closed())[0] == 4000
        assert server.application.gateway.counter.count == 0


@pytest.mark.usefixtures("expects_errors")
async def test_a_frame_that_fails_leaves_its_id_free(tmp_path: Path) -> None:
    store = FailingStore()
    async with running_server(tmp_path, store=store) as server:
        client = await server.connect()
        store.failure = RuntimeError("x")
        answers: list[dict[str, Any]] = [await client.say("c1", "hi", id="same") for _ in range(3)]
        assert [answer["error"]["code"] for answer in answers] == ["internal"] * 3

"""The inbox over REST: what waits for people, for whom, in which order, and as it changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.rest import Answer, call
from tests.support.server import RunningServer, running_server, token

HELP = """
flow: help
steps:
  - {id: human, handoff: support}
  - {id: done, end: completed}
"""
GATE = """
flow: gate
steps:
  - id: gate
    accept: {title: "Sure?", by: {scope: "acceptance:decide"}}
    rejected: over
  - {id: over, end: completed}
"""
OPERATOR = token("op", role="operator")
SERVICE = token("svc", role="service")
ADMIN = token("root", role="admin")
FOREIGN = token("op", tenant_id="t2", role="operator")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running_server(
        tmp_path, flows={"help": HELP, "gate": GATE}, connections_per_principal=2
    ) as running:
        yield running


async def handed_over(server: RunningServer, **body: Any) -> str:
    answer = await call(server, "POST", "/flows/help/start", body, who=SERVICE)
    assert answer.status == 202
    return str(answer.json["execution_id"])


async def inbox(server: RunningServer, who: str = OPERATOR, query: str = "") -> Any:
    answer = await call(server, "GET", f"/inbox{query}", who=who)
    assert answer.status == 200
    assert answer.json.keys() == {"items", "cursor"}
    return answer.json


class Events:
    """An open stream, read event by event."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""

    async def next(self) -> tuple[str, Any]:
        """Return name and data of the next event; ``("end", None)`` when the stream is over."""
        name = ""
        while True:
            async with asyncio.timeout(15):
                line = (await self.reader.readline()).decode().rstrip("\r\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                return name, orjson.loads(line.removeprefix("data: "))
            elif self.reader.at_eof() or line == "0":
                return "end", None


@asynccontextmanager
async def stream(server: RunningServer, who: str = OPERATOR) -> AsyncIterator[Events]:
    reader, writer = await asyncio.open_connection(*server.address)
    lines = ["GET /v1/inbox HTTP/1.1", "Host: test", f"Authorization: Bearer {who}"]
    writer.write("\r\n".join([*lines, "Accept: text/event-stream", "", ""]).encode())
    events = Events(reader, writer)
    events.head = await reader.readuntil(b"\r\n\r\n")
    try:
        yield events
    finally:
        writer.close()


async def test_a_hand_off_waits_for_operators(server: RunningServer) -> None:
    execution_id = await handed_over(server, conversation_id="c1", user_id="u1", project_id="p")
    for who in (OPERATOR, ADMIN, SERVICE):
        (item,) = (await inbox(server, who))["items"]
        assert (item["kind"], item["execution_id"], item["conversation_id"]) == (
            "handoff",
            execution_id,
            "c1",
        )
        assert (item["flow_id"], item["step_id"], item["pending"]) == ("help", "human", None)
        assert (item["user_id"], item["project_id"]) == ("u1", "p")
    for who in (token("u1"), token("u2"), FOREIGN):
        assert (await inbox(server, who))["items"] == []


async def test_what_was_taken_up_waits_no_more(server: RunningServer) -> None:
    execution_id = await handed_over(server)
    await call(server, "POST", f"/executions/{execution_id}/resume", {}, who=OPERATOR)
    assert (await inbox(server))["items"] == []


async def test_the_oldest_comes_first_in_pages(server: RunningServer) -> None:
    ids = [await handed_over(server) for _ in range(5)]
    first = await inbox(server, query="?limit=3")
    second = await inbox(server, query=f"?limit=3&cursor={first['cursor']}")
    found = [*first["items"], *second["items"]]
    assert {item["execution_id"] for item in found} == set(ids)
    assert [item["since"] for item in found] == sorted(item["since"] for item in found)
    assert second["cursor"] is None


async def test_a_stream_tells_what_waits_what_comes_and_what_is_settled(server: RunningServer) -> None:
    before = await handed_over(server)
    async with stream(server) as events:
        assert b"200 OK" in events.head
        assert b"text/event-stream" in events.head
        name, item = await events.next()
        assert (name, item["execution_id"]) == ("opened", before)
        assert await events.next() == ("ready", {"items": 1})
        later = await handed_over(server)
        name, item = await events.next()
        assert (name, item["execution_id"]) == ("opened", later)
        await call(server, "POST", f"/executions/{before}/cancel", {}, who=OPERATOR)
        name, item = await events.next()
        assert (name, item["wait_id"], item["kind"]) == ("settled", before, "handoff")


async def test_a_stream_says_how_a_request_was_decided(server: RunningServer) -> None:
    async with stream(server, token("judge", scopes=("acceptance:decide",))) as events:
        assert (await events.next())[0] == "ready"
        started = (await call(server, "POST", "/flows/gate/start", {}, who=SERVICE)).json
        name, item = await events.next()
        assert (name, item["kind"], item["pending"]["title"]) == ("opened", "acceptance", "Sure?")
        path = f"/executions/{started['execution_id']}/acceptance"
        await call(server, "POST", path, {"accepted": False, "comment": "no"}, who=OPERATOR)
        name, item = await events.next()
        assert (name, item["conversation_id"]) == ("settled", started["conversation_id"])
        assert (item["decided"]["by"], item["decided"]["accepted"]) == ("op", False)


async def test_a_stream_tells_nothing_of_others(server: RunningServer) -> None:
    async with stream(server, token("u2")) as events, stream(server) as operators:
        assert await events.next() == ("ready", {"items": 0})
        assert await operators.next() == ("ready", {"items": 0})
        await handed_over(server, user_id="u1")
        assert (await operators.next())[0] == "opened"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await events.next()


async def test_streams_are_connections_and_counted_as_such(server: RunningServer) -> None:
    async with stream(server) as one, stream(server) as two:
        assert (await one.next())[0] == (await two.next())[0] == "ready"
        refused = await call(server, "GET", "/inbox", who=OPERATOR, Accept="text/event-stream")
        assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limited")
        assert int(refused.headers["retry-after"]) >= 1
    for _ in range(100):
        if not server.application.gateway.counter.count:
            break
        await asyncio.sleep(0.05)
    assert server.application.gateway.counter.count == 0
    assert not server.application.hub.inboxes


async def test_a_stream_ends_when_the_server_goes_and_with_its_token(server: RunningServer) -> None:
    async with stream(server, token("op", role="operator", ttl_s=-3)) as old:
        assert (await old.next())[0] == "ready"  # within the leeway; it is looked at again after a rest
        assert (await old.next())[0] == "end"
    async with stream(server) as events:
        assert (await events.next())[0] == "ready"
        server.application.drain.begin()
        assert (await events.next())[0] == "end"


async def test_head_and_a_browsers_accept_get_the_page(server: RunningServer) -> None:
    await handed_over(server)
    page: Answer = await call(server, "GET", "/inbox", who=OPERATOR, Accept="text/html, text/event-stream")
    assert len(page.json["items"]) == 1
    head = await call(server, "HEAD", "/inbox", who=OPERATOR, Accept="text/event-stream")
    assert (head.status, head.body) == (200, b"")

"""Opening a socket: subprotocol, origin, caps; what is refused is accepted first and then closed."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from storage.memory.store import MemoryStore
from tests.support.raw import PING, TEXT, close_frame, frame, handshake_request, raw_socket
from tests.support.rest import ask
from tests.support.server import RunningServer, running_server, token

ORIGINS = ("https://shop.example", "https://*.partner.example", "http://localhost:3000")


async def test_the_subprotocol_is_negotiated(server: RunningServer) -> None:
    client = await server.open()
    assert client.socket.subprotocol == "parley.v1"


async def test_without_the_subprotocol_it_closes_4506(server: RunningServer) -> None:
    client = await server.open(subprotocol=None)
    code, reason = await client.closed()
    assert code == 4506
    assert "parley.v1" in reason
    assert client.seen == []


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("https://shop.example", True),
        ("https://a.partner.example", True),
        ("http://localhost:3000", True),
        ("http://shop.example", False),
        ("https://shop.example:8443", False),
        ("https://shop.example.evil.example", False),
        ("https://evilshop.example", False),
        ("https://partner.example", False),
        ("https://a.b.partner.example", False),
        ("http://localhost:3001", False),
        ("null", False),
    ],
)
async def test_a_page_connects_only_from_a_listed_origin(
    tmp_path: Path, origin: str | None, allowed: bool
) -> None:
    async with running_server(tmp_path, origins=ORIGINS) as server:
        client = await server.open(origin=origin)
        if allowed:
            assert (await client.ask("hello", token=token()))["type"] == "welcome"
        else:
            code, reason = await client.closed()
            assert code == 4507
            assert "origin" in reason
            assert client.seen == []


async def test_a_user_has_so_many_connections_and_no_more(tmp_path: Path) -> None:
    async with running_server(tmp_path, connections_per_principal=2) as server:
        clients = [await server.connect(token("u1")) for _ in range(2)]
        one_more = await server.open()
        answer = await one_more.ask("hello", token=token("u1"))
        assert answer["error"]["code"] == "rate_limited"
        assert (await one_more.closed())[0] == 4504
        await server.connect(token("u2"))
        await server.connect(token("u1", tenant_id="t2"))
        await clients[0].socket.close()
        again = await server.connect(token("u1"))
        assert again.welcome["type"] == "welcome"


async def test_a_server_has_so_many_connections_and_no_more(tmp_path: Path) -> None:
    async with running_server(tmp_path, connections_per_instance=3) as server:
        clients = [await server.open() for _ in range(3)]
        one_more = await server.open()
        assert (await one_more.closed())[0] == 4504
        await clients[0].socket.close()
        assert (await server.connect()).welcome["type"] == "welcome"


async def test_a_refused_hello_gives_its_place_back(tmp_path: Path) -> None:
    async with running_server(tmp_path, connections_per_principal=1) as server:
        for _ in range(3):
            client = await server.connect(token("u1"))
            await client.socket.close()
            stranger = await server.open()
            await stranger.ask("hello", token="nonsense")
            await stranger.closed()
        assert server.application.gateway.counter.principals == 0


async def test_every_connection_leaves_nothing_behind(server: RunningServer) -> None:
    application = server.application
    for number in range(50):
        client = await server.connect(token(f"u{number}"), conversation_id=f"c{number}")
        if number % 3 == 0:
            await client.say(f"c{number}", "hi")
        if number % 2:
            client.socket.transport.abort()
        else:
            await client.socket.close()
    while application.gateway.connections:
        await server.connect()
        for client_socket in server.sockets:
            await client_socket.close()
    assert application.gateway.counter.count == 0
    assert application.gateway.counter.principals == 0
    assert application.hub.watched == 0
    assert not application.wheel.stalled
    assert not application.wheel._buckets


async def test_the_codes_that_peers_make_up_are_counted_as_one(server: RunningServer) -> None:
    for code in (3000, 3999, 4711, 4999, 4001):
        async with raw_socket(*server.address) as socket:
            await socket.send(close_frame(code))
            assert await socket.ended() == code
    while server.application.gateway.connections:
        await asyncio.sleep(0)
    shown = (await ask(server, "GET", "/metrics")).body.decode().splitlines()
    counted = {line.partition("{")[2] for line in shown if line.startswith("parley_closes_total{")}
    assert counted == {'code="other"} 4.0', 'code="4001"} 1.0'}


class HeldStore(MemoryStore):
    """Tells whether a key names an origin when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = asyncio.Event(), asyncio.Event()

    async def has_origin(self, *_args: Any, **_more: Any) -> bool:
        self.asked.set()
        await self.let.wait()
        return True


@pytest.mark.parametrize(
    "sent",
    [frame(TEXT, b"{}", mask=None), frame(3, b"x"), frame(PING, b"x" * 126), close_frame(1000)],
    ids=["unmasked", "opcode", "long-ping", "close"],
)
async def test_what_comes_before_the_answer_to_a_handshake_breaks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    store = HeldStore()
    async with running_server(tmp_path, store=store) as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(handshake_request("Origin: https://shop.example"))
        await store.asked.wait()
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        store.let.set()
        writer.close()
        await server.connect()
        assert server.application.gateway.counter.count == 1
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []

"""Credentials on a live socket: how they come, expire, are renewed, and what they may not change."""

import asyncio
import urllib.error
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.server import RemoteServer, RunningServer, running_server, server_process, token


@pytest.mark.parametrize(
    ("bad", "error", "code"),
    [
        (None, "unauthorized", 4500),
        ("", "unauthorized", 4500),
        ("nonsense", "unauthorized", 4500),
        (token(secret="another-secret-of-thirty-two-bytes!"), "unauthorized", 4500),
        (token(issuer="somebody"), "unauthorized", 4500),
        (token(ttl_s=-60), "token_expired", 4002),
    ],
)
async def test_a_bad_credential_gets_its_error_and_close(
    server: RunningServer, bad: str | None, error: str, code: int
) -> None:
    client = await server.open()
    answer = await client.ask("hello", token=bad)
    assert answer["error"]["code"] == error
    assert (await client.closed())[0] == code


async def test_the_credential_may_come_in_the_authorization_header(server: RunningServer) -> None:
    client = await server.open(additional_headers={"Authorization": f"Bearer {token('u7')}"})
    assert (await client.ask("hello"))["principal"]["user_id"] == "u7"
    other = await server.open(additional_headers={"Authorization": f"Bearer {token('u7')}"})
    assert (await other.ask("hello", token=token("u8")))["principal"]["user_id"] == "u8"


async def test_a_token_in_the_url_is_no_credential(server: RunningServer) -> None:
    client = await server.open(uri=f"{server.ws_url}?token={token()}")
    assert (await client.ask("hello"))["error"]["code"] == "unauthorized"


async def test_auth_renews_the_token_of_the_same_user(server: RunningServer) -> None:
    client = await server.connect(token("u1"))
    assert (await client.ask("auth", token=token("u1")))["type"] == "ack"
    for other in (token("u2"), token("u1", tenant_id="t2")):
        assert (await client.ask("auth", token=other))["error"]["code"] == "permission_denied"
    assert (await client.ask("auth", token="nonsense"))["error"]["code"] == "unauthorized"
    assert (await client.ask("auth", token=token(ttl_s=-60)))["error"]["code"] == "token_expired"
    assert (await client.say("c1", "hi"))["type"] == "ack"


async def test_scopes_that_are_gone_end_the_subscriptions_that_needed_them(server: RunningServer) -> None:
    owner = await server.connect(token("u1"))
    await owner.say("c1", "hi")
    agent = await server.connect(token("a", scopes=("conversations:read",)), conversation_id="c1")
    await agent.until("snapshot")
    await agent.ask("auth", token=token("a"))
    assert [frame for frame in agent.seen if frame["type"] == "unsubscribed"] == [
        {"type": "unsubscribed", "conversation_id": "c1", "code": "permission_denied"}
    ]
    await owner.say("c1", "Ada")
    await agent.nothing()
    assert (await agent.ask("state", conversation_id="c1"))["error"]["code"] == "conversation_not_found"


async def test_a_token_that_ends_is_asked_for_and_then_closes(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        gateway = server.application.gateway
        gateway.limits = replace(gateway.limits, expiry_grace_ms=0)
        client = await server.connect(token(ttl_s=2))
        assert 0 <= (await client.until("auth.required"))["expires_in"] <= 2
        assert await client.closed() == (4002, "the token has expired")


async def test_a_renewed_token_keeps_the_connection(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        gateway = server.application.gateway
        gateway.limits = replace(gateway.limits, expiry_grace_ms=0)
        client = await server.connect(token(ttl_s=2))
        await client.until("auth.required")
        await client.ask("auth", token=token(ttl_s=3600))
        with pytest.raises(TimeoutError):
            await client.receive(3.5)
        assert (await client.say("c1", "hi"))["type"] == "ack"


async def test_a_token_never_shows_in_errors_or_metrics(server: RunningServer) -> None:
    canary = token("canary-user", secret="another-secret-of-thirty-two-bytes!")
    client = await server.open(additional_headers={"Authorization": f"Bearer {canary}"})
    answer = await client.ask("hello")
    with pytest.raises(ConnectionClosed):
        await client.receive()
    assert canary[-20:] not in str(answer)
    assert canary[-20:].encode() not in server.application.metrics.render()


def fetch(url: str, bearer: str) -> bytes:
    """GET a page with a credential, whatever it answers."""
    try:
        with urlopen(Request(url, headers={"Authorization": f"Bearer {bearer}"}), timeout=5) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.read()


async def test_a_token_never_shows_in_logs_or_in_the_database(tmp_path: Path) -> None:
    """Every way to bring one, right and wrong, with the log at its most talkative."""
    good, bad = token("canary"), token("canary", secret="another-secret-of-thirty-two-bytes!")
    with server_process(tmp_path, PARLEY_LOG_LEVEL="debug") as process:
        server = RemoteServer(process.url)
        for canary in (good, bad):
            for headers, hello in (
                ({"Authorization": f"Bearer {canary}"}, {}),
                ({}, {"token": canary}),
                ({"Cookie": f"token={canary}"}, {"token": canary}),
            ):
                client = await server.open(additional_headers=headers, uri=f"{server.ws_url}?token={canary}")
                answer = await client.ask("hello", **hello)
                if answer["type"] == "welcome":
                    await client.ask("auth", token=canary)
                    await client.ask("auth", token=canary + "x")
                    await client.say("c1", "hi")
                await client.socket.close()
            await asyncio.to_thread(fetch, f"{process.url}/v1/nothing?token={canary}", canary)
        metrics = await asyncio.to_thread(fetch, f"{process.url}/metrics", good)
        assert process.terminate() == 0
        written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert any(b"canary" in content for content in written)
        for canary in (good, bad):
            secret = canary.rpartition(".")[2].encode()
            assert secret not in metrics
            assert not [content for content in written if secret in content]

"""The HTTP surface: probes, numbers, visitors, typed errors, ids."""

import asyncio
import http.client
import time
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from storage.base import StoreUnavailable
from storage.memory.store import MemoryStore
from tests.support.rest import Answer, ask
from tests.support.server import RunningServer, running_server, token


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A development server with a default tenant and one page that may connect."""
    origins = ("http://localhost:3000",)
    async with running_server(tmp_path, dev=True, default_tenant="t1", origins=origins) as running:
        yield running


# --- probes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz", "/health"])
async def test_probes_answer_200_on_a_server_that_is_well(server: RunningServer, path: str) -> None:
    answer = await ask(server, "GET", path)
    assert answer.status == 200
    assert answer.json["status"] == "ok"


async def test_readiness_names_each_dependency(server: RunningServer) -> None:
    checks = (await ask(server, "GET", "/readyz")).json["checks"]
    assert checks["store"]["status"] == "ok"
    assert checks["store"]["latency_ms"] >= 0
    assert checks["store"]["reason"] is None


async def test_health_says_what_and_which_version(server: RunningServer) -> None:
    body = (await ask(server, "GET", "/health")).json
    assert body.keys() == {"status", "service", "version", "environment"}
    assert (body["service"], body["environment"]) == ("parley", "serve")


class AwayStore(MemoryStore):
    """A store that can be taken away."""

    away = False

    async def ping(self) -> None:
        if self.away:
            raise StoreUnavailable("secret detail")
        await super().ping()


async def test_a_store_that_is_away_makes_the_server_not_ready_but_alive(tmp_path: Path) -> None:
    store = AwayStore()
    async with running_server(tmp_path, store=store) as server:
        store.away = True
        ready = await ask(server, "GET", "/readyz")
        assert (ready.status, ready.json["status"]) == (503, "store_unavailable")
        assert ready.json["checks"]["store"]["status"] == "down"
        assert b"secret detail" not in ready.body
        health = await ask(server, "GET", "/health")
        assert (health.status, health.json["status"]) == (503, "down")
        assert (await ask(server, "GET", "/livez")).status == 200
        store.away = False
        await asyncio.sleep(1.05)  # a verdict is used for a second
        assert (await ask(server, "GET", "/readyz")).status == 200


async def test_status_says_what_the_server_takes(server: RunningServer) -> None:
    body = (await ask(server, "GET", "/v1/status")).json
    assert body["protocols"] == ["parley.v1"]
    assert (body["features"]["visitors"], body["features"]["local_visitors"]) == (True, False)
    assert body["limits"]["max_frame_bytes"] == 65_536


async def test_metrics_count_what_happened(server: RunningServer) -> None:
    client = await server.connect(conversation_id="c1")
    await client.say("c1", "hi")
    await client.ask("state", conversation_id="c9")
    answer = await ask(server, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=1.0.0")
    text = answer.body.decode()
    assert 'parley_turns_total{outcome="completed"} 1.0' in text
    assert "parley_connections 1.0" in text
    assert "parley_frames_total 3.0" in text
    assert 'parley_errors_total{code="conversation_not_found"} 1.0' in text
    assert "parley_watched_conversations 1.0" in text
    assert "parley_turn_seconds_count 1.0" in text
    assert "parley_store_seconds_count 1.0" in text


# --- errors, ids, headers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/livez/", 404, "not_found"),
        ("GET", "//livez", 404, "not_found"),
        ("GET", "/%2e%2e/etc/passwd", 404, "not_found"),
        ("POST", "/livez", 405, "bad_request"),
        ("DELETE", "/metrics", 405, "bad_request"),
        ("GET", "/v1/visitors", 405, "bad_request"),
        ("POST", "/v1/visitors", 401, "unauthorized"),
        ("GET", "/v1/ws", 404, "not_found"),
        ("OPTIONS", "/livez", 405, "bad_request"),
        ("TRACE", "/livez", 405, "bad_request"),
        ("BREW", "/livez", 405, "bad_request"),
    ],
)
async def test_errors_are_those_of_the_wire(
    server: RunningServer, method: str, path: str, status: int, code: str
) -> None:
    answer = await ask(server, method, path)
    if method == "BREW" and answer.status == 400:
        return  # the HTTP parser knows only registered methods
    assert answer.status == status
    assert answer.json["error"]["code"] == code
    assert answer.json["error"].keys() == {
        "code", "message", "temporary", "retry_after_ms", "field", "details", "suggestion", "docs",
    }  # fmt: skip
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    if status == 405:
        assert {"GET", "POST"} & set(answer.headers["allow"].split(", "))


async def test_head_is_get_without_the_body(server: RunningServer) -> None:
    for path in ("/livez", "/metrics", "/v1/status"):
        answer = await ask(server, "HEAD", path)
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["content-length"]) > 0


async def test_every_answer_has_ids(server: RunningServer) -> None:
    made = await ask(server, "GET", "/livez")
    assert len(made.headers["x-request-id"]) == len(made.headers["x-correlation-id"]) == 32
    given = await ask(server, "GET", "/nowhere", X_Request_ID="req-1", X_Correlation_ID="a.B_2")
    assert (given.headers["x-request-id"], given.headers["x-correlation-id"]) == ("req-1", "a.B_2")
    assert given.json["request_id"] == "req-1"


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "a\tb", "<script>", "é"])
async def test_an_id_that_is_not_well_formed_is_replaced(server: RunningServer, bad: str) -> None:
    answer = await ask(server, "GET", "/livez", X_Request_ID=bad)
    assert len(answer.headers["x-request-id"]) == 32


async def test_every_answer_has_security_headers(server: RunningServer) -> None:
    for path in ("/livez", "/nowhere", "/metrics"):
        headers = (await ask(server, "GET", path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


# --- visitors -------------------------------------------------------------------------------------


async def visit(server: RunningServer, body: bytes | None = None, **headers: str) -> Answer:
    if body is not None:
        headers.setdefault("Content_Type", "application/json")
    return await ask(server, "POST", "/v1/visitors", body, **headers)


async def test_a_visitor_gets_a_token_that_opens_a_socket(dev: RunningServer) -> None:
    answer = await visit(dev)
    assert answer.status == 201
    assert answer.json.keys() == {"token", "user_id", "expires_in"}
    client = await dev.connect(answer.json["token"])
    assert client.welcome["principal"]["user_id"] == answer.json["user_id"]
    assert client.welcome["principal"]["role"] == "visitor"


async def test_a_visitor_renews_their_token_and_stays_who_they_are(dev: RunningServer) -> None:
    first = (await visit(dev)).json
    again = await visit(dev, orjson.dumps({"token": first["token"]}))
    assert again.json["user_id"] == first["user_id"]
    refused = await visit(dev, orjson.dumps({"token": token("u1")}))
    assert (refused.status, refused.json["error"]["code"]) == (401, "unauthorized")
    assert refused.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "permission_denied"),
        ({"Host": "127.0.0.1:1"}, "permission_denied"),
        ({"Host": "localhost.evil.example"}, "permission_denied"),
        ({"Origin": "https://evil.example"}, "origin_not_allowed"),
        ({"Origin": "http://localhost:3001"}, "origin_not_allowed"),
        ({"Origin": "null"}, "origin_not_allowed"),
    ],
)
async def test_pages_elsewhere_cannot_make_visitors(
    dev: RunningServer, headers: dict[str, str], code: str
) -> None:
    answer = await visit(dev, None, **headers)
    assert (answer.status, answer.json["error"]["code"]) == (403, code)
    assert "access-control-allow-origin" not in answer.headers


async def test_an_allowed_page_may_read_the_answer(dev: RunningServer) -> None:
    port = dev.address[1]
    answer = await visit(dev, Origin="http://localhost:3000", Host=f"localhost:{port}")
    assert answer.status == 201
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert answer.headers["vary"] == "origin"
    preflight = await ask(dev, "OPTIONS", "/v1/visitors", Origin="http://localhost:3000")
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-methods"] == "POST"
    assert (await ask(dev, "OPTIONS", "/v1/visitors", Origin="http://x.example")).status == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
async def test_the_servers_own_page_may_always_ask_and_connect(dev: RunningServer, name: str) -> None:
    own = f"{name}:{dev.address[1]}"
    answer = await visit(dev, Origin=f"http://{own}", Host=own)
    assert answer.status == 201
    client = await dev.open(origin=f"http://{own}")
    assert (await client.ask("hello", token=answer.json["token"]))["type"] == "welcome"
    assert (await ask(dev, "OPTIONS", "/v1/inbox", Origin=f"https://{own}")).status == 403


async def test_a_server_that_is_not_for_development_allows_no_page_by_itself(server: RunningServer) -> None:
    assert (await ask(server, "OPTIONS", "/v1/inbox", Origin=server.url)).status == 403


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b'{"token":1}', {}, 400, "bad_request"),
        (b'{"nope":1}', {}, 400, "bad_request"),
        (b"{", {}, 400, "invalid_frame"),
        (b"[]", {}, 400, "invalid_frame"),
        (b'{"a":' * 40, {}, 400, "invalid_frame"),
        (b"\xff", {}, 400, "invalid_frame"),
        (b"{}", {"Content_Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content_Type": ""}, 415, "unsupported_media_type"),
        (b'{"token":"' + b"x" * 70_000 + b'"}', {}, 413, "payload_too_large"),
        (b"{}", {"Content_Length": "99999999"}, 413, "payload_too_large"),
        (b'{"token":"nonsense"}', {}, 401, "unauthorized"),
    ],
)
async def test_a_body_that_cannot_be_used_gets_its_error(
    dev: RunningServer, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await visit(dev, body, **headers)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert len(answer.body) < 1000


async def test_a_body_in_chunks_is_bounded_too(dev: RunningServer) -> None:
    def send() -> int:
        connection = http.client.HTTPConnection(*dev.address, timeout=10)
        chunks = iter([b'{"token":"', *[b"x" * 10_000] * 20])
        try:
            connection.request(
                "POST", "/v1/visitors", chunks, {"Content-Type": "application/json"}, encode_chunked=True
            )
            return connection.getresponse().status
        except (BrokenPipeError, ConnectionResetError):
            return 413
        finally:
            connection.close()

    assert await asyncio.to_thread(send) == 413


async def test_a_body_that_never_comes_is_given_up(dev: RunningServer) -> None:
    reader, writer = await asyncio.open_connection(*dev.address)
    host = f"127.0.0.1:{dev.address[1]}"
    head = f"POST /v1/visitors HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: 9\r\n\r\n".encode())
    started = time.monotonic()
    status = await asyncio.wait_for(reader.readline(), 20)
    assert b" 400 " in status
    assert time.monotonic() - started < 12
    writer.close()

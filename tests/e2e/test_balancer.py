"""Our balancer's own file in a real nginx, before three real servers over one MongoDB and one Redis.

Where an instance has to be looked into, or to be in a state that does not last, the instances are in the
process of the test instead, over a store and a bus that they share.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.balancer import Balancer, balancer
from tests.support.cluster import cluster
from tests.support.commands import parley
from tests.support.mongo import database_name, drop, with_database
from tests.support.ports import free_port
from tests.support.redis import with_prefix
from tests.support.server import (
    SECRET,
    Client,
    RemoteServer,
    ServerProcess,
    server_process,
    token,
    wait_until_ready,
    write_flows,
)

HEADER = "X-Parley-Instance"
SIZE = 3


def instance_of(client: Client) -> str:
    response = client.socket.response
    assert response is not None
    return response.headers[HEADER]


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(**claims)}"}


def is_whole(instance: ServerProcess) -> bool:
    """Whether it hears of the others: without its bus it would work too, but late."""
    return bool(httpx.get(instance.url + "/readyz").json()["status"] == "ok")


class Site:
    """Three servers that start and die, and nginx before them."""

    def __init__(self, folder: Path, store: str, bus: str) -> None:
        self.folder = folder
        self.ports = [free_port() for _ in range(SIZE)]
        self.instances: list[ServerProcess] = []
        self.settings = {"PARLEY_STORE": store, "PARLEY_BUS": bus, "PARLEY_TRUSTED_PROXIES": "127.0.0.1"}
        self._lives = contextlib.ExitStack()
        write_flows(folder)

    def start(self, number: int) -> ServerProcess:
        """Begin a life of instance ``number`` on its port; ``wait_until_ready`` is up to the caller."""
        name = f"i{number}"
        env: dict[str, Any] = {**self.settings, "PARLEY_INSTANCE_ID": name}
        life = server_process(self.folder, port=self.ports[number], wait_s=0, **env)
        return self._lives.enter_context(life)

    @contextlib.contextmanager
    def running(self) -> Iterator[Balancer]:
        with self._lives:
            self.instances = [self.start(number) for number in range(SIZE)]
            for instance in self.instances:
                wait_until_ready(instance, 60)
                assert is_whole(instance)
            with balancer(self.folder, [("127.0.0.1", port) for port in self.ports]) as nginx:
                yield nginx


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    mongo = os.environ.get("PARLEY_TEST_MONGO_URL") or request.getfixturevalue("shared_mongo").url
    redis = os.environ.get("PARLEY_TEST_REDIS_URL") or request.getfixturevalue("shared_redis").url
    store = with_database(mongo, database_name())
    yield Site(tmp_path_factory.mktemp("site"), store, with_prefix(redis))
    drop(store)


@pytest.fixture(scope="module")
def front(site: Site) -> Iterator[Balancer]:
    with site.running() as nginx:
        yield nginx


needs_all = pytest.mark.needs("mongo", "redis", "nginx")


@contextlib.asynccontextmanager
async def everywhere(front: RemoteServer, conversation_id: str) -> AsyncIterator[dict[str, Client]]:
    """Sockets on every instance at once, of one user in one conversation: who has fewest gets the next."""
    clients: dict[str, Client] = {}
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(SIZE * 4):
            client = await stack.enter_async_context(await front.connect(conversation_id=conversation_id))
            clients.setdefault(instance_of(client), client)
            if len(clients) == SIZE:
                break
        yield clients


def told(client: Client) -> list[dict[str, Any]]:
    return [event for frame in client.seen if frame["type"] == "events" for event in frame["events"]]


async def until_turn_ends(client: Client, command_id: str) -> None:
    def ended() -> bool:
        return any(e["type"] == "turn.completed" and e["command_id"] == command_id for e in told(client))

    while not ended():
        await client.receive(30)


@needs_all
async def test_three_devices_on_three_instances_see_the_same_in_the_same_order(front: Balancer) -> None:
    async with everywhere(front, "devices") as clients:
        assert sorted(clients) == ["i0", "i1", "i2"]
        for text, client in zip(("hi", "Ada", "blue"), clients.values(), strict=True):
            ack = await client.say("devices", text)
            for each in clients.values():
                await until_turn_ends(each, ack["command_id"])
        first, *others = (told(client) for client in clients.values())
        assert [other == first for other in others] == [True, True]
        for client in clients.values():
            frames = [frame for frame in client.seen if frame["type"] == "events"]
            ends = [0, *(frame["to"] for frame in frames)]
            assert [frame["from"] for frame in frames] == [end + 1 for end in ends[:-1]]


@needs_all
async def test_a_client_that_returns_resumes_on_another_instance(front: Balancer) -> None:
    async with await front.connect(conversation_id="resumed") as client:
        ack = await client.say("resumed", "hi")
        await until_turn_ends(client, ack["command_id"])
        met, known = {instance_of(client)}, told(client)
    at = known[2]["offset"]
    for _ in range(SIZE * 4):
        resume = {"epoch": ack["epoch"], "offset": at}
        async with await front.connect(conversation_id="resumed", resume=resume) as client:
            assert client.welcome["recovered"]
            await until_turn_ends(client, ack["command_id"])
            assert told(client) == [event for event in known if event["offset"] > at]
            met.add(instance_of(client))
        if len(met) == SIZE:
            break
    assert len(met) == SIZE  # nothing ties a client to an instance


@needs_all
async def test_smoke_and_doctor_find_a_sound_site(front: Balancer, site: Site) -> None:
    env = {"PARLEY_TOKEN": token("smoke")}
    walked = await asyncio.to_thread(
        parley, "smoke", front.url, "--instances", str(SIZE), "--json", cwd=site.folder, env=env
    )
    assert walked.returncode == 0, walked.stdout
    too_many = await asyncio.to_thread(
        parley, "smoke", front.url, "--instances", "4", cwd=site.folder, env=env
    )
    assert (too_many.returncode, "only 3 of 4 instances answered" in too_many.stdout) == (1, True)
    settings = {**site.settings, "PARLEY_JWT_SECRET": SECRET, "PARLEY_PORT": str(free_port())}
    looked = await asyncio.to_thread(
        parley, "doctor", "--json", "--url", front.url, cwd=site.folder, env=settings
    )
    assert looked.returncode == 0, looked.stdout
    levels = {finding["subject"]: finding["level"] for finding in json.loads(looked.stdout)}
    for subject in ("mongodb", "mongodb indexes", "mongodb writes", "redis", "redis buffers", "url upgrade"):
        assert levels[subject] == "ok"


@needs_all
async def test_clients_of_an_instance_that_is_killed_go_on_elsewhere(front: Balancer, site: Site) -> None:
    async with everywhere(front, "killed") as clients:
        ack = await clients["i0"].say("killed", "hi")
        for client in clients.values():
            await until_turn_ends(client, ack["command_id"])
        site.instances[0].kill()
        assert (await clients["i0"].closed())[0] == 1006
        try:
            # At once and every time, although nginx has not been told: it finds out and passes over.
            for _ in range(6):
                resume = {"epoch": ack["epoch"], "offset": 0}
                async with await front.connect(conversation_id="killed", resume=resume) as returned:
                    assert instance_of(returned) != "i0"
                    await until_turn_ends(returned, ack["command_id"])
                    assert told(returned) == told(clients["i1"])
            async with httpx.AsyncClient(base_url=front.url, headers=bearer()) as rest:
                answers = [await rest.get("/v1/conversations/killed/state") for _ in range(6)]
            assert [answer.status_code for answer in answers] == [200] * 6
            ack = await clients["i1"].say("killed", "Ada")
            await until_turn_ends(clients["i2"], ack["command_id"])
        finally:
            site.instances[0] = await asyncio.to_thread(site.start, 0)
            await asyncio.to_thread(wait_until_ready, site.instances[0], 60)


@needs_all
async def test_streams_pass_unbuffered_and_pages_are_served(front: Balancer) -> None:
    async with httpx.AsyncClient(base_url=front.url, headers=bearer(), timeout=30) as rest:
        made = await rest.post("/v1/conversations/streamed/process", json=said("hi"))
        assert made.status_code == 200, made.text
        async with rest.stream("GET", "/v1/conversations/streamed/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.aiter_lines()
            async with await front.connect(conversation_id="streamed") as client:
                await client.say("streamed", "Ada")
            # The stream goes on for ever: what comes was not held back.
            while "Ada" not in await asyncio.wait_for(anext(lines), 30):
                continue
        async with rest.stream(
            "POST",
            "/v1/conversations/streamed/process",
            json=said("blue"),
            headers={"Accept": "text/event-stream"},
        ) as turn:
            text = "".join([line async for line in turn.aiter_lines()])
        assert '"done":true' in text
        page = await rest.get("/docs")
        assert (page.status_code, "<html" in page.text) == (200, True)
        assert (await rest.get("/metrics")).status_code == 404


def said(text: str) -> dict[str, Any]:
    return {"content": {"type": "text", "text": text}}


# --- instances in this process --------------------------------------------------------------------


@pytest.mark.needs("nginx")
async def test_an_instance_that_drains_gets_no_new_client_and_nobody_notices(tmp_path: Path) -> None:
    async with cluster(tmp_path, SIZE) as instances:
        with balancer(tmp_path, [instance.address for instance in instances]) as nginx:
            instances[0].application.drain.begin()
            met = set()
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(9):
                    client = await stack.enter_async_context(await nginx.connect())
                    met.add(instance_of(client))
            assert met == {"i2", "i3"}
            async with httpx.AsyncClient(base_url=nginx.url) as rest:
                ready = [(await rest.get("/readyz")).status_code for _ in range(9)]
            assert ready == [200] * 9


@pytest.mark.needs("nginx")
async def test_a_request_that_fails_for_its_own_reasons_keeps_nobody_from_an_instance(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as instances:
        with balancer(tmp_path, [instance.address for instance in instances]) as nginx:
            for instance in instances:
                instance.connection.away = True
            async with httpx.AsyncClient(base_url=nginx.url, headers=bearer()) as rest:
                refused = [await rest.get("/v1/conversations/c1/state") for _ in range(4)]
            assert {answer.json()["error"]["code"] for answer in refused} == {"store_unavailable"}
            async with await nginx.open() as client:  # each of those was a 503, and yet
                assert instance_of(client) in {"i1", "i2"}


@pytest.mark.needs("nginx")
async def test_bodies_that_are_too_large_are_refused_in_the_servers_words(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as [instance]:
        with balancer(tmp_path, [instance.address]) as nginx:
            async with httpx.AsyncClient(base_url=nginx.url, headers=bearer()) as rest:
                for size in (100_000, 2_000_000):  # beyond the server's limit, and beyond nginx's
                    answer = await rest.post("/v1/conversations/c1/process", json=said("x" * size))
                    assert answer.status_code == 413
                    assert answer.json()["error"]["code"] == "payload_too_large"


@pytest.mark.needs("nginx")
async def test_without_any_instance_the_refusal_is_temporary_and_typed(tmp_path: Path) -> None:
    with balancer(tmp_path, [("127.0.0.1", free_port()), ("127.0.0.1", free_port())]) as nginx:
        async with httpx.AsyncClient(base_url=nginx.url) as rest:
            answer = await rest.post("/v1/conversations/c1/process", json=said("hi"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    error = answer.json()["error"]
    assert (error["code"], error["temporary"]) == ("overloaded", True)


@pytest.mark.needs("nginx")
async def test_what_a_client_claims_of_its_address_does_not_pass(tmp_path: Path) -> None:
    heads: list[str] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(take, "127.0.0.1", 0)
    async with listener:
        with balancer(tmp_path, [listener.sockets[0].getsockname()[:2]]) as nginx:
            claims = {
                "X-Forwarded-For": "203.0.113.9",
                "X-Forwarded-Proto": "https",
                "Forwarded": "for=203.0.113.9",
                "Host": "chat.example",
                "X-Request-ID": "mine",
            }
            async with httpx.AsyncClient() as rest:
                await rest.get(nginx.url, headers=claims)
    sent = dict(line.lower().split(": ", 1) for line in heads[0].splitlines()[1:] if line)
    assert (sent["x-forwarded-for"], sent["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert "203.0.113.9" not in heads[0]
    assert (sent["host"], sent["x-request-id"]) == ("chat.example", "mine")


@pytest.mark.needs("nginx")
async def test_an_instance_believes_its_balancer_and_nobody_else_about_addresses(tmp_path: Path) -> None:
    """Requests for visitors are counted by address: who has used up theirs cannot borrow another's."""
    settings: dict[str, Any] = {"trusted_proxies": ("127.0.0.1",), "visitors_per_address": 1}
    async with cluster(tmp_path, 1, **settings) as [instance]:
        with balancer(tmp_path, [instance.address]) as nginx:

            async def ask(source: str, **claims: str) -> int:
                transport = httpx.AsyncHTTPTransport(local_address=source)
                async with httpx.AsyncClient(transport=transport) as rest:
                    answer = await rest.post(
                        nginx.url + "/v1/visitors", json={"key": "pk_none"}, headers=claims
                    )
                    return answer.status_code

            assert [await ask("127.0.0.2") for _ in range(2)] == [401, 429]
            assert await ask("127.0.0.2", **{"X-Forwarded-For": "127.0.0.4"}) == 429
            assert await ask("127.0.0.3") == 401

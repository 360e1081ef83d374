"""A Redis that will not serve us as things are: refused at the start, with the sentence that mends it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storage.base import BusRefused, Window
from storage.redis import Address, RedisBus, RedisShared
from storage.redis.bus import ACL
from storage.redis.inspect import inspect
from tests.support.certificates import Certificate
from tests.support.fake_redis import FakeRedis
from tests.support.ports import free_port
from tests.support.redis import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.needs("redis")


async def refusal(url: str) -> str:
    """Return what opening a bus of this URL is refused with; what is shared is refused alike."""
    address = Address.parse(url)
    async with asyncio.timeout(10):
        with pytest.raises(BusRefused) as of_shared:
            await RedisShared(address).open()
        with pytest.raises(BusRefused) as caught:
            await RedisBus(address).open()
    assert [task for task in asyncio.all_tasks() if "storage/redis" in repr(task)] == []
    assert str(of_shared.value) == str(caught.value)
    return str(caught.value)


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisBus]:
    bus = RedisBus(Address.parse(url))
    async with asyncio.timeout(10):
        await bus.open()
        yield bus
        await bus.close()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis with a password, and users with less than all rights."""
    server = RedisServer(tmp_path, password="correct:horse/@").start()
    with server.client() as client:
        for user, channels, commands in (
            ("parley", ["*"], ["+@all"]),
            ("mute", ["*"], ["+@all", "-publish"]),
            ("deaf", [], ["+@all"]),
            ("secretive", ["*"], ["+@all", "-info"]),
        ):
            client.acl_setuser(
                user,
                enabled=True,
                passwords=["+p"],
                keys=["*"],
                channels=channels,
                reset_channels=True,
                commands=commands,
            )
    yield server
    server.stop()


async def test_the_right_password_and_the_right_user_get_in(locked: RedisServer) -> None:
    at = f"127.0.0.1:{locked.port}"
    for login in (":correct%3Ahorse%2F%40", "default:correct%3Ahorse%2F%40", "parley:p", "secretive:p"):
        async with opened(f"redis://{login}@{at}/3") as bus:
            assert bus.health().up


async def test_the_rights_that_a_refusal_names_are_enough(locked: RedisServer) -> None:
    keys, channels, *commands = ACL.split()
    locked.ask("ACL", "SETUSER", "least", "on", ">p", "resetkeys", keys, "resetchannels", channels, *commands)
    url = f"redis://least:p@127.0.0.1:{locked.port}"
    shared = RedisShared(Address.parse(url))
    async with opened(url) as here, opened(url) as there:
        heard: list[bytes] = []
        await there.subscribe("parley:c:t:1", heard.append)
        here.publish("parley:c:t:1", b"1")
        await eventually(lambda: heard == [b"1"])
        await shared.open()
        assert (await shared.limiter.take("k", [Window("day", 5, 86_400_000)])).windows[0].remaining == 4
        assert (await shared.limiter.take("k", [Window("day", 5, 86_400_000)])).windows[0].remaining == 3
        await shared.cache.set("a", b"1", 60_000)
        assert await shared.cache.get("a") == b"1"
        await shared.cache.delete("a")
        shared.presence.enter("acme", "c1", "u1")
        await shared.close()
    assert locked.ask("ACL", "LOG") == []


async def test_wrong_credentials_are_refused_without_being_repeated(locked: RedisServer) -> None:
    at = f"127.0.0.1:{locked.port}"
    for login in (":wrong-secret", "parley:wrong-secret", "nobody:wrong-secret"):
        said = await refusal(f"redis://{login}@{at}")
        assert said == f"Redis at {at} refuses the user and password of PARLEY_BUS: correct them"
    assert "wants a password: set PARLEY_BUS=redis://:PASSWORD@HOST" in await refusal(f"redis://{at}")


async def test_a_password_where_none_is_set_is_refused(redis_server: RedisServer) -> None:
    said = await refusal(f"redis://:secret@127.0.0.1:{redis_server.port}")
    assert "refuses the user and password" in said


@pytest.mark.parametrize("user", ["mute", "deaf"])
async def test_a_user_who_may_not_publish_or_subscribe_is_refused(locked: RedisServer, user: str) -> None:
    bus = RedisBus(Address.parse(f"redis://{user}:p@127.0.0.1:{locked.port}"))
    with pytest.raises(BusRefused, match=r"does not let this user publish and subscribe.*&parley:\*"):
        await bus.open()


async def test_a_database_that_is_not_there_is_refused(redis_server: RedisServer) -> None:
    assert "has no such database" in await refusal(f"{redis_server.url}/99")


async def test_an_old_redis_is_refused() -> None:
    async with FakeRedis(version=b"5.0.14").serving() as old:
        said = await refusal(old.url)
    assert said == f"Redis at 127.0.0.1:{old.port} is version 5.0.14: Parley needs 6.2 or newer; update it"


async def test_a_redis_in_protected_mode_is_refused() -> None:
    denied = FakeRedis(answers={b"INFO": lambda _: b"-DENIED Redis is running in protected mode\r\n"})
    async with denied.serving():
        assert "protected mode" in await refusal(denied.url)


async def test_what_is_no_redis_is_refused() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert "does not speak Redis's protocol" in await refusal(f"redis://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "Redis is loading its data"),
        (b"-ERR max number of clients reached\r\n", "Redis has too many clients"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "Redis is not ready"),
    ],
)
async def test_what_passes_is_waited_for(answer: bytes, reason: str) -> None:
    fake = FakeRedis(answers={b"INFO": lambda _: answer})
    async with fake.serving(), opened(fake.url) as bus:
        assert (bus.health().up, bus.health().reason) == (False, reason)
        fake.answers = {}
        await eventually(lambda: bus.health().up)


async def test_a_replica_is_waited_out() -> None:
    fake = FakeRedis(role=b"slave")
    async with fake.serving(), opened(fake.url) as bus:
        assert bus.health().reason == "Redis is a replica, which takes no writes"
        fake.info = fake.info.replace(b"slave", b"master")
        await eventually(lambda: bus.health().up)


async def test_who_does_not_answer_at_all_is_waited_for_at_most_some_seconds() -> None:
    fake = FakeRedis(answers={b"INFO": lambda _: b""})
    async with fake.serving(), opened(fake.url) as bus:
        assert bus.health().reason == "Redis does not answer"


async def test_a_name_that_nobody_has_is_no_refusal() -> None:
    for name in ("no-such-host.invalid", "x" * 70):
        async with opened(f"redis://{name}:{free_port()}") as bus:
            assert bus.health().reason == "Redis cannot be reached"


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that speaks TLS, with a certificate of its own."""
    server = RedisServer(tmp_path, certificate=Certificate.made_in(tmp_path)).start()
    yield server
    server.stop()


async def test_tls_with_a_trusted_certificate_works(encrypted: RedisServer) -> None:
    async with opened(encrypted.url) as here, opened(encrypted.url) as there:
        heard: list[bytes] = []
        await there.subscribe("parley:c:t:1", heard.append)
        here.publish("parley:c:t:1", b"x" * 300_000)
        await eventually(lambda: heard == [b"x" * 300_000])


async def test_a_tls_connection_is_closed_by_who_is_done_with_it(encrypted: RedisServer) -> None:
    """To end TLS takes a word of the other side, and a program may end right behind our own last one."""
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    await inspect(encrypted.url)
    assert len(list(descriptors.iterdir())) <= before


async def test_tls_is_not_opened_to_just_anybody(encrypted: RedisServer) -> None:
    at = f"127.0.0.1:{encrypted.port}"
    assert "its certificate is not trusted" in await refusal(f"rediss://{at}")
    assert "rediss://...?ssl_ca_certs=FILE" in await refusal(f"rediss://{at}")
    ca = encrypted.url.partition("?")[2]
    assert "its certificate is not trusted" in await refusal(f"rediss://localhost:{encrypted.port}?{ca}")
    async with opened(f"rediss://localhost:{encrypted.port}?{ca}&ssl_check_hostname=false") as bus:
        assert bus.health().up
    async with opened(f"rediss://{at}?ssl_cert_reqs=none") as bus:
        assert bus.health().up


async def test_a_redis_that_wants_tls_closes_plain_connections(encrypted: RedisServer) -> None:
    async with opened(f"redis://127.0.0.1:{encrypted.port}") as bus:
        assert bus.health().reason == "Redis closed the connection"


async def test_a_file_that_cannot_be_read_is_refused(redis_server: RedisServer) -> None:
    said = await refusal(f"rediss://127.0.0.1:{redis_server.port}?ssl_ca_certs=/no/such/file")
    assert "a file of its ssl_ options cannot be used" in said
    assert ssl.OPENSSL_VERSION not in said

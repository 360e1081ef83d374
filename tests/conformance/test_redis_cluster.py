"""A Redis Cluster: sharded pub/sub, and keys where their slot is."""

import asyncio
import gc
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

import pytest
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from storage.base import BusRefused, Present, Window
from storage.redis import Address, RedisBus, RedisShared
from storage.redis.link import Pace
from tests.support.certificates import Certificate
from tests.support.fake_redis import FakeRedis, bulk
from tests.support.redis import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.needs("redis")

PACE: Final = Pace(dead_after=20, ask_after=0.2, probe_after=0.2, check_every=0.05)
DAY: Final = Window("day", 2, 86_400_000)
HALF: Final = SLOTS // 2


@contextmanager
def two_nodes(folder: Path) -> Iterator[list[RedisServer]]:
    """Two nodes that agree; the first has the lower half of the slots, the second the upper one."""
    with ExitStack() as stack:
        nodes = []
        for first, last in ((0, HALF - 1), (HALF, SLOTS - 1)):
            own = folder / str(first)
            own.mkdir()
            node = RedisServer(own, cluster_enabled="yes").start()
            stack.callback(node.stop)
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            nodes.append(node)
        nodes[0].ask("CLUSTER", "SET-CONFIG-EPOCH", 1)
        nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", nodes[1].port, nodes[1].options["cluster_port"])
        while not all(serves(node) for node in nodes):
            time.sleep(0.02)
        yield nodes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """A cluster for the tests that do not break it."""
    with two_nodes(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """A cluster of the test's own."""
    with two_nodes(tmp_path) as nodes:
        yield nodes


def serves(node: RedisServer) -> bool:
    """Whether a node knows of all slots."""
    return b"cluster_state:ok" in node.ask("CLUSTER", "INFO")


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[RedisBus]:
    bus = RedisBus(Address.parse(server.url), pace=PACE)
    await bus.open()
    yield bus
    await bus.close()


def shard_channels(server: RedisServer) -> set[bytes]:
    return set(server.ask("PUBSUB", "SHARDCHANNELS"))


def move(nodes: list[RedisServer], slot: int, target: RedisServer) -> None:
    """Give an empty slot to another node."""
    owner = target.ask("CLUSTER", "MYID")
    for node in nodes:
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", owner)


async def test_channels_are_heard_on_the_nodes_that_have_their_slots(cluster: list[RedisServer]) -> None:
    channels = [f"parley:c:t:{n}" for n in range(50)]
    async with opened(cluster[0]) as here, opened(cluster[1]) as there:
        heard: list[bytes] = []
        for channel in channels:
            await there.subscribe(channel, heard.append)
        for channel in channels:
            here.publish(channel, channel.encode())
        await eventually(lambda: sorted(heard) == sorted(channel.encode() for channel in channels))
        assert there.health().up
        for node, has in ((0, range(HALF)), (1, range(HALF, SLOTS))):
            mine = {channel.encode() for channel in channels if key_slot(channel.encode()) in has}
            assert mine
            assert shard_channels(cluster[node]) >= mine
        for channel in channels[:49]:
            await there.unsubscribe(channel)
        here.publish(channels[0], b"left")
        here.publish(channels[49], b"stays")
        await eventually(lambda: heard[-1] == b"stays")
        assert b"left" not in heard


async def test_what_is_shared_finds_its_node(cluster: list[RedisServer]) -> None:
    here, there = (RedisShared(Address.parse(node.url), pace=PACE) for node in cluster)
    await here.open()
    await there.open()
    for n in range(20):
        await here.cache.set(str(n), b"%d" % n, 60_000)
        assert (await here.limiter.take(str(n), [DAY])).allowed
        here.presence.enter("acme", str(n), "u1")
    for n in range(20):
        assert await there.cache.get(str(n)) == b"%d" % n
        assert [s.remaining for s in await there.limiter.status(str(n), [Window("day", 2, 86_400_000)])] == [
            1
        ]
    async with asyncio.timeout(20):
        for n in range(20):
            while await there.presence.present("acme", str(n)) != [Present("u1", 1)]:
                await asyncio.sleep(0.01)
    await here.close()
    await there.close()


async def test_a_channel_whose_slot_moves_is_followed(cluster: list[RedisServer]) -> None:
    channel = next(f"parley:c:t:{n}" for n in range(99) if key_slot(b"parley:c:t:%d" % n) < HALF)
    async with opened(cluster[0]) as here, opened(cluster[0]) as there:
        heard: list[bytes] = []
        await there.subscribe(channel, heard.append)
        move(cluster, key_slot(channel.encode()), cluster[1])
        async with asyncio.timeout(20):
            while not heard:
                here.publish(channel, b"1")
                await asyncio.sleep(0.01)
        assert channel.encode() in shard_channels(cluster[1])


async def test_slots_that_move_one_after_the_other_are_followed(mortal: list[RedisServer]) -> None:
    """The second of them in the pause behind the look that the first one was worth."""
    lower = (name for n in range(99) if key_slot((name := f"parley:c:t:{n}").encode()) < HALF)
    async with opened(mortal[0]) as there:
        channels = list(islice(lower, 3))
        for channel in channels:
            await there.subscribe(channel, lambda payload: None)
        for channel in channels:
            move(mortal, key_slot(channel.encode()), mortal[1])
            await eventually(lambda channel=channel: channel.encode() in shard_channels(mortal[1]))  # type: ignore[misc]


async def test_a_channel_that_was_left_is_forgotten(cluster: list[RedisServer]) -> None:
    def held(name: bytes) -> bool:
        return any(type(each) in (Counter, dict, set) and name in each for each in gc.get_objects())

    channel = f"parley:c:t:{secrets.token_hex(8)}"
    async with opened(cluster[0]) as there:
        await there.subscribe(channel, lambda payload: None)
        assert held(channel.encode())
        await there.unsubscribe(channel)
        await eventually(lambda: not held(channel.encode()))


async def test_a_node_that_dies_takes_only_its_channels_along(mortal: list[RedisServer]) -> None:
    lower, upper = (
        next(f"parley:c:t:{n}" for n in range(99) if (key_slot(b"parley:c:t:%d" % n) < HALF) == is_lower)
        for is_lower in (True, False)
    )
    async with opened(mortal[0]) as here, opened(mortal[0]) as there:
        heard: list[bytes] = []
        await there.subscribe(lower, heard.append)
        await there.subscribe(upper, heard.append)
        mortal[1].stop()
        await eventually(lambda: not there.health().up)
        here.publish(lower, b"lower")
        await eventually(lambda: heard == [b"lower"])


async def test_a_cluster_that_is_away_at_the_start_is_found_to_be_one(mortal: list[RedisServer]) -> None:
    for node in mortal:
        node.stop()
    async with opened(mortal[0]) as here, opened(mortal[0]) as there:
        heard: list[bytes] = []
        for n in range(20):
            await there.subscribe(f"parley:c:t:{n}", heard.append)
        for node in mortal:
            node.start()
        await eventually(lambda: all(serves(node) for node in mortal))
        async with asyncio.timeout(20):
            while {b"%d" % n for n in range(20)} - set(heard):
                for n in range(20):
                    here.publish(f"parley:c:t:{n}", b"%d" % n)
                await asyncio.sleep(0.05)
        await eventually(lambda: here.health().up and there.health().up)


async def test_a_cluster_is_spoken_to_over_tls(tmp_path: Path) -> None:
    certificate = Certificate.made_in(tmp_path)
    options = {"cluster_enabled": "yes", "tls_cluster": "yes", "tls_ca_cert_file": str(certificate.file)}
    node = RedisServer(tmp_path, certificate=certificate, **options).start()
    try:
        node.ask("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        await eventually(lambda: serves(node))
        shared = RedisShared(Address.parse(node.url), pace=PACE)
        async with opened(node) as here, opened(node) as there:
            heard: list[bytes] = []
            await there.subscribe("parley:c:t:1", heard.append)
            here.publish("parley:c:t:1", b"1")
            await eventually(lambda: heard == [b"1"])
            await shared.open()
            await shared.cache.set("a", b"1", 60_000)
            assert await shared.cache.get("a") == b"1"
            await shared.close()
        ours = f"ssl_certfile={certificate.file}&ssl_keyfile={certificate.key}&ssl_password=x"
        with pytest.raises(
            BusRefused, match="is a cluster, for which ssl_password is not known: use a plain key"
        ):
            await RedisBus(Address.parse(f"{node.url}&{ours}")).open()
    finally:
        node.stop()


async def test_a_cluster_without_sharded_pub_sub_is_refused() -> None:
    old = FakeRedis(version=b"6.2.14")
    old.info = old.info.replace(b"cluster_enabled:0", b"cluster_enabled:1")
    async with old.serving():
        with pytest.raises(BusRefused, match=r"6\.2\.14: Parley needs 7\.0 or newer for a cluster"):
            await RedisBus(Address.parse(old.url)).open()


async def test_a_node_that_refuses_when_it_joins_is_looked_for_until_it_does_not() -> None:
    """Its users, or its password, may come after its slots."""
    old, new = FakeRedis(), FakeRedis()

    def slots(*ranges: tuple[int, int, int]) -> bytes:
        nodes = (b"*3\r\n:%d\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % range_ for range_ in ranges)
        return b"*%d\r\n" % len(ranges) + b"".join(nodes)

    async with old.serving(), new.serving():
        info = old.info.replace(b"cluster_enabled:0", b"cluster_enabled:1")
        whole = (0, SLOTS - 1, old.port)
        halves = ((0, HALF - 1, old.port), (HALF, SLOTS - 1, new.port))
        node = {b"INFO": lambda _: bulk(info), b"SPUBLISH": lambda _: b":0\r\n"}
        old.answers = node | {b"CLUSTER": lambda _: slots(whole)}
        new.answers = {b"INFO": lambda _: b"-NOAUTH Authentication required.\r\n"}
        bus = RedisBus(Address.parse(old.url), pace=PACE)
        await bus.open()
        try:
            moved = next(name for n in range(99) if key_slot((name := f"parley:c:t:{n}").encode()) >= HALF)
            old.answers = node | {
                b"CLUSTER": lambda _: slots(*halves),
                b"SPUBLISH": lambda _: b"-MOVED 9000 127.0.0.1:%d\r\n" % new.port,
            }
            bus.publish(moved, b"where are you?")
            await eventually(lambda: not bus.health().up)
            old.answers = node | {b"CLUSTER": lambda _: slots(*halves)}
            new.answers = old.answers
            await eventually(lambda: bus.health().up)
            bus.publish(moved, b"there")
            await eventually(lambda: any(command[-1].endswith(b"there") for command in new.commands))
        finally:
            await bus.close()

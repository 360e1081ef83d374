"""What the Redis bus makes of a Redis that dies, hangs, cuts it off or says nonsense."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Final

import pytest
import structlog
import uvloop

from storage.redis import Address, RedisBus
from storage.redis.link import Pace
from storage.redis.publisher import QUEUE_MESSAGES
from tests.support.fake_redis import Answer, FakeRedis
from tests.support.redis import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.needs("redis")

PATIENT: Final = Pace(dead_after=20, ask_after=0.1, probe_after=0.1, check_every=0.05)
HASTY: Final = Pace(dead_after=0.3, ask_after=0.2, probe_after=0.2, check_every=0.05)
"""Takes a busy machine for a hanging Redis now and then: for tests that count nothing."""
CHANNEL: Final = "parley:c:t:1"


class Instance:
    """A bus that listens to one channel, and what it was told."""

    def __init__(self, url: str, pace: Pace = PATIENT) -> None:
        self.bus = RedisBus(Address.parse(url), pace=pace)
        self.heard: list[bytes] = []
        self.restored = 0

    async def open(self, *channels: str) -> "Instance":
        await self.bus.open(self._restored)
        for channel in channels or (CHANNEL,):
            await self.bus.subscribe(channel, self.heard.append)
        return self

    def says(self, payload: bytes) -> None:
        self.bus.publish(CHANNEL, payload)

    @property
    def up(self) -> bool:
        return self.bus.health().up

    def _restored(self) -> None:
        self.restored += 1


@contextlib.asynccontextmanager
async def instances(url: str, count: int = 2, pace: Pace = PATIENT) -> AsyncIterator[list[Instance]]:
    made = [Instance(url, pace) for _ in range(count)]
    try:
        yield [await instance.open() for instance in made]
    finally:
        for instance in made:
            await instance.bus.close()


async def hears(there: Instance, here: Instance) -> None:
    """Return once ``there`` hears ``here`` (again)."""
    there.heard.clear()
    async with asyncio.timeout(20):
        while b"ping" not in there.heard:
            here.says(b"ping")
            await asyncio.sleep(0.01)


async def test_after_a_restart_all_is_heard_again_and_the_loss_is_told(redis_server: RedisServer) -> None:
    async with instances(redis_server.url) as (here, there):
        for n in range(2500):  # more than one chunk of subscriptions
            await there.bus.subscribe(f"parley:c:t:many:{n}", there.heard.append)
        redis_server.stop()
        await eventually(lambda: not here.up and not there.up)
        assert there.bus.health().reason is not None
        redis_server.start()
        await eventually(lambda: here.up and there.up and here.restored == there.restored == 1)
        for n in range(2500):
            here.bus.publish(f"parley:c:t:many:{n}", b"%d" % n)
        await eventually(lambda: len(there.heard) == 2500)


async def test_who_subscribes_or_leaves_while_it_is_away_is_served_when_it_is_back(
    redis_server: RedisServer,
) -> None:
    async with instances(redis_server.url) as (here, there):
        redis_server.stop()
        await eventually(lambda: not there.up)
        late: list[bytes] = []
        await there.bus.subscribe("parley:c:t:2", late.append)
        await there.bus.unsubscribe(CHANNEL)
        redis_server.start()
        await eventually(lambda: here.up and there.up)
        here.says(b"1")
        here.bus.publish("parley:c:t:2", b"2")
        await eventually(lambda: late == [b"2"])
        assert there.heard == []


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_after_its_connections_are_killed_it_hears_and_is_heard_again(
    redis_server: RedisServer, kind: str
) -> None:
    async with instances(redis_server.url) as (here, there):
        assert redis_server.kill_clients(kind) >= 2
        await hears(there, here)
        await hears(here, there)
        assert (here.restored, there.restored) == (1, 1)


async def test_a_redis_that_hangs_is_noticed_without_a_word_and_with_many(redis_server: RedisServer) -> None:
    async with instances(redis_server.url, pace=HASTY) as (here, there):
        redis_server.pause()
        here.says(b"into the void")
        await eventually(lambda: not here.up and not there.up)
        assert here.bus.health().reason == "Redis does not answer"
        redis_server.resume()
        await eventually(lambda: here.up and there.up)
        await hears(there, here)
        assert here.restored >= 1
        assert there.restored >= 1


async def test_who_subscribes_while_it_hangs_does_not_wait_for_ever(redis_server: RedisServer) -> None:
    async with instances(redis_server.url, pace=HASTY) as (here, there):
        redis_server.pause()
        heard: list[bytes] = []
        async with asyncio.timeout(10):
            await there.bus.subscribe("parley:c:t:2", heard.append)
        redis_server.resume()
        await eventually(lambda: here.up and there.up)
        await hears(there, here)
        here.bus.publish("parley:c:t:2", b"2")
        await eventually(lambda: heard == [b"2"])


async def test_a_connection_that_delivers_nothing_is_found_out_and_made_anew() -> None:
    """Everything answers; only what is published never comes."""
    async with FakeRedis().serving() as deaf, instances(deaf.url, 1, HASTY) as (instance,):
        await eventually(lambda: deaf.connections >= 4)
        assert b"PUBLISH" in {command[0] for command in deaf.commands}
        await eventually(lambda: instance.restored >= 1)


async def test_a_replica_that_lost_its_master_is_waited_out() -> None:
    """It takes connections and says of each what it is; only what is asked of it fails."""
    lost: dict[bytes, Answer] = {b"PING": lambda _: b"-MASTERDOWN Link with MASTER is down\r\n"}
    async with FakeRedis().serving() as redis, instances(redis.url, 1, HASTY) as (instance,):
        await eventually(lambda: instance.up)
        redis.answers = lost
        await eventually(lambda: instance.bus.health().reason == "Redis is not ready")
        redis.answers = {}
        await eventually(lambda: instance.up)


async def test_a_silent_bus_that_works_is_left_alone(redis_server: RedisServer) -> None:
    async with instances(redis_server.url, 1) as (instance,):
        with redis_server.client() as client:
            probes = client.info("commandstats")["cmdstat_publish"]["calls"]
            await eventually(lambda: client.info("commandstats")["cmdstat_publish"]["calls"] >= probes + 3)
            assert client.info("stats")["total_connections_received"] <= 5
        assert instance.restored == 0


async def test_who_reads_too_slowly_is_cut_off_by_redis_and_comes_back(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.config_set("client-output-buffer-limit", "pubsub 64kb 0 0")
    async with instances(redis_server.url) as (here, there):
        for _ in range(200):
            here.says(b"x" * 100_000)
        await eventually(lambda: there.restored >= 1)
        await eventually(lambda: here.up and there.up)
        await hears(there, here)


async def test_what_waits_while_it_is_away_is_bounded_and_the_newest_survives(
    redis_server: RedisServer,
) -> None:
    async with instances(redis_server.url) as (here, there):
        redis_server.stop()
        await eventually(lambda: not here.up and not there.up)
        for n in range(QUEUE_MESSAGES + 500):
            here.says(b"%d" % n)
        assert here.bus.dropped == 500
        redis_server.start()
        await eventually(lambda: there.up and here.up)
        here.says(b"end")
        await eventually(lambda: there.heard[-1:] == [b"end"])
        rest = [int(payload) for payload in there.heard[:-1]]
        assert rest == list(range(QUEUE_MESSAGES + 500 - len(rest), QUEUE_MESSAGES + 500))


async def test_what_waits_is_bounded_in_bytes_too(redis_server: RedisServer) -> None:
    async with instances(redis_server.url, 1) as (here,):
        redis_server.pause()
        for _ in range(60):
            here.says(b"x" * 1_000_000)
            await asyncio.sleep(0)
        assert here.bus.dropped >= 30
        redis_server.resume()


async def test_unreachable_at_the_start_is_no_error_and_heals(redis_server: RedisServer) -> None:
    redis_server.stop()
    async with instances(redis_server.url) as (here, there):
        assert (here.up, here.bus.health().reason) == (False, "Redis cannot be reached")
        here.says(b"early")
        redis_server.start()
        await eventually(lambda: here.restored == there.restored == 1)
        await hears(there, here)


async def test_payloads_that_are_none_of_ours_are_ignored(redis_server: RedisServer) -> None:
    async with instances(redis_server.url) as (here, there):
        with redis_server.client() as client:
            for garbage in (b"", b"x", b'{"v":1}', b"9abcdefabcdef {}", b"1abcdefabcdef", b"\xff" * 100_000):
                client.publish(CHANNEL, garbage)
            client.publish(CHANNEL, b"1abcdefabcde ours")
        await eventually(lambda: b"ours" in there.heard)
        assert there.heard == here.heard == [b"ours"]
        assert (here.restored, there.restored) == (0, 0)


async def test_a_receiver_that_fails_ends_neither_the_connection_nor_what_follows(
    redis_server: RedisServer,
) -> None:
    def receive(payload: bytes) -> None:
        taken.append(payload)
        raise RuntimeError("not my day")

    taken: list[bytes] = []
    async with instances(redis_server.url) as (here, there):
        await there.bus.subscribe(CHANNEL, receive)
        with structlog.testing.capture_logs() as logs:
            here.says(b"1")
            here.says(b"2")
            await eventually(lambda: taken == [b"1", b"2"])
        assert [entry["event"] for entry in logs] == ["bus_receiver_failed"] * 2
        assert there.restored == 0


async def test_closing_hangs_on_no_redis(redis_server: RedisServer) -> None:
    async with asyncio.timeout(10), instances(redis_server.url) as (here, _):
        redis_server.pause()
        here.says(b"1")
    redis_server.resume()
    redis_server.stop()
    async with asyncio.timeout(10), instances(redis_server.url):
        pass


async def test_an_instance_leaves_nothing_behind(redis_server: RedisServer) -> None:
    before = asyncio.all_tasks()
    with structlog.testing.capture_logs() as logs:
        async with instances(redis_server.url):
            pass
    assert asyncio.all_tasks() == before
    assert [entry for entry in logs if entry["log_level"] != "info"] == []
    with redis_server.client() as client:
        await eventually(lambda: client.info("clients")["connected_clients"] == 1)


async def test_a_prefix_keeps_two_houses_apart(redis_server: RedisServer) -> None:
    one, two = Instance(f"{redis_server.url}?prefix=one:"), Instance(f"{redis_server.url}?prefix=two:")
    async with instances(f"{redis_server.url}?prefix=one:", 1) as (here,):
        await one.open()
        await two.open()
        await hears(one, here)
        assert two.heard == []
        await one.bus.close()
        await two.bus.close()


@pytest.mark.parametrize(
    "scenario",
    [
        test_after_a_restart_all_is_heard_again_and_the_loss_is_told,
        test_a_redis_that_hangs_is_noticed_without_a_word_and_with_many,
        test_who_reads_too_slowly_is_cut_off_by_redis_and_comes_back,
        test_what_waits_while_it_is_away_is_bounded_and_the_newest_survives,
    ],
)
def test_it_is_no_different_on_the_loop_of_the_server(
    redis_server: RedisServer, scenario: Callable[[RedisServer], Coroutine[None, None, None]]
) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario(redis_server))

"""What instances share over Redis: from one to the other, and while Redis is away."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Final, cast

import pytest

from storage.base import PRESENCE_TTL_MS, Bucket, Present, Window
from storage.redis import Address, RedisShared
from storage.redis.client import CALL_TIMEOUT_S
from storage.redis.link import Pace
from storage.redis.presence import GATHER_S
from tests.support.records import NOW
from tests.support.redis import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.needs("redis")

PACE: Final = Pace(dead_after=20, ask_after=0.2, probe_after=0.2, check_every=0.05)
DAY: Final = Window("day", 10, 86_400_000)


@contextlib.asynccontextmanager
async def instances(url: str, count: int = 2, pace: Pace = PACE) -> AsyncIterator[list[RedisShared]]:
    made = [RedisShared(Address.parse(url), pace=pace) for _ in range(count)]
    for shared in made:
        await shared.open()
    yield made
    for shared in made:
        await shared.close()


async def until_present(shared: RedisShared, *expected: Present, conversation_id: str = "c1") -> None:
    async with asyncio.timeout(20):
        while await shared.presence.present("acme", conversation_id) != list(expected):
            await asyncio.sleep(0.01)


async def left(shared: RedisShared, key: str = "k") -> int:
    (status,) = await shared.limiter.status(key, [DAY])
    return status.remaining


async def test_instances_count_together_and_get_no_more_than_the_limit(redis_server: RedisServer) -> None:
    async with instances(redis_server.url) as (here, there):
        verdicts = await asyncio.gather(
            *(shared.limiter.take("k", [DAY]) for _ in range(50) for shared in (here, there))
        )
        assert sum(verdict.allowed for verdict in verdicts) == 10
        assert await left(here) == await left(there) == 0
        await here.cache.set("a", b"1", 60_000)
        assert await there.cache.get("a") == b"1"
        await there.cache.delete("a")
        assert await here.cache.get("a") is None


async def test_everything_that_is_stored_ends_by_itself_and_names_nobody(redis_server: RedisServer) -> None:
    async with instances(redis_server.url, 1) as (here,):
        here.presence.enter("acme", "c1", "u1")
        await here.limiter.take("process:acme:somebody", [DAY])
        await here.cache.set("a", b"1", 60_000)
        with redis_server.client() as client:
            await eventually(lambda: client.dbsize() == 4)
            keys = cast(list[bytes], client.keys())
            assert all(client.pttl(key) > 0 for key in keys)
            assert not [key for key in keys if b"somebody" in key]
            (alive,) = [key for key in keys if key.startswith(b"parley:i:")]
            assert client.pttl(alive) <= PRESENCE_TTL_MS
    with redis_server.client() as client:
        await eventually(lambda: not client.keys("parley:i:*"))


async def test_a_server_that_forgot_the_script_is_given_it_again(redis_server: RedisServer) -> None:
    async with instances(redis_server.url, 1) as (here,):
        assert (await here.limiter.take("k", [DAY])).allowed
        with redis_server.client() as client:
            client.script_flush()
        assert (await here.limiter.take("k", [DAY])).windows[0].remaining == 8


async def test_while_redis_is_away_each_counts_and_sees_itself(redis_server: RedisServer) -> None:
    async with instances(redis_server.url) as (here, there):
        for _ in range(10):
            await here.limiter.take("k", [DAY])
        await here.cache.set("a", b"1", 60_000)
        here.presence.enter("acme", "c1", "u1")
        there.presence.enter("acme", "c1", "u2")
        await until_present(here, Present("u1", 1), Present("u2", 1))
        redis_server.stop()
        async with asyncio.timeout(10):
            for shared in (here, there):
                verdicts = [(await shared.limiter.take("k", [DAY])).allowed for _ in range(20)]
                assert verdicts.count(True) == 10
                assert await shared.cache.get("a") is None
                await shared.cache.set("a", b"2", 60_000)
                await shared.cache.delete("a", "b")
            assert await here.presence.present("acme", "c1") == [Present("u1", 1)]
        here.presence.enter("acme", "c1", "u3")
        there.presence.leave("acme", "c1", "u2")
        redis_server.start()
        await until_present(there, Present("u1", 1), Present("u3", 1))
        assert await left(here) == await left(there) == 10


async def test_a_redis_that_hangs_holds_nobody_up_for_long(redis_server: RedisServer) -> None:
    async with instances(redis_server.url, 1) as (here,):
        redis_server.pause()
        async with asyncio.timeout(10):
            for _ in range(100):
                assert (await here.limiter.take(f"k{_}", [DAY])).allowed
                assert await here.cache.get("a") is None
                assert await here.presence.present("acme", "c1") == []
        redis_server.resume()
        async with asyncio.timeout(20):
            while (await here.cache.get("a")) != b"1":
                await here.cache.set("a", b"1", 60_000)
                await asyncio.sleep(0.01)


async def test_who_closes_while_redis_hangs_leaves_no_connection_behind(redis_server: RedisServer) -> None:
    async with instances(redis_server.url, 1) as (here,):
        await asyncio.gather(*(here.limiter.take("k", [DAY]) for _ in range(8)))
        redis_server.pause()
        asked = asyncio.create_task(here.cache.get("a"))
        await asyncio.sleep(CALL_TIMEOUT_S / 2)
        later = asyncio.create_task(here.cache.get("a"))
        await asked  # given up, and so is the connection, once nobody waits for a reply any more
    await later
    redis_server.resume()
    with redis_server.client() as client:
        await eventually(lambda: len(client.client_list()) == 1)


async def test_who_gives_up_gets_nobody_elses_answer(redis_server: RedisServer) -> None:
    async with instances(redis_server.url, 1) as (here,):
        for n in range(50):
            await here.cache.set(str(n), b"%d" % n, 60_000)
        for n in range(50):
            impatient = asyncio.create_task(here.cache.get("0"))
            await asyncio.sleep(0)
            impatient.cancel()
            assert await here.cache.get(str(n)) == b"%d" % n
        with redis_server.client() as client:
            assert client.info("stats")["total_connections_received"] <= 5


async def test_what_fails_after_its_caller_has_gone_is_no_error_in_the_log(redis_server: RedisServer) -> None:
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
    async with instances(redis_server.url, 1) as (here,):
        redis_server.pause()
        impatient = asyncio.create_task(here.cache.get("a"))
        for _ in range(3):
            await asyncio.sleep(0)
        impatient.cancel()
        assert await here.cache.get("a") is None  # asked later, so the other has failed before
        del impatient
        redis_server.resume()
    gc.collect()
    assert told == []


async def test_an_instance_that_died_is_not_present(redis_server: RedisServer) -> None:
    async with instances(redis_server.url) as (here, there):
        here.presence.enter("acme", "c1", "u1")
        await until_present(there, Present("u1", 1))
        with redis_server.client() as client:
            field = b'["0123456789abcdef","ghost"]'
            client.hset("parley:p:acme:c1", field, b'{"v":1,"n":3}')
            client.hset("parley:p:acme:c1", b"not ours", b"{}")
            client.hset("parley:p:acme:c1", b'["x","u9"]', b'{"v":2,"m":1}')
            assert await there.presence.present("acme", "c1") == [Present("u1", 1)]
            await eventually(lambda: client.hlen("parley:p:acme:c1") == 1)


async def test_who_is_there_is_said_again_to_a_redis_that_forgot(redis_server: RedisServer) -> None:
    async with instances(redis_server.url) as (here, there):
        for n in range(1200):  # more than goes in one piece
            here.presence.enter("acme", f"c{n}", "u1")
        await until_present(there, Present("u1", 1), conversation_id="c1199")
        redis_server.stop()
        redis_server.start()
        await until_present(there, Present("u1", 1), conversation_id="c0")
        await until_present(there, Present("u1", 1), conversation_id="c1199")


async def test_what_redis_missed_while_it_hung_is_made_good(
    redis_server: RedisServer,
) -> None:
    """It has forgotten nothing; so whoever left meanwhile would be there for ever, and who came never."""
    async with instances(redis_server.url) as (here, there):
        here.presence.enter("acme", "c1", "u1")
        here.presence.enter("acme", "c1", "u2")
        await until_present(there, Present("u1", 1), Present("u2", 1))
        redis_server.pause()
        assert await here.cache.get("a") is None  # now it knows
        here.presence.leave("acme", "c1", "u2")
        here.presence.enter("acme", "c1", "u3")
        await asyncio.sleep(2 * GATHER_S)  # a timer behind the one by which both are passed on: in vain
        redis_server.resume()
        await until_present(there, Present("u1", 1), Present("u3", 1))


async def test_closing_says_that_we_are_gone(redis_server: RedisServer) -> None:
    async with instances(redis_server.url, 1) as (there,):
        async with instances(redis_server.url, 1) as (here,):
            here.presence.enter("acme", "c1", "u1")
            await until_present(there, Present("u1", 1))
        assert await there.presence.present("acme", "c1") == []


@pytest.mark.parametrize("limit", [Window("minute", 3, 60_000), Bucket("burst", 3, 3, 60_000)])
async def test_a_server_whose_clock_was_an_hour_ahead_counts_on_when_it_is_set_back(
    redis_url: str, limit: Window | Bucket
) -> None:
    """Else nothing would come back to whoever was active then, for an hour."""
    now = NOW + 3_600_000
    shared = RedisShared(Address.parse(redis_url), pace=PACE, clock=lambda: now)
    await shared.open()
    assert [(await shared.limiter.take("k", [limit])).allowed for _ in range(4)] == [True] * 3 + [False]
    now = NOW
    await shared.limiter.take("k", [limit])
    now += 2 * 60_000
    assert [(await shared.limiter.take("k", [limit])).allowed for _ in range(4)] == [True] * 3 + [False]
    await shared.close()

"""Three real servers over one MongoDB-protocol server and one Redis, all of which a test may mistreat.

Clients come over a balancer without stickiness, the servers reach store and bus over lines that a test can
cut, hold and deafen (``lines``). ``cluster`` is the small one, in the test's own process.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import orjson

from storage.base import Store
from storage.open import open_store
from tests.support.killable_server import Life, Nursery
from tests.support.lines import Line, Lines
from tests.support.mongo import MongoServer
from tests.support.ports import free_port
from tests.support.redis import RedisServer

SIZE: Final = 3
STARTS: Final = 5
PATIENCE_S: Final = 60.0
"""A guard against waiting for ever, on any machine; nothing is measured with it."""


class Ready(NamedTuple):
    """What ``/readyz`` said: the HTTP status, the word, and the whole body."""

    code: int
    status: str
    body: Mapping[str, Any]


class Instance:
    """One server of the fleet, life after life on its port.

    Attributes:
        to_mongo, to_redis: its lines to the store and the bus.
    """

    def __init__(
        self, nursery: Nursery, number: int, to_mongo: Line, to_redis: Line, ports: tuple[int, int],
        env: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.number = number
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lives: list[Life] = []
        self.to_mongo, self.to_redis = to_mongo, to_redis
        self._nursery = nursery
        store, bus = _store_url(ports[0]), f"redis://127.0.0.1:{ports[1]}"
        self._env = {
            "PARLEY_STORE": store,
            "PARLEY_TEST_DATABASE": store,
            "PARLEY_BUS": bus,
            "PARLEY_TEST_BUS": bus,
            **env,
            "PARLEY_PORT": str(self.port),
            "PARLEY_INSTANCE_ID": f"i{number}",
        }

    @property
    def life(self) -> Life:
        """The latest."""
        return self.lives[-1]

    async def start(self, failpoint: str | None = None) -> Life:
        """Begin a life."""
        life = await self._nursery.start(failpoint, self._env)
        self.lives.append(life)
        return life

    async def serve(self) -> None:
        """Begin a life that serves; one that finds a store too busy to answer ends, and is begun again."""
        for _ in range(STARTS):
            await self.start()
            if await self.ready():
                return
        raise AssertionError(f"it does not start:\n{self._nursery.log.read_text()[-4000:]}")

    async def ready(self) -> bool:
        """Wait until it serves (True) or has ended (False)."""
        return await self._nursery.ready(self.life)

    async def ended(self, within_s: float | None = None) -> bool:
        """Wait for its end, for that long at most."""
        return await self._nursery.ended(self.life, within_s)

    async def kill(self) -> None:
        """SIGKILL."""
        await self._nursery.kill(self.life)

    async def terminate(self) -> bool:
        """SIGTERM; tell whether it drained and ended well."""
        return await self._nursery.terminate(self.life)

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay, and it does nothing."""
        os.kill(self.life.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.life.pid, signal.SIGCONT)

    async def readyz(self) -> Ready | None:
        """Ask for its readiness; None: nobody answers."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /readyz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                    answer = await reader.read()
                finally:
                    writer.close()
        except OSError:
            return None
        head, _, body = answer.partition(b"\r\n\r\n")
        if not body:
            return None
        told = orjson.loads(body)
        return Ready(int(head.split(b" ", 2)[1]), told["status"], told)

    async def until(self, code: int, status: str) -> None:
        """Wait until its readiness says this."""
        said: Ready | None = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (said := await self.readyz()) is None or said[:2] != (code, status):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"instance {self.number} says {said}, not {code} {status}") from None


class Fleet:
    """The servers and what they stand on. Made by ``open``.

    Attributes:
        front: the balancer that clients connect to.
        to_mongo, to_redis: the lines of all instances.
    """

    def __init__(
        self, nursery: Nursery, mongo: MongoServer, redis: RedisServer, instances: Sequence[Instance]
    ) -> None:
        self.mongo, self.redis = mongo, redis
        self.instances = instances
        self.to_mongo = Lines(instance.to_mongo for instance in instances)
        self.to_redis = Lines(instance.to_redis for instance in instances)
        self.front: Line
        self._nursery = nursery

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        folder: Path,
        env: Mapping[str, str],
        *,
        size: int = SIZE,
        redis: bool = True,
        lines: bool = True,
    ) -> AsyncIterator[Self]:
        """Have a fleet for a block; everything that it started ends with it.

        Args:
            folder: holds ``flows``, and what is left for who looks into a failure.
            env: more variables for the servers.
            size: how many servers.
            redis: whether Redis is there when they start.
            lines: whether they reach MongoDB and Redis over their lines, which this process then carries.
        """
        async with contextlib.AsyncExitStack() as stack:
            mongo, bus = MongoServer(folder), RedisServer(folder)
            stack.callback(mongo.stop)
            stack.callback(bus.stop)
            await asyncio.to_thread(mongo.start)
            if redis:
                await asyncio.to_thread(bus.start)
            nursery = await stack.enter_async_context(Nursery.open(folder, free_port(), {}))
            instances = []
            for number in range(size):
                to_mongo = await stack.enter_async_context(Line([mongo.port]))
                to_redis = await stack.enter_async_context(Line([bus.port]))
                ports = (to_mongo.port, to_redis.port) if lines else (mongo.port, bus.port)
                instances.append(Instance(nursery, number, to_mongo, to_redis, ports, env))
            fleet = cls(nursery, mongo, bus, instances)
            fleet.front = await stack.enter_async_context(Line([each.port for each in instances]))
            await fleet.each(lambda instance: instance.serve())
            await fleet.until(200, "ok" if redis else "degraded")
            yield fleet

    @property
    def log(self) -> str:
        """What the servers wrote last, for who looks into a failure."""
        return self._nursery.log.read_text()[-8000:]

    async def each(self, act: Callable[[Instance], Awaitable[object]]) -> None:
        """Do the same with every instance, at once."""
        await asyncio.gather(*(act(instance) for instance in self.instances))

    async def until(self, code: int, status: str) -> None:
        """Wait until the readiness of each says this."""
        await self.each(lambda instance: instance.until(code, status))

    def store(self) -> Store:
        """Return a store of one's own on the same database, not yet opened."""
        return open_store(_store_url(self.mongo.port))


def _store_url(port: int) -> str:
    return f"mongodb://127.0.0.1:{port}/parley"

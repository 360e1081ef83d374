"""Several instances in one process, over one store and one bus that a test can take away from them.

The store is ``SplitStore`` (commits and log are apart, as in MongoDB) behind a connection of each instance;
the bus is the in-process one with a plug. Real sockets, real time.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from storage.base import BusHealth, Store, StoreUnavailable
from storage.memory.bus import BusHub, MemoryBus
from storage.open import open_bus, open_store
from tests.support.server import RunningServer, running_server
from tests.support.split_store import SplitStore


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Connection:
    """One instance's connection to the store that all share.

    ``away`` fails each call, as a driver does. ``answers`` is cleared to have calls hang, as if the store was
    stopped: what was asked happens when it goes on.
    """

    embedded = False

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.detects_duplicates = inner.detects_duplicates
        self.away = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.calls = 0

    def now(self) -> int:
        return self._inner.now()

    async def open(self) -> None:
        if self.away:
            raise StoreUnavailable("nobody answers")

    async def close(self) -> None:
        return

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.away:
                raise StoreUnavailable("nobody answers")
            if self.answers.is_set():
                return await method(*args, **kwargs)
            return await asyncio.shield(asyncio.create_task(late(*args, **kwargs)))

        async def late(*args: Any, **kwargs: Any) -> Any:
            await self.answers.wait()
            return await method(*args, **kwargs)

        return call


class PluggedBus(MemoryBus):
    """A bus over a network: ``unplug`` it, and nothing goes in or out until ``plug``."""

    networked = True  # type: ignore[misc]

    def __init__(self, hub: BusHub) -> None:
        super().__init__(hub)
        self._away = False
        self._restored: Callable[[], None] = lambda: None

    async def open(self, restored: Callable[[], None] | None = None) -> None:
        await super().open(restored)
        if restored is not None:
            self._restored = restored

    def unplug(self) -> None:
        self._away = True

    def plug(self) -> None:
        self._away = False
        self._restored()

    def health(self) -> BusHealth:
        return BusHealth(not self._away, "no answer" if self._away else None, 0)

    def publish(self, channel: str, payload: bytes) -> None:
        if not self._away:
            super().publish(channel, payload)

    def _receive(self, channel: str, payload: bytes) -> None:
        if not self._away:
            super()._receive(channel, payload)


class Instance(RunningServer):
    """A running server with its own ways to store and bus."""

    connection: Connection
    bus: PluggedBus


@dataclass(frozen=True)
class Services:
    """URLs of a real store and a real bus, instead of those that a test can take away."""

    store: str
    bus: str


@contextlib.asynccontextmanager
async def cluster(
    folder: Path,
    count: int = 2,
    *,
    flows: Mapping[str, str] | None = None,
    services: Services | None = None,
    **settings: Any,
) -> AsyncIterator[list[Instance]]:
    """Run ``count`` instances until the block ends; they are named ``i1``, ``i2`` and so on."""
    shared, hub = SplitStore(wall_ms), BusHub()
    async with contextlib.AsyncExitStack() as stack:
        running: list[Instance] = []
        for number in range(1, count + 1):
            connection, bus = Connection(shared), PluggedBus(hub)
            server = await stack.enter_async_context(
                running_server(
                    folder,
                    flows=flows,
                    store=open_store(services.store) if services else cast(Store, connection),
                    bus=open_bus(services.bus) if services else bus,
                    instance_id=f"i{number}",
                    **settings,
                )
            )
            instance = Instance(server.url, server.application)
            instance.sockets = server.sockets
            instance.connection, instance.bus = connection, bus
            running.append(instance)
        yield running


def own_store(clock: Callable[[], int] | None = None) -> Store:
    """A store that says it is shared and is each process's own: for what needs no more than its word."""
    return SplitStore(clock or wall_ms)


def own_bus() -> PluggedBus:
    """Likewise a bus."""
    return PluggedBus(BusHub())


__all__ = ["Connection", "Instance", "PluggedBus", "Services", "cluster", "own_bus", "own_store", "wall_ms"]

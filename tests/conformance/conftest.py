"""Every adapter, opened; the same tests run over all of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.base import Shared, Store
from storage.memory import MemoryShared, MemoryStore
from storage.redis import Address, RedisShared
from storage.sqlite import SqliteStore
from tests.support.records import NOW
from tests.support.split_store import SplitStore

ADAPTERS = ("memory", "sqlite", "split")


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.ms = NOW

    def __call__(self) -> int:
        return self.ms


def make_store(adapter: str, clock: Clock, folder: Path) -> Store:
    """Return an adapter's store, not yet opened. A new adapter gets its line here."""
    match adapter:
        case "memory":
            return MemoryStore(clock)
        case "sqlite":
            return SqliteStore(folder / "parley.db", clock=clock)
        case _:
            return SplitStore(clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def store(adapter: str, clock: Clock, tmp_path: Path) -> AsyncIterator[Store]:
    store = make_store(adapter, clock, tmp_path)
    await store.open()
    yield store
    await store.close()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.needs("redis"))])
async def shared(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Shared]:
    """What instances count and remember together, by ``clock``."""
    shared: Shared = MemoryShared(clock)
    if request.param == "redis":
        shared = RedisShared(Address.parse(request.getfixturevalue("redis_url")), clock=clock)
    await shared.open()
    yield shared
    await shared.close()


@pytest.fixture
async def sqlite(clock: Clock, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "parley.db", clock=clock)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def split(clock: Clock) -> AsyncIterator[SplitStore]:
    store = SplitStore(clock)
    await store.open()
    yield store
    await store.close()

"""Every adapter, opened; the same tests run over all of them."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from storage.base import Shared, Store
from storage.memory import MemoryShared, MemoryStore
from storage.mongo import MongoStore
from storage.redis import Address, RedisShared
from storage.sqlite import SqliteStore
from tests.support.records import NOW
from tests.support.split_store import SplitStore

ADAPTERS = ("memory", "sqlite", "split", pytest.param("mongo", marks=pytest.mark.needs("mongo")))
MOTOR = pytest.param("motor", marks=pytest.mark.needs("mongo"))
MOTOR_MODULES = ("test_commits", "test_restore")
PATIENCE_S = 30.0
"""On a busy machine a crowd at one conversation takes longer than anybody should wait for it."""


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.ms = NOW

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for ``adapter`` over each; Motor, which is MongoDB once more, where it matters most."""
    if "adapter" in metafunc.fixturenames:
        has_motor = metafunc.module.__name__.rpartition(".")[2] in MOTOR_MODULES
        metafunc.parametrize("adapter", (*ADAPTERS, *((MOTOR,) if has_motor else ())))


@pytest.fixture
def make_store(
    request: pytest.FixtureRequest, adapter: str, clock: Clock, tmp_path: Path
) -> Callable[[], Store]:
    """What returns the test's store, not yet opened. A new adapter gets its line here."""
    match adapter:
        case "memory":
            return partial(MemoryStore, clock)
        case "sqlite":
            return partial(SqliteStore, tmp_path / "parley.db", clock=clock)
        case "mongo":
            return partial(
                MongoStore, request.getfixturevalue("mongo_url"), clock=clock, patience_s=PATIENCE_S
            )
        case "motor":
            url = request.getfixturevalue("mongo_url")
            return partial(MongoStore, url, driver="motor", clock=clock, patience_s=PATIENCE_S)
        case _:
            return partial(SplitStore, clock)


@pytest.fixture
async def store(make_store: Callable[[], Store]) -> AsyncIterator[Store]:
    store = make_store()
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

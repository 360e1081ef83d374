"""Several instances, each with a folder of flows, over one store: all start the same; nothing flips back."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from server.engine.catalog import SHARED, Catalog
from server.engine.releases import Releases
from storage.base import Store, StoreUnavailable
from tests.support.cluster import Connection, wall_ms
from tests.support.split_store import SplitStore

END = "  - {id: end, end: completed}\n"


def flow(text: str, flow_id: str = "greet", *, default: bool = True) -> str:
    marked = "default: true\n" if default else ""
    return (
        f'flow: {flow_id}\n{marked}steps:\n  - {{id: say, say: "{text}"}}\n  - {{id: end, end: completed}}\n'
    )


def acting(action: str) -> str:
    return f"flow: greet\nsteps:\n  - {{id: act, action: {action}, effect: read}}\n{END}"


class Instance:
    """A catalog that follows the releases of a store; ``told`` counts the words to others."""

    def __init__(self, store: object, actions: frozenset[str] = frozenset()) -> None:
        self.told = 0
        self.catalog = Catalog(store, actions)  # type: ignore[arg-type] # a store by what it delegates to
        self.releases = Releases(store, self.catalog, actions, self._tell)  # type: ignore[arg-type]

    def _tell(self) -> None:
        self.told += 1

    def starts(self) -> dict[str, int]:
        return {flow_id: started.version for flow_id, started in self.catalog.offered().items()}


class Folders:
    def __init__(self, place: Path) -> None:
        self._place = place

    def __call__(self, name: str, flows: Mapping[str, str]) -> Path:
        folder = self._place / name
        folder.mkdir()
        for file, text in flows.items():
            (folder / f"{file}.yaml").write_text(text)
        return folder


@pytest.fixture
def folder(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def store() -> Store:
    return SplitStore(wall_ms)


async def test_the_same_folder_is_one_release(store: Store, folder: Folders) -> None:
    place = folder("a", {"greet": flow("hello"), "help": flow("help", "help", default=False)})
    one, two = Instance(store), Instance(store)
    await asyncio.gather(one.releases.load_folder(place), two.releases.load_folder(place))
    assert one.starts() == two.starts() == {"greet": 1, "help": 1}
    assert (one.releases.number, two.releases.number) == (1, 1)
    default = two.catalog.default()
    assert default is not None
    assert default.flow.flow_id == "greet"


async def test_a_newer_folder_is_released_once_and_taken_over_by_all(store: Store, folder: Folders) -> None:
    old, new = (
        folder("old", {"greet": flow("hello")}),
        folder("new", {"greet": flow("hi"), "b": flow("b", "b", default=False)}),
    )
    first, second, third = Instance(store), Instance(store), Instance(store)
    await first.releases.load_folder(old)
    await second.releases.load_folder(new)
    await third.releases.load_folder(new)
    await first.releases.renew()
    assert first.starts() == second.starts() == third.starts() == {"greet": 2, "b": 1}
    assert (first.told, second.told, third.told) == (1, 1, 0)


async def test_an_old_instance_that_starts_anew_turns_nothing_back(
    store: Store, folder: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = folder("old", {"greet": flow("hello")}), folder("new", {"greet": flow("hi")})
    await Instance(store).releases.load_folder(old)
    await Instance(store).releases.load_folder(new)
    for _ in range(3):
        again = Instance(store)
        await again.releases.load_folder(old)
        assert (again.starts(), again.releases.number, again.told) == ({"greet": 2}, 2, 0)
    assert "`parley publish` makes it the newest" in caplog.text
    head = (await store.flows(SHARED))[0]
    assert head.latest_version == 2


async def test_two_releases_of_one_moment_are_both_remembered(store: Store, folder: Folders) -> None:
    one, two = Instance(store), Instance(store)
    places = folder("a", {"greet": flow("a")}), folder("b", {"greet": flow("b")})
    await asyncio.gather(one.releases.load_folder(places[0]), two.releases.load_folder(places[1]))
    newest = (await one.releases.newest(), await two.releases.newest())
    assert newest[0] is not None
    assert newest[0].number == 2
    for place in places:
        again = Instance(store)
        await again.releases.load_folder(place)
        assert again.releases.number == 2


async def test_going_back_is_asked_for(store: Store, folder: Folders) -> None:
    old, new = (
        folder("old", {"greet": flow("hello"), "gone": flow("x", "gone", default=False)}),
        folder("new", {"greet": flow("hi")}),
    )
    running = Instance(store)
    await running.releases.load_folder(old)
    await running.releases.load_folder(new)
    assert running.starts() == {"greet": 2}
    await Instance(store).releases.load_folder(old, again=True)
    await asyncio.sleep(0)
    other = Instance(store)
    await other.releases.load_folder(new)  # an instance of the deployment that was turned back
    assert other.starts() == {"greet": 3, "gone": 1}
    stored = await store.flow_version(SHARED, "greet", 3)
    assert stored is not None
    assert "hello" in stored.source


async def test_a_server_without_the_actions_of_a_release_goes_on_with_the_one_it_knows(
    store: Store, folder: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = folder("old", {"greet": acting("shop.a")}), folder("new", {"greet": acting("shop.b")})
    behind, ahead = Instance(store, frozenset({"shop.a"})), Instance(store, frozenset({"shop.a", "shop.b"}))
    await behind.releases.load_folder(old)
    await ahead.releases.load_folder(new)
    for _ in range(3):
        behind.releases._looked_at = -10.0
        await behind.releases.renew()
    assert (behind.starts(), ahead.starts()) == ({"greet": 1}, {"greet": 2})
    assert caplog.text.count("release 2 cannot be started here") == 1
    anew = Instance(store, frozenset({"shop.a"}))
    await anew.releases.load_folder(old)
    assert anew.starts() == {"greet": 1}


async def test_a_folder_with_errors_or_without_flows_is_no_release(store: Store, folder: Folders) -> None:
    first, second = Instance(store), Instance(store)
    await first.releases.load_folder(folder("good", {"greet": flow("hello")}))
    report = await second.releases.load_folder(
        folder("bad", {"a": flow("a", "a"), "b": "flow: b\nsteps: []\n"})
    )
    assert not report.ok
    assert second.starts() == {"greet": 1}
    third = Instance(store)
    await third.releases.load_folder(folder("empty", {}))
    assert third.starts() == {"greet": 1}


async def test_what_is_said_and_what_is_not_said_is_followed(
    store: Store, folder: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    connection = Connection(store)
    following = Instance(connection)
    await following.releases.load_folder(folder("old", {"greet": flow("hello")}))
    await following.releases.start()
    try:
        await Instance(store).releases.load_folder(folder("new", {"greet": flow("hi")}))
        following.releases.look()
        async with asyncio.timeout(2):  # sooner than it looks by itself
            while following.starts() != {"greet": 2}:
                await asyncio.sleep(0.01)
        connection.away = True
        with caplog.at_level(logging.WARNING):
            following.releases.look()
            while "the flows stay as they are" not in caplog.text:
                await asyncio.sleep(0.01)
        connection.away = False
        await Instance(store).releases.load_folder(folder("newer", {"greet": flow("hey")}))
        async with asyncio.timeout(8):  # of which nothing was said
            while following.starts() != {"greet": 3}:
                await asyncio.sleep(0.01)
    finally:
        await following.releases.stop()


async def test_a_start_without_the_store_is_told_so(store: Store, folder: Folders) -> None:
    connection = Connection(store)
    connection.away = True
    with pytest.raises(StoreUnavailable):
        await Instance(connection).releases.load_folder(folder("a", {"greet": flow("hello")}))

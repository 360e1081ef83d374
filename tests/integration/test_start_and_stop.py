"""Starting that fails at some step, and stopping: everything that was taken is given back."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from server.app import Application, build
from server.workers import Place
from storage.base import BusRefused
from storage.memory import MemoryBus, MemoryStore
from tests.support.server import test_settings, write_flows


class Ours(MemoryStore):
    """Says whether it is open."""

    is_open = False

    async def open(self) -> None:
        await super().open()
        self.is_open = True

    async def close(self) -> None:
        await super().close()
        self.is_open = False


class Theirs(MemoryBus):
    """Says whether it is open; refuses to be opened, or closed, with ``refusal``."""

    is_open = False
    refusal: Exception | None = None

    async def open(self, restored: Callable[[], None] | None = None) -> None:
        self.is_open = True
        if self.refusal is not None:
            raise self.refusal
        await super().open(restored)

    async def close(self) -> None:
        self.is_open = False
        await super().close()
        if self.refusal is not None:
            raise self.refusal


def made(folder: Path, store: Ours, bus: Theirs, place: Place | None = None) -> Application:
    write_flows(folder, None)
    return build(test_settings(folder), store=store, bus=bus, place=place)


async def nothing_is_left(store: Ours, bus: Theirs) -> bool:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    return not (left or store.is_open or bus.is_open)


async def test_what_was_started_ends_where_the_last_step_fails(tmp_path: Path) -> None:
    store, bus = Ours(), Theirs()
    place = Place(1, 2, 0, tmp_path / "gone", -1, -1)
    with pytest.raises(OSError, match="No such file"):
        await made(tmp_path, store, bus, place).startup()
    assert await nothing_is_left(store, bus)


async def test_a_bus_that_refuses_leaves_nothing_open(tmp_path: Path) -> None:
    store, bus = Ours(), Theirs()
    bus.refusal = BusRefused("no")
    with pytest.raises(BusRefused):
        await made(tmp_path, store, bus).startup()
    assert await nothing_is_left(store, bus)


async def test_stopping_closes_the_bus_beside_a_store_of_one_machine(tmp_path: Path) -> None:
    store, bus = Ours(), Theirs()
    application = made(tmp_path, store, bus)
    await application.startup()
    assert store.is_open
    await application.shutdown()
    assert await nothing_is_left(store, bus)

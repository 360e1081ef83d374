"""What goes on where its caller is cancelled: a call of MongoDB's driver that is cut may lock its pool."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from storage.mongo.restoring import restore
from storage.mongo.server_info import inspect, measure
from tests.support.records import NOW, conversation, next_commit


class SlowClient:
    """A driver's client whose server answers once it is let; a call that is cut never ends."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.asked = asyncio.Event()
        self.ended = 0
        self.admin = self

    async def command(self, name: str) -> dict[str, Any]:
        self.asked.set()
        await self.answers.wait()
        self.ended += 1
        return {"isWritablePrimary": True, "localTime": datetime.now(UTC), "versionArray": [8, 0, 0]}


async def give_up(work: asyncio.Future[Any], client: SlowClient) -> None:
    """Cancel what waits for ``client``, which answers only then."""
    await client.asked.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    client.answers.set()


async def test_a_measurement_goes_on_when_the_store_closes() -> None:
    client, told = SlowClient(), asyncio.Event()
    measuring = asyncio.ensure_future(measure(client, lambda time, asked_at, answered_at: told.set()))
    await give_up(measuring, client)
    async with asyncio.timeout(10):
        await told.wait()


async def test_a_first_look_at_the_server_goes_on_when_the_start_is_given_up() -> None:
    client = SlowClient()
    looking = asyncio.ensure_future(inspect(client))
    await give_up(looking, client)
    async with asyncio.timeout(10):
        while client.ended < 2:  # hello, buildInfo
            await asyncio.sleep(0)


class SlowLog:
    """A database without the conversation, whose log takes a portion once it is let."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()
        self.asked = asyncio.Event()
        self.done: list[str] = []
        self.events = SimpleNamespace(bulk_write=self._insert, delete_many=self._remove)
        self.executions = self.events
        self.conversations = SimpleNamespace(find_one=self._find_one)

    async def _find_one(self, wanted: Any, fields: Any) -> None:
        return None

    async def _insert(self, requests: Any, *, ordered: bool) -> None:
        self.asked.set()
        await self.takes.wait()
        self.done.append("inserted")

    async def _remove(self, wanted: Any) -> None:
        self.done.append("removed")


async def test_a_restore_that_is_given_up_ends_its_portion_and_then_removes_it() -> None:
    database, commit = SlowLog(), next_commit(conversation())
    assert commit.batch is not None
    record = replace(commit.record, revision=1)
    restoring = asyncio.ensure_future(restore(database, record, [commit.batch], NOW))
    await database.asked.wait()
    restoring.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert database.done == [], "neither cut nor removed before it is there"
    database.takes.set()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert database.done == 2 * ["inserted"] + 2 * ["removed"], "and no record is inserted"

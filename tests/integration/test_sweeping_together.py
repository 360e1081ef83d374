"""Several instances sweep one store: they share the work, and seldom do anything twice."""

import asyncio
from collections.abc import Sequence

import pytest

from server.auth.principal import Principal
from server.engine.actions import Actions
from server.engine.catalog import Catalog
from server.engine.clock import StoreClock
from server.engine.flow.loader import compile_flow
from server.engine.runner import Engine, EngineOptions
from server.engine.sweeper import Sweeper
from server.engine.types import Command, Publication
from storage.base import Store
from storage.open import open_store
from tests.support.cluster import wall_ms
from tests.support.split_store import SplitStore

FLOW = """
flow: nap
default: true
steps:
  - {id: sleep, wait: {for: 1s}}
  - {id: awake, say: "Good morning."}
  - {id: over, end: completed}
"""
USER = Principal("u1", "t1")


class Instance:
    """An engine and its sweeper; ``woke`` are the conversations that it ended."""

    def __init__(self, name: str, store: Store) -> None:
        self.woke: list[str] = []
        catalog = Catalog(store)
        catalog.add(compile_flow(FLOW, "nap.yaml"))
        clock = StoreClock(store)
        self.engine = Engine(
            store=store, clock=clock, catalog=catalog, actions=Actions({}), publish=self._publish,
            sole_writer=False, options=EngineOptions(instance_id=name),
        )  # fmt: skip
        self.sweeper = Sweeper(store, clock, self.engine)

    def _publish(self, publication: Publication) -> None:
        batch = publication.batch
        if batch is not None and any(event.type == "execution.completed" for event in batch.events):
            self.woke.append(publication.record.conversation_id)


async def slow(place: str) -> None:
    """A store over a network: between what is read and what is written others have their turn."""
    await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("kind", "count"), [("memory", 1_000), pytest.param("mongo", 400, marks=pytest.mark.needs("mongo"))]
)
async def test_three_instances_share_what_is_due(
    request: pytest.FixtureRequest, kind: str, count: int
) -> None:
    time = [wall_ms()]
    store: Store = SplitStore(lambda: time[0], pause=slow)
    if kind == "mongo":
        store = open_store(request.getfixturevalue("mongo_url"), lambda: time[0])
    await store.open()
    crew = [Instance(f"i{number}", store) for number in range(3)]
    try:
        await begin(crew[0], range(count))
        time[0] += 2_000
        before = crew[0].engine.stats.commits
        await asyncio.gather(*(instance.sweeper.sweep() for instance in crew))
        woke = [conversation_id for instance in crew for conversation_id in instance.woke]
        assert sorted(woke) == sorted(f"c{number}" for number in range(count))
        assert sum(instance.engine.stats.commits for instance in crew) - before == count
        assert sum(instance.engine.stats.conflicts for instance in crew) <= count // 4
        assert min(len(instance.woke) for instance in crew) > 0
    finally:
        for instance in crew:
            await instance.engine.stop(0)
        await store.close()


async def begin(instance: Instance, numbers: Sequence[int]) -> None:
    body = {"type": "process", "content": {"text": "hi"}, "user_id": "u1"}
    commands = [Command("process", f"c{n}", f"key-{n:08}", f"hash-{n}", body) for n in numbers]
    await asyncio.gather(*(instance.engine.submit(command, USER) for command in commands))

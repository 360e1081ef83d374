"""Commits, lossy publication, slow sockets and resumes in any order: no gap, no double, never another order.

Each client keeps a cursor by rule 6 of ``docs/reference/protocol.md`` and believes only what that
promises. What it has collected must be, whenever things have calmed down, what the store holds for its
audience.
"""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from server.auth.principal import Principal
from server.delivery.audience import audience_for, event_view
from server.delivery.catchup import HEAL_AFTER_MS
from server.delivery.hub import Hub
from server.engine.types import Publication
from storage.models import Audience, Conversation, EventBatch
from tests.support.delivery import (
    AGENT,
    INSPECTOR,
    OWNER,
    FakeWatcher,
    Log,
    ManualTime,
    hub_over,
    settle,
    watch,
)


@dataclass
class Client:
    """What a client makes of its frames."""

    principal: Principal
    watcher: FakeWatcher
    epoch: str | None = None
    cursor: int = 0
    events: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    covered: dict[str, set[int]] = field(default_factory=dict)
    taken: int = 0
    ended: bool = False
    expects: str | None = None
    subscribing: asyncio.Task[None] | None = None

    def take(self) -> None:
        """Read the frames that have come since."""
        for frame in self.watcher.frames[self.taken :]:
            self.taken += 1
            match frame["type"]:
                case "reply" if frame["name"] == self.expects:
                    self.expects = None
                case "snapshot" if self.expects is None:
                    self.epoch, self.cursor = frame["epoch"], frame["offset"]
                case "events" if self.expects is None:
                    self._take_events(frame)
                case "unsubscribed" if self.expects is None:
                    self.ended, self.epoch, self.cursor = True, None, 0

    def _take_events(self, frame: dict[str, Any]) -> None:
        if self.epoch is None:
            assert frame["from"] == 1, "the first events of a conversation begin at 1"
            self.epoch = frame["epoch"]
        assert frame["epoch"] == self.epoch, "another epoch without a snapshot"
        assert frame["from"] == self.cursor + 1, f"gap or double: {frame['from']} after {self.cursor}"
        for event in frame["events"]:
            assert frame["from"] <= event["offset"] <= frame["to"]
            self.events[self.epoch, event["offset"]] = event
        self.covered.setdefault(self.epoch, set()).update(range(frame["from"], frame["to"] + 1))
        self.cursor = frame["to"]


class World:
    """One log, one hub, clients; everything that happens is drawn from ``seed``."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.log = Log()
        self.time = ManualTime()
        self.hub: Hub = hub_over(self.log, self.time)
        self.waiting: list[Publication] = []
        self.clients: list[Client] = []
        self.asked = 0
        self.tasks: set[asyncio.Task[None]] = set()
        right_read, right_events = self.hub.catchup._read, self.log.store.events

        async def read(tenant_id: str, conversation_id: str) -> Conversation | None:
            await self._dawdle()
            record = await right_read(tenant_id, conversation_id)
            await self._dawdle()
            return record

        async def events(*args: Any, **options: Any) -> list[EventBatch]:
            await self._dawdle()
            found = await right_events(*args, **options)
            await self._dawdle()
            return found

        self.hub.catchup._read = read
        self.log.store.events = events  # type: ignore[method-assign] # the same, only slower

    async def _dawdle(self) -> None:
        for _ in range(self.random.choice((0, 0, 1, 2, 5))):
            await asyncio.sleep(0)

    async def step(self) -> None:
        action = self.random.choices(
            (self.commit, self.publish, self.join, self.rejoin, self.stall, self.flow, self.leave, self.heal,
             self.erase),
            (30, 30, 8, 8, 4, 8, 3, 4, 1),
        )[0]  # fmt: skip
        await action()
        await self._dawdle()
        for client in self.clients:
            client.take()

    async def commit(self) -> None:
        audiences: tuple[Audience, ...] = ("owner", "agent", "full")
        count = self.random.randint(1, 4)
        events = [("a.b", {"n": self.random.random()}, self.random.choice(audiences)) for _ in range(count)]
        if self.log.record is not None and self.random.random() < 0.05:
            self.waiting.append(await self.log.reset())
        else:
            self.waiting.append(await self.log.commit(*events))

    async def publish(self) -> None:
        """One of what waits: usually the next, now and then another, lost or twice."""
        if not self.waiting:
            return
        index = 0 if self.random.random() < 0.8 else self.random.randrange(len(self.waiting))
        publication = self.waiting.pop(index)
        if self.random.random() < 0.05:
            return
        self.hub.publish(publication)
        if self.random.random() < 0.1:
            self.hub.publish(publication)

    async def join(self) -> None:
        if len(self.clients) < 6:
            principal = self.random.choice((OWNER, AGENT, INSPECTOR))
            client = Client(principal, FakeWatcher(principal))
            self.clients.append(client)
            self._subscribe(client)

    async def rejoin(self) -> None:
        """Resume from where the client stands, or somewhat before, on a new socket or the live one."""
        client = self._any_client()
        if client is None:
            return
        client.take()
        busy = client.subscribing is not None and not client.subscribing.done()
        if busy or self.random.random() < 0.5:
            client.watcher.outbox.discard()
            self.hub.drop(client.watcher)
            client.watcher = FakeWatcher(client.principal)
            client.taken = 0
        client.ended = False
        if client.epoch is not None and self.random.random() < 0.3:
            client.cursor = max(0, client.cursor - self.random.randint(0, 5))
        self._subscribe(client)

    def _subscribe(self, client: Client) -> None:
        self.asked += 1
        client.expects = str(self.asked)
        resume = (client.epoch, client.cursor) if client.epoch is not None else None
        task = asyncio.create_task(self._watch(client.watcher, resume, client.expects))
        client.subscribing = task
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _watch(self, watcher: FakeWatcher, resume: tuple[str | None, int] | None, name: str) -> None:
        await watch(self.hub, watcher, resume=resume, name=name)

    async def stall(self) -> None:
        client = self._any_client()
        if client is not None and client.watcher.wire.reading:
            client.watcher.wire.stop_reading()

    async def flow(self) -> None:
        client = self._any_client()
        if client is not None and not client.watcher.wire.reading:
            client.watcher.wire.read_on()

    async def leave(self) -> None:
        client = self._any_client()
        if client is not None and client.subscribing is not None and client.subscribing.done():
            self.hub.unsubscribe(client.watcher, "c1")
            self.clients.remove(client)

    async def heal(self) -> None:
        self.time.now += HEAL_AFTER_MS
        self.hub.tick(self.time.now)

    async def erase(self) -> None:
        """Delete, and make the conversation anew under another epoch."""
        if self.log.record is None or self.tasks:
            return
        self.hub.publish(await self.log.erase())
        self.waiting.clear()
        self.log.record = None
        assert await self.log.store.expire_tombstones(2, 10) == 1

    def _any_client(self) -> Client | None:
        return self.random.choice(self.clients) if self.clients else None

    async def calm_down(self) -> None:
        """Everything that is under way arrives, gaps heal, and all sockets read."""
        if self.log.record is None:
            await self.commit()
        self.waiting.append(await self.log.say())
        for publication in self.waiting:
            self.hub.publish(publication)
        for _ in range(5):
            for client in self.clients:
                if not client.watcher.wire.reading:
                    client.watcher.wire.read_on()
            while self.tasks:
                await asyncio.sleep(0)
            self.time.now += HEAL_AFTER_MS
            self.hub.tick(self.time.now)
            await settle(self.hub)

    async def check(self) -> None:
        assert self.log.record is not None
        epoch, stored = self.log.record.epoch, await self.log.events()
        for client in self.clients:
            client.take()
            if client.ended:
                continue
            assert "c1" in client.watcher.subscriptions
            assert (client.epoch, client.cursor) == (epoch, self.log.record.offset)
            audience = audience_for(client.principal, "u1")
            assert audience is not None
            covered = client.covered.get(epoch, set())
            want = [
                view
                for event in stored
                if event.offset in covered and (view := event_view(event, audience, "u1")) is not None
            ]
            got = [event for (life, _), event in sorted(client.events.items()) if life == epoch]
            assert got == want


@pytest.mark.parametrize("seed", range(150))
async def test_a_client_collects_what_the_store_holds(seed: int) -> None:
    world = World(seed)
    for _ in range(120):
        await world.step()
    await world.calm_down()
    await world.check()

"""Several instances over one store and a bus that loses, doubles and reorders (invariant 3)."""

import asyncio
import gc
import random
from collections.abc import Callable, Sequence

import orjson
import pytest

from server.auth.principal import Principal
from server.delivery.bridge import (
    ENGINE_CHANNEL,
    VERSION,
    Bridge,
    channel_of,
    commit_payload,
    read_batch,
    read_payload,
)
from server.delivery.hub import Elsewhere, Hub
from server.delivery.tails import ROUND_TICKS
from server.delivery.topic import Topic
from server.engine.types import Publication
from storage.base import StoreUnavailable
from storage.memory.bus import BusHub, MemoryBus
from storage.memory.store import MemoryStore
from storage.models import Conversation
from tests.support.delivery import OWNER, TENANT, FakeWatcher, Log, ManualTime, settle, watch


class UnreliableBus(MemoryBus):
    """What the port promises, and no more."""

    def __init__(self, hub: BusHub, random_: random.Random, loss: float) -> None:
        super().__init__(hub)
        self._random = random_
        self._loss = loss
        self._held: list[tuple[str, bytes]] = []

    def publish(self, channel: str, payload: bytes) -> None:
        if self._random.random() < self._loss:
            return
        self._held.append((channel, payload))
        if self._random.random() < self._loss:
            self._held.append((channel, payload))
        if self._random.random() < 0.5:
            self.let_go()

    def let_go(self) -> None:
        """Send what is held, in any order."""
        self._random.shuffle(self._held)
        held, self._held = self._held, []
        for channel, payload in held:
            super().publish(channel, payload)


class ListeningBus(MemoryBus):
    """Counts what arrives."""

    heard = 0

    async def subscribe(self, channel: str, receive: Callable[[bytes], None]) -> None:
        def count(payload: bytes) -> None:
            self.heard += 1
            receive(payload)

        await super().subscribe(channel, count)


class Instance:
    def __init__(self, log: Log, bus: MemoryBus, time: ManualTime) -> None:
        async def read(tenant_id: str, conversation_id: str) -> Conversation | None:
            return await log.store.load(tenant_id, conversation_id)

        self.woken: list[tuple[str, ...]] = []
        elsewhere = Elsewhere(
            work=lambda *key: self.woken.append(key),
            due=lambda: self.woken.append(("due",)),
            flows=lambda: self.woken.append(("flows",)),
        )
        self.hub = Hub(store=log.store, read=read, now_ms=time, bus=bus, elsewhere=elsewhere)


def instances(log: Log, count: int = 2, time: ManualTime | None = None) -> list[Instance]:
    shared = BusHub()
    return [Instance(log, MemoryBus(shared), time or ManualTime()) for _ in range(count)]


async def loops(turns: int = 5) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def collected(watcher: FakeWatcher) -> list[int]:
    return [event["offset"] for frame in watcher.of_type("events") for event in frame["events"]]


async def test_what_one_instance_commits_the_watchers_of_another_see() -> None:
    log = Log()
    here, there = instances(log)
    await log.say()
    near, far = FakeWatcher(), FakeWatcher()
    await watch(here.hub, near)
    await watch(there.hub, far)
    here.hub.publish(await log.commit("a.b", ("a.c", {}, "full")))
    there.hub.publish(await log.say())
    await loops()
    assert near.of_type("events") == far.of_type("events")
    assert collected(near) == [2, 4]


async def test_an_instance_hears_only_of_what_its_own_sockets_watch() -> None:
    log, shared = Log(), BusHub()
    bus = ListeningBus(shared)
    here, there = Instance(log, MemoryBus(shared), ManualTime()), Instance(log, bus, ManualTime())
    watcher = FakeWatcher()
    here.hub.publish(await log.say())
    await loops()
    assert bus.heard == 0
    await watch(there.hub, watcher)
    here.hub.publish(await log.say())
    await loops()
    assert bus.heard == 1
    there.hub.drop(watcher)
    await loops()
    here.hub.publish(await log.say())
    await loops()
    assert bus.heard == 1


async def test_what_several_watched_again_and_again_is_heard_no_more_once_all_have_gone() -> None:
    log, shared = Log(), BusHub()
    bus = ListeningBus(shared)
    here, there = Instance(log, MemoryBus(shared), ManualTime()), Instance(log, bus, ManualTime())
    await log.say()
    watchers = FakeWatcher(), FakeWatcher()
    for watcher in (*watchers, watchers[0]):
        await watch(there.hub, watcher)
    here.hub.publish(await log.say())
    await loops()
    heard = bus.heard
    assert heard > 0
    for watcher in watchers:
        there.hub.drop(watcher)
    await loops()
    here.hub.publish(await log.say())
    await loops()
    assert bus.heard == heard


async def test_a_quick_leave_and_return_still_hears() -> None:
    log = Log()
    here, there = instances(log)
    await log.say()
    for _ in range(3):
        watcher = FakeWatcher()
        await watch(there.hub, watcher)
        there.hub.drop(watcher)
    watcher = FakeWatcher()
    await watch(there.hub, watcher)
    await loops()
    here.hub.publish(await log.say())
    await loops()
    assert collected(watcher) == [2]


async def test_deletion_and_hints_reach_other_instances() -> None:
    log = Log()
    here, there = instances(log)
    await log.say()
    near, far = FakeWatcher(), FakeWatcher()
    await watch(here.hub, near)
    await watch(there.hub, far)
    here.hub.typing(near, "c1", True)
    here.hub.publish_delta(TENANT, "c1", "e1", "x1", "m9", 0, "Hel")
    here.hub.publish(await log.erase())
    await loops()
    assert [frame["type"] for frame in far.frames[2:]] == ["typing", "message.delta", "unsubscribed"]


async def test_who_waits_for_a_conversation_hears_no_hint_of_it_before_it_is_known_whose_it_is() -> None:
    """The bus may lose the first commit, or bring it behind what is said in the conversation."""
    log = Log()
    here, there = instances(log)
    stranger, owner = FakeWatcher(Principal("u2", TENANT)), FakeWatcher()
    await watch(there.hub, stranger)
    await watch(there.hub, owner)
    first = await log.say()
    here.hub.publish_delta(TENANT, "c1", "e1", "x1", "m9", 0, "Hel")
    here.hub.publish(first)
    here.hub.publish_delta(TENANT, "c1", "e1", "x1", "m9", 1, "lo")
    await loops()
    assert stranger.of_type("message.delta", "typing", "events") == []
    assert [frame["delta"] for frame in owner.of_type("message.delta")] == ["lo"]


async def test_who_watches_a_former_life_of_a_conversation_hears_no_hint_of_the_present_one() -> None:
    """It was deleted and made anew by somebody else, and the bus has lost both."""
    log = Log()
    here, there = instances(log)
    await log.say()
    former = FakeWatcher()
    await watch(there.hub, former)
    await log.erase()
    log.record, log.user_id = None, "u2"
    assert await log.store.expire_tombstones(2, 10) == 1
    await log.say()
    writer, reader = FakeWatcher(Principal("u2", TENANT)), FakeWatcher(Principal("u2", TENANT))
    await watch(here.hub, writer)
    await watch(here.hub, reader)
    here.hub.typing(writer, "c1", True)
    here.hub.publish_delta(TENANT, "c1", "e2", "x1", "m9", 0, "secret")
    await loops()
    assert [frame["type"] for frame in reader.of_type("typing", "message.delta")] == [
        "typing",
        "message.delta",
    ]
    assert former.of_type("typing", "message.delta") == []


async def test_an_engine_is_told_that_another_instance_has_work_for_it() -> None:
    here, there = instances(Log())
    await here.hub.start()
    await there.hub.start()
    here.hub.tell_owner(TENANT, "c1", "there")
    here.hub.tell_due()
    here.hub.tell_flows()
    await loops()
    assert there.woken == [(TENANT, "c1", "there"), ("due",), ("flows",)]
    assert here.woken == []


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"nonsense",
        b"[]",
        b'{"v":2,"kind":"commit"}',
        b'{"v":1}',
        b'{"v":1,"kind":"commit","tenant":"t1","conversation":"c1"}',
        b'{"v":1,"kind":"commit","tenant":"t1","conversation":"c1","owner":"u1","deleted":false,"batch":{}}',
        b'{"v":1,"kind":"news","tenant":"t1","conversation":"c1"}',
    ],
)
async def test_a_payload_that_cannot_be_understood_is_ignored(payload: bytes) -> None:
    log, shared = Log(), BusHub()
    instance = Instance(log, MemoryBus(shared), ManualTime())
    await log.say()
    watcher = FakeWatcher()
    await watch(instance.hub, watcher)
    MemoryBus(shared).publish(channel_of(TENANT, "c1"), payload)
    MemoryBus(shared).publish(ENGINE_CHANNEL, payload)
    await loops()
    instance.hub.publish(await log.say())
    assert collected(watcher) == [2]


async def test_a_commit_survives_the_bus_unchanged() -> None:
    publication = await Log().commit("a.b", ("message.completed", {"text": "é"}), ("a.c", {"n": 1.5}, "full"))
    assert publication.batch is not None
    message = read_payload(commit_payload(TENANT, "c1", "u1", False, publication.batch))
    assert message is not None
    assert (message["v"], message["owner"]) == (VERSION, "u1")
    assert read_batch(message["batch"]) == publication.batch
    assert orjson.loads(commit_payload(TENANT, "c1", "u1", True, None))["batch"] is None


async def _chaos(seed: int, publish: Callable[[Instance, Publication], None]) -> None:
    random_ = random.Random(seed)
    log, time, shared = Log(), ManualTime(), BusHub()
    buses = [UnreliableBus(shared, random_, loss=0.3) for _ in range(3)]
    crew = [Instance(log, bus, time) for bus in buses]
    await log.say()
    watchers = [FakeWatcher(OWNER) for _ in range(6)]
    for index, watcher in enumerate(watchers):
        await watch(crew[index % 3].hub, watcher, resume=("e1", 1))
    for _ in range(40):
        publish(random_.choice(crew), await log.commit(*["a.b"] * random_.randint(1, 3)))
        if random_.random() < 0.3:
            await loops(random_.randint(1, 4))
    for _ in range(10):  # ten seconds
        time.now += 1000
        for instance, bus in zip(crew, buses, strict=True):
            bus.let_go()
            instance.hub.tick(time.now)
            await settle(instance.hub)
        await loops()
    assert log.record is not None
    for watcher in watchers:
        assert collected(watcher) == list(range(2, log.record.offset + 1))


@pytest.mark.parametrize("seed", range(50))
async def test_whatever_the_bus_loses_is_healed_within_ten_seconds(seed: int) -> None:
    await _chaos(seed, lambda instance, publication: instance.hub.publish(publication))


class CountingLog(MemoryStore):
    """A store that counts how many conversations' offsets were asked for, read by read; it may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.away = False

    async def offsets(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
        self.asked.append(len(keys))
        if self.away:
            raise StoreUnavailable("away")
        return await super().offsets(keys)


async def crowd(count: int) -> tuple[CountingLog, Hub, BusHub]:
    """Return a hub with so many watched conversations that were never written to."""
    store, shared = CountingLog(), BusHub()

    async def read(tenant_id: str, conversation_id: str) -> Conversation | None:
        return await store.load(tenant_id, conversation_id)

    hub = Hub(store=store, read=read, now_ms=ManualTime(), bus=MemoryBus(shared))
    for number in range(count):
        await watch(hub, FakeWatcher(), conversation_id=f"c{number}")
    return store, hub, shared


async def test_tails_are_compared_evenly_over_a_round() -> None:
    store, hub, _ = await crowd(700)
    for second in range(ROUND_TICKS):
        hub.tick(second * 1000)
        await settle(hub)
    assert sum(store.asked) == 700
    assert len(store.asked) == ROUND_TICKS
    assert max(store.asked) < 200


async def test_a_bus_that_is_back_has_all_tails_compared_at_once_in_batches() -> None:
    store, hub, _ = await crowd(1_200)
    hub.restored()
    await settle(hub)
    assert store.asked == [500, 500, 200]


async def test_tails_that_the_store_was_away_for_are_compared_as_soon_as_it_is_back() -> None:
    store, hub, _ = await crowd(700)
    store.away = True
    hub.restored()
    await settle(hub)
    for second in range(20):
        hub.tick(second * 1000)
        await settle(hub)
    assert store.asked == [500] * 21  # one read a tick finds out whether it is back
    store.away, store.asked = False, []
    hub.tick(21_000)
    await settle(hub)
    assert sum(store.asked) == 700


async def test_a_lost_tail_is_healed_although_no_gap_shows() -> None:
    log, time = Log(), ManualTime()
    there = instances(log, time=time)[1]
    await log.say()
    watcher = FakeWatcher()
    await watch(there.hub, watcher)
    await log.say()  # of which nothing is published
    for _ in range(8):
        time.now += 1000
        there.hub.tick(time.now)
        await settle(there.hub)
    assert collected(watcher) == [2]


async def test_who_comes_in_vain_while_the_store_is_away_is_not_kept() -> None:
    store, asked, answers = CountingLog(), asyncio.Event(), asyncio.Event()

    async def read(tenant_id: str, conversation_id: str) -> Conversation | None:
        if store.away:
            asked.set()
            await answers.wait()
            raise StoreUnavailable("away")
        return await store.load(tenant_id, conversation_id)

    def topics() -> int:
        gc.collect()
        return sum(type(each) is Topic for each in gc.get_objects())

    hub = Hub(store=store, read=read, now_ms=ManualTime(), bus=MemoryBus(BusHub()))
    await watch(hub, FakeWatcher(), conversation_id="was there before")
    before = topics()
    store.away = True
    for number in range(20):
        asked.clear()
        answers.clear()
        coming = asyncio.ensure_future(watch(hub, FakeWatcher(), conversation_id=f"c{number}"))
        await asked.wait()
        for second in range(ROUND_TICKS):
            hub.tick(second * 1000)
            await settle(hub)
        answers.set()
        with pytest.raises(StoreUnavailable):
            await coming
    assert topics() - before <= 1, "that of the last, by the traceback of its refusal"


async def test_two_who_want_one_channel_leave_it_one_by_one() -> None:
    heard: list[bytes] = []
    shared = BusHub()
    bridge = Bridge(MemoryBus(shared), heard.append)
    async with bridge.hearing("here"):
        async with bridge.hearing("here"):
            pass
        await loops()
        MemoryBus(shared).publish("here", b"1")
        await loops()
    await loops()
    MemoryBus(shared).publish("here", b"2")
    await loops()
    assert heard == [b"1"]
    assert shared.receivers == {}

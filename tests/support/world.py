"""A small world in which a test decides what happens next, down to every await.

Several engine instances run over one store. Each call to the store, each action and each sleep stops at
a *point*; nothing moves until the test releases one, lets it fail, or kills its instance. So "between
any two awaits" is not a matter of luck: it is what Hypothesis chooses. Time is virtual.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from protocol.errors import Refused
from server.auth.principal import Principal
from server.engine.actions import ActionContext, Actions
from server.engine.catalog import SHARED, Catalog
from server.engine.runner import Engine, EngineOptions
from server.engine.schedule import HOUR_MS
from server.engine.sweeper import Sweeper
from server.engine.types import Accepted, Command, Publication
from storage.base import CommitUnknown, Store, StoreUnavailable
from storage.models import FlowVersion, Pending
from tests.support.errand import VERSIONS, compiled, sources

TENANT = "t"
OWNER = Principal("u1", TENANT)
OPERATOR = Principal("op", TENANT, scopes=frozenset({"conversations:write", "acceptance:decide"}))
SECOND = Principal("op2", TENANT, scopes=frozenset({"acceptance:decide"}))
MUTATING = frozenset({"commit", "enqueue"})
IDLE_PASSES = 6
SESSION_MS = 48 * HOUR_MS
CALM_MS = 3 * HOUR_MS
"""What is due later than this is no unrest: a lease taken before the clock was set back is due earlier."""


@dataclass(eq=False)
class Point:
    """Somebody waits here for the test's word."""

    instance: "Instance"
    name: str
    future: asyncio.Future[str]


@dataclass(frozen=True, slots=True)
class Ran:
    """What the world saw of an effect."""

    name: str
    key: str
    arguments: Mapping[str, Any]


@dataclass(eq=False)
class Sent:
    """A command as the client knows it: every answer it got, in order."""

    conversation_id: str
    command: Command
    who: Principal = OWNER
    answers: list[Accepted | Refused | StoreUnavailable] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        return any(isinstance(answer, Accepted) for answer in self.answers)


class VirtualClock:
    """Time that moves when the test says so. Sleeps of a dead instance never end."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self.now_ms = now_ms
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now(self) -> int:
        return self.now_ms

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now_ms + max(1, round(seconds * 1000)), future))
        await future

    @property
    def sleeping(self) -> int:
        """How many sleep, and want to be woken."""
        return sum(not future.done() for _, future in self._sleepers)

    def jump(self, ms: int) -> None:
        """Set the clock: who sleeps, sleeps on for as long as was meant."""
        self.now_ms += ms
        self._sleepers = [(at + ms, future) for at, future in self._sleepers]

    def advance(self, ms: int) -> None:
        self.now_ms += ms
        due = [entry for entry in self._sleepers if entry[0] <= self.now_ms]
        self._sleepers = [entry for entry in self._sleepers if entry[0] > self.now_ms]
        for _, future in sorted(due, key=lambda entry: entry[0]):
            if not future.done():
                future.set_result(None)


class InstanceClock:
    """The shared clock as one instance sees it: dead instances sleep for ever."""

    def __init__(self, instance: "Instance", clock: VirtualClock) -> None:
        self._instance = instance
        self._clock = clock

    def now(self) -> int:
        return self._clock.now()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        if self._instance.dead:
            await asyncio.get_running_loop().create_future()


class GatedStore:
    """A store whose every call stops at a point before it happens, and again before its reply arrives.

    ``lose`` at the first point: it does not happen, and the caller cannot know. ``lose`` at the second:
    it happened, and the caller cannot know.
    """

    def __init__(self, instance: "Instance", inner: Store) -> None:
        self._instance = instance
        self._inner = inner
        self.detects_duplicates = inner.detects_duplicates
        self.embedded = False

    def now(self) -> int:
        return self._inner.now()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._inner, name)

        async def gated(*args: Any, **kwargs: Any) -> Any:
            await self._stop_at(name, "before")
            result = await self._instance.world.inner(method(*args, **kwargs))
            await self._stop_at(name, "after")
            return result

        return gated

    async def _stop_at(self, name: str, when: str) -> None:
        if await self._instance.world.point(self._instance, f"{name}:{when}") == "lose":
            raise CommitUnknown(f"{name} lost") if name in MUTATING else StoreUnavailable(f"{name} failed")


class Instance:
    """One engine over the shared store."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.dead = False
        store: Any = GatedStore(self, world.store)
        clock = InstanceClock(self, world.clock)
        self._catalog = Catalog(store)
        self.offer()
        self.engine = Engine(
            store=store,
            clock=clock,
            catalog=self._catalog,
            actions=Actions(
                {
                    "shop.look": self._action("look"),
                    "shop.buy": self._action("buy"),
                    "shop.pay": self._action("pay"),
                }
            ),
            publish=world.published.append,
            sole_writer=False,
            tell_owner=lambda tenant, conversation, owner: world.bus.append((tenant, conversation)),
            options=EngineOptions(instance_id=name, ring_size=world.ring_size, session_ms=SESSION_MS),
            expect=lambda at: self.sweeper.expect(at),
        )
        self.sweeper = Sweeper(store, clock, self.engine)

    def offer(self) -> None:
        """Read the flows' folder: what starts here from now on is the newest version."""
        for flow, version in compiled(self.world.version):
            self._catalog.add(flow, version)

    def _action(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def run(context: ActionContext, **arguments: Any) -> Any:
            word = await self.world.point(self, f"effect:{name}:before")
            if word == "lose":
                raise ConnectionError
            self.world.effects.append(Ran(name, context.key, arguments))
            if await self.world.point(self, f"effect:{name}:after") == "lose":
                raise ConnectionError
            return {"ok": name}

        return run


class World:
    """Instances, their store, a lossy bus, and the clients' memory of what they were told."""

    def __init__(self, store: Store, clock: VirtualClock, *, ring_size: int = 2) -> None:
        self.store = store
        self.clock = clock
        self.ring_size = ring_size
        self.version = 1
        self.points: list[Point] = []
        self.published: list[Publication] = []
        self.bus: list[tuple[str, str]] = []
        self.effects: list[Ran] = []
        self.sent: list[Sent] = []
        self.tasks: dict[asyncio.Task[Any], Instance] = {}
        self.deleted: set[str] = set()
        self._activity = 0
        self._inside = 0
        self._names = 0
        self.instances: list[Instance] = []

    async def start(self, count: int = 2) -> None:
        await self._store_flows()
        self.instances = [self._new_instance() for _ in range(count)]
        for instance in self.instances:
            await instance.engine.start()
        await self.settle()

    async def _store_flows(self) -> None:
        for flow_id, source in sources(self.version).items():
            digest = sha256(source.encode()).hexdigest()
            version = FlowVersion(SHARED, flow_id, 0, digest, source, "test.yaml")
            await self.store.publish(version, name=flow_id, description="", is_default=flow_id == "errand")

    async def publish(self, index: int, *, newer: bool) -> None:
        """An instance takes over the newest flows; with ``newer``, some that nobody has had before."""
        if newer and self.version < VERSIONS:
            self.version += 1
            await self._store_flows()
        self.instances[index % len(self.instances)].offer()

    def _new_instance(self) -> Instance:
        self._names += 1
        return Instance(self, f"i{self._names}")

    # --- points -----------------------------------------------------------------------------------

    async def point(self, instance: Instance, name: str) -> str:
        self._activity += 1
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        point = Point(instance, name, future)
        if not instance.dead:
            self.points.append(point)
        try:
            return await future
        finally:
            self._activity += 1
            if point in self.points:
                self.points.remove(point)

    async def inner(self, call: Awaitable[Any]) -> Any:
        """Await the real store, and keep ``settle`` from thinking that nothing happens meanwhile."""
        self._inside += 1
        try:
            return await call
        finally:
            self._inside -= 1
            self._activity += 1

    async def settle(self) -> None:
        """Run until everybody waits for the test."""
        quiet = 0
        while quiet < IDLE_PASSES:
            seen = self._activity
            await asyncio.sleep(0)
            if self._inside:
                await asyncio.sleep(0.0002)
                quiet = 0
            else:
                quiet = quiet + 1 if seen == self._activity else 0

    async def release(self, index: int, word: str = "go") -> None:
        if self.points:
            point = self.points.pop(index % len(self.points))
            if not point.future.done():
                point.future.set_result(word)
        await self.settle()

    async def release_named(self, part: str, word: str) -> None:
        place = next((i for i, point in enumerate(self.points) if part in point.name), None)
        if place is not None:
            await self.release(place, word)

    def owner_of_effect(self) -> int:
        owner = next(point.instance for point in self.points if "effect" in point.name)
        return self.instances.index(owner)

    # --- what clients and operators do ------------------------------------------------------------

    def _spawn(self, index: int, work: Callable[["Instance"], Coroutine[Any, Any, None]]) -> None:
        instance = self.instances[index % len(self.instances)]
        task = asyncio.get_running_loop().create_task(work(instance))
        self.tasks[task] = instance
        task.add_done_callback(self.tasks.pop)

    async def send(
        self, index: int, conversation_id: str, kind: str, body: Mapping[str, Any], who: Principal = OWNER
    ) -> None:
        key = f"key-{len(self.sent):06d}"
        whole = {"type": kind, "conversation_id": conversation_id, **body}
        sent = Sent(conversation_id, Command(kind, conversation_id, key, f"hash-{key}", whole), who)
        self.sent.append(sent)
        await self.resend(index, sent)

    async def say(self, index: int, conversation_id: str, text: str, on_busy: str = "enqueue") -> None:
        body = {"content": {"text": text}, "on_busy": on_busy, "user_id": OWNER.user_id}
        await self.send(index, conversation_id, "process", body)

    async def requests(self, conversation_id: str) -> list[Pending]:
        """Return the requests to people that the conversation remembers, the closed ones too."""
        record = await self.store.load(TENANT, conversation_id)
        execution = record.execution if record is not None else None
        return [] if execution is None else [p for p in execution.pending if p.kind != "input"]

    async def decide(
        self, index: int, pending: Pending, conversation_id: str, verdict: str, who: Principal = OWNER
    ) -> None:
        """Decide a request as it was shown: ``accept``, ``reject``, or ``edit`` what is accepted."""
        decision: dict[str, Any] = {"pending_id": pending.pending_id}
        if pending.kind == "clarification":
            decision["answers"] = {"when": "now" if verdict == "accept" else "later"}
        else:
            edits = {"what": "bread"} if verdict == "edit" else {}
            decision |= {"accepted": verdict != "reject", "edits": edits, "digest": pending.digest}
        await self.send(index, conversation_id, pending.kind, decision, who)

    async def resend(self, index: int, sent: Sent) -> None:
        self._spawn(index, lambda instance: self._ask(instance, sent))
        await self.settle()

    async def _ask(self, instance: Instance, sent: Sent) -> None:
        try:
            sent.answers.append(await instance.engine.submit(sent.command, sent.who))
        except (Refused, StoreUnavailable) as answer:
            sent.answers.append(answer)

    async def delete(self, index: int, conversation_id: str) -> None:
        self.deleted.add(conversation_id)
        self._spawn(index, lambda instance: self._delete(instance, conversation_id))
        await self.settle()

    async def _delete(self, instance: Instance, conversation_id: str) -> None:
        try:
            await instance.engine.delete(TENANT, conversation_id, OWNER)
        except (Refused, StoreUnavailable):
            return

    async def sweep(self, index: int) -> None:
        self._spawn(index, self._sweep)
        await self.settle()

    async def _sweep(self, instance: Instance) -> None:
        try:
            await instance.sweeper.sweep()
        except StoreUnavailable:
            return

    async def deliver(self, index: int, position: int, fate: str) -> None:
        """The bus loses, repeats and reorders."""
        if not self.bus:
            return
        place = position % len(self.bus)
        message = self.bus[place] if fate == "repeat" else self.bus.pop(place)
        if fate != "lose":
            self.instances[index % len(self.instances)].engine.on_bus(*message)
        await self.settle()

    async def crash(self, index: int) -> None:
        """Kill an instance wherever it stands; another one takes its place."""
        place = index % len(self.instances)
        victim = self.instances[place]
        victim.dead = True
        self.points = [point for point in self.points if point.instance is not victim]
        self.instances[place] = self._new_instance()
        await self.instances[place].engine.start()
        await self.settle()

    async def advance(self, ms: int) -> None:
        self.clock.advance(ms)
        await self.settle()

    # --- the end ----------------------------------------------------------------------------------

    async def calm_down(self, rounds: int = 60) -> None:
        """No more faults: everything that can happen happens, until nothing is left to do."""
        for number in range(rounds):
            await self._release_all()
            await self.sweep(0)
            await self._release_all()
            if not await self.store.due(self.clock.now() + CALM_MS, 10) and not self._alive():
                return
            await self.advance(20_000 if number < 5 else HOUR_MS // 4)
        raise AssertionError(
            f"the world does not come to rest: {[p.name for p in self.points]}, {self._alive()}"
        )

    async def _release_all(self) -> None:
        while self.points or self.bus:
            await self.release(0)
            await self.deliver(0, 0, "once")

    def _alive(self) -> list[asyncio.Task[Any]]:
        """The requests that somebody still works on; who asked a dead instance waits in vain."""
        return [task for task, instance in self.tasks.items() if not instance.dead]

    async def close(self) -> None:
        mine = asyncio.current_task()
        while left := [task for task in asyncio.all_tasks() if task is not mine]:
            for task in left:  # one that is cancelled in a commit leaves another behind, to settle it
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

"""A conversation with an engine, in memory and in virtual time, for tests that read like one."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from server.auth.principal import Principal
from server.engine.actions import Actions
from server.engine.catalog import Catalog
from server.engine.flow.loader import compile_flow
from server.engine.runner import Engine, EngineOptions
from server.engine.sweeper import Sweeper
from server.engine.types import Accepted, Command, Publication
from storage.base import Store
from storage.memory import MemoryStore
from storage.models import Conversation, Event
from tests.support.world import VirtualClock

TENANT = "t"
USER = Principal("u1", TENANT)


class Talk:
    """One engine, one conversation (``c1`` unless another is named), any number of flows."""

    def __init__(
        self,
        *flows: str,
        actions: Mapping[str, Callable[..., Any]] | None = None,
        store: Store | None = None,
        clock: VirtualClock | None = None,
        ring_size: int = 64,
        instance_id: str = "i1",
        sole_writer: bool = True,
        session_ms: int = 0,
        locale: str | None = None,
        timezone: str | None = None,
        cache_bytes: int = 1 << 26,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.clock = clock or VirtualClock()
        self._owns_store = store is None
        self.store: Any = store or MemoryStore(clock=self.clock.now)
        self.catalog = Catalog(self.store, config=config)
        for source in flows:
            self.catalog.add(compile_flow(source, "test.yaml"))
        self.prepared: list[Publication] = []
        self.published: list[Publication] = []
        self.engine = Engine(
            store=self.store,
            clock=self.clock,
            catalog=self.catalog,
            actions=Actions(actions or {}),
            publish=self.published.append,
            prepare=self.prepared.append,
            sole_writer=sole_writer,
            options=EngineOptions(
                instance_id=instance_id, ring_size=ring_size, session_ms=session_ms, cache_bytes=cache_bytes
            ),
            expect=lambda at: self.sweeper.expect(at),
        )
        self.sweeper = Sweeper(self.store, self.clock, self.engine)
        self._keys = 0
        self._locale, self._timezone = locale, timezone

    async def __aenter__(self) -> "Talk":
        if self._owns_store:
            await self.store.open()
        await self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.stop(0)
        await self.store.close()

    async def send(
        self,
        kind: str,
        body: Mapping[str, Any],
        *,
        key: str | None = None,
        who: Principal = USER,
        to: str = "c1",
    ) -> Accepted:
        if key is None:
            self._keys += 1
            key = f"key-{self._keys:05d}"
        whole = {"type": kind, "conversation_id": to, **body}
        return await self.engine.submit(
            Command(
                kind,
                to,
                key,
                repr(sorted(whole.items(), key=str)),
                whole,
                locale=self._locale,
                timezone=self._timezone,
            ),
            who,
        )

    async def say(
        self, text: str | None = None, *, payload: str | None = None, flow_id: str | None = None,
        on_busy: str = "enqueue", key: str | None = None, who: Principal = USER, to: str = "c1",
    ) -> Accepted:  # fmt: skip
        content: dict[str, Any] = {"type": "text", "text": text, "payload": payload, "metadata": {}}
        body = {
            "content": content,
            "flow_id": flow_id,
            "on_busy": on_busy,
            "channel": "web",
            "user_id": who.user_id,
        }
        return await self.send("process", body, key=key, who=who, to=to)

    def offer(self, source: str, version: int) -> None:
        """Publish another version of a flow."""
        self.catalog.add(compile_flow(source, "test.yaml"), version)

    async def record(self, conversation_id: str = "c1") -> Conversation:
        record = await self.store.load(TENANT, conversation_id)
        assert record is not None
        return record  # type: ignore[no-any-return] # the store is any adapter here

    async def events(self, *types: str) -> list[Event]:
        record = await self.record()
        batches = await self.store.events(TENANT, "c1", record.epoch, 0, limit=100_000, max_bytes=1 << 30)
        found = [event for batch in batches for event in batch.events]
        return [event for event in found if event.type in types] if types else found

    async def texts(self) -> list[str]:
        """What the flow has said so far."""
        return [event.data["text"] for event in await self.events("message.completed")]

    async def rest(self, passes: int = 40) -> None:
        """Let everything run that needs no time to pass."""
        for _ in range(passes):
            await asyncio.sleep(0)

    async def wait(self, ms: int, *, sweep: bool = True) -> None:
        """Let time pass, and the sweeper look."""
        self.clock.advance(ms)
        await self.rest()
        if sweep:
            await self.sweeper.sweep()
        await self.rest()


def replies(accepted: Accepted) -> list[str]:
    """What the flow said in the turn that ended with this acceptance."""
    assert accepted.result is not None
    return [message["text"] for message in accepted.result["response"]["messages"]]

"""A conversation's log and its watchers, without engine and sockets: what delivery tests play with."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from protocol.frames import Resume
from server.auth.principal import Principal
from server.delivery.hub import Hub, Standing
from server.delivery.outbox import Outbox
from server.delivery.topic import Subscription
from server.engine.types import Publication
from storage.base import Commit, CommitOutcome, Expected
from storage.memory.store import MemoryStore
from storage.models import Audience, Conversation, Event, EventBatch

TENANT = "t1"
OWNER = Principal("u1", TENANT)
AGENT = Principal("agent", TENANT, scopes=frozenset({"conversations:read"}))
INSPECTOR = Principal("boss", TENANT, scopes=frozenset({"conversations:inspect"}))
STRANGER = Principal("u2", TENANT)


class FakeWire:
    """A socket that keeps what was written. ``window`` bytes are taken by the peer, the rest is unsent."""

    def __init__(self) -> None:
        self.outbox: Outbox | None = None
        self.frames: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.unsent = 0
        self.high = 64 * 1024
        self.reading = True
        self.closed: tuple[int, str] | None = None

    def write(self, payload: bytes) -> None:
        assert self.closed is None, "written after close"
        self.raw.append(payload)
        self.frames.append(orjson.loads(payload))
        if not self.reading:
            self.unsent += len(payload)
            if self.unsent > self.high and self.outbox is not None:
                self.outbox.on_paused()

    def unsent_bytes(self) -> int:
        return self.unsent

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def stop_reading(self) -> None:
        """The peer reads nothing; the transport pauses at once."""
        self.reading = False
        self.unsent = self.high + 1
        assert self.outbox is not None
        self.outbox.on_paused()

    def read_on(self) -> None:
        """The peer reads everything."""
        self.reading = True
        self.unsent = 0
        assert self.outbox is not None
        self.outbox.on_resumed()


class FakeWatcher:
    """A connection, as far as the hub knows one."""

    def __init__(self, principal: Principal = OWNER, stalled: set[Outbox] | None = None) -> None:
        self.principal = principal
        self.wire = FakeWire()
        self.outbox = self.wire.outbox = Outbox(self.wire, stalled if stalled is not None else set())
        self.subscriptions: dict[str, Subscription] = {}

    @property
    def frames(self) -> list[dict[str, Any]]:
        return self.wire.frames

    def of_type(self, *types: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] in types]


@dataclass
class Log:
    """Writes commits of one conversation into a memory store, and says what to publish."""

    store: MemoryStore = field(default_factory=MemoryStore)
    conversation_id: str = "c1"
    user_id: str = "u1"
    record: Conversation | None = None
    lives: int = 0

    async def commit(
        self,
        *events: str | tuple[str, Mapping[str, Any]] | tuple[str, Mapping[str, Any], Audience],
        **changes: Any,
    ) -> Publication:
        """Commit events: a type, or (type, data), or (type, data, audience)."""
        before = self.record
        if before is None:
            self.lives += 1
            record = Conversation(TENANT, self.conversation_id, self.user_id, f"e{self.lives}")
            revision = None
        else:
            record, revision = before, before.revision
        first = record.offset + 1
        made = tuple(self._event(first + index, event) for index, event in enumerate(events))
        commit_id = f"k{self.lives}-{(revision or 0) + 1}"
        record = replace(
            record,
            offset=record.offset + len(made),
            revision=(revision or 0) + 1,
            commit_id=commit_id,
            **changes,
        )
        batch = EventBatch(record.epoch, first, record.offset, commit_id, None, None, made) if made else None
        outcome = await self.store.commit(Commit(Expected(revision, record.fence), record, batch))
        assert outcome is CommitOutcome.COMMITTED
        self.record = record
        return Publication(record, batch)

    async def say(self, text: str = "hi") -> Publication:
        """Commit one message of the flow."""
        return await self.commit(("message.completed", {"text": text}))

    async def reset(self) -> Publication:
        """Commit a reset."""
        assert self.record is not None
        return await self.commit(("conversation.reset", {"reason": "r"}), reset_offset=self.record.offset + 1)

    async def erase(self) -> Publication:
        """Commit a tombstone and remove the events."""
        publication = await self.commit(deleted_at=1, expires_at=1, user_id=None)
        await self.store.remove_events(TENANT, self.conversation_id)
        return publication

    @staticmethod
    def _event(offset: int, event: Any) -> Event:
        type_, data, audience = (event, {}, "owner") if isinstance(event, str) else (*event, "owner")[:3]
        if type_.startswith("message."):
            data = {"message_id": f"m{offset}", "offset": offset, **data}
        return Event(offset, 1_800_000_000_000 + offset, type_, None, None, None, None, data, audience)

    async def events(self) -> Sequence[Event]:
        """Return what the store holds."""
        assert self.record is not None
        batches = await self.store.events(TENANT, self.conversation_id, self.record.epoch, 0, limit=100_000)
        return [event for batch in batches for event in batch.events]


class ManualTime:
    """Milliseconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


def hub_over(log: Log, now_ms: Callable[[], int] | None = None) -> Hub:
    """Return a hub that reads ``log``'s store."""

    async def read(tenant_id: str, conversation_id: str) -> Conversation | None:
        return await log.store.load(tenant_id, conversation_id)

    return Hub(store=log.store, read=read, now_ms=now_ms or ManualTime())


async def watch(
    hub: Hub,
    watcher: FakeWatcher,
    resume: tuple[str | None, int] | None = None,
    conversation_id: str = "c1",
    name: str = "",
) -> Standing:
    """Subscribe; the reply is a frame of type ``reply`` in the watcher's outbox, called ``name``."""
    told: list[Standing] = []

    def reply(standing: Standing) -> bytes:
        told.append(standing)
        return orjson.dumps({"type": "reply", "name": name})

    wanted = Resume(epoch=resume[0], offset=resume[1]) if resume is not None else None
    await hub.subscribe(watcher, conversation_id, wanted, reply)
    return told[0]


async def settle(hub: Hub) -> None:
    """Let everything that runs in the background end."""
    while not hub.catchup.is_idle:
        await asyncio.sleep(0)

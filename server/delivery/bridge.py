"""The hub's way to other instances: commits and hints on the bus, as versioned JSON.

The bus loses, doubles and reorders by contract; the hub sorts that out. A payload of a version that
this code does not know is ignored: it will be read from the store.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
import structlog

from storage.base import EventBus
from storage.models import Event, EventBatch

VERSION: Final = 1
ENGINE_CHANNEL: Final = "parley:engine"
"""Where instances tell a conversation's owner that there is something to do; all of them listen."""
FLOWS_CHANNEL: Final = "parley:flows"
"""Where instances tell each other that other flows are to be started from now on."""

_log = structlog.get_logger(__name__)


def channel_of(tenant_id: str, conversation_id: str) -> str:
    """Return the bus channel of a conversation."""
    return f"parley:c:{tenant_id}:{conversation_id}"


def inbox_channel_of(tenant_id: str) -> str:
    """Return the bus channel on which a tenant's inbox is said to have changed."""
    return f"parley:inbox:{tenant_id}"


def commit_payload(
    tenant_id: str, conversation_id: str, owner: str | None, deleted: bool, batch: EventBatch | None
) -> bytes:
    """Return a commit as other instances read it."""
    message: dict[str, Any] = {
        "v": VERSION,
        "kind": "commit",
        "tenant": tenant_id,
        "conversation": conversation_id,
        "owner": owner,
        "deleted": deleted,
        "batch": None,
    }
    if batch is not None:
        message["batch"] = {
            "epoch": batch.epoch,
            "first": batch.first_offset,
            "last": batch.last_offset,
            "commit_id": batch.commit_id,
            "events": [_event_list(event) for event in batch.events],
        }
    return orjson.dumps(message)


def engine_payload(tenant_id: str, conversation_id: str, owner: str) -> bytes:
    """Return the word to a conversation's owner that there is something to do for it.

    ``owner`` is the lease's: the others need not look, so a wake-up costs one read and not one an instance.
    """
    return orjson.dumps(
        {"v": VERSION, "kind": "engine", "tenant": tenant_id, "conversation": conversation_id, "owner": owner}
    )


def due_payload() -> bytes:
    """Return the word that work was let go of: whoever looks for what is due finds it now."""
    return orjson.dumps({"v": VERSION, "kind": "due"})


def flows_payload() -> bytes:
    """Return the word that other flows are to be started; which, the store tells."""
    return orjson.dumps({"v": VERSION, "kind": "flows"})


def inbox_payload(tenant_id: str) -> bytes:
    """Return the word that what waits for a tenant's people may have changed."""
    return orjson.dumps({"v": VERSION, "kind": "inbox", "tenant": tenant_id})


def hint_payload(tenant_id: str, conversation_id: str, epoch: str, frame: bytes) -> bytes:
    """Return a frame that may be lost (a delta, a typing notice), for other instances to pass on.

    ``epoch`` is the life of the conversation that it belongs to: who watches another may not see this one.
    """
    return orjson.dumps(
        {
            "v": VERSION,
            "kind": "hint",
            "tenant": tenant_id,
            "conversation": conversation_id,
            "epoch": epoch,
            "frame": orjson.Fragment(frame),
        }
    )


def read_payload(payload: bytes) -> Mapping[str, Any] | None:
    """Return what another instance sent, or None where it is none of ours or of an unknown version."""
    try:
        message = orjson.loads(payload)
    except orjson.JSONDecodeError:
        _log.warning("bus_payload_unreadable", size=len(payload))
        return None
    if not isinstance(message, dict) or message.get("v") != VERSION:
        return None
    return message


def read_batch(raw: Mapping[str, Any]) -> EventBatch:
    """Return the batch that ``commit_payload`` wrote."""
    return EventBatch(
        epoch=raw["epoch"],
        first_offset=raw["first"],
        last_offset=raw["last"],
        commit_id=raw["commit_id"],
        key=None,
        body_hash=None,
        events=tuple(Event(*fields) for fields in raw["events"]),
    )


def _event_list(event: Event) -> list[Any]:
    return [
        event.offset, event.time, event.type, event.execution_id, event.step_id,
        event.command_id, event.cause, event.data, event.audience,
    ]  # fmt: skip


class Bridge:
    """Keeps the bus subscriptions of one instance equal to what its sockets watch.

    A channel is counted by who wants it. Its subscribing and unsubscribing are done by one task, so that a
    quick leave and return cannot end unsubscribed; those of different channels do not wait for each other.
    """

    def __init__(self, bus: EventBus, receive: Callable[[bytes], None]) -> None:
        self._bus = bus
        self._receive = receive
        self._wanted: Counter[str] = Counter()
        self._active: set[str] = set()
        self._settling: dict[str, asyncio.Task[None]] = {}
        self.sent = 0

    def publish(self, channel: str, payload: bytes) -> None:
        """Send to the other instances; returns at once, never raises."""
        self.sent += 1
        self._bus.publish(channel, payload)

    async def listen(self, channel: str) -> None:
        """Want ``channel``, and return once what others publish on it is received."""
        self.want(channel)
        await self.heard(channel)

    def want(self, channel: str) -> None:
        """Have ``channel`` received from the next ``heard`` on."""
        self._wanted[channel] += 1

    async def heard(self, channel: str) -> None:
        """Return once what others publish on a wanted channel is received, or nobody wants it any more."""
        while channel in self._wanted and channel not in self._active:
            await asyncio.shield(self._settled(channel))

    def leave(self, channel: str) -> None:
        """Receive ``channel`` no more, soon, unless somebody else wants it. Once for each ``want``."""
        self._wanted[channel] -= 1
        if self._wanted[channel] <= 0:
            del self._wanted[channel]
            self._settled(channel)

    @asynccontextmanager
    async def hearing(self, channel: str) -> AsyncIterator[None]:
        """Receive ``channel`` for the length of an ``async with``."""
        try:
            await self.listen(channel)
            yield
        finally:
            self.leave(channel)

    def _settled(self, channel: str) -> asyncio.Task[None]:
        """Return the task that makes what is received of ``channel`` what is wanted."""
        task = self._settling.get(channel)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._settle(channel))
            self._settling[channel] = task
        return task

    async def _settle(self, channel: str) -> None:
        try:
            while (channel in self._wanted) != (channel in self._active):
                if channel in self._wanted:
                    await self._bus.subscribe(channel, self._receive)
                    self._active.add(channel)
                else:
                    self._active.discard(channel)
                    await self._bus.unsubscribe(channel)
        finally:
            del self._settling[channel]

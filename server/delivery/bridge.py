"""The hub's way to other instances: commits and hints on the bus, as versioned JSON.

The bus loses, doubles and reorders by contract; the hub sorts that out. A payload of a version that
this code does not know is ignored: it will be read from the store.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
import structlog

from storage.base import EventBus
from storage.models import Event, EventBatch

VERSION: Final = 1
ENGINE_CHANNEL: Final = "parley:engine"
"""Where instances tell a conversation's owner that there is something to do; all of them listen."""

_log = structlog.get_logger(__name__)


def channel_of(tenant_id: str, conversation_id: str) -> str:
    """Return the bus channel of a conversation."""
    return f"parley:c:{tenant_id}:{conversation_id}"


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


def engine_payload(tenant_id: str, conversation_id: str) -> bytes:
    """Return the word to a conversation's owner that there is something to do for it."""
    return orjson.dumps(
        {"v": VERSION, "kind": "engine", "tenant": tenant_id, "conversation": conversation_id}
    )


def hint_payload(tenant_id: str, conversation_id: str, frame: bytes) -> bytes:
    """Return a frame that may be lost (a delta, a typing notice), for other instances to pass on."""
    return orjson.dumps(
        {
            "v": VERSION,
            "kind": "hint",
            "tenant": tenant_id,
            "conversation": conversation_id,
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

    Subscribing and unsubscribing take turns, so that a quick leave and return cannot end unsubscribed.
    """

    def __init__(self, bus: EventBus, receive: Callable[[bytes], None]) -> None:
        self._bus = bus
        self._receive = receive
        self._wanted: set[str] = set()
        self._active: set[str] = set()
        self._turns = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def publish(self, channel: str, payload: bytes) -> None:
        """Send to the other instances; returns at once, never raises."""
        self._bus.publish(channel, payload)

    async def listen(self, channel: str) -> None:
        """Return once what others publish on ``channel`` is received."""
        self._wanted.add(channel)
        if channel not in self._active:
            await self._settle(channel)

    def leave(self, channel: str) -> None:
        """Receive ``channel`` no more, soon."""
        self._wanted.discard(channel)
        task = asyncio.get_running_loop().create_task(self._settle(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, channel: str) -> None:
        async with self._turns:
            if channel in self._wanted and channel not in self._active:
                await self._bus.subscribe(channel, self._receive)
                self._active.add(channel)
            elif channel not in self._wanted and channel in self._active:
                self._active.discard(channel)
                await self._bus.unsubscribe(channel)

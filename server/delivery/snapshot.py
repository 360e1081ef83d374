"""Pictures of a conversation: the snapshot, the state that fits into a frame, pages of messages.

Everything here is cut to size by leaving out whole values or messages, never by breaking one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from server.delivery.audience import MESSAGE_EVENTS, event_view
from server.delivery.frames import FRAME_MAX_BYTES
from server.engine.views import state_view
from storage.base import ConversationStore
from storage.models import Audience, Conversation, EventBatch

SNAPSHOT_MESSAGES: Final = 50
SNAPSHOT_MESSAGE_BYTES: Final = 256 * 1024
PAGE_BYTES: Final = FRAME_MAX_BYTES - 16 * 1024
STATE_BYTES: Final = 160 * 1024
"""What state and pending requests may take of a snapshot each; with the messages they fit a frame."""


@dataclass(frozen=True, slots=True)
class Page:
    """Messages, oldest first; ``before`` is where the next older page ends, None at the start."""

    messages: list[Mapping[str, Any]]
    before: int | None

    def to_wire(self) -> dict[str, Any]:
        """Return the ``result`` of a ``history`` ack."""
        return {"messages": self.messages, "before": self.before}


def visible_from(record: Conversation, audience: Audience) -> int:
    """Return the offset that the audience's view begins after: the last reset, but for ``full``."""
    return 0 if audience == "full" else record.reset_offset


async def messages_page(
    store: ConversationStore,
    record: Conversation,
    audience: Audience,
    *,
    before: int | None,
    limit: int,
    max_bytes: int = PAGE_BYTES,
) -> Page:
    """Return the newest ``limit`` messages before ``before`` that fit into ``max_bytes``.

    Only what ``record`` covers: a message that was committed after it was read comes as an event.
    """
    end = record.offset + 1 if before is None else min(before, record.offset + 1)
    start = visible_from(record, audience)
    if end - 1 <= start:
        return Page([], None)
    batches = await store.messages(
        record.tenant_id, record.conversation_id, record.epoch, before=end, after=start, limit=limit + 1
    )
    found, messages = _messages(batches, audience, start, end, record.user_id)
    kept = _newest(messages[-limit:], max_bytes)
    more = len(found) > limit or len(messages) > len(kept)
    if not more:
        return Page(kept, None)
    return Page(kept, kept[0]["offset"] if kept else min(found))


def _messages(
    batches: Sequence[EventBatch], audience: Audience, start: int, end: int, owner: str | None
) -> tuple[list[int], list[Mapping[str, Any]]]:
    """Return the offsets of all messages in ``batches``, and the messages to show."""
    offsets: list[int] = []
    shown: dict[str, Mapping[str, Any]] = {}
    for batch in batches:
        for event in batch.events:
            if event.type == "message.retracted":
                shown.pop(event.data.get("message_id", ""), None)
            elif event.type in MESSAGE_EVENTS and start < event.offset < end:
                offsets.append(event.offset)
                view = event_view(event, audience, owner)
                if view is not None:
                    shown[event.data["message_id"]] = view["data"]
    return offsets, list(shown.values())


def _newest(messages: list[Mapping[str, Any]], max_bytes: int) -> list[Mapping[str, Any]]:
    """Return the newest of ``messages`` that fit; at least one, which an event's size bounds."""
    first = len(messages)
    room = max_bytes
    while first:
        room -= len(orjson.dumps(messages[first - 1])) + 1
        if room < 0 and first < len(messages):
            break
        first -= 1
    return messages[first:]


def bounded_state(record: Conversation, audience: Audience, max_bytes: int) -> dict[str, Any]:
    """Return the state record within ``max_bytes``; ``truncated`` says that values were left out."""
    state = state_view(record, audience)
    if len(orjson.dumps(state)) <= max_bytes:
        return state
    for field in ("completed_steps", "pending"):
        if len(orjson.dumps(state[field])) > max_bytes // 4:
            state[field] = []
    rest = {**state, "slots": {}, "variables": {}, "truncated": True}
    room = max_bytes - len(orjson.dumps(rest))
    for field in ("slots", "variables"):
        for name, value in sorted(state[field].items(), key=lambda item: len(orjson.dumps(item[1]))):
            size = len(orjson.dumps({name: value}))
            if size <= room:
                rest[field] = {**rest[field], name: value}
                room -= size
    return rest


async def newest_messages(store: ConversationStore, record: Conversation, audience: Audience) -> Page:
    """Return the messages of a snapshot: the newest 50 within 256 KiB."""
    return await messages_page(
        store, record, audience, before=None, limit=SNAPSHOT_MESSAGES, max_bytes=SNAPSHOT_MESSAGE_BYTES
    )


def snapshot_frame(
    record: Conversation, audience: Audience, page: Page, partials: Sequence[Mapping[str, Any]] = ()
) -> bytes:
    """Return the ``snapshot`` frame of ``record`` for ``audience``, at most 512 KiB."""
    state = bounded_state(record, audience, STATE_BYTES)
    pending = state["pending"] if len(orjson.dumps(state["pending"])) <= STATE_BYTES // 4 else []
    return orjson.dumps(
        {
            "type": "snapshot",
            "conversation_id": record.conversation_id,
            "epoch": record.epoch,
            "offset": record.offset,
            "state": state,
            "messages": page.messages,
            "before": page.before,
            "pending": pending,
            "partials": list(partials),
        }
    )


def missing_snapshot_frame(conversation_id: str) -> bytes:
    """Return the snapshot of a conversation that does not exist: forget what you knew."""
    return orjson.dumps(
        {
            "type": "snapshot",
            "conversation_id": conversation_id,
            "epoch": None,
            "offset": 0,
            "state": None,
            "messages": [],
            "before": None,
            "pending": [],
            "partials": [],
        }
    )

"""Server frames as bytes: a commit once for each audience, replays, small notices.

Frames are spliced by hand around what orjson encodes: conversation ids and event names need no
escaping, and the events of a commit are encoded once, however many watch it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from protocol.errors import Refused
from server.delivery.audience import event_views
from storage.models import Audience, Conversation, Event, EventBatch

FRAME_MAX_BYTES: Final = 512 * 1024
"""Largest server frame (``docs/reference/protocol.md``, Limits)."""
REPLAY_FRAME_BYTES: Final = 64 * 1024
"""Replayed commits are joined into frames of about this size."""


class CommitFrames:
    """The ``events`` frames of one commit, each encoded when its first viewer asks."""

    __slots__ = ("_frames", "_owner", "batch", "conversation_id", "epoch", "first_offset", "last_offset")

    def __init__(self, conversation_id: str, owner: str | None, batch: EventBatch) -> None:
        self.conversation_id = conversation_id
        self.epoch = batch.epoch
        self.first_offset = batch.first_offset
        self.last_offset = batch.last_offset
        self._owner = owner
        self.batch = batch
        self._frames: dict[Audience, bytes] = {}

    @property
    def events(self) -> Sequence[Event]:
        """The commit's events, unfiltered."""
        return self.batch.events

    def frame(self, audience: Audience) -> bytes:
        """Return the frame for ``audience``; ``events`` is empty where it may see none of them."""
        found = self._frames.get(audience)
        if found is None:
            views = encode_events(self.batch.events, audience, self._owner)
            found = self._frames[audience] = events_frame(
                self.conversation_id, self.epoch, self.first_offset, self.last_offset, views
            )
        return found


def encode_events(events: Iterable[Event], audience: Audience, owner: str | None) -> bytes:
    """Return the visible ones of ``events`` as JSON, commas between, without brackets."""
    return orjson.dumps(event_views(events, audience, owner))[1:-1]


def events_frame(conversation_id: str, epoch: str, first: int, last: int, events: bytes) -> bytes:
    """Return an ``events`` frame around encoded ``events``."""
    return b'{"type":"events","conversation_id":"%b","epoch":%b,"from":%d,"to":%d,"events":[%b]}' % (
        conversation_id.encode(), orjson.dumps(epoch), first, last, events,
    )  # fmt: skip


def replay_frames(
    record: Conversation, batches: Sequence[EventBatch], after: int, audience: Audience
) -> Iterator[tuple[bytes, int]]:
    """Yield (frame, its ``to``) for all events after ``after``: commits joined, the first one perhaps cut.

    ``batches`` are contiguous and reach beyond ``after``.
    """
    parts: list[bytes] = []
    size, first, last = 0, after + 1, after
    for batch in batches:
        shown = [event for event in batch.events if event.offset > after]
        part = encode_events(shown, audience, record.user_id)
        if parts and size + len(part) > REPLAY_FRAME_BYTES:
            yield events_frame(record.conversation_id, record.epoch, first, last, b",".join(parts)), last
            parts, size, first = [], 0, last + 1
        if part:
            parts.append(part)
            size += len(part) + 1
        last = batch.last_offset
    if last >= first:
        yield events_frame(record.conversation_id, record.epoch, first, last, b",".join(parts)), last


def ack(
    frame_id: str,
    *,
    result: Mapping[str, Any] | None = None,
    duplicate: bool = False,
    command_id: str | None = None,
    status: str = "completed",
    execution_id: str | None = None,
    epoch: str | None = None,
    offset: int | None = None,
) -> bytes:
    """Return an ``ack`` frame; the defaults are those of frames that are no commands."""
    return orjson.dumps(
        {
            "type": "ack",
            "id": frame_id,
            "duplicate": duplicate,
            "command_id": command_id,
            "status": status,
            "execution_id": execution_id,
            "epoch": epoch,
            "offset": offset,
            "result": result,
        }
    )


def error(frame_id: str | None, refused: Refused) -> bytes:
    """Return an ``error`` frame."""
    return orjson.dumps({"type": "error", "id": frame_id, "error": refused.to_wire()})


def unsubscribed(conversation_id: str, code: str = "conversation_not_found") -> bytes:
    """Return the notice that the server ended a subscription."""
    return orjson.dumps({"type": "unsubscribed", "conversation_id": conversation_id, "code": code})


def typing(conversation_id: str, user_id: str, active: bool) -> bytes:
    """Return the notice that somebody types."""
    return orjson.dumps(
        {"type": "typing", "conversation_id": conversation_id, "user_id": user_id, "typing": active}
    )


def message_delta(conversation_id: str, execution_id: str, message_id: str, index: int, delta: str) -> bytes:
    """Return one piece of a streamed message."""
    return orjson.dumps(
        {
            "type": "message.delta",
            "conversation_id": conversation_id,
            "execution_id": execution_id,
            "message_id": message_id,
            "index": index,
            "delta": delta,
        }
    )


def ping(offsets: Mapping[str, int]) -> bytes:
    """Return a ``ping`` with the last ``to`` of each watched conversation."""
    return orjson.dumps({"type": "ping", "offsets": offsets})


def disconnect(code: int, reason: str, *, reconnect: bool, within_ms: int | None) -> bytes:
    """Return the announcement of a close."""
    return orjson.dumps(
        {
            "type": "disconnect",
            "code": code,
            "reason": reason,
            "reconnect": reconnect,
            "reconnect_within_ms": within_ms,
        }
    )

"""``GET /v1/conversations/{id}/events``: what a socket would be told, as server-sent events.

Each event of the log is one message: its type is the name, ``epoch:offset`` the id, its record the data.
Beside them come ``snapshot``, ``message.delta``, ``typing``, ``unsubscribed`` and ``disconnect``, as the
frames of those names. A client that returns with ``Last-Event-ID`` misses nothing and gets nothing twice.
"""

import re
from typing import Final

import orjson
from starlette.responses import Response

from protocol.codec import MAX_NUMBER
from protocol.errors import CloseCode, ErrorCode, Refused, may_reconnect
from protocol.frames import Resume
from server.auth.principal import Principal
from server.delivery import frames
from server.gateway.rest.envelope import Receive, Scope, Send
from server.gateway.rest.sse import HEARTBEAT, EventStream, StreamEnded, event_bytes, place_bytes
from server.gateway.rest.streams import Streams, StreamWatcher
from server.handlers.services import Services

HEARTBEAT_S: Final = 15.0
RECONNECT_WITHIN_MS: Final = 15_000
_PLACE: Final = re.compile(r"([\x21-\x39\x3b-\x7e]{1,64}):([0-9]{1,16})")


def read_place(last_event_id: str | None) -> Resume | None:
    """Return where ``Last-Event-ID`` says that the client stands. Raises Refused."""
    if not last_event_id:
        return None
    found = _PLACE.fullmatch(last_event_id)
    if found is None or int(found[2]) > MAX_NUMBER:
        raise Refused(
            ErrorCode.BAD_REQUEST,
            "Last-Event-ID is not the id of an event of this stream.",
            field="Last-Event-ID",
            suggestion="Send the id of the last event, epoch:offset, or leave the header out.",
        )
    return Resume(epoch=found[1], offset=int(found[2]))


class ConversationStream(Response):
    """Tells one client what happens in one conversation, until it leaves or its token ends."""

    def __init__(
        self,
        services: Services,
        streams: Streams,
        principal: Principal,
        conversation_id: str,
        resume: Resume | None,
    ) -> None:
        self._services = services
        self._streams = streams
        self._principal = principal
        self._conversation_id = conversation_id
        self._resume = resume

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream (ASGI). Raises Refused before it has begun."""
        stream = EventStream(scope, receive, send)
        async with self._streams.open(self._principal, stream) as watcher:
            await watcher.subscribe(self._conversation_id, self._resume)
            try:
                await stream.begin()
                await self._run(stream, watcher)
                await stream.end()
            except StreamEnded:
                return

    async def _run(self, stream: EventStream, watcher: StreamWatcher) -> None:
        while True:
            taken = watcher.take()
            if taken:
                await stream.tell(b"".join(map(as_events, taken)))
                watcher.sent()
                continue
            ended = watcher.ended or self._expired()
            if ended is not None:
                await stream.tell(_farewell(*ended))
                return
            if not watcher.watches:
                return
            if not await stream.wait(min(HEARTBEAT_S, self._left_s())):
                await stream.tell(HEARTBEAT)

    def _expired(self) -> tuple[int, str] | None:
        if self._left_s() > 0:
            return None
        return CloseCode.TOKEN_EXPIRED, "the token has expired"

    def _left_s(self) -> float:
        expires_at = self._principal.expires_at
        return HEARTBEAT_S if expires_at is None else max(0.0, expires_at - self._services.wall_s())


def as_events(frame: bytes) -> bytes:
    """Return a frame of the hub as messages of the stream."""
    fields = orjson.loads(frame)
    kind = fields["type"]
    if kind == "events":
        epoch, told = fields["epoch"], [
            event_bytes(event["type"], event, f"{fields['epoch']}:{event['offset']}")
            for event in fields["events"]
        ]  # fmt: skip
        if not fields["events"] or fields["events"][-1]["offset"] < fields["to"]:
            told.append(place_bytes(f"{epoch}:{fields['to']}"))
        return b"".join(told)
    if kind == "snapshot":
        known = fields["epoch"] is not None
        return event_bytes(kind, fields, f"{fields['epoch']}:{fields['offset']}" if known else "")
    return event_bytes(kind, fields)


def _farewell(code: int, reason: str) -> bytes:
    reconnect = may_reconnect(code)
    return as_events(frames.disconnect(code, reason, reconnect=reconnect, within_ms=RECONNECT_WITHIN_MS))

"""``POST .../process`` with ``Accept: text/event-stream``: one turn, piece by piece, as it is said.

Every message of the stream is ``{chunk, done, metadata, error}``. Chunks of one ``metadata.message_id``, put
together, are the message's text; where a piece was lost ``metadata.replaces`` is true and the chunk is the
whole of it. The last one is ``done``, with the turn's data as its metadata.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson
from starlette.responses import Response

from protocol.errors import CloseCode, ErrorCode, Refused
from protocol.frames import Resume
from server.auth.principal import Principal
from server.engine.reducer import conversation_not_found
from server.engine.types import Accepted, Command
from server.gateway.rest.envelope import Receive, Scope, Send
from server.gateway.rest.sse import HEARTBEAT, EventStream, StreamEnded, event_bytes
from server.gateway.rest.streams import Streams, StreamWatcher
from server.handlers.command import accept
from server.handlers.conversations import look_again, receipt
from server.handlers.executions import READING
from server.handlers.services import Services

HEARTBEAT_S: Final = 15.0


class TurnStream(Response):
    """Has a command accepted and tells its turn, until it has ended."""

    def __init__(self, services: Services, streams: Streams, principal: Principal, command: Command) -> None:
        self._services = services
        self._streams = streams
        self._principal = principal
        self._command = command

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream (ASGI). Raises Refused before it has begun: then nothing was accepted."""
        stream = EventStream(scope, receive, send)
        async with self._streams.open(self._sees_as(), stream) as watcher:
            await watcher.subscribe(self._command.conversation_id, await self._place())
            accepted = await accept(self._command, self._principal, self._services)
            try:
                await stream.begin()
                await self._run(stream, watcher, accepted)
                await stream.end()
            except StreamEnded:
                return  # the turn goes on without its reader

    def _sees_as(self) -> Principal:
        """A service that acts for the owner, and may not read by itself, sees what the owner sees."""
        principal, user_id = self._principal, self._command.body["user_id"]
        if user_id == principal.user_id or any(principal.may(scope) for scope in READING):
            return principal
        return replace(principal, user_id=user_id)

    async def _place(self) -> Resume | None:
        """Return where the conversation stands: what was said before belongs to no turn of ours."""
        record = await self._services.engine.read(self._principal.tenant_id, self._command.conversation_id)
        if record is None or record.deleted_at is not None:
            return None
        return Resume(epoch=record.epoch, offset=record.offset)

    async def _run(self, stream: EventStream, watcher: StreamWatcher, accepted: Accepted) -> None:
        teller = Teller(self._command.key, running=accepted.status == "running")
        while accepted.result is None:
            for frame in watcher.take():
                pieces = list(teller.tell(orjson.loads(frame)))
                if pieces:
                    await stream.tell(b"".join(event_bytes(None, piece) for piece in pieces))
                if teller.done:
                    return
            watcher.sent()
            if teller.lost:
                teller.lost = False
                accepted = await look_again(self._services, self._command, self._principal, accepted)
                continue
            failure = self._failure(watcher)
            if failure is not None:
                await stream.tell(event_bytes(None, piece_of("", done=True, error=failure.to_wire())))
                return
            if not await stream.wait(HEARTBEAT_S):
                await stream.tell(HEARTBEAT)
                accepted = await look_again(self._services, self._command, self._principal, accepted)
        result = receipt(accepted, self._command, self._principal).result or {}
        await stream.tell(b"".join(event_bytes(None, piece) for piece in teller.end(result)))

    @staticmethod
    def _failure(watcher: StreamWatcher) -> Refused | None:
        if watcher.ended is not None:
            code = ErrorCode.OVERLOADED if watcher.ended[0] == CloseCode.SHUTDOWN else ErrorCode.RATE_LIMITED
            return Refused(
                code,
                "The stream ends before the turn does, which goes on.",
                retry_after_ms=1000,
                suggestion="Send it again with the same idempotency key to hear how it ends.",
            )
        return None if watcher.watches else conversation_not_found()


def piece_of(
    chunk: str,
    *,
    done: bool = False,
    metadata: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one message of the stream."""
    return {"chunk": chunk, "done": done, "metadata": dict(metadata or {}), "error": error}


class Teller:
    """Makes pieces of the frames that belong to one command's turn.

    Attributes:
        done: the turn has ended, and was told to its end.
        lost: a snapshot came instead of events; how the turn stands must be asked for.
    """

    def __init__(self, key: str, *, running: bool) -> None:
        self._key = key
        self._running = running
        self._parts: dict[str, list[str]] = {}
        self._told: set[str] = set()
        self.done = False
        self.lost = False

    def tell(self, frame: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what a frame adds."""
        if frame["type"] == "events":
            for event in frame["events"]:
                if event["command_id"] == self._key:
                    yield from self._event(event)
        elif frame["type"] == "message.delta" and self._running:
            yield from self._delta(frame["message_id"], frame["index"], frame["delta"])
        elif frame["type"] == "snapshot":
            self.lost = True

    def _event(self, event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        self._running = True
        kind, data = event["type"], event["data"]
        if kind == "message.completed":
            yield from self._message(data)
        elif kind in ("turn.completed", "turn.failed"):
            yield from self.end(data)

    def _delta(self, message_id: str, index: int, delta: str) -> Iterator[dict[str, Any]]:
        parts = self._parts.setdefault(message_id, [])
        if index == len(parts) and message_id not in self._told:
            parts.append(delta)
            yield piece_of(delta, metadata={"message_id": message_id})

    def _message(self, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        message_id, text = message["message_id"], message["text"] or ""
        if message_id in self._told:
            return
        self._told.add(message_id)
        so_far = "".join(self._parts.pop(message_id, ()))
        fits = text.startswith(so_far)
        metadata = {"message_id": message_id, "replaces": not fits, "message": message}
        yield piece_of(text[len(so_far) :] if fits else text, metadata=metadata)

    def end(self, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the messages that were not told yet, and the end of the turn."""
        for message in data.get("response", {}).get("messages", ()):
            yield from self._message(message)
        self.done = True
        yield piece_of("", done=True, metadata=data, error=data.get("error"))

"""The asyncio shell around ``_session.Session``: sockets, timers, tokens, and what callers hold in hand.

It decides nothing about the protocol. One task a client connects, reads and reconnects; writes happen
at once, without a task; one timer a client serves the session. All of it runs in one event loop.
"""

import asyncio
import inspect
import logging
import random as random_module
import secrets
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed as SocketClosed
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from . import _session as s
from . import _wire
from ._clock import Clock, LoopClock, Timer, sleep
from ._mirror import Mirror
from ._stream import Stream
from .errors import (
    BadRequest,
    ConnectionClosed,
    ConnectionLost,
    ParleyError,
    Refused,
    Timeout,
    TokenExpired,
    TurnFailed,
    error_from_wire,
)
from .events import AnyEvent, MessageDelta, SnapshotReplaced, SubscriptionEnded, TypingNotice, parse_event
from .records import HistoryPage, Message, Snapshot, State, Turn, items, mapping

Json = Any
Token = str | Callable[[], str | Awaitable[str]]
"""A token, or what is called for one at each connect and whenever the server asks for a fresh one."""

FIRST_BACKOFF_S: Final = 0.5
LAST_BACKOFF_S: Final = 20.0
STEADY_S: Final = 5.0
"""A connection that held this long lets the next pause begin short again."""
OPEN_TIMEOUT_S: Final = 30.0
REQUEST_TIMEOUT_S: Final = 30.0
HANDSHAKE_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
TOKEN_TIMEOUT_S: Final = 30.0
EVENT_BUFFER: Final = 1000

logger = logging.getLogger("parley_client")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionEvent:
    """What happened to the connection.

    Attributes:
        state: ``connecting``, ``connected``, ``disconnected`` (it comes back) or ``closed`` (it does not);
            ``trouble`` is an error that belongs to no call, e.g. a token that was not accepted.
        attempt: how many connections were tried since the last good one.
        code: the close code.
        reason: what the server, or the network, said.
        retry_in: seconds until the next attempt.
        error: what ended it, or the trouble.
    """

    state: Literal["connecting", "connected", "disconnected", "closed", "trouble"]
    attempt: int = 0
    code: int | None = None
    reason: str = ""
    retry_in: float | None = None
    error: Exception | None = None


def full_jitter(attempt: int, random: Callable[[], float]) -> float:
    """Return the pause before a reconnection, in seconds: uniform between 0 and a bound that doubles.

    Full jitter spreads a crowd that was cut off at one moment best (AWS Architecture Blog, "Exponential
    Backoff And Jitter", 2015).
    """
    return random() * min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(attempt, 16))


def _new_id() -> str:
    """Return 128 random bits in the alphabet of conversation ids and idempotency keys."""
    return secrets.token_urlsafe(16)


class TurnStream(Stream[AnyEvent]):
    """The events of one command's turn; ends with its ``TurnCompleted`` or ``TurnFailed``.

    Attributes:
        command_id: the command's idempotency key; sending it again with the same content is safe.
        accepted: the command is durable on the server.
        duplicate: the server knew the key: this is the outcome of an earlier sending.
        turn: the turn, once it has ended well or badly.
    """

    def __init__(self, command_id: str, limit: int) -> None:
        super().__init__(limit)
        self.command_id = command_id
        self.accepted = False
        self.duplicate = False
        self.turn: Turn | None = None


class _Call:
    """One caller that waits for a command: with a stream (``send``) or with a future (all others)."""

    __slots__ = ("duplicate", "execution_id", "future", "key", "saw_end", "stream", "timer")

    def __init__(self, key: str, stream: TurnStream | None) -> None:
        self.key = key
        self.stream = stream
        self.future: asyncio.Future[Turn] | None = None
        if stream is None:
            self.future = asyncio.get_running_loop().create_future()
        self.timer: Timer | None = None
        self.execution_id: str | None = None
        self.duplicate = False
        self.saw_end = False

    def fail(self, error: ParleyError) -> None:
        self._stop()
        if self.stream is not None:
            self.stream.finish(error)
        elif self.future is not None and not self.future.done():
            self.future.set_exception(error)

    def finish(self, turn: Turn, error: Refused | None) -> None:
        self._stop()
        if self.stream is not None:
            self.stream.turn = turn
            self.stream.finish()
        elif self.future is not None and not self.future.done():
            if error is None:
                self.future.set_result(turn)
            else:
                self.future.set_exception(TurnFailed(error, turn))

    def _stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class AsyncConversation:
    """One conversation. Get it from ``AsyncParley.conversation``; the first use begins to watch it.

    Commands (``send``, ``ask``, ``accept``, ``answer``, ``reset``, ``cancel``) are taken at once, leave one by one in the
    order of the calls, survive reconnections and take effect once. A caller that is cancelled or times
    out stops waiting; the command is not undone.
    """

    def __init__(
        self,
        client: "AsyncParley",
        conversation_id: str,
        *,
        flow_id: str | None = None,
        channel: str | None = None,
        user_id: str | None = None,
        resume: tuple[str, int] | None = None,
    ) -> None:
        self._client = client
        self.conversation_id = conversation_id
        self._defaults = {"flow_id": flow_id, "channel": channel, "user_id": user_id}
        self._resume = resume
        self._mirror = Mirror(conversation_id)
        self._calls: dict[str, list[_Call]] = {}
        self._held: dict[str, s.Settled] = {}
        self._streams: weakref.WeakSet[Stream[AnyEvent]] = weakref.WeakSet()
        self._ready: list[asyncio.Future[None]] = []
        self._closed: ParleyError | None = None

    # --- saying something ---------------------------------------------------------------------

    def send(
        self,
        text: str | None = None,
        *,
        payload: str | None = None,
        metadata: Mapping[str, Json] | None = None,
        flow_id: str | None = None,
        on_busy: Literal["enqueue", "reject", "interrupt"] | None = None,
        user_id: str | None = None,
        channel: str | None = None,
        processing_hints: Mapping[str, Json] | None = None,
        content_type: Literal["text", "button", "form"] | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> TurnStream:
        """Say something, and iterate over what it causes: ``async for event in chat.send("hi")``.

        The message is on its way when this returns, also if nobody iterates. The iteration ends with
        ``events.TurnCompleted`` or ``events.TurnFailed``.

        Args:
            text: what the person said.
            payload: what the person pressed (a button's ``payload``).
            metadata: travels with the message.
            flow_id: which flow to start, if one starts.
            on_busy: what to do while an effect runs: wait in line (default), be refused, or interrupt it.
            user_id: on whose behalf (services with the scope ``users:act``).
            channel: where the person is: web (default), whatsapp, ...
            processing_hints: for the flow's understanding.
            content_type: text, button or form; found from what is given.
            idempotency_key: 8-128 printable ASCII characters; 128 random bits are made if left out.
            timeout: seconds; then the iteration raises ``Timeout``.

        Raises:
            OutboxFull: too many commands wait for their acknowledgement; this one was not taken.
            BadRequest: neither text nor payload.
            ConnectionClosed: the client is closed.
            Refused: (while iterating) the server refused the message, e.g. ``ConversationNotFound``.
        """
        frame = self._process(
            text, payload, metadata, flow_id, on_busy, user_id, channel, processing_hints, content_type
        )
        key = idempotency_key or self._client.new_id()
        stream = TurnStream(key, self._client.event_buffer)
        self._command(frame, _Call(key, stream), timeout)
        return stream

    async def ask(
        self,
        text: str | None = None,
        *,
        payload: str | None = None,
        metadata: Mapping[str, Json] | None = None,
        flow_id: str | None = None,
        on_busy: Literal["enqueue", "reject", "interrupt"] | None = None,
        user_id: str | None = None,
        channel: str | None = None,
        processing_hints: Mapping[str, Json] | None = None,
        content_type: Literal["text", "button", "form"] | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Turn:
        """Say something and wait for the end of the turn; the arguments are those of ``send``.

        Raises:
            TurnFailed: the turn failed.
            Timeout: the time is up; the message stands.
            Refused: the server refused the message.
            OutboxFull: the message was not taken.
            ConnectionClosed: the connection has ended for good.
        """
        frame = self._process(
            text, payload, metadata, flow_id, on_busy, user_id, channel, processing_hints, content_type
        )
        return await self._run(frame, idempotency_key, timeout)

    async def accept(
        self,
        pending_id: str,
        *,
        comment: str | None = None,
        edits: Mapping[str, Json] | None = None,
        digest: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Turn:
        """Accept a pending acceptance request and wait for what follows; raises as ``ask``.

        Args:
            pending_id: which one.
            comment: for the record.
            edits: changed slots, by name; only those that the request calls editable.
            digest: the request's ``digest``, to accept exactly what was shown.
            idempotency_key: see ``send``.
            timeout: seconds.
        """
        frame = self._decision(pending_id, True, comment, edits, digest)
        return await self._run(frame, idempotency_key, timeout)

    async def reject(
        self,
        pending_id: str,
        *,
        comment: str | None = None,
        digest: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Turn:
        """Reject a pending acceptance request and wait for what follows; arguments as ``accept``."""
        frame = self._decision(pending_id, False, comment, None, digest)
        return await self._run(frame, idempotency_key, timeout)

    async def answer(
        self, pending_id: str, answers: Mapping[str, Json] | None = None, /, **by_id: Json
    ) -> Turn:
        """Answer a clarification: ``await chat.answer(pending_id, part="morning")``.

        Args:
            pending_id: which one.
            answers: by question id, for ids that are no Python names.
            **by_id: the same as keywords.

        Raises:
            MissingAnswers: a required question was left out.
            ParleyError: as ``ask``.
        """
        return await self.answer_with(pending_id, {**(answers or {}), **by_id})

    async def answer_with(
        self,
        pending_id: str,
        answers: Mapping[str, Json],
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Turn:
        """Answer a clarification with a key and a timeout of one's own; see ``answer``."""
        frame: dict[str, Json] = {"type": "clarification", "pending_id": pending_id, "answers": dict(answers)}
        _wire.check_json(frame["answers"], "answers", 2)
        return await self._run(frame, idempotency_key, timeout)

    async def reset(
        self, reason: str | None = None, *, idempotency_key: str | None = None, timeout: float | None = None
    ) -> Turn:
        """Cancel what runs, clear slots, variables and context; raises as ``ask``."""
        return await self._run({"type": "reset", "reason": reason}, idempotency_key, timeout)

    async def cancel(
        self,
        execution_id: str | None = None,
        reason: str | None = None,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Turn:
        """Cancel the current execution (``execution_id``, if given, must be it); raises as ``ask``.

        Raises:
            WrongState: nothing runs.
        """
        frame = {"type": "cancel", "execution_id": execution_id, "reason": reason}
        return await self._run(frame, idempotency_key, timeout)

    def typing(self, typing: bool = True) -> None:
        """Tell the others that this person types, or has stopped; a hint, dropped when offline."""
        self._check()
        self._client.perform(lambda session, now: session.typing(self.conversation_id, typing, now))

    # --- asking -------------------------------------------------------------------------------

    async def state(self, *, timeout: float | None = REQUEST_TIMEOUT_S) -> State:
        """Ask the server where the conversation stands.

        Raises:
            ConversationNotFound: it does not exist, or belongs to somebody else.
            Timeout: no answer in time, also over reconnections.
            ConnectionClosed: the connection has ended for good.
        """
        frame = {"type": "state", "conversation_id": self.conversation_id}
        self._check()
        return State.from_wire(mapping(await self._client.request(frame, timeout)))

    async def history(
        self, before: int | None = None, limit: int = 50, *, timeout: float | None = REQUEST_TIMEOUT_S
    ) -> HistoryPage:
        """Ask for messages, oldest first: the newest ``limit`` (1-100), or those below the offset ``before``.

        Raises:
            BadRequest: ``limit`` is out of range.
            ParleyError: as ``state``.
        """
        frame = {"type": "history", "conversation_id": self.conversation_id, "before": before, "limit": limit}
        self._check()
        result = mapping(await self._client.request(_without_none(frame), timeout))
        messages = tuple(Message.from_wire(raw) for raw in items(result.get("messages")))
        return HistoryPage(messages, result.get("before"))

    # --- watching -----------------------------------------------------------------------------

    def events(self) -> Stream[AnyEvent]:
        """Iterate over all that happens from now on, other devices included.

        Events come once each, in order, over reconnections; where too much was missed,
        ``events.SnapshotReplaced`` takes their place. A reader that falls behind by more than
        ``event_buffer`` gets ``EventsOverflow``. Nothing has to be closed; when the server ends the
        subscription, ``events.SubscriptionEnded`` is the last one.
        """
        self._watch()
        stream: Stream[AnyEvent] = Stream(self._client.event_buffer)
        self._streams.add(stream)
        return stream

    async def ready(self, *, timeout: float | None = REQUEST_TIMEOUT_S) -> None:
        """Wait until ``messages`` and ``snapshot`` hold what the server has; ``async with chat`` does this.

        Raises:
            Refused: the conversation may not be watched.
            Timeout: no answer in time.
            ConnectionClosed: the connection has ended for good.
        """
        self._watch()
        if self._client.session.live(self.conversation_id):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready.append(waiter)
        await self._client.wait(waiter, timeout, "the conversation was not ready in time")

    @property
    def messages(self) -> tuple[Message, ...]:
        """The newest messages that this client knows, oldest first (at most 1,000)."""
        return self._mirror.messages

    @property
    def snapshot(self) -> Snapshot:
        """All that this client knows of the conversation, without asking the server."""
        return self._mirror.snapshot(self._client.session.partials(self.conversation_id))

    @property
    def cursor(self) -> tuple[str | None, int]:
        """(epoch, offset) up to which events were handed out; as ``resume`` it goes on there later."""
        return self._client.session.cursor(self.conversation_id)

    def close(self) -> None:
        """Stop watching and waiting. Commands that were taken are still sent, and still take effect."""
        if self._closed is None:
            self.end(ConnectionClosed(_wire.CLOSE_NORMAL, "this conversation was closed"))
            self._client.forget(self)

    async def __aenter__(self) -> Self:
        await self.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- commands -----------------------------------------------------------------------------

    def _process(
        self,
        text: str | None,
        payload: str | None,
        metadata: Mapping[str, Json] | None,
        flow_id: str | None,
        on_busy: str | None,
        user_id: str | None,
        channel: str | None,
        processing_hints: Mapping[str, Json] | None,
        content_type: str | None,
    ) -> dict[str, Json]:
        if text is None and payload is None:
            raise BadRequest("give text or payload", field="content.text")
        content: dict[str, Json] = {"type": content_type or ("text" if payload is None else "button")}
        content.update(_without_none({"text": text, "payload": payload}))
        if metadata:
            content["metadata"] = dict(metadata)
            _wire.check_json(content["metadata"], "content.metadata", 3)
        frame: dict[str, Json] = {
            "type": "process",
            "content": content,
            "flow_id": flow_id or self._defaults["flow_id"],
            "channel": channel or self._defaults["channel"],
            "user_id": user_id or self._defaults["user_id"],
            "on_busy": on_busy,
        }
        if processing_hints:
            frame["processing_hints"] = dict(processing_hints)
            _wire.check_json(frame["processing_hints"], "processing_hints", 2)
        return frame

    def _decision(
        self,
        pending_id: str,
        accepted: bool,
        comment: str | None,
        edits: Mapping[str, Json] | None,
        digest: str | None,
    ) -> dict[str, Json]:
        frame: dict[str, Json] = {"type": "acceptance", "pending_id": pending_id, "accepted": accepted}
        frame.update(comment=comment, digest=digest)
        if edits:
            frame["edits"] = dict(edits)
            _wire.check_json(frame["edits"], "edits", 2)
        return frame

    async def _run(self, frame: dict[str, Json], key: str | None, timeout: float | None) -> Turn:
        call = _Call(key or self._client.new_id(), None)
        assert call.future is not None
        self._command(frame, call, timeout)
        try:
            return await call.future
        finally:
            self._leave(call)

    def _command(self, frame: dict[str, Json], call: _Call, timeout: float | None) -> None:
        self._watch()
        frame = _without_none(frame)
        frame["conversation_id"] = self.conversation_id
        frame["idempotency_key"] = call.key
        self._calls.setdefault(call.key, []).append(call)
        try:
            self._client.perform(lambda session, now: session.submit(frame, now))
        except ParleyError:
            self._leave(call, abandon=False)
            raise
        if timeout is not None:
            call.timer = self._client.clock.call_later(timeout, lambda: self._expire(call, timeout))

    def _expire(self, call: _Call, timeout: float) -> None:
        call.fail(Timeout(f"the turn did not end within {timeout:g} s; the command stands"))
        self._leave(call)

    def _leave(self, call: _Call, *, abandon: bool = True) -> None:
        """A caller waits no more."""
        call._stop()
        calls = self._calls.get(call.key)
        if calls is not None and call in calls:
            calls.remove(call)
            if not calls:
                del self._calls[call.key]
                self._held.pop(call.key, None)
                if abandon:
                    self._client.session.abandon(self.conversation_id, call.key)

    def _watch(self) -> None:
        self._check()
        if not self._client.session.watching(self.conversation_id):
            resume, self._resume = self._resume, None
            self._client.perform(lambda session, now: session.watch(self.conversation_id, now, resume=resume))

    def _check(self) -> None:
        if self._closed is not None:
            raise self._closed.fresh()
        self._client.check()

    # --- what the session tells ---------------------------------------------------------------

    def on_dispatch(self, output: s.Dispatch) -> None:
        """Hand out events: to the mirror, to readers of all, and to the callers whose command caused them."""
        self._mirror.apply(output.epoch, output.to, output.events)
        for raw in output.events:
            key = raw.get("command_id")
            calls = self._calls.get(key, ()) if isinstance(key, str) else ()
            if not calls and not self._streams:
                continue
            event = parse_event(self.conversation_id, raw)
            for stream in self._streams:
                stream.push(event)
            for call in calls:
                call.execution_id = event.execution_id or call.execution_id
                call.saw_end = event.type in _wire.TURN_EVENTS
                if call.stream is not None:
                    call.stream.push(event)
        self._release()

    def on_replace(self, output: s.Replace) -> None:
        """A snapshot: what was held back for earlier events is due."""
        self._mirror.replace(output.snapshot)
        event = SnapshotReplaced(conversation_id=self.conversation_id, snapshot=self.snapshot)
        self._push(event)
        for calls in self._calls.values():
            for call in calls:
                if call.stream is not None:
                    call.stream.push(event)
        self._release(everything=True)
        self._answer_ready(None)

    def on_delta(self, output: s.Delta) -> None:
        """A piece of a message: to readers of all, and to the caller whose execution writes it."""
        frame = output.frame
        event = MessageDelta(
            conversation_id=self.conversation_id,
            execution_id=frame.get("execution_id"),
            message_id=frame["message_id"],
            index=frame["index"],
            delta=frame["delta"],
        )
        self._push(event)
        for calls in self._calls.values():
            for call in calls:
                if call.stream is not None and event.execution_id in (None, call.execution_id):
                    call.stream.push(event)

    def on_typing(self, output: s.Typing) -> None:
        """Somebody types."""
        user, typing = str(output.frame.get("user_id", "")), bool(output.frame.get("typing"))
        self._push(TypingNotice(conversation_id=self.conversation_id, user_id=user, typing=typing))

    def on_watching(self, output: s.Watching) -> None:
        """The subscription stands."""
        if output.recovered:
            self._answer_ready(None)

    def on_detached(self, output: s.Detached) -> None:
        """The subscription is gone; nothing more can be seen of what was on its way."""
        error = error_from_wire(output.error)
        if output.forget:
            self._mirror.clear()
        self._push(SubscriptionEnded(conversation_id=self.conversation_id, error=error))
        if self._client.session.watching(self.conversation_id):
            return  # forgotten, but still watched: it may begin anew
        for stream in list(self._streams):
            stream.finish()
        self._streams.clear()
        self._fail_calls(error)
        self._answer_ready(error)

    def on_accepted(self, output: s.Accepted) -> None:
        """The command is durable."""
        for call in self._calls.get(output.key, ()):
            call.execution_id = output.ack.get("execution_id") or call.execution_id
            call.duplicate = bool(output.ack.get("duplicate"))
            if call.stream is not None:
                call.stream.accepted = True
                call.stream.duplicate = call.duplicate

    def on_settled(self, output: s.Settled) -> None:
        """The turn has ended. If an ack told it, the turn's events are let go ahead, if they still come."""
        if output.key not in self._calls:
            return
        self._held[output.key] = output
        self._release()

    def on_refusal(self, output: s.Refusal) -> None:
        """The command was refused."""
        error = error_from_wire(output.error)
        for call in self._calls.pop(output.key, ()):
            call.fail(error.fresh())

    def on_offline(self) -> None:
        """What was held back for events is due: they may come as a snapshot now."""
        self._release(everything=True)

    def end(self, error: ParleyError) -> None:
        """Nothing more will come: the client or this conversation is closed."""
        self._closed = error
        self._release(everything=True)
        self._fail_calls(error)
        for stream in list(self._streams):
            stream.finish(None if error.code == "connection_closed" and _normal(error) else error.fresh())
        self._streams.clear()
        self._answer_ready(error)

    def _push(self, event: AnyEvent) -> None:
        for stream in self._streams:
            stream.push(event)

    def _fail_calls(self, error: ParleyError) -> None:
        calls, self._calls = self._calls, {}
        self._held.clear()
        for waiting in calls.values():
            for call in waiting:
                call.fail(error.fresh())

    def _answer_ready(self, error: ParleyError | None) -> None:
        waiting, self._ready = self._ready, []
        for waiter in waiting:
            if not waiter.done():
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error.fresh())

    def _release(self, *, everything: bool = False) -> None:
        """Finish the callers whose turn has ended and whose events, if they still come, have come."""
        if not self._held:
            return
        session = self._client.session
        epoch, offset = session.cursor(self.conversation_id)
        live = session.live(self.conversation_id) and not everything
        for key, settled in list(self._held.items()):
            if live and settled.through is not None:
                through_epoch, through = settled.through
                if epoch is None or (epoch == through_epoch and offset < through):
                    continue
            del self._held[key]
            self._finish_calls(settled)

    def _finish_calls(self, settled: s.Settled) -> None:
        error = None if settled.completed else error_from_wire(mapping(settled.data.get("error")))
        for call in self._calls.pop(settled.key, ()):
            turn = Turn.from_wire(
                self.conversation_id,
                settled.key,
                settled.data,
                completed=settled.completed,
                execution_id=call.execution_id,
                duplicate=call.duplicate,
            )
            if call.stream is not None and not call.saw_end:
                call.stream.push(parse_event(self.conversation_id, _as_event(settled, call.execution_id)))
            call.finish(turn, error)


class AsyncParley:
    """A connection to a Parley server that comes back by itself.

    ::

        async with AsyncParley("http://127.0.0.1:8765", token=token) as parley:
            chat = parley.conversation("c1")
            async for event in chat.send("I need an appointment"):
                print(event)

    Args:
        url: ``http(s)://`` or ``ws(s)://``, with or without the path; never with a token in it.
        token: a token, or a function (async or not) that returns one. It is called at each connect and
            when the server asks for a fresh one; with a plain text, an expired token ends the connection.
        locale: e.g. ``en``.
        timezone: e.g. ``Europe/Paris``.
        on_connection: called with each ``ConnectionEvent``; what it raises is logged and goes no further.
        on_frame: called with ``"in"`` or ``"out"`` and each frame's text, tokens struck out.
        open_timeout: seconds that entering may take, attempts included; None is for ever.
        outbox_limit: commands that may wait for their acknowledgement; ``OutboxFull`` beyond.
        event_buffer: events that a reader may leave unread; ``EventsOverflow`` beyond.
        connect_options: more arguments for ``websockets.asyncio.client.connect`` (``ssl``, ``proxy``, ...).
        random: uniform in [0, 1), for the pauses.
        clock: for tests.
        new_id: makes conversation ids and idempotency keys; 128 random bits.

    Raises:
        ValueError: the URL is none, or holds credentials.
    """

    def __init__(
        self,
        url: str,
        token: Token | None = None,
        *,
        locale: str | None = None,
        timezone: str | None = None,
        on_connection: Callable[[ConnectionEvent], None] | None = None,
        on_frame: Callable[[str, str], None] | None = None,
        open_timeout: float | None = OPEN_TIMEOUT_S,
        outbox_limit: int = s.OUTBOX_LIMIT,
        event_buffer: int = EVENT_BUFFER,
        connect_options: Mapping[str, Any] | None = None,
        random: Callable[[], float] = random_module.random,
        clock: Clock | None = None,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        self.url = _wire.socket_url(url)
        self.session = s.Session(outbox_limit=outbox_limit, locale=locale, timezone=timezone)
        self.clock: Clock = clock or LoopClock()
        self.event_buffer = event_buffer
        self.new_id = new_id
        self._token = token
        self._on_connection = on_connection
        self._on_frame = on_frame
        self._open_timeout = open_timeout
        self._connect_options = dict(connect_options or {})
        self._random = random
        self._chats: dict[str, AsyncConversation] = {}
        self._requests: dict[int, asyncio.Future[Json]] = {}
        self._watchers: weakref.WeakSet[Stream[ConnectionEvent]] = weakref.WeakSet()
        self._socket: ClientConnection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None
        self._timer_due = 0
        self._outputs: deque[s.Output] = deque()
        self._performing = False
        self._offline: s.Offline | None = None
        self._welcome: Mapping[str, Json] | None = None
        self._welcomed_at: float | None = None
        self._attempt = 0
        self._trouble: Exception | None = None
        self._fatal: ParleyError | None = None
        self._performers: dict[type, Callable[[Any], None]] = {
            s.Send: self._do_send,
            s.Dispatch: lambda output: self._tell(output, AsyncConversation.on_dispatch),
            s.Accepted: lambda output: self._tell(output, AsyncConversation.on_accepted),
            s.Settled: lambda output: self._tell(output, AsyncConversation.on_settled),
            s.Refusal: lambda output: self._tell(output, AsyncConversation.on_refusal),
            s.Replace: lambda output: self._tell(output, AsyncConversation.on_replace),
            s.Delta: lambda output: self._tell(output, AsyncConversation.on_delta),
            s.Typing: lambda output: self._tell(output, AsyncConversation.on_typing),
            s.Watching: lambda output: self._tell(output, AsyncConversation.on_watching),
            s.Detached: lambda output: self._tell(output, AsyncConversation.on_detached),
            s.Retry: lambda output: None,
            s.Answer: self._do_answer,
            s.NeedToken: self._do_need_token,
            s.Close: self._do_close,
            s.Online: self._do_online,
            s.Offline: self._do_offline,
            s.Complaint: self._do_complaint,
        }

    # --- life ---------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect, and stay connected until ``close``; ``async with`` does both.

        Raises:
            Unauthorized, TokenExpired, PermissionDenied, ...: the server refused the credential.
            ConnectionClosed: the server closed with a code after which one does not return.
            ConnectionLost: no connection within ``open_timeout``.
        """
        self.check()
        if self._runner is None:
            self._opened = asyncio.get_running_loop().create_future()
            self._runner = asyncio.create_task(self._run(), name="parley-client")
        assert self._opened is not None
        try:
            waiting = f"no connection to {self.url} within {self._open_timeout} s"
            await self.wait(asyncio.shield(self._opened), self._open_timeout, waiting, ConnectionLost)
        except BaseException as error:
            if isinstance(error, ConnectionLost):
                error.__cause__ = self._trouble
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection and end all that waits, with ``ConnectionClosed(1000)``; may be called twice."""
        self._end(ConnectionClosed(_wire.CLOSE_NORMAL, "closed by this side"))
        tasks = [task for task in (self._runner, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._stop_timer()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # --- surface ------------------------------------------------------------------------------

    def conversation(
        self,
        conversation_id: str | None = None,
        *,
        flow_id: str | None = None,
        channel: str | None = None,
        user_id: str | None = None,
        resume: tuple[str, int] | None = None,
    ) -> AsyncConversation:
        """Return a conversation; the same object for the same id until it is closed.

        Nothing is sent before its first use. A new one is made by the first message.

        Args:
            conversation_id: left out, it is 128 random bits.
            flow_id: default for ``send``: which flow to start, if one starts.
            channel: default for ``send``.
            user_id: default for ``send``.
            resume: a ``cursor`` kept from earlier; only what came after it is handed out, where the server
                can still tell it.
        """
        self.check()
        name = conversation_id if conversation_id is not None else self.new_id()
        chat = self._chats.get(name)
        if chat is None:
            chat = AsyncConversation(
                self, name, flow_id=flow_id, channel=channel, user_id=user_id, resume=resume
            )
            self._chats[name] = chat
        return chat

    def connection_events(self) -> Stream[ConnectionEvent]:
        """Iterate over what happens to the connection from now on; ends when it is closed for good."""
        stream: Stream[ConnectionEvent] = Stream(self.event_buffer)
        self._watchers.add(stream)
        return stream

    @property
    def connected(self) -> bool:
        """Whether the server has said welcome and the connection stands, as far as is known."""
        return self.session.online

    @property
    def principal(self) -> Mapping[str, Json] | None:
        """Who the server takes this client for: ``user_id``, ``tenant_id``, ``role``, ``scopes``, ``tier``."""
        return None if self._welcome is None else mapping(self._welcome.get("principal"))

    # --- for the conversations ----------------------------------------------------------------

    def check(self) -> None:
        """Raise what ended this client, if it has ended."""
        if self._fatal is not None:
            raise self._fatal.fresh()

    def forget(self, chat: AsyncConversation) -> None:
        """A conversation was closed."""
        if self._chats.get(chat.conversation_id) is chat:
            del self._chats[chat.conversation_id]
            self.perform(lambda session, now: session.unwatch(chat.conversation_id, now))

    def perform(self, step: Callable[[s.Session, int], list[s.Output]]) -> None:
        """Let the session take a step, and do what comes out, in order.

        What is done may lead to further steps (a callback that sends); their outputs queue up behind.
        """
        self._outputs.extend(step(self.session, self._now_ms()))
        if self._performing:
            return
        self._performing = True
        try:
            while self._outputs:
                output = self._outputs.popleft()
                self._performers[type(output)](output)
        finally:
            self._performing = False
        self._arm()

    async def request(self, frame: dict[str, Json], timeout: float | None) -> Json:
        """Ask and wait; reconnections in between are not noticed."""
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        number = 0

        def step(session: s.Session, now: int) -> list[s.Output]:
            nonlocal number
            number, outputs = session.request(frame, now)
            self._requests[number] = answer
            return outputs

        self.perform(step)
        try:
            return await self.wait(answer, timeout, f"no answer to {frame['type']} in time")
        finally:
            if self._requests.pop(number, None) is not None:
                self.session.withdraw(number)

    async def wait(
        self,
        future: asyncio.Future[Any],
        timeout: float | None,
        message: str,
        kind: type[ParleyError] = Timeout,
    ) -> Any:
        """Await a future for at most ``timeout`` seconds of this client's clock; raises ``kind`` beyond."""
        if timeout is None:
            return await future
        timer = self.clock.call_later(
            timeout, lambda: None if future.done() else future.set_exception(kind(message))
        )
        try:
            return await future
        finally:
            timer.cancel()

    # --- connection ---------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connect, read, reconnect, until the connection is closed for good."""
        while self._fatal is None:
            await self._connect_once()
            if self._fatal is None:
                await sleep(self.clock, self._pause())

    async def _connect_once(self) -> None:
        self._emit(ConnectionEvent(state="connecting", attempt=self._attempt))
        self._offline = self._welcomed_at = None
        try:
            token = await self._get_token()
            socket = await open_socket(self.url, **self._socket_options())
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:  # noqa: BLE001 - the token's source is the caller's code; it is retried
            self._could_not_open(error)
            return
        self._socket, self._trouble = socket, None
        try:
            self.perform(lambda session, now: session.opened(token, now))
            code, reason = await self._read(socket)
            self.perform(lambda session, now: session.closed(code, reason, now))
        finally:
            self._socket = None
            self._stop_timer()
            await socket.close()

    def _socket_options(self) -> dict[str, Any]:
        return {
            "subprotocols": [Subprotocol(_wire.SUBPROTOCOL)],
            "compression": None,
            "open_timeout": HANDSHAKE_TIMEOUT_S,
            "close_timeout": CLOSE_TIMEOUT_S,
            "ping_interval": None,  # the protocol has its own, which notices a lost tail too
            "max_size": _wire.MAX_SERVER_FRAME_BYTES,
            **self._connect_options,
        }

    async def _read(self, socket: ClientConnection) -> tuple[int, str]:
        """Read until the socket ends; return the close code and reason that the server gave."""
        try:
            while True:
                text = await socket.recv()
                if self._on_frame is not None:
                    self._on_frame("in", text if isinstance(text, str) else repr(text))
                self.perform(lambda session, now, text=text: session.receive(text, now))  # type: ignore[misc]
        except SocketClosed as closed:
            if closed.rcvd is None:
                return _wire.CLOSE_ABNORMAL, str(closed)
            return closed.rcvd.code, closed.rcvd.reason

    def _could_not_open(self, error: Exception) -> None:
        self._trouble = error
        final = isinstance(error, InvalidStatus) and 400 <= error.response.status_code < 500
        if final and self._welcome is None and error.response.status_code not in (408, 425, 429):  # type: ignore[attr-defined]
            # behind a load balancer even a 404 may pass; at the very first attempt it is a wrong address
            fatal = ConnectionClosed(_wire.CLOSE_ABNORMAL, f"{error}; is {self.url} a Parley server?")
            fatal.__cause__ = error
            self._end(fatal)
        elif isinstance(error, ParleyError) and not error.temporary:
            self._end(error)  # the token's source says that there will be none
        else:
            if not isinstance(error, OSError | InvalidHandshake):
                logger.warning("no token, or no connection: %r", error)
            self.perform(lambda session, now: session.closed(_wire.CLOSE_ABNORMAL, str(error), now))

    def _pause(self) -> float:
        """Return the seconds until the next attempt, and tell of them."""
        offline = self._offline
        assert offline is not None
        held = self._welcomed_at is not None and self.clock.now() - self._welcomed_at >= STEADY_S
        if offline.progress or held:
            self._attempt = 0
        if offline.within_ms is not None and self._attempt == 0:
            delay = self._random() * min(LAST_BACKOFF_S, offline.within_ms / 1000)
        else:
            delay = full_jitter(self._attempt, self._random)
        self._attempt += 1
        error = self._trouble or (error_from_wire(offline.error) if offline.error else None)
        self._emit(
            ConnectionEvent(
                state="disconnected",
                attempt=self._attempt,
                code=offline.code,
                reason=offline.reason,
                retry_in=delay,
                error=error,
            )
        )
        return delay

    async def _get_token(self) -> str | None:
        if not callable(self._token):
            return self._token
        token = self._token()
        if inspect.isawaitable(token):
            async with asyncio.timeout(TOKEN_TIMEOUT_S):
                token = await token
        return token

    async def _refresh_token(self) -> None:
        try:
            token = await self._get_token()
        except Exception as error:  # noqa: BLE001 - the caller's code; at the latest the next connect asks again
            self._emit(ConnectionEvent(state="trouble", error=error, reason="no fresh token"))
            return
        if token is not None:
            self.perform(lambda session, now: session.token(token, now))

    def _end(self, error: ParleyError) -> None:
        """Closed for good: tell everybody, once."""
        if self._fatal is not None:
            return
        self._fatal = error
        for chat in list(self._chats.values()):
            chat.end(error)
        self._chats.clear()
        requests, self._requests = self._requests, {}
        for number, answer in requests.items():
            self.session.withdraw(number)
            if not answer.done():
                answer.set_exception(error.fresh())
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error.fresh())
            self._opened.exception()  # seen: nobody may be waiting any more
        code = error.close_code if isinstance(error, ConnectionClosed) else None
        self._emit(ConnectionEvent(state="closed", code=code, reason=error.message, error=error))
        for stream in list(self._watchers):
            stream.finish()

    def _emit(self, event: ConnectionEvent) -> None:
        for stream in self._watchers:
            stream.push(event)
        if self._on_connection is not None:
            try:
                self._on_connection(event)
            except Exception:
                logger.exception("on_connection raised")

    # --- doing what the session says ----------------------------------------------------------

    def _tell(self, output: Any, method: Callable[[AsyncConversation, Any], None]) -> None:
        chat = self._chats.get(output.conversation_id)
        if chat is not None:
            method(chat, output)

    def _do_send(self, output: s.Send) -> None:
        if self._socket is None:
            return
        if self._on_frame is not None:
            self._on_frame("out", _wire.without_token(output.text) if output.secret else output.text)
        # websockets documents this as the way to write without waiting, for clients too; what is in flight
        # is bounded by the session (one command a conversation, paced)
        broadcast((self._socket,), output.text)

    def _do_answer(self, output: s.Answer) -> None:
        answer = self._requests.pop(output.request_id, None)
        if answer is None or answer.done():
            return
        if output.error is None:
            answer.set_result(output.result)
        else:
            answer.set_exception(error_from_wire(output.error))

    def _do_need_token(self, output: s.NeedToken) -> None:
        if callable(self._token):
            task = asyncio.create_task(self._refresh_token(), name="parley-client-token")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _do_close(self, output: s.Close) -> None:
        logger.debug("giving up the connection: %s", output.reason)
        if self._socket is not None:
            self._socket.transport.abort()  # it may be dead: no closing handshake

    def _do_online(self, output: s.Online) -> None:
        self._welcome = output.welcome
        self._welcomed_at = self.clock.now()
        self._emit(ConnectionEvent(state="connected", attempt=self._attempt))
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _do_offline(self, output: s.Offline) -> None:
        self._offline = output
        for chat in list(self._chats.values()):
            chat.on_offline()
        error = None if output.error is None else error_from_wire(output.error)
        if not output.reconnect:
            self._end(error or ConnectionClosed(output.code, output.reason))
        elif isinstance(error, TokenExpired) and not callable(self._token):
            self._end(error)  # the same token would be refused again

    def _do_complaint(self, output: s.Complaint) -> None:
        self._emit(ConnectionEvent(state="trouble", error=error_from_wire(output.error)))

    # --- time ---------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return int(self.clock.now() * 1000)

    def _arm(self) -> None:
        """Have the session ticked when it is due. A timer that fires early just finds nothing to do."""
        due = self.session.wakeup_ms()
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        self._stop_timer()
        self._timer_due = due
        self._timer = self.clock.call_later(max(0.0, due / 1000 - self.clock.now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.perform(lambda session, now: session.tick(now))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _normal(error: ParleyError) -> bool:
    return isinstance(error, ConnectionClosed) and error.close_code == _wire.CLOSE_NORMAL


def _without_none(frame: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in frame.items() if value is not None}


def _as_event(settled: s.Settled, execution_id: str | None) -> dict[str, Json]:
    """Return the ``turn.*`` event that an ack's result stands for, where the event itself was skipped."""
    return {
        "type": "turn.completed" if settled.completed else "turn.failed",
        "execution_id": execution_id,
        "command_id": settled.key,
        "data": settled.data,
    }

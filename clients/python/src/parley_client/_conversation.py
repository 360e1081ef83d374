"""One conversation as its caller holds it in hand: commands, questions, events, and what is known of it.

It decides nothing about the protocol; ``_session`` does, and ``_connection`` tells what came of it.
"""

import asyncio
import contextlib
import functools
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self

from . import _outputs as out
from . import _wire
from ._clock import Timer
from ._connection import Connection
from ._mirror import Mirror
from ._stream import Stream
from .errors import BadRequest, ConnectionClosed, ParleyError, Refused, Timeout, TurnFailed, error_from_wire
from .events import AnyEvent, MessageDelta, SnapshotReplaced, SubscriptionEnded, TypingNotice, parse_event
from .records import HistoryPage, Message, Pending, Snapshot, State, Turn, items, mapping

Json = Any

REQUEST_TIMEOUT_S: Final = 30.0
HOLD_S: Final = 1.0
"""How long the end of a turn that an ack told waits for the turn's events, which normally come with it."""


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


class Call:
    """One caller that waits for a command: with a stream (``send``) or with a future (all others).

    The stream is the reader's: when nobody holds it any more (``break`` in a loop over it), nobody waits.
    """

    __slots__ = ("_stream", "duplicate", "execution_id", "future", "key", "saw_end", "timer")

    def __init__(self, key: str, stream: TurnStream | None) -> None:
        self.key = key
        self._stream = None if stream is None else weakref.ref(stream)
        self.future: asyncio.Future[Turn] | None = None
        if stream is None:
            self.future = asyncio.get_running_loop().create_future()
        self.timer: Timer | None = None
        self.execution_id: str | None = None
        self.duplicate = False
        self.saw_end = False

    @property
    def stream(self) -> TurnStream | None:
        return None if self._stream is None else self._stream()

    def fail(self, error: ParleyError) -> None:
        self.stop()
        if (stream := self.stream) is not None:
            stream.finish(error)
        elif self.future is not None and not self.future.done():
            self.future.set_exception(error)

    def finish(self, turn: Turn, error: Refused | None) -> None:
        self.stop()
        if (stream := self.stream) is not None:
            stream.turn = turn
            stream.finish()
        elif self.future is not None and not self.future.done():
            if error is None:
                self.future.set_result(turn)
            else:
                self.future.set_exception(TurnFailed(error, turn))

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class AsyncConversation:
    """One conversation. Get it from ``AsyncParley.conversation``; the first use begins to watch it.

    Commands (``send``, ``ask``, ``accept``, ``answer``, ``reset``, ``cancel``) are taken at once, leave one
    by one in the order of the calls, survive reconnections and take effect once. A caller that is cancelled
    or times out stops waiting; the command is not undone.
    """

    def __init__(
        self,
        connection: Connection,
        conversation_id: str,
        *,
        flow_id: str | None = None,
        channel: str | None = None,
        user_id: str | None = None,
        resume: tuple[str, int] | None = None,
    ) -> None:
        self._connection = connection
        self.conversation_id = conversation_id
        self._defaults = {"flow_id": flow_id, "channel": channel, "user_id": user_id}
        self._resume = resume
        self._mirror = Mirror(conversation_id)
        self._calls: dict[str, list[Call]] = {}
        self._held: dict[str, out.Settled] = {}
        self._hold_timer: Timer | None = None
        self._deaf = False
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
        key = idempotency_key or self._connection.new_id()
        stream = TurnStream(key, self._connection.event_buffer)
        call = Call(key, stream)
        self._command(frame, call, timeout)
        leave = functools.partial(self._leave, call)
        stream.on_leave(leave)
        loop = asyncio.get_running_loop()
        weakref.finalize(stream, _soon, loop, leave).atexit = False
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
        pending: str | Pending,
        *,
        comment: str | None = None,
        edits: Mapping[str, Json] | None = None,
        digest: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Turn:
        """Accept an acceptance request and wait for what follows.

        Args:
            pending: which one; by its id, or as the record that was shown, whose ``digest`` goes along: then
                only what was shown is accepted.
            comment: for the record.
            edits: changed slots, by name; only those that the request calls editable.
            digest: the request's ``digest``, where only its id is given.
            idempotency_key: see ``send``.
            timeout: seconds.

        Raises:
            PendingResolved: somebody was faster; ``decided`` says who, and what.
            PendingExpired: its deadline is over.
            PermissionDenied: it is for others to decide.
            WrongState: what would run is not what was shown; look again.
            BadRequest: an edit that is not allowed or not valid; ``field`` names it.
            ParleyError: as ``ask``.
        """
        frame = self._decision(pending, True, comment, edits, digest)
        return await self._run(frame, idempotency_key, timeout)

    async def reject(
        self,
        pending: str | Pending,
        *,
        comment: str | None = None,
        digest: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Turn:
        """Reject an acceptance request and wait for what follows; arguments and errors as ``accept``."""
        frame = self._decision(pending, False, comment, None, digest)
        return await self._run(frame, idempotency_key, timeout)

    async def answer(
        self, pending: str | Pending, answers: Mapping[str, Json] | None = None, /, **by_id: Json
    ) -> Turn:
        """Answer a clarification: ``await chat.answer(pending_id, part="morning")``.

        Args:
            pending: which one, by its id or as the record.
            answers: by question id, for ids that are no Python names.
            **by_id: the same as keywords.

        Raises:
            MissingAnswers: ``missing`` names the questions; the request stays open.
            PendingResolved: somebody was faster; ``decided`` says who, and what.
            PendingExpired: its deadline is over.
            ParleyError: as ``ask``.
        """
        return await self.answer_with(pending, {**(answers or {}), **by_id})

    async def answer_with(
        self,
        pending: str | Pending,
        answers: Mapping[str, Json],
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Turn:
        """Answer a clarification with a key and a timeout of one's own; see ``answer``."""
        frame = {"type": "clarification", **answers_body(pending, answers)}
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
        self._connection.perform(lambda session, now: session.typing(self.conversation_id, typing, now))

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
        return State.from_wire(mapping(await self._connection.request(frame, timeout)))

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
        result = mapping(await self._connection.request(_without_none(frame), timeout))
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
        stream: Stream[AnyEvent] = Stream(self._connection.event_buffer)
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
        if self._connection.session.live(self.conversation_id):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready.append(waiter)
        await self._connection.wait(waiter, timeout, "the conversation was not ready in time")

    @property
    def messages(self) -> tuple[Message, ...]:
        """The newest messages that this client knows, oldest first (at most 1,000)."""
        return self._mirror.messages

    def pending(self, kind: Literal["acceptance", "clarification"] | None = None) -> tuple[Pending, ...]:
        """Return the open requests that ``accept``, ``reject`` or ``answer`` decide, oldest first.

        They are what this client knows without asking, kept current by the events; nothing is known before
        the conversation is watched (``async with chat``, ``ready``). What a plain message answers is not
        among them: that is in ``snapshot.pending`` too, as kind ``input``.
        """
        kinds = ("acceptance", "clarification") if kind is None else (kind,)
        return tuple(request for request in self._mirror.pending if request.kind in kinds)

    @property
    def snapshot(self) -> Snapshot:
        """All that this client knows of the conversation, without asking the server."""
        return self._mirror.snapshot(self._connection.session.partials(self.conversation_id))

    @property
    def cursor(self) -> tuple[str | None, int]:
        """(epoch, offset) up to which events were handed out; as ``resume`` it goes on there later."""
        return self._connection.session.cursor(self.conversation_id)

    def close(self) -> None:
        """Stop watching and waiting. Commands that were taken are still sent, and still take effect."""
        if self._closed is None:
            self.on_end(ConnectionClosed(_wire.CLOSE_NORMAL, "this conversation was closed"))
            self._connection.forget(self)

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
        pending: str | Pending,
        accepted: bool,
        comment: str | None,
        edits: Mapping[str, Json] | None,
        digest: str | None,
    ) -> dict[str, Json]:
        return {"type": "acceptance", **decision_body(pending, accepted, comment, edits, digest)}

    async def _run(self, frame: dict[str, Json], key: str | None, timeout: float | None) -> Turn:
        call = Call(key or self._connection.new_id(), None)
        assert call.future is not None
        self._command(frame, call, timeout)
        try:
            return await call.future
        finally:
            self._leave(call)

    def _command(self, frame: dict[str, Json], call: Call, timeout: float | None) -> None:
        self._watch()
        frame = _without_none(frame)
        frame["conversation_id"] = self.conversation_id
        frame["idempotency_key"] = call.key
        self._calls.setdefault(call.key, []).append(call)
        try:
            self._connection.perform(lambda session, now: session.submit(frame, now))
        except ParleyError:
            self._leave(call, abandon=False)
            raise
        if timeout is not None:
            call.timer = self._connection.clock.call_later(timeout, lambda: self._expire(call, timeout))

    def _expire(self, call: Call, timeout: float) -> None:
        call.fail(Timeout(f"the turn did not end within {timeout:g} s; the command stands"))
        self._leave(call)

    def _leave(self, call: Call, *, abandon: bool = True) -> None:
        """A caller waits no more."""
        call.stop()
        calls = self._calls.get(call.key)
        if calls is not None and call in calls:
            calls.remove(call)
            if not calls:
                del self._calls[call.key]
                self._held.pop(call.key, None)
                if abandon:
                    self._connection.session.abandon(self.conversation_id, call.key)

    def _watch(self) -> None:
        self._check()
        if not self._connection.session.watching(self.conversation_id):
            resume, self._resume = self._resume, None
            self._connection.perform(
                lambda session, now: session.watch(self.conversation_id, now, resume=resume)
            )

    def _check(self) -> None:
        if self._closed is not None:
            raise self._closed.fresh()
        self._connection.check()

    # --- what the session tells ---------------------------------------------------------------

    def on_dispatch(self, output: out.Dispatch) -> None:
        """Hand out events: to the mirror, to readers of all, and to the callers whose command caused them."""
        self._deaf = False
        self._mirror.apply(output.epoch, output.to, output.events)
        for raw in output.events:
            key = raw.get("command_id")
            calls = self._calls.get(key, ()) if isinstance(key, str) else ()
            readers = [*self._streams, *(stream for call in calls if (stream := call.stream) is not None)]
            if readers:  # typed events cost more than all the rest of a frame
                event = parse_event(self.conversation_id, raw)
                for reader in readers:
                    reader.push(event)
            for call in calls:
                call.execution_id = raw.get("execution_id") or call.execution_id
                call.saw_end = raw.get("type") in _wire.TURN_EVENTS
        self._release()

    def on_replace(self, output: out.Replace) -> None:
        """A snapshot: what was held back for earlier events is due."""
        self._deaf = False
        self._mirror.replace(output.snapshot)
        event = SnapshotReplaced(conversation_id=self.conversation_id, snapshot=self.snapshot)
        self._push(event)
        for calls in self._calls.values():
            for call in calls:
                if (stream := call.stream) is not None:
                    stream.push(event)
        self._release(everything=True)
        self._answer_ready(None)

    def on_delta(self, output: out.Delta) -> None:
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
                if (stream := call.stream) is not None and event.execution_id in (None, call.execution_id):
                    stream.push(event)

    def on_typing(self, output: out.Typing) -> None:
        """Somebody types."""
        user, typing = str(output.frame.get("user_id", "")), bool(output.frame.get("typing"))
        self._push(TypingNotice(conversation_id=self.conversation_id, user_id=user, typing=typing))

    def on_watching(self, output: out.Watching) -> None:
        """The subscription stands."""
        if output.recovered:
            self._answer_ready(None)

    def on_detached(self, output: out.Detached) -> None:
        """The subscription is gone; nothing more can be seen of what was on its way."""
        error = error_from_wire(output.error)
        if output.forget:
            self._mirror.clear()
        self._push(SubscriptionEnded(conversation_id=self.conversation_id, error=error))
        if self._connection.session.watching(self.conversation_id):
            return  # forgotten, but still watched: it may begin anew
        for stream in list(self._streams):
            stream.finish()
        self._streams.clear()
        self._fail_calls(error)
        self._answer_ready(error)

    def on_accepted(self, output: out.Accepted) -> None:
        """The command is durable."""
        for call in self._calls.get(output.key, ()):
            call.execution_id = output.ack.get("execution_id") or call.execution_id
            call.duplicate = bool(output.ack.get("duplicate"))
            if (stream := call.stream) is not None:
                stream.accepted = True
                stream.duplicate = call.duplicate

    def on_settled(self, output: out.Settled) -> None:
        """The turn has ended. If an ack told it, the turn's events are let go ahead, if they still come."""
        if output.key not in self._calls:
            return
        self._held[output.key] = output
        self._release()
        if self._held and self._hold_timer is None:
            self._hold_timer = self._connection.clock.call_later(HOLD_S, self._stop_holding)

    def on_refusal(self, output: out.Refusal) -> None:
        """The command was refused."""
        error = error_from_wire(output.error)
        for call in self._calls.pop(output.key, ()):
            call.fail(error.fresh())

    def on_offline(self) -> None:
        """What was held back for events is due: they may come as a snapshot now."""
        self._release(everything=True)

    def on_end(self, error: ParleyError) -> None:
        """Nothing more will come: the client or this conversation is closed."""
        self._closed = error
        self._release(everything=True)
        self._fail_calls(error)
        if self._hold_timer is not None:
            self._hold_timer.cancel()
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

    def _stop_holding(self) -> None:
        """The events do not come: this principal may speak in the conversation, and not see it."""
        self._hold_timer = None
        self._deaf = True
        self._release()

    def _release(self, *, everything: bool = False) -> None:
        """Finish the callers whose turn has ended and whose events, if they still come, have come."""
        if not self._held:
            return
        session = self._connection.session
        epoch, offset = session.cursor(self.conversation_id)
        live = session.live(self.conversation_id) and not everything and not self._deaf
        for key, settled in list(self._held.items()):
            if live and settled.through is not None:
                through_epoch, through = settled.through
                if epoch is None or (epoch == through_epoch and offset < through):
                    continue
            del self._held[key]
            self._finish_calls(settled)
        if not self._held and self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None

    def _finish_calls(self, settled: out.Settled) -> None:
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
            if (stream := call.stream) is not None and not call.saw_end:
                stream.push(parse_event(self.conversation_id, _as_event(settled, call.execution_id)))
            call.finish(turn, error)


def decision_body(
    pending: str | Pending,
    accepted: bool,
    comment: str | None,
    edits: Mapping[str, Json] | None,
    digest: str | None,
) -> dict[str, Json]:
    """Return the fields of a decision about an acceptance request, on the wire and over REST."""
    if isinstance(pending, Pending):
        digest = digest or pending.digest
    body: dict[str, Json] = {"pending_id": _id_of(pending), "accepted": accepted}
    body |= {"comment": comment, "digest": digest}
    if edits:
        body["edits"] = dict(edits)
        _wire.check_json(body["edits"], "edits", 2)
    return body


def answers_body(pending: str | Pending, answers: Mapping[str, Json]) -> dict[str, Json]:
    """Return the fields of answers to a clarification, on the wire and over REST."""
    body: dict[str, Json] = {"pending_id": _id_of(pending), "answers": dict(answers)}
    _wire.check_json(body["answers"], "answers", 2)
    return body


def _id_of(pending: str | Pending) -> str:
    return pending.pending_id if isinstance(pending, Pending) else pending


def _soon(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
    """Leave in a moment: a stream may be collected anywhere, in the middle of handing out events too."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(leave)


def _normal(error: ParleyError) -> bool:
    return isinstance(error, ConnectionClosed) and error.close_code == _wire.CLOSE_NORMAL


def _without_none(frame: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in frame.items() if value is not None}


def _as_event(settled: out.Settled, execution_id: str | None) -> dict[str, Json]:
    """Return the ``turn.*`` event that an ack's result stands for, where the event itself was skipped."""
    return {
        "type": "turn.completed" if settled.completed else "turn.failed",
        "execution_id": execution_id,
        "command_id": settled.key,
        "data": settled.data,
    }

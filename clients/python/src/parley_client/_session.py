"""The client's half of ``parley.v1`` as a state machine without I/O, clock or randomness.

Bytes, time and tokens are passed in, outputs come back as a list in order; the same machine serves
asyncio now and any other shell later. All times are integers, in milliseconds of any monotonic clock.

The specification (rule numbers are those of the protocol page):

**Connection.** ``opened`` sends ``hello`` and nothing else; without a ``welcome`` within 10 s the socket is
given up. Commands, requests and subscriptions leave behind ``welcome`` only (rule 1), at the pace that
``welcome.limits`` allows. Whatever comes in counts as alive; after ``ping_interval`` + 10 s of silence the
socket is given up (``Close``). A ``ping`` is answered at once. ``disconnect`` announces a close: nothing
new leaves, and after 5 s the socket is given up. ``auth.required`` gives ``NeedToken``; ``token`` sends it.

**Close.** The range of the code is the policy: ``Offline.reconnect``. 4002 asks for a fresh token, 4005
drops all cursors. What this side gave up, and a frame that cannot be read, count as 1006.

**Cursor (rules 6, 9, 10).** One (epoch, offset) for each watched conversation; only ``events`` and
``snapshot`` move it. In its epoch, ``from == cursor + 1`` continues; ``to <= cursor`` is dropped; what
begins at or below the cursor and ends above it is dispatched from the cursor on; a gap or another epoch
means resume. Without an epoch, the first events from 1 bring it. Resume is ``subscribe`` with the cursor;
until its ack gapped frames are ignored, and between ``recovered: false`` and the snapshot all are. A
snapshot replaces everything, backwards too, whether it was asked for or not. A ``ping`` above the cursor
means resume; an answer or snapshot that is still missing at the second ping is asked for again. Three
resumes in a row that move nothing ask for a snapshot instead; three more give up the socket.

**Commands (rules 3, 5).** One unacknowledged command a conversation; the others wait behind it, in order.
They wait for the subscription's ack too, so that no event of their turn is missed. ``ack`` lets the next
one go, and so does a final error. A temporary error is retried with the same key after ``retry_after_ms``
(else 250 ms, doubling to 8 s), at most six times and never later than 30 s; ``conversation_busy`` is final
where the caller chose ``on_busy: reject``. After a new ``welcome`` the unacknowledged command is sent
again, same key, before those behind it. A command settles once: by its ``turn.*`` event, by an ack with
``result``, or by a final error, whichever tells first. What was accepted and has not ended when a snapshot
replaces the events is sent again too: its key makes that a question (the ack of a duplicate reports status
and result). So is what is open when a ping does not name the conversation: who waited for a conversation
that another user then made is detached in silence.

**Requests** (``state``, ``history``) change nothing: sent again after reconnecting, retried like commands.

**Streams (rule 7).** ``message.delta`` 0, 1, 2, ... of a message are handed on; behind a hole, a
``message.completed`` or a ``message.retracted`` of it no more are.

**Deletion.** ``unsubscribed`` or a refused subscription with ``conversation_not_found``, and a snapshot
without epoch for a conversation that had one, drop cursor and outbox; whoever waits is told
``conversation_not_found``.

**Outbox.** A command is in the journal, if there is one, before it is sent, and leaves it when it is
acknowledged or has ended, at the latest. What an earlier process left goes first, under its old keys.

**Bounds.** ``outbox_limit`` unacknowledged commands and as many requests (``OutboxFull`` beyond, nothing
taken); 16 unfinished streams and 64 finished message ids a conversation, the oldest forgotten first.
"""

import heapq
import json
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, Protocol

from . import _wire
from ._outputs import (
    Accepted,
    Answer,
    Close,
    Complaint,
    Delta,
    Detached,
    Dispatch,
    NeedToken,
    Offline,
    Online,
    Output,
    Refusal,
    Replace,
    Retry,
    Send,
    Settled,
    Typing,
    Watching,
)
from .errors import IdempotencyConflict, OutboxFull

Json = Any

OUTBOX_LIMIT: Final = 100
MAX_TRIES: Final = 6
MAX_RETRY_MS: Final = 30_000
FIRST_RETRY_MS: Final = 250
LAST_RETRY_MS: Final = 8_000
DRAIN_MS: Final = 5_000
MAX_STREAMS: Final = 16
MAX_FINISHED: Final = 64
STRIKES_TO_SNAPSHOT: Final = 3
STRIKES_TO_CLOSE: Final = 6
PACE_MARGIN: Final = 4
"""Frames kept back from the server's burst, for what the network bunches together."""


# --- inner records ------------------------------------------------------------------------------


class _State(Enum):
    OFFLINE = auto()
    GREETING = auto()
    ONLINE = auto()
    CLOSING = auto()


class _Phase(Enum):
    """Where a watched conversation stands on this connection."""

    NONE = auto()
    SUBSCRIBING = auto()
    AWAITING_SNAPSHOT = auto()
    LIVE = auto()


@dataclass(slots=True, eq=False)
class _Command:
    chat: "_Chat"
    key: str
    body: str
    impatient: bool
    tries: int = 0
    acked: bool = False
    settled: bool = False
    orphan: bool = False
    doubtful: bool = False


@dataclass(slots=True, eq=False)
class _Request:
    request_id: int
    body: str
    tries: int = 0
    abandoned: bool = False


@dataclass(slots=True, eq=False)
class _Stream:
    pieces: list[str]
    next_index: int


@dataclass(slots=True, eq=False)
class _Chat:
    """One conversation: its cursor, its subscription and its commands."""

    conversation_id: str
    wanted: bool = False
    phase: _Phase = _Phase.NONE
    epoch: str | None = None
    offset: int = 0
    subscribe_id: str | None = None
    tries: int = 0
    strikes: int = 0
    patience: int = 0
    streams: "OrderedDict[str, _Stream]" = field(default_factory=OrderedDict)
    finished: "OrderedDict[str, None]" = field(default_factory=OrderedDict)
    queue: deque[_Command] = field(default_factory=deque)
    inflight: _Command | None = None
    paused: bool = False
    ready: bool = False
    commands: dict[str, _Command] = field(default_factory=dict)

    @property
    def gate_open(self) -> bool:
        """Whether commands may leave: the subscription's answer is there, or nobody asked for one."""
        return not self.wanted or self.phase in (_Phase.LIVE, _Phase.AWAITING_SNAPSHOT)


class Journal(Protocol):
    """Where commands are kept until they are acknowledged (``_outbox.Outbox``)."""

    def keep(self, frame: dict[str, Json], size: int) -> None:
        """Make a command durable; raises ``OutboxFull``."""

    def release(self, conversation_id: str, key: str, *, durable: bool = False) -> None:
        """Drop a command, if it is there."""


class _Unreadable(Exception):  # noqa: N818
    """The server sent what is not a frame."""


def _need(frame: Json, name: str, kind: type | tuple[type, ...]) -> Json:
    value = frame.get(name) if isinstance(frame, dict) else None
    if not isinstance(frame, dict) or not isinstance(value, kind):
        raise _Unreadable(f"field {name}")
    return value


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _local_error(code: str, message: str, suggestion: str | None = None) -> dict[str, Json]:
    return {"code": code, "message": message, "temporary": False, "suggestion": suggestion}


_NOT_FOUND: Final = _local_error("conversation_not_found", "The conversation does not exist.")
_Answered = Callable[[Mapping[str, Json], int], None]


class Session:
    """See the module's docstring. Methods that may produce output return it; call them from one thread.

    Args:
        outbox_limit: unacknowledged commands (and, counted apart, requests) that are held.
        locale: sent with ``hello``.
        timezone: sent with ``hello``.
        journal: keeps commands over the end of the process.
    """

    def __init__(
        self,
        *,
        outbox_limit: int = OUTBOX_LIMIT,
        locale: str | None = None,
        timezone: str | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._journal = journal
        self._outbox_limit = outbox_limit
        self._locale = locale
        self._timezone = timezone
        self._state = _State.OFFLINE
        self._out: list[Output] = []
        self._chats: dict[str, _Chat] = {}
        self._unacked = 0
        self._requests: dict[int, _Request] = {}
        self._next_id = 0
        self._next_request = 0
        # of the present connection
        self._answers: dict[str, tuple[_Answered, _Answered]] = {}
        self._hello_id = ""
        self._hello_about: str | None = None
        self._hello_error: Mapping[str, Json] | None = None
        self._farewell: Mapping[str, Json] | None = None
        self._progress = False
        self._heard_ms = 0
        self._welcome_by = 0
        self._silence_ms = (_wire.PING_INTERVAL_S + _wire.SILENCE_GRACE_S) * 1000
        self._drain_until: int | None = None
        self._max_frame = _wire.MAX_FRAME_BYTES
        # what may leave, most urgent first
        self._control: deque[tuple[str, bool]] = deque()
        self._asking: deque[_Request] = deque()
        self._ready: deque[_Chat] = deque()
        # pace: tokens of a bucket; None is without limit
        self._rate_per_ms: float | None = None
        self._burst = 1.0
        self._tokens = 1.0
        self._filled_ms = 0
        # (due, tie-breaker, what to do)
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._timer_count = 0

    # --- what the application asks ------------------------------------------------------------

    @property
    def online(self) -> bool:
        """Whether ``welcome`` came and the socket has not been given up."""
        return self._state is _State.ONLINE

    @property
    def unacknowledged(self) -> int:
        """How many commands wait for their acknowledgement."""
        return self._unacked

    def cursor(self, conversation_id: str) -> tuple[str | None, int]:
        """Return (epoch, offset) up to which everything was dispatched."""
        chat = self._chats.get(conversation_id)
        return (None, 0) if chat is None else (chat.epoch, chat.offset)

    def live(self, conversation_id: str) -> bool:
        """Whether events of the conversation come in, without anything missing that is known of."""
        chat = self._chats.get(conversation_id)
        return chat is not None and self.online and chat.phase is _Phase.LIVE

    def watching(self, conversation_id: str) -> bool:
        """Whether the conversation is to be watched."""
        chat = self._chats.get(conversation_id)
        return chat is not None and chat.wanted

    def partials(self, conversation_id: str) -> dict[str, str]:
        """Return the texts so far of the messages that are being written, by message id."""
        chat = self._chats.get(conversation_id)
        return {} if chat is None else {name: "".join(stream.pieces) for name, stream in chat.streams.items()}

    def watch(
        self, conversation_id: str, now_ms: int, *, resume: tuple[str, int] | None = None
    ) -> list[Output]:
        """Watch a conversation from now on, over reconnections; ``resume`` is a cursor kept from before."""
        chat = self._chat(conversation_id)
        if not chat.wanted:
            chat.wanted = True
            if resume is not None and chat.epoch is None:
                chat.epoch, chat.offset = resume
            if self.online:
                self._subscribe(chat)
        return self._finish(now_ms)

    def unwatch(self, conversation_id: str, now_ms: int) -> list[Output]:
        """Stop watching. Commands on their way stay."""
        chat = self._chats.get(conversation_id)
        if chat is not None and chat.wanted:
            chat.wanted = False
            chat.streams.clear()
            if self.online and chat.phase is not _Phase.NONE:
                self._control.append((conversation_id, False))
            chat.phase = _Phase.NONE
            chat.subscribe_id = None
            self._offer(chat)
            self._tidy(chat)
        return self._finish(now_ms)

    def submit(self, frame: dict[str, Json], now_ms: int) -> list[Output]:
        """Take a command: ``frame`` is complete but for its ``id``, with an ``idempotency_key``.

        The same command under a key that has not settled is taken once.

        Raises:
            OutboxFull: nothing was taken.
            IdempotencyConflict: another command with this key has not settled.
            InvalidFrame: it cannot be written as JSON.
        """
        chat = self._chat(frame["conversation_id"])
        key, body = frame["idempotency_key"], _wire.encode(frame)
        known = chat.commands.get(key)
        if known is not None:
            if known.body != body:
                raise IdempotencyConflict(
                    "another command with this idempotency key is on its way", field="idempotency_key"
                )
            known.orphan = False
            return self._finish(now_ms)
        if self._unacked >= self._outbox_limit:
            self._tidy(chat)
            raise OutboxFull(f"{self._unacked} commands wait for their acknowledgement")
        if self._journal is not None:
            try:
                self._journal.keep(frame, len(body.encode()))
            except BaseException:
                self._tidy(chat)
                raise
        command = _Command(chat, key, body, impatient=frame.get("on_busy") == "reject")
        chat.commands[key] = command
        chat.queue.append(command)
        self._unacked += 1
        self._offer(chat)
        return self._finish(now_ms)

    def restore(self, frames: Iterable[dict[str, Json]]) -> None:
        """Take commands that an earlier process left, before the first connection; nobody waits for them."""
        for frame in frames:
            chat = self._chat(frame["conversation_id"])
            key, body = frame["idempotency_key"], _wire.encode(frame)
            command = _Command(chat, key, body, impatient=False, orphan=True)
            chat.commands[key] = command
            chat.queue.append(command)
            self._unacked += 1

    def abandon(self, conversation_id: str, key: str) -> None:
        """Nobody waits for this command any more. It is not undone; only its outcome is not asked for."""
        chat = self._chats.get(conversation_id)
        command = None if chat is None else chat.commands.get(key)
        if chat is not None and command is not None:
            command.orphan = True
            if command.acked and chat.inflight is not command:
                self._drop(command)

    def request(self, frame: dict[str, Json], now_ms: int) -> tuple[int, list[Output]]:
        """Ask something that changes nothing (``state``, ``history``); returns the number of its ``Answer``.

        Raises:
            OutboxFull: too many requests are open.
            InvalidFrame: it cannot be written as JSON.
        """
        body = _wire.encode(frame)
        if len(self._requests) >= self._outbox_limit:
            raise OutboxFull(f"{len(self._requests)} requests wait for their answer")
        self._next_request += 1
        request = _Request(self._next_request, body)
        self._requests[request.request_id] = request
        if self.online:
            self._asking.append(request)
        return request.request_id, self._finish(now_ms)

    def withdraw(self, request_id: int) -> None:
        """Nobody waits for this request any more."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            request.abandoned = True

    def typing(self, conversation_id: str, typing: bool, now_ms: int) -> list[Output]:
        """Tell that somebody types; a hint, dropped when offline or beyond the pace."""
        if self.online and self._drain_until is None and self._may_send(now_ms):
            frame = {"type": "typing", "conversation_id": conversation_id, "typing": typing}
            self._out.append(Send(_wire.encode(frame)))
        return self._finish(now_ms)

    def token(self, token: str, now_ms: int) -> list[Output]:
        """Hand in the token that ``NeedToken`` asked for."""
        if self.online:
            self._transmit(
                _wire.encode({"type": "auth", "token": token}), _ignore, self._complain, secret=True
            )
        return self._finish(now_ms)

    # --- what the connection tells ------------------------------------------------------------

    def opened(self, token: str | None, now_ms: int) -> list[Output]:
        """A new socket is open: greet. The first watched conversation travels in ``hello``."""
        self._state = _State.GREETING
        self._heard_ms = now_ms
        self._welcome_by = now_ms + _wire.GREETING_S * 1000
        self._answers.clear()
        chat = next((chat for chat in self._chats.values() if chat.wanted), None)
        hello: dict[str, Json] = {
            "type": "hello",
            "token": token,
            "client": {"name": _wire.CLIENT_NAME, "version": _wire.VERSION},
            "locale": self._locale,
            "timezone": self._timezone,
        }
        if chat is not None:
            hello["conversation_id"] = chat.conversation_id
            hello["resume"] = None if chat.epoch is None else _resume(chat)
            chat.phase = _Phase.SUBSCRIBING
        body = _wire.encode({name: value for name, value in hello.items() if value is not None})
        self._hello_id = self._transmit(body, _ignore, self._on_hello_refused, secret=True)
        self._hello_about = None if chat is None else chat.conversation_id
        return self._finish(now_ms)

    def receive(self, text: str | bytes, now_ms: int) -> list[Output]:
        """A message came. What is no frame of this protocol ends the connection (it reconnects)."""
        if self._state not in (_State.GREETING, _State.ONLINE):
            return []
        self._heard_ms = now_ms
        try:
            if not isinstance(text, str):
                raise _Unreadable("a binary frame")
            try:
                frame = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise _Unreadable("not JSON") from error
            if not isinstance(frame, dict):
                raise _Unreadable("not an object")
            handler = _HANDLERS.get(_need(frame, "type", str))
            if handler is not None:
                handler(self, frame, now_ms)
        except _Unreadable as error:
            self._give_up(_wire.CLOSE_PROTOCOL_ERROR, f"unreadable frame: {error}")
        return self._finish(now_ms)

    def closed(self, code: int, reason: str, now_ms: int) -> list[Output]:
        """The socket is gone, or could not be opened (1006). What was on its way waits for the next one."""
        if self._state is _State.CLOSING:
            code = _wire.CLOSE_ABNORMAL  # this side gave it up; the policy for codes is about the server's
        elif self._farewell is not None and code in (1005, 1006):
            code, reason = self._farewell["code"], reason or self._farewell["reason"]
        reconnect = self._lost_one_conversation() or _wire.may_reconnect(code)
        within = self._farewell.get("reconnect_within_ms") if self._farewell is not None else None
        self._state = _State.OFFLINE
        self._out.append(
            Offline(
                reconnect=reconnect,
                code=code,
                reason=reason,
                error=self._hello_error,
                fresh_token=code == _wire.CLOSE_TOKEN_EXPIRED,
                within_ms=within if isinstance(within, int) else None,
                progress=self._progress,
            )
        )
        # now, not when the next socket opens: one that cannot be opened is said to be closed, too
        self._hello_error = self._farewell = self._drain_until = None
        self._progress = False
        self._answers.clear()
        self._control.clear()
        self._asking.clear()
        self._ready.clear()
        self._timers.clear()
        for chat in list(self._chats.values()):
            self._hold(chat, forget_cursor=code == _wire.CLOSE_STATE_LOST)
            self._tidy(chat)
        return self._finish(now_ms)

    def wakeup_ms(self) -> int | None:
        """When ``tick`` is due at the latest; None while offline."""
        if self._state is _State.GREETING:
            return self._welcome_by
        if self._state is not _State.ONLINE:
            return None
        due = self._heard_ms + self._silence_ms
        if self._timers:
            due = min(due, self._timers[0][0])
        if self._drain_until is not None:
            return min(due, self._drain_until)
        if self._rate_per_ms and (self._control or self._asking or self._ready):
            due = min(due, self._filled_ms + int((1 - self._tokens) / self._rate_per_ms) + 1)
        return due

    def tick(self, now_ms: int) -> list[Output]:
        """Time has passed."""
        if self._state is _State.GREETING and now_ms >= self._welcome_by:
            self._give_up(_wire.CLOSE_NO_PONG, "no welcome in time")
        elif self._state is _State.ONLINE:
            if now_ms >= self._heard_ms + self._silence_ms:
                self._give_up(_wire.CLOSE_NO_PONG, "silence")
            elif self._drain_until is not None and now_ms >= self._drain_until:
                self._give_up(_wire.CLOSE_NORMAL, "the server is leaving")
            else:
                while self._timers and self._timers[0][0] <= now_ms:
                    heapq.heappop(self._timers)[2]()
        return self._finish(now_ms)

    # --- frames -------------------------------------------------------------------------------

    def _on_welcome(self, frame: Mapping[str, Json], now_ms: int) -> None:
        if self._state is not _State.GREETING or frame.get("id") != self._hello_id:
            return
        self._answers.pop(self._hello_id, None)
        self._state = _State.ONLINE
        interval = frame.get("ping_interval")
        if isinstance(interval, int | float) and interval > 0:
            self._silence_ms = int((interval + _wire.SILENCE_GRACE_S) * 1000)
        self._apply_limits(frame.get("limits"), now_ms)
        self._out.append(Online(frame))
        if self._hello_about is not None and not self.watching(self._hello_about):
            self._control.append((self._hello_about, False))
        for chat in self._chats.values():
            if not chat.wanted:
                self._ask_again(chat)
                self._offer(chat)
            elif chat.conversation_id == self._hello_about:
                self._subscribed(chat, frame)
            else:
                self._subscribe(chat)
        self._asking.extend(self._requests.values())

    def _on_ack(self, frame: Mapping[str, Json], now_ms: int) -> None:
        waiting = self._answers.pop(_need(frame, "id", str), None)
        if waiting is not None:
            waiting[0](frame, now_ms)

    def _on_error(self, frame: Mapping[str, Json], now_ms: int) -> None:
        error = _need(frame, "error", dict)
        frame_id = _need(frame, "id", (str, type(None)))
        waiting = None if frame_id is None else self._answers.pop(frame_id, None)
        if waiting is not None:
            waiting[1](error, now_ms)
        else:
            self._complain(error, now_ms)

    def _on_events(self, frame: Mapping[str, Json], now_ms: int) -> None:
        chat = self._chats.get(_need(frame, "conversation_id", str))
        if chat is None or chat.phase in (_Phase.NONE, _Phase.AWAITING_SNAPSHOT):
            return
        epoch = _need(frame, "epoch", str)
        first, last = _need(frame, "from", int), _need(frame, "to", int)
        if epoch == chat.epoch:
            if last <= chat.offset:
                return
            continues = first <= chat.offset + 1
        else:
            continues = chat.epoch is None and first == 1
        if not continues:
            if chat.phase is _Phase.LIVE:
                self._resume(chat)
            return
        events = _need(frame, "events", list)
        if not all(isinstance(event, dict) for event in events):
            raise _Unreadable("events.events")
        if first <= chat.offset:
            events = [event for event in events if _need(event, "offset", int) > chat.offset]
        chat.epoch, chat.offset, chat.strikes = epoch, last, 0
        self._progress = True
        self._out.append(Dispatch(chat.conversation_id, epoch, last, events))
        for event in events:
            self._fold(chat, event)

    def _on_snapshot(self, frame: Mapping[str, Json], now_ms: int) -> None:
        chat = self._chats.get(_need(frame, "conversation_id", str))
        if chat is None or chat.phase is _Phase.NONE:
            return
        epoch, offset = _need(frame, "epoch", (str, type(None))), _need(frame, "offset", int)
        gone = epoch is None and chat.epoch is not None
        chat.epoch, chat.offset, chat.strikes = epoch, offset, 0
        if chat.phase is _Phase.AWAITING_SNAPSHOT:
            chat.phase = _Phase.LIVE
        chat.streams.clear()
        partials = frame.get("partials")
        for partial in partials if isinstance(partials, list) else ():
            text, index = _need(partial, "text", str), _need(partial, "next_index", int)
            chat.streams[_need(partial, "message_id", str)] = _Stream([text], index)
        self._out.append(Replace(chat.conversation_id, frame))
        if chat.inflight is not None:
            chat.inflight.doubtful = True  # its turn may lie among what was skipped
        if gone:
            self._forget(chat, _NOT_FOUND)
        else:
            self._ask_again(chat)
            self._offer(chat)

    def _on_delta(self, frame: Mapping[str, Json], now_ms: int) -> None:
        chat = self._chats.get(_need(frame, "conversation_id", str))
        if chat is None or chat.phase in (_Phase.NONE, _Phase.AWAITING_SNAPSHOT):
            return
        message_id, index = _need(frame, "message_id", str), _need(frame, "index", int)
        if message_id in chat.finished:
            return
        stream = chat.streams.get(message_id)
        if stream is None and index == 0:
            stream = chat.streams[message_id] = _Stream([], 0)
            if len(chat.streams) > MAX_STREAMS:
                chat.streams.popitem(last=False)
        # behind a hole next_index stays where it is, so nothing of this message continues it any more
        if stream is not None and stream.next_index == index:
            stream.next_index += 1
            stream.pieces.append(_need(frame, "delta", str))
            self._out.append(Delta(chat.conversation_id, frame))

    def _on_unsubscribed(self, frame: Mapping[str, Json], now_ms: int) -> None:
        chat = self._chats.get(_need(frame, "conversation_id", str))
        if chat is not None and chat.wanted:
            code = str(frame.get("code") or "unsubscribed")
            self._detach(chat, _local_error(code, "The server ended the subscription."))

    def _on_ping(self, frame: Mapping[str, Json], now_ms: int) -> None:
        self._may_send(now_ms)  # counts, but is never held back
        self._out.append(Send('{"type":"pong"}'))
        offsets = frame.get("offsets")
        for conversation_id, offset in offsets.items() if isinstance(offsets, dict) else ():
            chat = self._chats.get(conversation_id)
            if chat is None or not isinstance(offset, int):
                continue
            if chat.phase is _Phase.LIVE and chat.offset < offset:
                self._resume(chat)
        for chat in self._chats.values():
            if chat.phase is _Phase.AWAITING_SNAPSHOT or chat.subscribe_id is not None:
                chat.patience -= 1
                if chat.patience < 0:
                    self._resume(chat)
            elif chat.phase is _Phase.LIVE and chat.conversation_id not in _mapping(offsets):
                self._ask_again(chat)
                self._offer(chat)

    def _on_auth_required(self, frame: Mapping[str, Json], now_ms: int) -> None:
        self._out.append(NeedToken())

    def _on_typing(self, frame: Mapping[str, Json], now_ms: int) -> None:
        if self.watching(_need(frame, "conversation_id", str)):
            self._out.append(Typing(frame["conversation_id"], frame))

    def _on_disconnect(self, frame: Mapping[str, Json], now_ms: int) -> None:
        _need(frame, "code", int), _need(frame, "reason", str)
        self._farewell = frame
        self._drain_until = now_ms + DRAIN_MS

    # --- connection ---------------------------------------------------------------------------

    def _on_hello_refused(self, error: Mapping[str, Json], now_ms: int) -> None:
        self._hello_error = error

    def _lost_one_conversation(self) -> bool:
        """Whether ``hello`` was refused for the conversation in it alone, so that the others may return."""
        error, chat = self._hello_error, self._chats.get(self._hello_about or "")
        if error is None or chat is None:
            return False
        if error.get("code") != "conversation_not_found" and error.get("field") != "conversation_id":
            return False
        self._hello_error = None
        self._detach(chat, error)
        return True

    def _apply_limits(self, limits: Json, now_ms: int) -> None:
        limits = limits if isinstance(limits, dict) else {}
        size, rate = limits.get("max_frame_bytes"), limits.get("frames_per_second")
        self._max_frame = size if isinstance(size, int) and size > 0 else _wire.MAX_FRAME_BYTES
        if isinstance(rate, int | float) and rate > 0:
            self._rate_per_ms = rate / 1000
            self._burst = self._tokens = max(1.0, 2 * rate - PACE_MARGIN)
        else:
            self._rate_per_ms = None
        self._filled_ms = now_ms

    def _may_send(self, now_ms: int) -> bool:
        """Take a token of the bucket, if there is one."""
        if self._rate_per_ms is None:
            return True
        elapsed = now_ms - self._filled_ms
        if elapsed > 0:
            self._tokens = min(self._burst, self._tokens + elapsed * self._rate_per_ms)
            self._filled_ms = now_ms
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _give_up(self, code: int, reason: str) -> None:
        if self._state is not _State.CLOSING:
            self._state = _State.CLOSING
            self._out.append(Close(code, reason))

    def _complain(self, error: Mapping[str, Json], now_ms: int) -> None:
        self._out.append(Complaint(error))

    # --- sending ------------------------------------------------------------------------------

    def _finish(self, now_ms: int) -> list[Output]:
        """Let leave what may leave, and return what has gathered."""
        if self._state is _State.ONLINE and self._drain_until is None:
            self._flush(now_ms)
        out, self._out = self._out, []
        return out

    def _flush(self, now_ms: int) -> None:
        while (self._control or self._asking or self._ready) and self._may_send(now_ms):
            if self._control:
                self._send_control(*self._control.popleft())
            elif self._asking:
                self._send_request(self._asking.popleft())
            else:
                self._send_command(self._ready.popleft())

    def _transmit(self, body: str, on_ack: _Answered, on_error: _Answered, *, secret: bool = False) -> str:
        """Put an id in front of a frame's JSON, send it, and remember who wants the answer."""
        self._next_id += 1
        frame_id = str(self._next_id)
        self._answers[frame_id] = (on_ack, on_error)
        self._out.append(Send(f'{{"id":"{frame_id}",{body[1:]}', secret))
        return frame_id

    def _send_control(self, conversation_id: str, subscribe: bool) -> None:
        frame: dict[str, Json] = {"type": "subscribe", "conversation_id": conversation_id}
        if not subscribe:
            frame["type"] = "unsubscribe"
            self._transmit(_wire.encode(frame), _ignore, _ignore)
            return
        chat = self._chat(conversation_id)
        if not chat.wanted or chat.phase is not _Phase.SUBSCRIBING or chat.subscribe_id is not None:
            self._tidy(chat)
            return
        # after resumes that moved nothing, only a snapshot can help
        if chat.strikes <= STRIKES_TO_SNAPSHOT and (chat.epoch is not None or chat.strikes > 0):
            frame["resume"] = _resume(chat)
        frame_id = ""

        def on_ack(ack: Mapping[str, Json], now_ms: int) -> None:
            if chat.subscribe_id == frame_id:
                self._subscribed(chat, _need(ack, "result", dict))

        def on_error(error: Mapping[str, Json], now_ms: int) -> None:
            if chat.subscribe_id == frame_id:
                self._subscription_refused(chat, error, now_ms)

        frame_id = chat.subscribe_id = self._transmit(_wire.encode(frame), on_ack, on_error)

    def _send_request(self, request: _Request) -> None:
        if request.abandoned:
            return

        def on_ack(ack: Mapping[str, Json], now_ms: int) -> None:
            self._answer(request, ack.get("result"), None)

        def on_error(error: Mapping[str, Json], now_ms: int) -> None:
            wait = self._retry_wait(error, request.tries)
            if wait is None:
                self._answer(request, None, error)
                return
            request.tries += 1
            self._later(now_ms + wait, lambda: self._asking.append(request))

        if self._too_large(request.body):
            self._answer(request, None, self._too_large_error())
        else:
            self._transmit(request.body, on_ack, on_error)

    def _answer(self, request: _Request, result: Json, error: Mapping[str, Json] | None) -> None:
        if self._requests.pop(request.request_id, None) is not None:
            self._out.append(Answer(request.request_id, result, error))

    def _too_large(self, body: str) -> bool:
        # an id adds at most 28 bytes; most bodies are short enough without counting their bytes
        room = self._max_frame - 28
        return len(body) * 4 > room and len(body.encode()) > room

    def _too_large_error(self) -> dict[str, Json]:
        message = f"The frame is larger than the server's {self._max_frame} bytes."
        return _local_error("payload_too_large", message, "Send less at once.")

    def _retry_wait(self, error: Mapping[str, Json], tries: int) -> int | None:
        """How long to wait before trying again, in milliseconds; None: the error is final."""
        if not error.get("temporary") or tries >= MAX_TRIES:
            return None
        asked = error.get("retry_after_ms")
        wait = asked if isinstance(asked, int) else min(LAST_RETRY_MS, FIRST_RETRY_MS << tries)
        return None if wait > MAX_RETRY_MS else max(0, wait)

    def _later(self, due_ms: int, action: Callable[[], None]) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (due_ms, self._timer_count, action))

    # --- conversations ------------------------------------------------------------------------

    def _chat(self, conversation_id: str) -> _Chat:
        chat = self._chats.get(conversation_id)
        if chat is None:
            chat = self._chats[conversation_id] = _Chat(conversation_id)
        return chat

    def _tidy(self, chat: _Chat) -> None:
        if not chat.wanted and not chat.commands and chat.inflight is None:
            self._chats.pop(chat.conversation_id, None)

    def _subscribe(self, chat: _Chat) -> None:
        chat.phase = _Phase.SUBSCRIBING
        chat.subscribe_id = None
        chat.patience = 1
        chat.tries = 0
        self._control.append((chat.conversation_id, True))

    def _resume(self, chat: _Chat) -> None:
        chat.strikes += 1
        if chat.strikes > STRIKES_TO_CLOSE:
            self._give_up(_wire.CLOSE_PROTOCOL_ERROR, "events do not continue")
        else:
            self._subscribe(chat)

    def _subscribed(self, chat: _Chat, answer: Mapping[str, Json]) -> None:
        """Take ``welcome`` or the ``result`` of ``subscribe``'s ack; neither moves the cursor."""
        recovered = bool(answer.get("recovered"))
        chat.phase = _Phase.LIVE if recovered else _Phase.AWAITING_SNAPSHOT
        chat.subscribe_id = None
        chat.patience = 1
        self._out.append(Watching(chat.conversation_id, recovered))
        self._offer(chat)

    def _subscription_refused(self, chat: _Chat, error: Mapping[str, Json], now_ms: int) -> None:
        # Who is told when to come back does so, however long the store is away.
        wait = self._retry_wait(error, 0 if error.get("retry_after_ms") else chat.tries)
        chat.subscribe_id = None
        if wait is None:
            self._detach(chat, error)
            return
        chat.tries += 1

        def again() -> None:
            if chat.wanted and chat.phase is _Phase.SUBSCRIBING and chat.subscribe_id is None:
                self._control.append((chat.conversation_id, True))

        self._later(now_ms + wait, again)

    def _detach(self, chat: _Chat, error: Mapping[str, Json]) -> None:
        if error.get("code") == "conversation_not_found":
            chat.wanted = False
            chat.phase = _Phase.NONE
            self._forget(chat, error)
            return
        chat.wanted = False
        chat.phase = _Phase.NONE
        chat.streams.clear()
        self._out.append(Detached(chat.conversation_id, error, forget=False))
        for command in [
            command for command in chat.commands.values() if command.acked and not command.settled
        ]:
            self._refuse(command, error)  # its turn can no longer be seen
        self._offer(chat)
        self._tidy(chat)

    def _forget(self, chat: _Chat, error: Mapping[str, Json]) -> None:
        """The conversation is gone: drop cursor and outbox, tell whoever waits."""
        chat.epoch, chat.offset = None, 0
        chat.streams.clear()
        chat.finished.clear()
        self._out.append(Detached(chat.conversation_id, error, forget=True))
        for command in list(chat.commands.values()):
            if not command.settled:
                self._refuse(command, error)
        self._tidy(chat)

    def _hold(self, chat: _Chat, *, forget_cursor: bool) -> None:
        """The connection is gone: what was unacknowledged goes back to the front of its queue."""
        chat.phase = _Phase.NONE
        chat.subscribe_id = None
        chat.strikes = 0
        chat.paused = chat.ready = False
        if forget_cursor:
            chat.epoch, chat.offset = None, 0
        command, chat.inflight = chat.inflight, None
        if command is not None and command.settled:
            self._acknowledged(command)
            self._drop(command)
        elif command is not None:
            chat.queue.appendleft(command)

    # --- commands -----------------------------------------------------------------------------

    def _offer(self, chat: _Chat) -> None:
        """Let the next command of a conversation leave, if nothing stands before it."""
        if (
            chat.queue
            and not chat.ready
            and chat.inflight is None
            and not chat.paused
            and self._state is _State.ONLINE
            and chat.gate_open
        ):
            chat.ready = True
            self._ready.append(chat)

    def _send_command(self, chat: _Chat) -> None:
        chat.ready = False
        if not chat.queue or chat.inflight is not None or chat.paused or not chat.gate_open:
            return
        command = chat.queue.popleft()
        if self._too_large(command.body):
            self._acknowledged(command)
            self._refuse(command, self._too_large_error())
            self._offer(chat)
            return
        chat.inflight = command
        self._transmit(
            command.body,
            lambda ack, now_ms: self._command_acked(command, ack),
            lambda error, now_ms: self._command_refused(command, error, now_ms),
        )

    def _command_acked(self, command: _Command, ack: Mapping[str, Json]) -> None:
        chat = command.chat
        chat.inflight = None
        self._progress = True
        self._acknowledged(command)
        if command.settled:
            self._drop(command)
        else:
            self._out.append(Accepted(chat.conversation_id, command.key, ack))
            status, result = ack.get("status"), ack.get("result")
            ended = status in ("completed", "failed")
            if ended and (isinstance(result, dict) or ack.get("duplicate") or not chat.wanted):
                data = result if isinstance(result, dict) else {}
                self._settle(command, status == "completed", data, (ack.get("epoch"), ack.get("offset") or 0))
            elif command.orphan:
                self._drop(command)
            elif command.doubtful:
                command.doubtful = False
                chat.queue.appendleft(command)
        self._offer(chat)

    def _command_refused(self, command: _Command, error: Mapping[str, Json], now_ms: int) -> None:
        chat = command.chat
        chat.inflight = None
        if command.settled:  # the event told already; the error is about a resend
            self._acknowledged(command)
            self._drop(command)
        elif (wait := self._command_wait(command, error)) is not None:
            command.tries += 1
            chat.queue.appendleft(command)
            chat.paused = True
            self._later(now_ms + wait, lambda: self._unpause(chat))
            self._out.append(Retry(chat.conversation_id, command.key, wait, error))
        else:
            self._acknowledged(command)
            self._refuse(command, error)
        self._offer(chat)

    def _command_wait(self, command: _Command, error: Mapping[str, Json]) -> int | None:
        code = error.get("code")
        if code == "conversation_busy" and command.impatient:
            return None
        if code == "token_expired" and command.tries < MAX_TRIES:
            self._out.append(NeedToken())
            return FIRST_RETRY_MS << command.tries
        return self._retry_wait(error, command.tries)

    def _unpause(self, chat: _Chat) -> None:
        chat.paused = False
        self._offer(chat)

    def _release(self, command: _Command, *, durable: bool = False) -> None:
        if self._journal is not None:
            self._journal.release(command.chat.conversation_id, command.key, durable=durable)

    def _acknowledged(self, command: _Command) -> None:
        self._release(command)
        if not command.acked:
            command.acked = True
            self._unacked -= 1

    def _fold(self, chat: _Chat, event: Mapping[str, Json]) -> None:
        """Draw from an event what concerns commands and streams."""
        kind = event.get("type")
        if kind in _wire.TURN_EVENTS:
            key = event.get("command_id")
            command = chat.commands.get(key) if isinstance(key, str) else None
            if command is not None and not command.settled:
                self._settle(command, kind == "turn.completed", _mapping(event.get("data")), None)
        elif kind in ("message.completed", "message.retracted"):
            message_id = _mapping(event.get("data")).get("message_id")
            if isinstance(message_id, str):
                chat.streams.pop(message_id, None)
                chat.finished[message_id] = None
                if len(chat.finished) > MAX_FINISHED:
                    chat.finished.popitem(last=False)

    def _settle(
        self,
        command: _Command,
        completed: bool,
        data: Mapping[str, Json],
        through: tuple[str | None, int] | None,
    ) -> None:
        chat = command.chat
        command.settled = True
        self._release(command)
        self._out.append(Settled(chat.conversation_id, command.key, completed, data, through))
        if chat.inflight is command:
            return  # its ack is still to come, and the next one waits for that
        self._acknowledged(command)
        self._drop(command)
        self._offer(chat)

    def _refuse(self, command: _Command, error: Mapping[str, Json]) -> None:
        chat = command.chat
        command.settled = True
        self._release(command, durable=error.get("code") == "conversation_not_found")
        self._out.append(Refusal(chat.conversation_id, command.key, error))
        if chat.inflight is not command:
            self._acknowledged(command)
            self._drop(command)

    def _drop(self, command: _Command) -> None:
        chat = command.chat
        if chat.commands.get(command.key) is command:
            del chat.commands[command.key]
        if command in chat.queue:
            chat.queue.remove(command)
        self._tidy(chat)

    def _ask_again(self, chat: _Chat) -> None:
        """Events were skipped: ask for the outcome of what was accepted, in order, before what is new."""
        opened = [
            command
            for command in chat.commands.values()
            if command.acked
            and not command.settled
            and command is not chat.inflight
            and command not in chat.queue
        ]
        chat.queue.extendleft(reversed(opened))


def _resume(chat: _Chat) -> dict[str, Json]:
    return {"epoch": chat.epoch, "offset": chat.offset}


def _ignore(frame: Mapping[str, Json], now_ms: int) -> None:
    """Nothing follows from this answer."""


_HANDLERS: Final[Mapping[str, Callable[[Session, Mapping[str, Json], int], None]]] = {
    "welcome": Session._on_welcome,
    "ack": Session._on_ack,
    "error": Session._on_error,
    "events": Session._on_events,
    "message.delta": Session._on_delta,
    "snapshot": Session._on_snapshot,
    "unsubscribed": Session._on_unsubscribed,
    "ping": Session._on_ping,
    "auth.required": Session._on_auth_required,
    "typing": Session._on_typing,
    "disconnect": Session._on_disconnect,
}

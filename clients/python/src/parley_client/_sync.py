"""The synchronous client: names, parameters and errors of ``AsyncParley``, no ``await``.

Written by clients/python/generate.py from ``_async``, ``_conversation`` and ``_execution``: change those,
then run it.
"""

import os
import random as random_module
import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from ._async import EVENT_BUFFER, OPEN_TIMEOUT_S, AsyncParley, _new_id
from ._clock import Clock
from ._connection import ConnectionEvent, Token
from ._conversation import REQUEST_TIMEOUT_S, AsyncConversation
from ._execution import AsyncExecution
from ._outbox import OUTBOX_BYTES
from ._portal import Portal
from ._session import OUTBOX_LIMIT
from ._sync_stream import SyncStream, SyncTurnStream
from ._threads import unblocked
from .events import AnyEvent, InboxEvent
from .records import (
    Execution,
    HistoryPage,
    InboxItem,
    Message,
    Pending,
    Receipt,
    Snapshot,
    State,
    Turn,
)

Json = Any
_Inner = TypeVar("_Inner")
_Face = TypeVar("_Face")


def _face(portal: Portal, inner: _Inner, make: Callable[[Portal, _Inner], _Face]) -> _Face:
    """Return the one wrapper of an object of the asynchronous client."""
    return portal.face(inner, lambda: make(portal, inner))


class SyncExecution:
    """One run of a flow. Get it from ``Parley.start`` or ``Parley.execution``.

    Its calls go over REST and need no open connection. Each returns when the command is durable, not when
    what it causes is done: to see that, ask ``get`` again, or watch ``parley.conversation(conversation_id)``.

    Attributes:
        execution_id: its id; None of a start that waits behind another run.
        conversation_id: the conversation that it runs in; None until the server has told.
        correlation_id: what its events, logs and outgoing calls carry; None until the server has told.
    """

    def __init__(self, portal: Portal, inner: AsyncExecution) -> None:
        self._portal = portal
        self._inner = inner

    @property
    def execution_id(self) -> str | None:
        """See the class."""
        return self._portal.peek(lambda: self._inner.execution_id)

    @property
    def conversation_id(self) -> str | None:
        """See the class."""
        return self._portal.peek(lambda: self._inner.conversation_id)

    @property
    def correlation_id(self) -> str | None:
        """See the class."""
        return self._portal.peek(lambda: self._inner.correlation_id)

    def get(self, *, timeout: float | None = REQUEST_TIMEOUT_S) -> Execution:
        """Ask where it stands.

        Raises:
            ExecutionNotFound: it does not exist, or is not this principal's to see.
            ParleyError: as ``accept``.
        """
        return self._portal.call(lambda: self._inner.get(timeout=timeout))

    def pending(self, *, timeout: float | None = REQUEST_TIMEOUT_S) -> tuple[Pending, ...]:
        """Ask which acceptance requests and clarifications are open; raises as ``get``."""
        return self._portal.call(lambda: self._inner.pending(timeout=timeout))

    def accept(
        self,
        pending: str | Pending,
        *,
        comment: str | None = None,
        edits: Mapping[str, Json] | None = None,
        digest: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Accept an acceptance request; arguments as ``Conversation.accept``.

        Raises:
            PendingResolved: somebody was faster; ``decided`` says who, and what.
            PendingExpired: its deadline is over.
            PermissionDenied: it is for others to decide.
            WrongState: what would run is not what was shown; look again.
            BadRequest: an edit that is not allowed or not valid; ``field`` names it.
            Refused: the server refused it for another reason.
            ConnectionLost: no answer, after several attempts; it may have taken effect, and calling again
                with the same ``idempotency_key`` is safe.
            Timeout: the same within ``timeout`` seconds.
        """
        return self._portal.call(
            lambda: self._inner.accept(
                pending,
                comment=comment,
                edits=edits,
                digest=digest,
                idempotency_key=idempotency_key,
                timeout=timeout,
            )
        )

    def reject(
        self,
        pending: str | Pending,
        *,
        comment: str | None = None,
        digest: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Reject an acceptance request; raises as ``accept``."""
        return self._portal.call(
            lambda: self._inner.reject(
                pending, comment=comment, digest=digest, idempotency_key=idempotency_key, timeout=timeout
            )
        )

    def answer(
        self, pending: str | Pending, answers: Mapping[str, Json] | None = None, /, **by_id: Json
    ) -> Receipt:
        """Answer a clarification; raises ``MissingAnswers``, and else as ``accept``."""
        return self._portal.call(lambda: self._inner.answer(pending, answers, **by_id))

    def answer_with(
        self,
        pending: str | Pending,
        answers: Mapping[str, Json],
        *,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Answer a clarification with a key and a timeout of one's own; see ``answer``."""
        return self._portal.call(
            lambda: self._inner.answer_with(
                pending, answers, idempotency_key=idempotency_key, timeout=timeout
            )
        )

    def pause(
        self,
        reason: str | None = None,
        *,
        deadline_ms: int | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Hold it until ``resume``, or for ``deadline_ms`` milliseconds.

        Raises:
            WrongState: it has ended.
            ParleyError: as ``accept``.
        """
        return self._portal.call(
            lambda: self._inner.pause(
                reason, deadline_ms=deadline_ms, idempotency_key=idempotency_key, timeout=timeout
            )
        )

    def resume(
        self,
        comment: str | None = None,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Let it go on; raises ``WrongState`` where it is not paused."""
        return self._portal.call(
            lambda: self._inner.resume(comment, idempotency_key=idempotency_key, timeout=timeout)
        )

    def cancel(
        self,
        reason: str | None = None,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """End it; raises ``WrongState`` where it has ended."""
        return self._portal.call(
            lambda: self._inner.cancel(reason, idempotency_key=idempotency_key, timeout=timeout)
        )

    def retry(
        self, *, idempotency_key: str | None = None, timeout: float | None = REQUEST_TIMEOUT_S
    ) -> Receipt:
        """Try again from the step that failed; raises ``WrongState`` where it has not failed."""
        return self._portal.call(lambda: self._inner.retry(idempotency_key=idempotency_key, timeout=timeout))

    def signal(
        self,
        name: str,
        payload: Json = None,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Receipt:
        """Tell it that the event ``name`` has happened; raises ``WrongState`` if nothing waits for it."""
        return self._portal.call(
            lambda: self._inner.signal(name, payload, idempotency_key=idempotency_key, timeout=timeout)
        )


class Conversation:
    """One conversation. Get it from ``Parley.conversation``; the first use begins to watch it.

    Commands (``send``, ``ask``, ``accept``, ``answer``, ``reset``, ``cancel``) are taken at once, leave one
    by one in the order of the calls, survive reconnections and take effect once. A caller that is cancelled
    or times out stops waiting; the command is not undone.
    """

    def __init__(self, portal: Portal, inner: AsyncConversation) -> None:
        self._portal = portal
        self._inner = inner

    @property
    def conversation_id(self) -> str:
        """See the class."""
        return self._portal.peek(lambda: self._inner.conversation_id)

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
    ) -> SyncTurnStream:
        """Say something, and iterate over what it causes: ``for event in chat.send("hi")``.

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
        return SyncTurnStream(
            self._portal,
            self._portal.now(
                lambda: self._inner.send(
                    text,
                    payload=payload,
                    metadata=metadata,
                    flow_id=flow_id,
                    on_busy=on_busy,
                    user_id=user_id,
                    channel=channel,
                    processing_hints=processing_hints,
                    content_type=content_type,
                    idempotency_key=idempotency_key,
                    timeout=timeout,
                )
            ),
        )

    def ask(
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
        return self._portal.call(
            lambda: self._inner.ask(
                text,
                payload=payload,
                metadata=metadata,
                flow_id=flow_id,
                on_busy=on_busy,
                user_id=user_id,
                channel=channel,
                processing_hints=processing_hints,
                content_type=content_type,
                idempotency_key=idempotency_key,
                timeout=timeout,
            )
        )

    def accept(
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
        return self._portal.call(
            lambda: self._inner.accept(
                pending,
                comment=comment,
                edits=edits,
                digest=digest,
                idempotency_key=idempotency_key,
                timeout=timeout,
            )
        )

    def reject(
        self,
        pending: str | Pending,
        *,
        comment: str | None = None,
        digest: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Turn:
        """Reject an acceptance request and wait for what follows; arguments and errors as ``accept``."""
        return self._portal.call(
            lambda: self._inner.reject(
                pending, comment=comment, digest=digest, idempotency_key=idempotency_key, timeout=timeout
            )
        )

    def answer(
        self, pending: str | Pending, answers: Mapping[str, Json] | None = None, /, **by_id: Json
    ) -> Turn:
        """Answer a clarification: ``chat.answer(pending_id, part="morning")``.

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
        return self._portal.call(lambda: self._inner.answer(pending, answers, **by_id))

    def answer_with(
        self,
        pending: str | Pending,
        answers: Mapping[str, Json],
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Turn:
        """Answer a clarification with a key and a timeout of one's own; see ``answer``."""
        return self._portal.call(
            lambda: self._inner.answer_with(
                pending, answers, idempotency_key=idempotency_key, timeout=timeout
            )
        )

    def reset(
        self, reason: str | None = None, *, idempotency_key: str | None = None, timeout: float | None = None
    ) -> Turn:
        """Cancel what runs, clear slots, variables and context; raises as ``ask``."""
        return self._portal.call(
            lambda: self._inner.reset(reason, idempotency_key=idempotency_key, timeout=timeout)
        )

    def cancel(
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
        return self._portal.call(
            lambda: self._inner.cancel(execution_id, reason, idempotency_key=idempotency_key, timeout=timeout)
        )

    def typing(self, typing: bool = True) -> None:
        """Tell the others that this person types, or has stopped; a hint, dropped when offline."""
        return self._portal.now(lambda: self._inner.typing(typing))

    def state(self, *, timeout: float | None = REQUEST_TIMEOUT_S) -> State:
        """Ask the server where the conversation stands.

        Raises:
            ConversationNotFound: it does not exist, or belongs to somebody else.
            Timeout: no answer in time, also over reconnections.
            ConnectionClosed: the connection has ended for good.
        """
        return self._portal.call(lambda: self._inner.state(timeout=timeout))

    def history(
        self, before: int | None = None, limit: int = 50, *, timeout: float | None = REQUEST_TIMEOUT_S
    ) -> HistoryPage:
        """Ask for messages, oldest first: the newest ``limit`` (1-100), or those below the offset ``before``.

        Raises:
            BadRequest: ``limit`` is out of range.
            ParleyError: as ``state``.
        """
        return self._portal.call(lambda: self._inner.history(before, limit, timeout=timeout))

    def events(self) -> SyncStream[AnyEvent]:
        """Iterate over all that happens from now on, other devices included.

        Events come once each, in order, over reconnections; where too much was missed,
        ``events.SnapshotReplaced`` takes their place. A reader that falls behind by more than
        ``event_buffer`` gets ``EventsOverflow``. Nothing has to be closed; when the server ends the
        subscription, ``events.SubscriptionEnded`` is the last one.
        """
        return SyncStream(self._portal, self._portal.now(lambda: self._inner.events()))

    def ready(self, *, timeout: float | None = REQUEST_TIMEOUT_S) -> None:
        """Wait until ``messages`` and ``snapshot`` hold what the server has; ``with chat`` does this.

        Raises:
            Refused: the conversation may not be watched.
            Timeout: no answer in time.
            ConnectionClosed: the connection has ended for good.
        """
        return self._portal.call(lambda: self._inner.ready(timeout=timeout))

    @property
    def messages(self) -> tuple[Message, ...]:
        """The newest messages that this client knows, oldest first (at most 1,000)."""
        return self._portal.peek(lambda: self._inner.messages)

    def pending(self, kind: Literal["acceptance", "clarification"] | None = None) -> tuple[Pending, ...]:
        """Return the open requests that ``accept``, ``reject`` or ``answer`` decide, oldest first.

        They are what this client knows without asking, kept current by the events; nothing is known before
        the conversation is watched (``with chat``, ``ready``). What a plain message answers is not
        among them: that is in ``snapshot.pending`` too, as kind ``input``.
        """
        return self._portal.now(lambda: self._inner.pending(kind))

    @property
    def snapshot(self) -> Snapshot:
        """All that this client knows of the conversation, without asking the server."""
        return self._portal.peek(lambda: self._inner.snapshot)

    @property
    def cursor(self) -> tuple[str | None, int]:
        """(epoch, offset) up to which events were handed out; as ``resume`` it goes on there later."""
        return self._portal.peek(lambda: self._inner.cursor)

    def close(self) -> None:
        """Stop watching and waiting. Commands that were taken are still sent, and still take effect."""
        return self._portal.peek(lambda: self._inner.close())

    def __enter__(self) -> Self:
        self.ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Parley:
    """A connection to a Parley server that comes back by itself.

    ::

        with Parley("http://127.0.0.1:8765", token=token) as parley:
            chat = parley.conversation("c1")
            for event in chat.send("I need an appointment"):
                print(event)

    Its work is done in a thread of its own. Use it from any thread, and where an event loop runs
    already (Jupyter); a forked child needs a client of its own. Callbacks are called in the client's
    thread, so they must neither wait nor call the client; a ``token`` function may take its time.

    Args:
        url: ``http(s)://`` or ``ws(s)://``, with or without the path; never with a token in it.
        token: a token, or a function that returns one. It is called at each connect and
            when the server asks for a fresh one; with a plain text, an expired token ends the connection.
            A ``ParleyError`` that it raises and that is not ``temporary`` ends the connection too; anything
            else that it raises is tried again.
        locale: e.g. ``en``.
        timezone: e.g. ``Europe/Paris``.
        on_connection: called with each ``ConnectionEvent``; what it raises is logged and goes no further.
        on_frame: called with ``"in"`` or ``"out"`` and each frame's text, tokens struck out.
        open_timeout: seconds that entering may take, attempts included; None is for ever.
        outbox: a file that keeps the commands of conversations which are not yet acknowledged, so that they
            survive this process: the next client that is given the file sends them, first, in order and
            under their old keys. Each command then costs a write to the disk. One client, one server and one
            user have it at a time. Without a file the outbox ends with the process.
        outbox_limit: commands that may wait for their acknowledgement; ``OutboxFull`` beyond.
        outbox_bytes: how large they may be together, where they are kept in a file; the same.
        event_buffer: events that a reader may leave unread; ``EventsOverflow`` beyond.
        connect_options: more arguments for ``websockets.asyncio.client.connect`` (``ssl``, ``proxy``, ...).
        random: uniform in [0, 1), for the pauses.
        clock: for tests.
        new_id: makes conversation ids and idempotency keys; 128 random bits.

    Raises:
        ValueError: the URL is none, or holds credentials.
        OutboxUnusable: the file is in use, damaged, or for another server.
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
        outbox: str | os.PathLike[str] | None = None,
        outbox_limit: int = OUTBOX_LIMIT,
        outbox_bytes: int = OUTBOX_BYTES,
        event_buffer: int = EVENT_BUFFER,
        connect_options: Mapping[str, Any] | None = None,
        random: Callable[[], float] = random_module.random,
        clock: Clock | None = None,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        self._portal = Portal()
        self._inner = AsyncParley(
            url,
            unblocked(token),
            locale=locale,
            timezone=timezone,
            on_connection=on_connection,
            on_frame=on_frame,
            open_timeout=open_timeout,
            outbox=outbox,
            outbox_limit=outbox_limit,
            outbox_bytes=outbox_bytes,
            event_buffer=event_buffer,
            connect_options=connect_options,
            random=random,
            clock=clock,
            new_id=new_id,
        )
        weakref.finalize(self, self._portal.end).atexit = False

    def connect(self) -> None:
        """Connect, and stay connected until ``close``; ``with`` does both.

        Raises:
            Unauthorized, TokenExpired, PermissionDenied, ...: the server refused the credential.
            ConnectionClosed: the server closed with a code after which one does not return.
            ConnectionLost: no connection within ``open_timeout``.
        """
        return self._portal.call(lambda: self._inner.connect())

    def close(self) -> None:
        """Close the connection and end what waits with ``ConnectionClosed(1000)``; may be called twice."""
        return self._portal.close(self._inner.close)

    def conversation(
        self,
        conversation_id: str | None = None,
        *,
        flow_id: str | None = None,
        channel: str | None = None,
        user_id: str | None = None,
        resume: tuple[str, int] | None = None,
    ) -> Conversation:
        """Return a conversation; the same object for the same id until it is closed.

        Nothing is sent before its first use. A new one is made by the first message.

        Args:
            conversation_id: left out, it is 128 random bits. Blanks around it do not count.
            flow_id: default for ``send``: which flow to start, if one starts.
            channel: default for ``send``.
            user_id: default for ``send``.
            resume: a ``cursor`` kept from earlier; only what came after it is handed out, where the server
                can still tell it.

        Raises:
            ConnectionClosed: the client is closed.
        """
        return _face(
            self._portal,
            self._portal.now(
                lambda: self._inner.conversation(
                    conversation_id, flow_id=flow_id, channel=channel, user_id=user_id, resume=resume
                )
            ),
            Conversation,
        )

    def start(
        self,
        flow_id: str,
        *,
        initial_context: Mapping[str, Any] | None = None,
        input: Any = None,  # noqa: A002 - as there
        version: int | None = None,
        conversation_id: str | None = None,
        user_id: str | None = None,
        project_id: str | None = None,
        channel: str | None = None,
        request_id: str | None = None,
        correlation_id: str | None = None,
        on_busy: Literal["enqueue", "reject", "interrupt"] | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> SyncExecution:
        """Start a flow without saying anything; the run goes on whoever watches.

        Args:
            flow_id: which flow.
            initial_context: values of its slots and variables, by name.
            input: what the flow reads as ``input``.
            version: of the flow; left out, the newest.
            conversation_id: where it runs; left out, the server makes a conversation for it.
            user_id: whose conversation that is. Left out, it is your own; or, if you have the scope
                ``conversations:write``, nobody's: a workflow that only scopes reach.
            project_id: for lists.
            channel: where the person is, if there is one; api if left out.
            request_id: one of your own, for the record.
            correlation_id: what its events, logs and outgoing calls carry.
            on_busy: what to do where another run has not ended: ``ConversationBusy`` is raised unless this
                says enqueue or interrupt. The run then has no id yet; watch its conversation.
            idempotency_key: 8-128 printable ASCII characters; 128 random bits are made if left out. Calling
                again with the same key gives the same run.
            timeout: seconds.

        Raises:
            FlowNotFound: there is no such flow.
            ConversationBusy: another run of this conversation has not ended.
            BadRequest: a value does not fit; ``field`` names it.
            Refused: the server refused it for another reason.
            ConnectionLost: no answer, after several attempts; it may have started.
            Timeout: the same within ``timeout`` seconds.
        """
        return _face(
            self._portal,
            self._portal.call(
                lambda: self._inner.start(
                    flow_id,
                    initial_context=initial_context,
                    input=input,
                    version=version,
                    conversation_id=conversation_id,
                    user_id=user_id,
                    project_id=project_id,
                    channel=channel,
                    request_id=request_id,
                    correlation_id=correlation_id,
                    on_busy=on_busy,
                    idempotency_key=idempotency_key,
                    timeout=timeout,
                )
            ),
            SyncExecution,
        )

    def execution(self, execution_id: str) -> SyncExecution:
        """Return a run that was started earlier, or by somebody else; nothing is asked yet."""
        return _face(
            self._portal, self._portal.now(lambda: self._inner.execution(execution_id)), SyncExecution
        )

    def executions(
        self,
        *,
        status: str | None = None,
        flow_id: str | None = None,
        project_id: str | None = None,
        user_id: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        page_size: int = 50,
        timeout: float | None = REQUEST_TIMEOUT_S,
    ) -> Iterator[Execution]:
        """Iterate over the runs that this principal may see, page after page: ``for run in ...``.

        Args:
            status: e.g. ``waiting_acceptance``.
            flow_id: only this flow's.
            project_id: only this project's.
            user_id: only in this user's conversations.
            since: only those last active then or later; a ``datetime`` with its time zone, or ISO 8601.
            until: only those last active before.
            page_size: how many to ask for at once, 1-100.
            timeout: seconds for each page.

        Raises:
            ParleyError: as ``start``.
        """
        return self._portal.iterate(
            lambda: self._inner.executions(
                status=status,
                flow_id=flow_id,
                project_id=project_id,
                user_id=user_id,
                since=since,
                until=until,
                page_size=page_size,
                timeout=timeout,
            )
        )

    def inbox(self, *, page_size: int = 50, timeout: float | None = REQUEST_TIMEOUT_S) -> Iterator[InboxItem]:
        """Iterate over what waits for a person in the whole tenant: ``for item in parley.inbox()``.

        Who may decide nothing for others finds it empty.

        Raises:
            ParleyError: as ``start``.
        """
        return self._portal.iterate(lambda: self._inner.inbox(page_size=page_size, timeout=timeout))

    def inbox_events(self) -> Iterator[InboxEvent]:
        """Iterate over what comes to wait for this principal in the whole tenant, and what is settled.

        First comes what waits now, an ``events.InboxOpened`` each, and ``events.InboxReady`` behind it. A
        broken connection is made anew, for as long as this is read; what was settled in between is told then.

        Raises:
            Unauthorized, TokenExpired: the credential is not taken any more.
        """
        return self._portal.iterate(lambda: self._inner.inbox_events())

    def connection_events(self) -> SyncStream[ConnectionEvent]:
        """Iterate over what happens to the connection from now on; ends when it is closed for good."""
        return SyncStream(self._portal, self._portal.now(lambda: self._inner.connection_events()))

    @property
    def url(self) -> str:
        """The WebSocket URL."""
        return self._portal.peek(lambda: self._inner.url)

    @property
    def rest_url(self) -> str:
        """Where REST calls go, without a slash at its end."""
        return self._portal.peek(lambda: self._inner.rest_url)

    @property
    def connected(self) -> bool:
        """Whether the server has said welcome and the connection stands, as far as is known."""
        return self._portal.peek(lambda: self._inner.connected)

    @property
    def unacknowledged(self) -> int:
        """How many commands wait for their acknowledgement, those that an earlier process left included."""
        return self._portal.peek(lambda: self._inner.unacknowledged)

    @property
    def principal(self) -> Mapping[str, Any] | None:
        """Who the server takes this client for: ``user_id``, ``tenant_id``, ``role``, ``scopes``, ..."""
        return self._portal.peek(lambda: self._inner.principal)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

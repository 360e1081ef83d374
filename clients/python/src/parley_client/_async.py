"""``AsyncParley``, what an asyncio program holds in hand. The work is done elsewhere.

``_session`` knows the protocol, ``_connection`` keeps it connected, ``_conversation`` serves callers.
A synchronous client wraps this one: run a loop in a thread and hand it each call.
"""

import os
import random as random_module
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import quote

from ._clock import Clock, LoopClock
from ._connection import Connection, ConnectionEvent, Token
from ._conversation import REQUEST_TIMEOUT_S, AsyncConversation
from ._execution import AsyncExecution, pages
from ._inbox import watch_inbox
from ._outbox import OUTBOX_BYTES, Outbox
from ._rest import Rest
from ._session import OUTBOX_LIMIT, Session
from ._stream import Stream
from ._wire import socket_url
from .events import InboxEvent
from .records import Execution, InboxItem, mapping

OPEN_TIMEOUT_S: Final = 30.0
EVENT_BUFFER: Final = 1000


def _new_id() -> str:
    """Return 128 random bits in the alphabet of conversation ids and idempotency keys."""
    return secrets.token_urlsafe(16)


class AsyncParley:
    """A connection to a Parley server that comes back by itself.

    ::

        async with AsyncParley("http://127.0.0.1:8765", token=token) as parley:
            chat = parley.conversation("c1")
            async for event in chat.send("I need an appointment"):
                print(event)

    It belongs to the event loop in which it connects.

    Args:
        url: ``http(s)://`` or ``ws(s)://``, with or without the path; never with a token in it.
        token: a token, or a function (async or not) that returns one. It is called at each connect and
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
        clock = clock or LoopClock()
        self._open_timeout = open_timeout
        kept = None if outbox is None else Outbox(outbox, socket_url(url), max_bytes=outbox_bytes)
        self._connection = Connection(
            url,
            token,
            Session(outbox_limit=outbox_limit, locale=locale, timezone=timezone, journal=kept),
            outbox=kept,
            on_connection=on_connection,
            on_frame=on_frame,
            event_buffer=event_buffer,
            connect_options=dict(connect_options or {}),
            random=random,
            clock=clock,
            new_id=new_id,
        )
        self._rest = Rest(
            self._connection.url,
            self._connection.get_token,
            fresh=callable(token),
            connect_options=connect_options or {},
            clock=clock,
            random=random,
        )

    async def connect(self) -> None:
        """Connect, and stay connected until ``close``; ``async with`` does both.

        Raises:
            Unauthorized, TokenExpired, PermissionDenied, ...: the server refused the credential.
            ConnectionClosed: the server closed with a code after which one does not return.
            ConnectionLost: no connection within ``open_timeout``.
        """
        await self._connection.open(self._open_timeout)

    async def close(self) -> None:
        """Close the connection and end what waits with ``ConnectionClosed(1000)``; may be called twice."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

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
            conversation_id: left out, it is 128 random bits. Blanks around it do not count.
            flow_id: default for ``send``: which flow to start, if one starts.
            channel: default for ``send``.
            user_id: default for ``send``.
            resume: a ``cursor`` kept from earlier; only what came after it is handed out, where the server
                can still tell it.

        Raises:
            ConnectionClosed: the client is closed.
        """
        self._connection.check()
        # as the server does it, which would tell of it under another id than was asked for
        name = conversation_id.strip() if conversation_id is not None else self._connection.new_id()
        chat = self._connection.chats.get(name)
        if isinstance(chat, AsyncConversation):
            return chat
        chat = AsyncConversation(
            self._connection, name, flow_id=flow_id, channel=channel, user_id=user_id, resume=resume
        )
        self._connection.chats[name] = chat
        return chat

    # --- over REST: these need no open connection ---------------------------------------------

    async def start(
        self,
        flow_id: str,
        *,
        initial_context: Mapping[str, Any] | None = None,
        input: Any = None,  # noqa: A002 - the flow's own word for it
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
    ) -> AsyncExecution:
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
        body = {
            "initial_context": dict(initial_context or {}),
            "input": input,
            "version": version,
            "conversation_id": conversation_id,
            "user_id": user_id,
            "project_id": project_id,
            "channel": channel,
            "request_id": request_id,
            "correlation_id": correlation_id,
            "on_busy": on_busy,
        }
        key = idempotency_key or self._connection.new_id()
        reply = await self._rest.post(
            f"/flows/{quote(flow_id, safe='')}/start", body, key=key, timeout=timeout
        )
        return AsyncExecution(
            self._rest,
            self._connection.new_id,
            reply.get("execution_id"),
            conversation_id=reply.get("conversation_id"),
            correlation_id=reply.get("correlation_id"),
        )

    def execution(self, execution_id: str) -> AsyncExecution:
        """Return a run that was started earlier, or by somebody else; nothing is asked yet."""
        return AsyncExecution(self._rest, self._connection.new_id, execution_id)

    async def executions(
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
    ) -> AsyncIterator[Execution]:
        """Iterate over the runs that this principal may see, page after page: ``async for run in ...``.

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
        query = {
            "status": status,
            "flow_id": flow_id,
            "project_id": project_id,
            "user_id": user_id,
            "since": since.isoformat() if isinstance(since, datetime) else since,
            "until": until.isoformat() if isinstance(until, datetime) else until,
        }
        found = pages(self._rest, "/executions", "executions", {**query, "limit": page_size}, timeout)
        async for record in found:
            yield Execution.from_wire(record)

    async def inbox(
        self, *, page_size: int = 50, timeout: float | None = REQUEST_TIMEOUT_S
    ) -> AsyncIterator[InboxItem]:
        """Iterate over what waits for a person in the whole tenant: ``async for item in parley.inbox()``.

        Who may decide nothing for others finds it empty.

        Raises:
            ParleyError: as ``start``.
        """
        async for record in pages(self._rest, "/inbox", "items", {"limit": page_size}, timeout):
            yield InboxItem.from_wire(record)

    async def inbox_events(self) -> AsyncIterator[InboxEvent]:
        """Iterate over what comes to wait for this principal in the whole tenant, and what is settled.

        First comes what waits now, an ``events.InboxOpened`` each, and ``events.InboxReady`` behind it. A
        broken connection is made anew, for as long as this is read; what was settled in between is told then.

        Raises:
            Unauthorized, TokenExpired: the credential is not taken any more.
        """
        async for event in watch_inbox(self._rest, self._connection.clock, self._connection.random):
            yield event

    # --- the connection -----------------------------------------------------------------------

    def connection_events(self) -> Stream[ConnectionEvent]:
        """Iterate over what happens to the connection from now on; ends when it is closed for good."""
        stream: Stream[ConnectionEvent] = Stream(self._connection.event_buffer)
        self._connection.watchers.add(stream)
        return stream

    @property
    def url(self) -> str:
        """The WebSocket URL."""
        return self._connection.url

    @property
    def rest_url(self) -> str:
        """Where REST calls go, without a slash at its end."""
        return self._rest.url

    @property
    def connected(self) -> bool:
        """Whether the server has said welcome and the connection stands, as far as is known."""
        return self._connection.online

    @property
    def unacknowledged(self) -> int:
        """How many commands wait for their acknowledgement, those that an earlier process left included."""
        return self._connection.session.unacknowledged

    @property
    def principal(self) -> Mapping[str, Any] | None:
        """Who the server takes this client for: ``user_id``, ``tenant_id``, ``role``, ``scopes``, ..."""
        welcome = self._connection.welcome
        return None if welcome is None else mapping(welcome.get("principal"))

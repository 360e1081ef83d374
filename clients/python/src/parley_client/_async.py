"""``AsyncParley``, what an asyncio program holds in hand. The work is done elsewhere.

``_session`` knows the protocol, ``_connection`` keeps it connected, ``_conversation`` serves callers.
A synchronous client wraps this one: run a loop in a thread and hand it each call.
"""

import random as random_module
import secrets
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from ._clock import Clock, LoopClock
from ._connection import Connection, ConnectionEvent, Token
from ._conversation import AsyncConversation
from ._session import OUTBOX_LIMIT, Session
from ._stream import Stream
from .records import mapping

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
        outbox_limit: int = OUTBOX_LIMIT,
        event_buffer: int = EVENT_BUFFER,
        connect_options: Mapping[str, Any] | None = None,
        random: Callable[[], float] = random_module.random,
        clock: Clock | None = None,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        self._open_timeout = open_timeout
        self._connection = Connection(
            url,
            token,
            Session(outbox_limit=outbox_limit, locale=locale, timezone=timezone),
            on_connection=on_connection,
            on_frame=on_frame,
            event_buffer=event_buffer,
            connect_options=dict(connect_options or {}),
            random=random,
            clock=clock or LoopClock(),
            new_id=new_id,
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
            conversation_id: left out, it is 128 random bits.
            flow_id: default for ``send``: which flow to start, if one starts.
            channel: default for ``send``.
            user_id: default for ``send``.
            resume: a ``cursor`` kept from earlier; only what came after it is handed out, where the server
                can still tell it.

        Raises:
            ConnectionClosed: the client is closed.
        """
        self._connection.check()
        name = conversation_id if conversation_id is not None else self._connection.new_id()
        chat = self._connection.chats.get(name)
        if isinstance(chat, AsyncConversation):
            return chat
        chat = AsyncConversation(
            self._connection, name, flow_id=flow_id, channel=channel, user_id=user_id, resume=resume
        )
        self._connection.chats[name] = chat
        return chat

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
    def connected(self) -> bool:
        """Whether the server has said welcome and the connection stands, as far as is known."""
        return self._connection.session.online

    @property
    def principal(self) -> Mapping[str, Any] | None:
        """Who the server takes this client for: ``user_id``, ``tenant_id``, ``role``, ``scopes``, ..."""
        welcome = self._connection.welcome
        return None if welcome is None else mapping(welcome.get("principal"))

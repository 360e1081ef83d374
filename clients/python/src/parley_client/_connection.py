"""The asyncio shell around ``_session.Session``: sockets, timers, tokens, pauses.

It decides nothing about the protocol. One task a client connects, reads and reconnects; writes happen at
once, without a task; one timer a client serves the session. All of it runs in one event loop.
"""

import asyncio
import inspect
import logging
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed as SocketClosed
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from . import _outputs as out
from . import _wire
from ._clock import Clock, Timer, sleep
from ._outbox import Outbox
from ._session import Session
from ._stream import Stream
from .errors import (
    ConnectionClosed,
    ConnectionLost,
    OutboxUnusable,
    ParleyError,
    Timeout,
    TokenExpired,
    error_from_wire,
)

Json = Any
Token = str | Callable[[], str | Awaitable[str]]
"""A token, or what is called for one at each connect and whenever the server asks for a fresh one."""

FIRST_BACKOFF_S: Final = 0.5
LAST_BACKOFF_S: Final = 20.0
STEADY_S: Final = 5.0
"""A connection that held this long lets the next pause begin short again."""
HANDSHAKE_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
TOKEN_TIMEOUT_S: Final = 30.0
PASSING_STATUSES: Final = frozenset({408, 425, 429})
"""HTTP statuses below 500 that say nothing about the address."""

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


class Listener(Protocol):
    """What a conversation is told (``_conversation.AsyncConversation``)."""

    conversation_id: str

    def on_dispatch(self, output: out.Dispatch) -> None:
        """Events are next."""

    def on_replace(self, output: out.Replace) -> None:
        """A snapshot replaces what was known."""

    def on_delta(self, output: out.Delta) -> None:
        """A piece of a message."""

    def on_typing(self, output: out.Typing) -> None:
        """Somebody types."""

    def on_watching(self, output: out.Watching) -> None:
        """The subscription stands."""

    def on_detached(self, output: out.Detached) -> None:
        """The subscription is gone."""

    def on_accepted(self, output: out.Accepted) -> None:
        """A command is durable."""

    def on_settled(self, output: out.Settled) -> None:
        """A command's turn has ended."""

    def on_refusal(self, output: out.Refusal) -> None:
        """A command was refused."""

    def on_offline(self) -> None:
        """The connection is gone."""

    def on_end(self, error: ParleyError) -> None:
        """Nothing more will come."""


_TOLD: Final[Mapping[type, Callable[[Listener, Any], None]]] = {
    out.Dispatch: lambda chat, output: chat.on_dispatch(output),
    out.Replace: lambda chat, output: chat.on_replace(output),
    out.Delta: lambda chat, output: chat.on_delta(output),
    out.Typing: lambda chat, output: chat.on_typing(output),
    out.Watching: lambda chat, output: chat.on_watching(output),
    out.Detached: lambda chat, output: chat.on_detached(output),
    out.Accepted: lambda chat, output: chat.on_accepted(output),
    out.Settled: lambda chat, output: chat.on_settled(output),
    out.Refusal: lambda chat, output: chat.on_refusal(output),
}


class Connection:
    """Keeps a session connected. ``AsyncParley`` describes the arguments."""

    def __init__(
        self,
        url: str,
        token: Token | None,
        session: Session,
        *,
        outbox: Outbox | None,
        on_connection: Callable[[ConnectionEvent], None] | None,
        on_frame: Callable[[str, str], None] | None,
        event_buffer: int,
        connect_options: Mapping[str, Any],
        random: Callable[[], float],
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self.url = _wire.socket_url(url)
        self.session = session
        self.clock = clock
        self.event_buffer = event_buffer
        self.new_id = new_id
        self.chats: dict[str, Listener] = {}
        self.watchers: weakref.WeakSet[Stream[ConnectionEvent]] = weakref.WeakSet()
        self.welcome: Mapping[str, Json] | None = None
        self._token = token
        self._outbox = outbox
        self._restored: set[tuple[str, str]] = set()
        if outbox is not None:
            session.restore(outbox.frames)
            self._restored = {(each["conversation_id"], each["idempotency_key"]) for each in outbox.frames}
        self._on_connection = on_connection
        self._on_frame = on_frame
        self._connect_options = connect_options
        self.random = random
        self._requests: dict[int, asyncio.Future[Json]] = {}
        self._socket: ClientConnection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None
        self._timer_due = 0
        self._outputs: deque[out.Output] = deque()
        self._performing = False
        self._offline: out.Offline | None = None
        self._welcomed_at: float | None = None
        self._attempt = 0
        self._trouble: Exception | None = None
        self._fatal: ParleyError | None = None
        self._performers: dict[type, Callable[[Any], None]] = {
            out.Send: self._do_send,
            out.Answer: self._do_answer,
            out.NeedToken: self._do_need_token,
            out.Close: self._do_close,
            out.Online: self._do_online,
            out.Offline: self._do_offline,
            out.Complaint: self._do_complaint,
            out.Retry: lambda output: None,
        }

    # --- life ---------------------------------------------------------------------------------

    async def open(self, timeout: float | None) -> None:
        """Connect, and stay connected until ``close``; see ``AsyncParley.connect``."""
        self.check()
        if self._runner is None:
            self._opened = asyncio.get_running_loop().create_future()
            self._runner = asyncio.create_task(self._run(), name="parley-client")
        assert self._opened is not None
        try:
            message = f"no connection to {self.url} within {timeout} s"
            await self.wait(asyncio.shield(self._opened), timeout, message, ConnectionLost)
        except BaseException as error:
            if isinstance(error, ConnectionLost):
                error.__cause__ = self._trouble
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection and end all that waits; may be called twice, and by several tasks."""
        self.end(ConnectionClosed(_wire.CLOSE_NORMAL, "closed by this side"))
        mine = asyncio.current_task()
        tasks = [task for task in (self._runner, *self._tasks) if task is not None and task is not mine]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._stop_timer()

    @property
    def online(self) -> bool:
        """Whether the server has said welcome, and nothing has ended since."""
        return self.session.online and self._fatal is None

    def check(self) -> None:
        """Raise what ended this connection, if it has ended."""
        if self._fatal is not None:
            raise self._fatal.fresh()

    def end(self, error: ParleyError) -> None:
        """Closed for good: tell everybody, once."""
        if self._fatal is not None:
            return
        self._fatal = error
        chats, self.chats = self.chats, {}
        for chat in chats.values():
            chat.on_end(error)
        requests, self._requests = self._requests, {}
        for number, answer in requests.items():
            self.session.withdraw(number)
            if not answer.done():
                answer.set_exception(error.fresh())
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error.fresh())
            self._opened.exception()  # seen: nobody may be waiting any more
        if self._outbox is not None:
            self._outbox.close()
        code = error.close_code if isinstance(error, ConnectionClosed) else None
        self._emit(ConnectionEvent(state="closed", code=code, reason=error.message, error=error))
        for stream in list(self.watchers):
            stream.finish()

    # --- for the conversations ----------------------------------------------------------------

    def perform(self, step: Callable[[Session, int], list[out.Output]]) -> None:
        """Let the session take a step, and do what comes out, in order.

        What is done may lead to further steps (a callback that sends); their outputs queue up behind.
        """
        self._outputs.extend(step(self.session, self._now_ms()))
        if self._performing:
            return
        self._performing = True
        try:
            while self._outputs:
                self._do(self._outputs.popleft())
        finally:
            self._performing = False
        self._arm()

    def forget(self, chat: Listener) -> None:
        """A conversation was closed."""
        if self.chats.get(chat.conversation_id) is chat:
            del self.chats[chat.conversation_id]
            self.perform(lambda session, now: session.unwatch(chat.conversation_id, now))

    async def request(self, frame: dict[str, Json], timeout: float | None) -> Json:
        """Ask and wait; reconnections in between are not noticed."""
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        number = 0

        def step(session: Session, now: int) -> list[out.Output]:
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

    # --- connecting ---------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connect, read, reconnect, until the connection is closed for good."""
        try:
            while self._fatal is None:
                await self._connect_once()
                if self._fatal is None:
                    await sleep(self.clock, self._pause())
        except Exception as error:
            # a defect of this package; without this, everybody would wait for ever
            logger.exception("the client has failed")
            fatal = ParleyError(f"the client has failed: {error!r}", code="internal")
            fatal.__cause__ = error
            self.end(fatal)

    async def _connect_once(self) -> None:
        self._emit(ConnectionEvent(state="connecting", attempt=self._attempt))
        self._offline = self._welcomed_at = None
        try:
            token = await self.get_token()
            socket = await open_socket(self.url, **self._socket_options())
        except Exception as error:  # noqa: BLE001 - the token's source is the caller's code; it is asked again
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
        receive = self.session.receive
        try:
            while True:
                text = await socket.recv()
                if self._on_frame is not None:
                    self._record("in", text if isinstance(text, str) else repr(text))
                self.perform(lambda session, now, text=text: receive(text, now))  # type: ignore[misc]
        except SocketClosed as closed:
            if closed.rcvd is None:
                return _wire.CLOSE_ABNORMAL, str(closed)
            return closed.rcvd.code, closed.rcvd.reason

    def _could_not_open(self, error: Exception) -> None:
        self._trouble = error
        if isinstance(error, InvalidStatus) and self.welcome is None:
            status = error.response.status_code
            if 400 <= status < 500 and status not in PASSING_STATUSES:
                # behind a load balancer even a 404 may pass; before the first welcome it is a wrong address
                fatal = ConnectionClosed(_wire.CLOSE_ABNORMAL, f"{error}; is {self.url} a Parley server?")
                fatal.__cause__ = error
                self.end(fatal)
                return
        if isinstance(error, ParleyError) and not error.temporary:
            self.end(error)  # the token's source says that there will be none
            return
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
            delay = self.random() * min(LAST_BACKOFF_S, offline.within_ms / 1000)
        else:
            delay = full_jitter(self._attempt, self.random)
        self._attempt += 1
        self._emit(
            ConnectionEvent(
                state="disconnected",
                attempt=self._attempt,
                code=offline.code,
                reason=offline.reason,
                retry_in=delay,
                error=self._trouble or (error_from_wire(offline.error) if offline.error else None),
            )
        )
        return delay

    # --- tokens -------------------------------------------------------------------------------

    async def get_token(self) -> str | None:
        """Return a token from its source; None where there is none. What the source raises comes through."""
        if not callable(self._token):
            return self._token
        token = self._token()
        if inspect.isawaitable(token):
            async with asyncio.timeout(TOKEN_TIMEOUT_S):
                token = await token
        return token

    async def _refresh_token(self) -> None:
        try:
            token = await self.get_token()
        except Exception as error:  # noqa: BLE001 - the caller's code; the next connect asks again
            self._emit(ConnectionEvent(state="trouble", error=error, reason="no fresh token"))
            return
        if token is not None:
            self.perform(lambda session, now: session.token(token, now))

    # --- telling ------------------------------------------------------------------------------

    def _emit(self, event: ConnectionEvent) -> None:
        for stream in self.watchers:
            stream.push(event)
        if self._on_connection is not None:
            try:
                self._on_connection(event)
            except Exception:
                logger.exception("on_connection raised")

    def _record(self, way: str, text: str) -> None:
        assert self._on_frame is not None
        try:
            self._on_frame(way, text)
        except Exception:
            logger.exception("on_frame raised")

    # --- doing what the session says ----------------------------------------------------------

    def _do(self, output: out.Output) -> None:
        kind = type(output)
        performer = self._performers.get(kind)
        if performer is not None:
            performer(output)
            return
        if isinstance(output, out.Refusal) and (output.conversation_id, output.key) in self._restored:
            self._emit(
                ConnectionEvent(
                    state="trouble",
                    error=error_from_wire(output.error),
                    reason=f"the command {output.key}, kept from an earlier run, was refused",
                )
            )
        chat = self.chats.get(output.conversation_id)  # type: ignore[union-attr]
        if chat is not None:
            _TOLD[kind](chat, output)

    def _do_send(self, output: out.Send) -> None:
        if self._socket is None or self._fatal is not None:
            return
        if self._on_frame is not None:
            self._record("out", _wire.without_token(output.text) if output.secret else output.text)
        # websockets documents this as the way to write without waiting, for clients too; what is in flight
        # is bounded by the session (one command a conversation, paced)
        broadcast((self._socket,), output.text)

    def _do_answer(self, output: out.Answer) -> None:
        answer = self._requests.pop(output.request_id, None)
        if answer is None or answer.done():
            return
        if output.error is None:
            answer.set_result(output.result)
        else:
            answer.set_exception(error_from_wire(output.error))

    def _do_need_token(self, output: out.NeedToken) -> None:
        if callable(self._token):
            task = asyncio.create_task(self._refresh_token(), name="parley-client-token")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _do_close(self, output: out.Close) -> None:
        logger.debug("giving up the connection: %s", output.reason)
        if self._socket is not None:
            self._socket.transport.abort()  # it may be dead: no closing handshake

    def _do_online(self, output: out.Online) -> None:
        self.welcome = output.welcome
        principal = output.welcome.get("principal") or {}
        owner = (str(principal.get("tenant_id")), str(principal.get("user_id")))
        if self._outbox is not None and not self._outbox.own(owner):
            self.end(
                OutboxUnusable(
                    f"The commands in the outbox {self._outbox.path} are another user's.",
                    code="outbox_of_another",
                    suggestion="Give each user a file of its own.",
                )
            )
            self._do_close(out.Close(_wire.CLOSE_NORMAL, "another user's outbox"))
            return
        self._welcomed_at = self.clock.now()
        self._emit(ConnectionEvent(state="connected", attempt=self._attempt))
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _do_offline(self, output: out.Offline) -> None:
        self._offline = output
        for chat in list(self.chats.values()):
            chat.on_offline()
        error = None if output.error is None else error_from_wire(output.error)
        if not output.reconnect:
            self.end(error or ConnectionClosed(output.code, output.reason))
        elif isinstance(error, TokenExpired) and not callable(self._token):
            self.end(error)  # the same token would be refused again

    def _do_complaint(self, output: out.Complaint) -> None:
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

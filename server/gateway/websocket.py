"""The WebSocket endpoint ``/v1/ws``: one ``Connection`` a socket, from handshake to close.

It drives the sans-I/O session (``protocol.session``), has frames answered one after the other by
``dispatch``, and decides nothing itself. Raw ASGI: what a framework would add on this path costs memory
for each idle socket. While nothing happens a connection is one suspended coroutine, nothing else.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, cast

import orjson
import structlog

from protocol.errors import CloseCode, ConnectionClosing, ErrorCode, Refused
from protocol.frames import SUBPROTOCOL, Hello
from protocol.session import Action, Close, Handle, Reply, SendPing, Session, SessionLimits
from server.auth.keys import closing_of
from server.auth.principal import Principal
from server.delivery import frames
from server.delivery.outbox import Outbox
from server.delivery.topic import Subscription
from server.dispatch import dispatch, refusal_of
from server.gateway.wheel import Wheel
from server.gateway.wire import EXTENSION, Cork, WebSocketWire
from server.handlers import hello
from server.handlers.services import Services
from server.limits.connections import ConnectionCounter
from storage.base import StoreUnavailable

PATH: Final = "/v1/ws"
INSTANCE_HEADER: Final = b"x-parley-instance"
"""In the answer to the handshake, for operators: which of several equal instances has this socket."""
KNOWN_CODES: Final = frozenset({*range(1000, 1016), *map(int, CloseCode)})
"""What closes are counted by; a peer may close with thousands of others."""
BUSY_CHECK_MS: Final = 1000
AFTER_BUSY_MS: Final = 2000
"""After a long handler the peer's frames of that time are read before its silence is judged."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_NOBODY: Final = Principal("", "")
_log = structlog.get_logger(__name__)


class Gateway:
    """All sockets of this instance.

    Args:
        services: what handlers use.
        limits: what a connection may do.
        counter: the caps on connections.
        wheel: the clockwork.
        now_ms: monotonic milliseconds, the time of sessions.
        instance_id: the name of this instance.
    """

    def __init__(
        self,
        *,
        services: Services,
        limits: SessionLimits,
        counter: ConnectionCounter,
        wheel: Wheel,
        now_ms: Callable[[], int],
        instance_id: str,
    ) -> None:
        self.services = services
        self.limits = limits
        self.counter = counter
        self.wheel = wheel
        self.now_ms = now_ms
        self.connections: set[Connection] = set()
        self.cork = Cork()
        self.draining = False
        self._headers = [(INSTANCE_HEADER, instance_id.encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket (ASGI)."""
        wire = scope["extensions"].get(EXTENSION)
        if wire is None:
            raise RuntimeError("sockets need server.gateway.wire.WebSocketWire: run it by server.app.serve")
        if scope["path"] != PATH:
            _refuse_path(wire)
            return
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        refusal = self._refusal(scope) or await self._refusal_of_page(origins)
        if self.draining:  # asked behind what may take a while: who is let in later is told nothing
            _refuse_for_now(wire)
            return
        bearer = _bearer(scope["headers"])
        offered = SUBPROTOCOL in scope["subprotocols"]
        if (await receive())["type"] != "websocket.connect":
            return
        subprotocol = SUBPROTOCOL if offered else None
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": self._headers})
        wire.forget_handshake()
        refusal = refusal or self._full()
        if refusal is not None:
            # Accepted first: a refused handshake looks like a lost network to a browser.
            self.services.metrics.closes[str(int(refusal.code))] += 1
            wire.close(refusal.code, refusal.reason)
            return
        connection = Connection(self, wire, bearer, origins[0] if origins else None)
        # This frame lives as long as the connection.
        del scope, receive, send, offered, subprotocol, bearer, refusal, origins
        try:
            await connection.run()
        finally:
            connection.end()

    def _refusal(self, scope: Scope) -> ConnectionClosing | None:
        if SUBPROTOCOL not in scope["subprotocols"]:
            return ConnectionClosing(CloseCode.UNSUPPORTED_VERSION, f"ask for subprotocol {SUBPROTOCOL}")
        return None

    async def _refusal_of_page(self, origins: list[str]) -> ConnectionClosing | None:
        """Refuse a page that nobody's credential could let in; ``hello`` tells whose it brings."""
        try:
            if not origins or (len(origins) == 1 and await self.services.credentials.may_ask(origins[0])):
                return None
        except StoreUnavailable:
            return ConnectionClosing(CloseCode.STORE_UNAVAILABLE, "the store cannot serve now")
        reason = "this page's origin may not connect; see PARLEY_ORIGINS and `parley origins add`"
        return ConnectionClosing(CloseCode.ORIGIN_NOT_ALLOWED, reason)

    def _full(self) -> ConnectionClosing | None:
        if self.counter.open() is None:
            return None
        return ConnectionClosing(CloseCode.CONNECTION_LIMIT, "this server has all the connections it takes")


class Connection:
    """One accepted socket. Implements ``handlers.services.Caller``."""

    __slots__ = ("_busy", "_ended", "_gateway", "_identified", "_session", "_wire", "bearer", "connection_id",
                 "due_s", "locale", "origin", "outbox", "principal", "subscriptions", "timezone")  # fmt: skip

    def __init__(self, gateway: Gateway, wire: WebSocketWire, bearer: str | None, origin: str | None) -> None:
        now_ms = gateway.now_ms()
        self._gateway = gateway
        self._wire = wire
        self._session = Session(gateway.limits, now_ms)
        self._busy = False
        self._ended = False
        self._identified: tuple[str, str] | None = None
        self.bearer = bearer
        self.connection_id = "n" + secrets.token_hex(8)
        self.due_s = -1
        self.locale: str | None = None
        self.origin = origin
        self.timezone: str | None = None
        self.principal = _NOBODY
        self.subscriptions: dict[str, Subscription] = {}
        wire.cork = gateway.cork
        self.outbox = wire.outbox = Outbox(wire, gateway.wheel.stalled)
        gateway.connections.add(self)
        gateway.wheel.add(self, self._session.deadline_ms)

    # --- what comes in ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Answer frames, in order, until the socket closes."""
        session, outbox, now_ms = self._session, self.outbox, self._gateway.now_ms
        metrics, receive = self._gateway.services.metrics, self._wire.receive
        while True:
            message = await receive()
            is_text = type(message) is bytes
            if not is_text and message["type"] == "websocket.disconnect":
                code = message.get("code", 1005)
                metrics.closes[str(code) if code in KNOWN_CODES else "other"] += 1
                return
            metrics.frames += 1
            if not outbox.has_room:
                await self._wait_for_room()
            now = now_ms()
            actions = session.receive_text(message, now) if is_text else session.receive_binary(now)
            del message  # what is not held while the next one is awaited costs an idle connection nothing
            await self._perform(actions)
            del actions

    async def _wait_for_room(self) -> None:
        """Read on only as fast as the peer reads: so answers cannot pile up."""
        self._busy = True
        try:
            await self.outbox.room()
        finally:
            self._busy = False

    async def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Handle):
                await self._handle(action.frame)
            else:
                self._perform_at_once(action)

    def _perform_at_once(self, action: Reply | SendPing | Close) -> None:
        match action:
            case Reply(frame):
                error = frame.get("error")
                if error is not None:
                    self._gateway.services.metrics.errors[error["code"]] += 1
                self.outbox.put(orjson.dumps(frame))
            case SendPing():
                self.outbox.put(frames.ping(self._gateway.services.hub.offsets(self)))
            case Close(code, reason):
                self.outbox.close(code, reason)

    async def _handle(self, frame: Any) -> None:
        self._busy = True
        try:
            if type(frame) is Hello:
                await self._greet(frame)
                return
            answer = await dispatch(frame, self, self._gateway.services)
        finally:
            self._busy = False
        if answer is not None:
            self.outbox.put(answer)
        frame_id = getattr(frame, "id", None)
        if frame_id is not None:
            self._session.answered(frame_id)

    async def _greet(self, frame: Hello) -> None:
        gateway, session = self._gateway, self._session
        try:
            await hello.handle(frame, self, gateway.services)
        except ConnectionClosing as closing:
            self._refuse_connection(frame, closing)
            return
        except Exception as error:  # noqa: BLE001 - the ladder of hello: its refusal ends the connection
            refused = refusal_of(error, frame="hello", connection_id=self.connection_id)
            for action in session.hello_refused(refused):
                self._perform_at_once(cast("Reply | Close", action))
            return
        finally:
            self.bearer = None
        expires_ms = self._expires_ms(self.principal)
        actions = session.authenticated(self._identity(self.principal), expires_ms, gateway.now_ms())
        gateway.wheel.add(self, session.deadline_ms)
        await self._perform(actions)

    def _refuse_connection(self, frame: Hello, closing: ConnectionClosing) -> None:
        refused = Refused(
            ErrorCode.RATE_LIMITED, closing.reason, suggestion="Close connections that are no longer used."
        )
        self._gateway.services.metrics.errors[refused.code.value] += 1
        self.outbox.put(frames.error(frame.id, refused))
        self.close(closing.code, closing.reason)

    # --- Caller -----------------------------------------------------------------------------------

    def enter(self, principal: Principal) -> None:
        """Count the connection for its principal; see ``Caller``."""
        identity = self._identity(principal)
        if self._gateway.counter.identify(identity) is not None:
            reason = "you have as many open connections as one user may have"
            raise ConnectionClosing(CloseCode.CONNECTION_LIMIT, reason)
        self._identified = identity
        self._take_over(principal)

    def renew(self, principal: Principal) -> None:
        """Go on with a fresh credential; see ``Caller``."""
        self._session.renewed(self._identity(principal), self._expires_ms(principal))
        self._take_over(principal)
        self._gateway.wheel.add(self, self._session.deadline_ms)

    def _take_over(self, principal: Principal) -> None:
        keys = self._gateway.services.credentials.keys
        keys.release(self)
        self.principal = principal
        keys.hold(self)

    @staticmethod
    def _identity(principal: Principal) -> tuple[str, str]:
        return (principal.tenant_id, principal.user_id)

    def _expires_ms(self, principal: Principal) -> int | None:
        """Return the credential's end on the session's clock."""
        if principal.expires_at is None:
            return None
        left_s = principal.expires_at - self._gateway.services.wall_s()
        return self._gateway.now_ms() + int(left_s * 1000)

    # --- time and end -----------------------------------------------------------------------------

    def tick(self, now_ms: int) -> int | None:
        """Let time pass; see ``wheel.Ticking``. While a frame is handled the peer is not silent."""
        if self._busy:
            return now_ms + AFTER_BUSY_MS
        for action in self._session.tick(now_ms):
            self._perform_at_once(cast("Reply | SendPing | Close", action))
        return None if self._ended else self._session.deadline_ms

    def announce(self, code: CloseCode, reason: str, within_ms: int) -> None:
        """Tell the client that the connection ends, and end it."""
        self.outbox.put(frames.disconnect(code, reason, reconnect=True, within_ms=within_ms))
        self.close(code, reason)

    def close(self, code: CloseCode, reason: str) -> None:
        """Close for a reason that is not the session's."""
        self._session.disconnected()
        self.outbox.close(code, reason)

    def key_ended(self, why: Refused) -> None:
        """Close: the key behind the credential does not let it be any more."""
        self.close(*closing_of(why))

    @property
    def is_busy(self) -> bool:
        """Whether a frame is being handled."""
        return self._busy

    def end(self) -> None:
        """The socket is gone: release everything. Work that was begun goes on without us."""
        self._ended = True
        self._session.disconnected()
        self.outbox.discard()
        self._wire.outbox = None
        self._gateway.wheel.remove(self)
        self._gateway.services.hub.drop(self)
        self._gateway.services.credentials.keys.release(self)
        self._gateway.counter.close(self._identified)
        self._gateway.connections.discard(self)


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
    return None


def _refuse_for_now(wire: WebSocketWire) -> None:
    """A draining server takes no socket, and says so by a status that a load balancer understands.

    It passes the handshake on to another instance, and the client notices nothing. Accepted and then closed
    4001, every newcomer would be led here again: the draining instance has the fewest connections of all.
    """
    refused = Refused(
        ErrorCode.OVERLOADED, "This server shuts down.", retry_after_ms=1000, suggestion="Connect again."
    )
    wire.reject(
        HTTPStatus.SERVICE_UNAVAILABLE, orjson.dumps({"error": refused.to_wire(), "request_id": None})
    )


def _refuse_path(wire: WebSocketWire) -> None:
    """There is one socket path; anything else is an HTTP 404 with the error of the wire."""
    refused = Refused(ErrorCode.NOT_FOUND, "There is no socket here.", suggestion=f"Connect to {PATH}.")
    wire.reject(HTTPStatus.NOT_FOUND, orjson.dumps({"error": refused.to_wire(), "request_id": None}))

"""One connection as the server sees it: frames and time in, actions out. No I/O, no clock.

Specification
=============

A session goes through these states, one way::

    opened ──hello──▶ greeting ──authenticated()──▶ open ──▶ closed
       └──────────────────┴───────────────────────────────────▲

**opened.** The first frame must be a valid ``hello``, within 10 s (else close 4502). Any other first
frame is answered with its ``error`` if it could carry an ``id``, and closes 4501.

**greeting.** The ``hello`` was handed out as ``Handle``. The driver verifies its credential, which may
take long; meanwhile frames wait unread, at most 64 of them and 256 KiB (beyond: ``rate_limited``).
The driver then calls exactly one of ``authenticated`` (after sending ``welcome``; returns the actions
of what waited, in order) or ``hello_refused`` (answers, and closes by the error: 4002 for an expired
token, 4503 for tenant and conversation, 4500 otherwise, temporary errors in the reconnecting range).

**open.** Every frame that is valid and allowed becomes a ``Handle``; the driver answers it with one
``ack`` or ``error`` and then calls ``answered``. Until then its ``id`` is in flight: another frame
with the same one is a ``bad_request``, and so is a second ``hello``. Ids are remembered no longer than
that, so a session's memory does not grow with its age; at most 256 are in flight (beyond:
``rate_limited``). ``pong`` and ``typing`` carry no ``id`` and are never answered unless malformed.

**closed.** After a ``Close`` no method returns anything more.

In all states:

===================================  =============================================================
a binary frame                       close 1003
more than ``max_frame_bytes``        close 1009
bytes that are no UTF-8              close 1007
a frame that is refused by itself    ``error`` with its ``id``, or ``id: null`` where that cannot be read
unreadable frames                    the tenth within a minute closes 4501. Unreadable is what is
                                     answered ``invalid_frame`` or with ``id: null``
more than 20 frames a second,        ``rate_limited`` with ``retry_after_ms``; 100 such refusals
burst 40                             within 10 s close 4006. A ``pong`` or ``typing`` is dropped unanswered
===================================  =============================================================

Time (``tick``), once open: a ``ping`` every 25 s; 10 s more without any inbound frame close 4004.
30 s before the token expires ``auth.required`` is sent, once a token; 5 s after its expiry the session
closes 4002 unless ``renewed`` has brought another expiry. Frames are taken until then. An overdue
``hello`` or token closes on the next frame too, however late the tick is.

Times are integers in milliseconds on any one clock that does not run backwards; the token's expiry
must be given on that same clock. A session is not thread-safe: one driver, one at a time.

Usage
=====

The driver (``server/gateway/websocket.py``) owns socket, clock and handlers::

    session = Session(SessionLimits(), now_ms())

    for action in session.receive_text(text, now_ms()):    # likewise receive_binary(), tick()
        match action:
            case Handle(Hello() as hello):
                try:
                    principal = verify(hello.token)
                except Refused as error:
                    perform(session.hello_refused(error))
                else:
                    send(welcome(hello.id, principal))
                    perform(session.authenticated(identity, expires_at_ms, now_ms()))
            case Handle(frame):
                send(await dispatch(frame))                 # its one ack or error
                session.answered(frame.id)                  # not for typing, which has no id
            case Reply(frame):
                send(frame)
            case SendPing():
                send({"type": "ping", "offsets": outbox.offsets()})
            case Close(code, reason):
                close(code, reason)

Actions are performed in their order, before the next call. ``deadline_ms`` says when ``tick`` next has
something to do, for a driver that keeps its sessions in a timer wheel.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from protocol.codec import CodecLimits, decode, peek
from protocol.errors import CloseCode, ErrorCode, InvalidFrame, Refused
from protocol.frames import ClientFrame, Hello, Pong, Typing

Identity = tuple[str, str]
"""``(tenant_id, user_id)``: what an ``auth`` must keep."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a connection may do, and when it ends. The defaults are the protocol's."""

    codec: CodecLimits = field(default_factory=CodecLimits)
    frames_per_second: int = 20
    hello_timeout_ms: int = 10_000
    ping_interval_ms: int = 25_000
    pong_timeout_ms: int = 10_000
    renew_before_ms: int = 30_000
    expiry_grace_ms: int = 5_000
    waiting_max_frames: int = 64
    waiting_max_bytes: int = 262_144
    in_flight_max: int = 256
    unreadable_max: int = 10
    unreadable_window_ms: int = 60_000
    over_rate_max: int = 100
    over_rate_window_ms: int = 10_000

    @property
    def burst(self) -> int:
        """Frames that may come at once after a pause: two seconds' worth."""
        return 2 * self.frames_per_second


@dataclass(frozen=True, slots=True)
class Handle:
    """Give ``frame`` to its handler; answer it, unless it is ``typing``."""

    frame: ClientFrame


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this server frame."""

    frame: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SendPing:
    """Send a ``ping`` with the offsets of what the connection watches."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket. ``reason`` fits a close frame (123 bytes of UTF-8)."""

    code: CloseCode
    reason: str


Action = Handle | Reply | SendPing | Close

_REFUSED_HELLO: Final = {
    ErrorCode.BAD_REQUEST: CloseCode.BAD_REQUEST,
    ErrorCode.TOKEN_EXPIRED: CloseCode.TOKEN_EXPIRED,
    ErrorCode.PERMISSION_DENIED: CloseCode.PERMISSION_DENIED,
    ErrorCode.TENANT_INACTIVE: CloseCode.PERMISSION_DENIED,
    ErrorCode.POLICY_VIOLATION: CloseCode.PERMISSION_DENIED,
    ErrorCode.CONVERSATION_NOT_FOUND: CloseCode.PERMISSION_DENIED,
    ErrorCode.ORIGIN_NOT_ALLOWED: CloseCode.ORIGIN_NOT_ALLOWED,
    ErrorCode.RATE_LIMITED: CloseCode.RATE_LIMITED,
    ErrorCode.STORE_UNAVAILABLE: CloseCode.STORE_UNAVAILABLE,
}


def error_frame(frame_id: str | None, error: Refused) -> dict[str, Any]:
    """Return the ``error`` frame that tells a client of ``error``."""
    return {"type": "error", "id": frame_id, "error": error.to_wire()}


class Session:
    """The state of one connection; see the module's docstring, which is its specification.

    Args:
        limits: what the connection may do.
        now_ms: when the socket was opened.
    """

    __slots__ = (
        "_expires_at_ms",
        "_heard_at_ms",
        "_hello_id",
        "_identity",
        "_in_flight",
        "_limits",
        "_milli_tokens",
        "_next_ping_ms",
        "_opened_at_ms",
        "_over_rate",
        "_refilled_at_ms",
        "_renewal_asked",
        "_state",
        "_unreadable",
        "_waiting",
        "_waiting_bytes",
    )

    def __init__(self, limits: SessionLimits, now_ms: int) -> None:
        self._limits = limits
        self._state: Literal["opened", "greeting", "open", "closed"] = "opened"
        self._opened_at_ms = self._heard_at_ms = self._refilled_at_ms = now_ms
        self._next_ping_ms = 0
        self._milli_tokens = limits.burst * 1000
        self._hello_id = ""
        self._identity: Identity | None = None
        self._expires_at_ms: int | None = None
        self._renewal_asked = False
        self._in_flight: set[str] = set()
        self._waiting: list[str | bytes] = []
        self._waiting_bytes = 0
        # Made when first needed: most connections never misbehave.
        self._unreadable: deque[int] | None = None
        self._over_rate: deque[int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the client has its ``welcome`` and the session has not ended."""
        return self._state == "open"

    @property
    def is_closed(self) -> bool:
        """Whether the session has ended; nothing more comes from it."""
        return self._state == "closed"

    @property
    def identity(self) -> Identity | None:
        """Tenant and user, once authenticated."""
        return self._identity

    @property
    def deadline_ms(self) -> int | None:
        """The earliest time at which ``tick`` will do something, as far as is known now; None: never."""
        limits = self._limits
        if self._state == "opened":
            return self._opened_at_ms + limits.hello_timeout_ms
        if self._state != "open":
            return None
        due = min(self._next_ping_ms, self._silent_at_ms())
        if self._expires_at_ms is None:
            return due
        grace, early = limits.expiry_grace_ms, -limits.renew_before_ms
        return min(due, self._expires_at_ms + (grace if self._renewal_asked else early))

    # --- what comes in --------------------------------------------------------------------------

    def receive_text(self, data: str | bytes, now_ms: int) -> list[Action]:
        """Take one text frame (``bytes``: its payload before UTF-8 decoding)."""
        if self._state == "closed":
            return []
        self._heard_at_ms = now_ms
        if (late := self._overdue(now_ms)) is not None:
            return [late]
        size = _size(data)
        if size > self._limits.codec.max_frame_bytes:
            limit = self._limits.codec.max_frame_bytes
            return [self._close(CloseCode.MESSAGE_TOO_BIG, f"a frame may have {limit} bytes")]
        if isinstance(data, bytes) and not _is_utf8(data):
            return [self._close(CloseCode.INVALID_UTF8, "a text frame must be UTF-8")]
        if not self._take_token(now_ms):
            return self._refuse_rate(data, now_ms)
        if self._state == "open":
            return self._take_frame(data, now_ms)
        if self._state == "opened":
            return self._take_first(data)
        return self._let_wait(data, size)

    def receive_binary(self, now_ms: int) -> list[Action]:
        """Take one binary frame; there are none in this protocol."""
        if self._state == "closed":
            return []
        self._heard_at_ms = now_ms
        return [self._close(CloseCode.UNSUPPORTED_DATA, "frames are text")]

    def tick(self, now_ms: int) -> list[Action]:
        """Do what time demands. Cheap when nothing is due; once a second is often enough."""
        if (late := self._overdue(now_ms)) is not None:
            return [late]
        if self._state != "open":
            return []
        if now_ms >= self._silent_at_ms():
            return [self._close(CloseCode.NO_PONG, "nothing was heard; is the network gone?")]
        actions: list[Action] = []
        if now_ms >= self._next_ping_ms:
            # From now, not from when it was due: a late tick must not be followed by a burst.
            self._next_ping_ms = now_ms + self._limits.ping_interval_ms
            actions.append(SendPing())
        expires = self._expires_at_ms
        if (
            expires is not None
            and not self._renewal_asked
            and now_ms >= expires - self._limits.renew_before_ms
        ):
            self._renewal_asked = True
            seconds = max(0, (expires - now_ms) // 1000)
            actions.append(Reply({"type": "auth.required", "expires_in": seconds}))
        return actions

    # --- what the driver reports ----------------------------------------------------------------

    def authenticated(self, identity: Identity, expires_at_ms: int | None, now_ms: int) -> list[Action]:
        """Report that ``welcome`` was sent; returns the actions of the frames that waited for it.

        Returns nothing if the session has ended meanwhile.
        """
        if self._state == "closed":
            return []
        self._must_be_greeting()
        self._state = "open"
        self._identity = identity
        self._expires_at_ms = expires_at_ms
        self._heard_at_ms = now_ms
        self._next_ping_ms = now_ms + self._limits.ping_interval_ms
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        actions: list[Action] = []
        for data in waiting:
            if self._state == "open":
                actions += self._take_frame(data, now_ms)
        return actions

    def hello_refused(self, error: Refused) -> list[Action]:
        """Report that the ``hello`` was refused: its ``error``, then the close that fits it."""
        if self._state == "closed":
            return []
        self._must_be_greeting()
        final = CloseCode.SERVER_ERROR if error.temporary else CloseCode.UNAUTHORIZED
        code = _REFUSED_HELLO.get(error.code, final)
        return [Reply(error_frame(self._hello_id, error)), self._close(code, error.code.value)]

    def renewed(self, identity: Identity, expires_at_ms: int | None) -> None:
        """Report that an ``auth`` frame brought a good token.

        Raises:
            Refused: ``permission_denied``; it is of another tenant or user, and nothing has changed.
        """
        if identity != self._identity:
            raise Refused(
                ErrorCode.PERMISSION_DENIED,
                "The token is another tenant's or user's; a connection keeps both.",
                field="token",
                suggestion="Open another connection for another user.",
            )
        self._expires_at_ms = expires_at_ms
        self._renewal_asked = False

    def answered(self, frame_id: str) -> None:
        """Report that the frame of this id got its ``ack`` or ``error``; the id may be used again."""
        self._in_flight.discard(frame_id)

    def disconnected(self) -> None:
        """Report that the socket is gone, or was closed by the driver for a reason of its own."""
        self._end()

    # --- frames ---------------------------------------------------------------------------------

    def _take_first(self, data: str | bytes) -> list[Action]:
        try:
            frame = decode(data, self._limits.codec)
        except InvalidFrame as error:
            return [Reply(error_frame(error.frame_id, error)), self._close_not_hello()]
        if isinstance(frame, Hello):
            self._state = "greeting"
            self._hello_id = frame.id
            return [Handle(frame)]
        if isinstance(frame, Pong | Typing):
            return [self._close_not_hello()]
        refusal = Refused(
            ErrorCode.BAD_REQUEST,
            f"The first frame must be hello, not {frame.type}.",
            field="type",
            suggestion='{"type": "hello", "id": "1", "token": "..."}',
        )
        return [Reply(error_frame(frame.id, refusal)), self._close_not_hello()]

    def _let_wait(self, data: str | bytes, size: int) -> list[Action]:
        full = len(self._waiting) >= self._limits.waiting_max_frames
        if full or self._waiting_bytes + size > self._limits.waiting_max_bytes:
            return _answer(data, _too_many("Too much was sent before welcome.", 1000))
        self._waiting.append(data)
        self._waiting_bytes += size
        return []

    def _take_frame(self, data: str | bytes, now_ms: int) -> list[Action]:
        try:
            frame = decode(data, self._limits.codec)
        except InvalidFrame as error:
            return self._refuse_frame(error, now_ms)
        if isinstance(frame, Pong):
            return []
        if isinstance(frame, Typing):
            return [Handle(frame)]
        if isinstance(frame, Hello):
            return [Reply(error_frame(frame.id, _second_hello()))]
        if frame.id in self._in_flight:
            return [Reply(error_frame(frame.id, _id_in_use()))]
        if len(self._in_flight) >= self._limits.in_flight_max:
            return [Reply(error_frame(frame.id, _too_many("Too many frames wait for their answers.", 1000)))]
        self._in_flight.add(frame.id)
        return [Handle(frame)]

    def _refuse_frame(self, error: InvalidFrame, now_ms: int) -> list[Action]:
        actions: list[Action] = [Reply(error_frame(error.frame_id, error))]
        if error.code is ErrorCode.INVALID_FRAME or error.frame_id is None:
            limits = self._limits
            if self._unreadable is None:
                self._unreadable = deque(maxlen=limits.unreadable_max)
            if _too_often(self._unreadable, now_ms, limits.unreadable_window_ms):
                actions.append(self._close(CloseCode.BAD_REQUEST, "too many frames could not be read"))
        return actions

    # --- rate -----------------------------------------------------------------------------------

    def _take_token(self, now_ms: int) -> bool:
        """Token bucket in thousandths, so that integers do: ``frames_per_second`` of them a millisecond."""
        limits = self._limits
        gained = max(0, now_ms - self._refilled_at_ms) * limits.frames_per_second
        self._milli_tokens = min(limits.burst * 1000, self._milli_tokens + gained)
        self._refilled_at_ms = now_ms
        if self._milli_tokens < 1000:
            return False
        self._milli_tokens -= 1000
        return True

    def _refuse_rate(self, data: str | bytes, now_ms: int) -> list[Action]:
        limits = self._limits
        if self._over_rate is None:
            self._over_rate = deque(maxlen=limits.over_rate_max)
        wait_ms = -(-(1000 - self._milli_tokens) // limits.frames_per_second)
        refusal = _too_many(f"At most {limits.frames_per_second} frames a second are taken.", wait_ms)
        actions = _answer(data, refusal)
        if _too_often(self._over_rate, now_ms, limits.over_rate_window_ms):
            actions.append(self._close(CloseCode.RATE_LIMITED, "too many frames, for too long"))
        return actions

    # --- time and end ---------------------------------------------------------------------------

    def _silent_at_ms(self) -> int:
        return self._heard_at_ms + self._limits.ping_interval_ms + self._limits.pong_timeout_ms

    def _overdue(self, now_ms: int) -> Close | None:
        """Close a session whose hello or token is overdue."""
        limits = self._limits
        if self._state == "opened" and now_ms >= self._opened_at_ms + limits.hello_timeout_ms:
            return self._close(CloseCode.NO_HELLO, f"no hello within {limits.hello_timeout_ms // 1000} s")
        expires = self._expires_at_ms
        if self._state == "open" and expires is not None and now_ms >= expires + limits.expiry_grace_ms:
            return self._close(CloseCode.TOKEN_EXPIRED, "the token has expired")
        return None

    def _close_not_hello(self) -> Close:
        return self._close(CloseCode.BAD_REQUEST, "the first frame must be a valid hello")

    def _close(self, code: CloseCode, reason: str) -> Close:
        self._end()
        return Close(code, reason)

    def _end(self) -> None:
        self._state = "closed"
        self._in_flight.clear()
        self._waiting.clear()

    def _must_be_greeting(self) -> None:
        if self._state != "greeting":
            raise RuntimeError(f"there is no hello to answer: the session is {self._state}")


def _answer(data: str | bytes, error: Refused) -> list[Action]:
    """Refuse a frame unseen: with its id if it has one, silently if it is of a type without answers."""
    name, frame_id = peek(data)
    if frame_id is None and name in ("pong", "typing"):
        return []
    return [Reply(error_frame(frame_id, error))]


def _too_many(message: str, retry_after_ms: int) -> Refused:
    return Refused(ErrorCode.RATE_LIMITED, message, retry_after_ms=retry_after_ms)


def _second_hello() -> Refused:
    return Refused(
        ErrorCode.BAD_REQUEST,
        "This connection has had its hello.",
        field="type",
        suggestion="Send auth to renew the token, subscribe to watch another conversation.",
    )


def _id_in_use() -> Refused:
    return Refused(
        ErrorCode.BAD_REQUEST,
        "Another frame with this id is still waiting for its answer.",
        field="id",
        suggestion="Count your frames: an id is used once on a connection.",
    )


def _too_often(times: deque[int], now_ms: int, window_ms: int) -> bool:
    """Note that it happened now; tell whether ``times`` is full of happenings within the window."""
    times.append(now_ms)
    return len(times) == times.maxlen and now_ms - times[0] < window_ms


def _size(data: str | bytes) -> int:
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    return len(data.encode(errors="surrogatepass"))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

"""Every error and close code of ``parley.v1``, and the exceptions that carry them.

The exception tree::

    ParleyError                 anything that a peer is told
    ├── Refused                 one frame or request is refused; the connection goes on
    │   └── InvalidFrame        it could not be parsed, or has the wrong shape
    └── ConnectionClosing       the connection ends with a close code

One table says for each code which HTTP status it has over REST and whether trying again can help.
Messages are written for the person who made the mistake: what was wrong, where, and what would be
right. They never hold the text of an internal exception.
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

DOCS_URL = "docs/reference/errors.md#"


class ErrorCode(StrEnum):
    """The ``error.code`` of an ``error`` frame, of a REST error body and of ``turn.failed``."""

    BAD_REQUEST = "bad_request"
    INVALID_FRAME = "invalid_frame"
    UNKNOWN_TYPE = "unknown_type"
    UNAUTHORIZED = "unauthorized"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - an error code, not a credential
    PERMISSION_DENIED = "permission_denied"
    TENANT_INACTIVE = "tenant_inactive"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    POLICY_VIOLATION = "policy_violation"
    CONVERSATION_NOT_FOUND = "conversation_not_found"
    FLOW_NOT_FOUND = "flow_not_found"
    EXECUTION_NOT_FOUND = "execution_not_found"
    PENDING_NOT_FOUND = "pending_not_found"
    NOT_FOUND = "not_found"
    WRONG_STATE = "wrong_state"
    PENDING_RESOLVED = "pending_resolved"
    PENDING_EXPIRED = "pending_expired"
    CONVERSATION_BUSY = "conversation_busy"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    FLOW_INVALID = "flow_invalid"
    MISSING_ANSWERS = "missing_answers"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    RATE_LIMITED = "rate_limited"
    INBOX_FULL = "inbox_full"
    INTERNAL = "internal"
    OVERLOADED = "overloaded"
    STORE_UNAVAILABLE = "store_unavailable"
    DEPENDENCY_UNAVAILABLE = "dependency_unavailable"
    STEP_FAILED = "step_failed"
    CANCELLED = "cancelled"
    LOOP_DETECTED = "loop_detected"
    EXPIRED = "expired"


class ErrorSpec(NamedTuple):
    """What a code implies.

    Attributes:
        http_status: the REST status; ``None`` where the code occurs in ``turn.failed`` only.
        temporary: whether the same request may succeed later.
    """

    http_status: int | None
    temporary: bool = False


_C = ErrorCode
ERRORS: Mapping[ErrorCode, ErrorSpec] = {
    _C.BAD_REQUEST: ErrorSpec(400),
    _C.INVALID_FRAME: ErrorSpec(400),
    _C.UNKNOWN_TYPE: ErrorSpec(400),
    _C.UNAUTHORIZED: ErrorSpec(401),
    _C.TOKEN_EXPIRED: ErrorSpec(401),
    _C.PERMISSION_DENIED: ErrorSpec(403),
    _C.TENANT_INACTIVE: ErrorSpec(403),
    _C.ORIGIN_NOT_ALLOWED: ErrorSpec(403),
    _C.POLICY_VIOLATION: ErrorSpec(403),
    _C.CONVERSATION_NOT_FOUND: ErrorSpec(404),
    _C.FLOW_NOT_FOUND: ErrorSpec(404),
    _C.EXECUTION_NOT_FOUND: ErrorSpec(404),
    _C.PENDING_NOT_FOUND: ErrorSpec(404),
    _C.NOT_FOUND: ErrorSpec(404),
    _C.WRONG_STATE: ErrorSpec(409),
    _C.PENDING_RESOLVED: ErrorSpec(409),
    _C.PENDING_EXPIRED: ErrorSpec(409),
    _C.CONVERSATION_BUSY: ErrorSpec(409, temporary=True),
    _C.PAYLOAD_TOO_LARGE: ErrorSpec(413),
    _C.UNSUPPORTED_MEDIA_TYPE: ErrorSpec(415),
    _C.FLOW_INVALID: ErrorSpec(422),
    _C.MISSING_ANSWERS: ErrorSpec(422),
    _C.IDEMPOTENCY_CONFLICT: ErrorSpec(422),
    _C.RATE_LIMITED: ErrorSpec(429, temporary=True),
    _C.INBOX_FULL: ErrorSpec(429, temporary=True),
    _C.INTERNAL: ErrorSpec(500, temporary=True),
    _C.OVERLOADED: ErrorSpec(503, temporary=True),
    _C.STORE_UNAVAILABLE: ErrorSpec(503, temporary=True),
    _C.DEPENDENCY_UNAVAILABLE: ErrorSpec(503, temporary=True),
    _C.STEP_FAILED: ErrorSpec(None),
    _C.CANCELLED: ErrorSpec(None),
    _C.LOOP_DETECTED: ErrorSpec(None),
    _C.EXPIRED: ErrorSpec(None),
}


class CloseCode(IntEnum):
    """WebSocket close codes. The range is the policy: 4000-4499 reconnect, 4500-4999 do not."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_UTF8 = 1007
    MESSAGE_TOO_BIG = 1009
    SERVER_ERROR = 4000
    SHUTDOWN = 4001
    TOKEN_EXPIRED = 4002
    SLOW_CONSUMER = 4003
    NO_PONG = 4004
    STATE_LOST = 4005
    RATE_LIMITED = 4006
    STORE_UNAVAILABLE = 4007
    UNAUTHORIZED = 4500
    BAD_REQUEST = 4501
    NO_HELLO = 4502
    PERMISSION_DENIED = 4503
    CONNECTION_LIMIT = 4504
    UNSUPPORTED_VERSION = 4506
    ORIGIN_NOT_ALLOWED = 4507


FINAL_STANDARD_CLOSES = frozenset({1000, 1002, 1003, 1007, 1008, 1009})
"""Standard close codes after which a client does not reconnect; every other one below 4500 does."""


def may_reconnect(close_code: int) -> bool:
    """Tell whether a client may reconnect after ``close_code`` (1005 and 1006 included)."""
    if 4500 <= close_code <= 4999:
        return False
    return close_code not in FINAL_STANDARD_CLOSES


class ParleyError(Exception):
    """Anything that a peer is told."""


class Refused(ParleyError):  # noqa: N818 - the domain's word; it reads as what happened
    """One frame, command or request is refused; nothing changed and the connection goes on.

    Args:
        code: see ``ErrorCode``.
        message: one sentence for the person who made the mistake; never an internal text.
        field: dotted path of the offending field, e.g. ``content.text``.
        details: structured facts, JSON-able.
        suggestion: what would be right.
        retry_after_ms: when trying again may help, in milliseconds.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        field: str | None = None,
        details: Mapping[str, Any] | None = None,
        suggestion: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.field = field
        self.details = details
        self.suggestion = suggestion
        self.retry_after_ms = retry_after_ms

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return ERRORS[self.code].temporary

    @property
    def http_status(self) -> int:
        """The REST status of this error (500 for the codes that only turns carry)."""
        return ERRORS[self.code].http_status or 500

    def to_wire(self) -> dict[str, Any]:
        """Return the ``error`` object of the wire: all eight fields, ``null`` written out."""
        return {
            "code": self.code.value,
            "message": self.message,
            "temporary": self.temporary,
            "retry_after_ms": self.retry_after_ms,
            "field": self.field,
            "details": dict(self.details) if self.details is not None else None,
            "suggestion": self.suggestion,
            "docs": DOCS_URL + self.code.value,
        }


class InvalidFrame(Refused):
    """What came in is not a frame: not JSON, too deep, a number beyond 2**53, a wrong shape.

    ``frame_id`` is the frame's ``id`` where that much could be read, so that the reply can echo it.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = ErrorCode.INVALID_FRAME,
        field: str | None = None,
        frame_id: str | None = None,
        suggestion: str | None = None,
    ) -> None:
        super().__init__(code, message, field=field, suggestion=suggestion)
        self.frame_id = frame_id


class ConnectionClosing(ParleyError):  # noqa: N818
    """The connection ends with this close code.

    Args:
        code: the close code.
        reason: at most 123 bytes of UTF-8 (RFC 6455, 5.5); ends up in the close frame.
    """

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(f"{int(code)}: {reason}")
        self.code = code
        self.reason = reason

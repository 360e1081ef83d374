"""Every exception that this package raises.

The tree::

    ParleyError                     everything below; has ``code``, ``message``, ``temporary``, ...
    ├── Refused                     the server refused one request (unknown codes are just this)
    │   ├── BadRequest              bad_request; also InvalidFrame, UnknownType, PayloadTooLarge, ...
    │   ├── Unauthorized            unauthorized; also TokenExpired
    │   ├── PermissionDenied        permission_denied; also TenantInactive, OriginNotAllowed, PolicyViolation
    │   ├── NotFound                not_found; also ConversationNotFound, FlowNotFound, ExecutionNotFound,
    │   │                           PendingNotFound
    │   ├── Conflict                WrongState, PendingResolved, PendingExpired, ConversationBusy,
    │   │                           IdempotencyConflict
    │   ├── Unprocessable           FlowInvalid, MissingAnswers
    │   ├── TryLater                RateLimited, InboxFull, Internal, Overloaded, StoreUnavailable,
    │   │                           DependencyUnavailable
    │   └── TurnError               StepFailed, Cancelled, LoopDetected, Expired (inside ``TurnFailed`` only)
    ├── TurnFailed                  the command was accepted and its turn failed; ``error`` says why
    ├── ConnectionLost              no connection could be made in time
    ├── ConnectionClosed            the connection has ended for good; ``close_code``, ``reason``
    ├── Timeout                     the caller's time is up (also a ``TimeoutError``); the command stands
    ├── OutboxFull                  too many commands wait to be sent; nothing was taken
    ├── OutboxUnusable              the outbox's file is in use, damaged, or somebody else's
    ├── ClientMisused               used in a forked child, or from one of its own callbacks
    └── EventsOverflow              a slow reader of events was cut off; nothing is lost on the server

Event classes in ``parley_client.events`` are named after event types, exceptions here after error
codes; where the two meet (``TurnFailed``, ``StepFailed``, ``PendingResolved``) the module tells them apart.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "BadRequest",
    "Cancelled",
    "ClientMisused",
    "Conflict",
    "ConnectionClosed",
    "ConnectionLost",
    "ConversationBusy",
    "ConversationNotFound",
    "DependencyUnavailable",
    "EventsOverflow",
    "ExecutionNotFound",
    "Expired",
    "FlowInvalid",
    "FlowNotFound",
    "IdempotencyConflict",
    "InboxFull",
    "Internal",
    "InvalidFrame",
    "LoopDetected",
    "MissingAnswers",
    "NotFound",
    "OriginNotAllowed",
    "OutboxFull",
    "OutboxUnusable",
    "Overloaded",
    "ParleyError",
    "PayloadTooLarge",
    "PendingExpired",
    "PendingNotFound",
    "PendingResolved",
    "PermissionDenied",
    "PolicyViolation",
    "RateLimited",
    "Refused",
    "StepFailed",
    "StoreUnavailable",
    "TenantInactive",
    "Timeout",
    "TokenExpired",
    "TryLater",
    "TurnError",
    "TurnFailed",
    "Unauthorized",
    "UnknownType",
    "Unprocessable",
    "UnsupportedMediaType",
    "WrongState",
    "error_from_wire",
]


class ParleyError(Exception):
    """Anything that goes wrong in this package.

    Attributes:
        code: the error code of the protocol, or one of this package's own (``timeout``, ...).
        message: one sentence for the person who made the mistake.
        temporary: whether the same call may succeed later.
        retry_after_ms: when trying again may help, in milliseconds.
        field: dotted path of the offending field, e.g. ``content.text``.
        details: structured facts.
        suggestion: what would be right.
        docs: where this code is explained.
    """

    default_code: ClassVar[str] = "error"
    default_temporary: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        temporary: bool | None = None,
        retry_after_ms: int | None = None,
        field: str | None = None,
        details: Mapping[str, Any] | None = None,
        suggestion: str | None = None,
        docs: str | None = None,
    ) -> None:
        self.code = self.default_code if code is None else code
        super().__init__(f"{self.code}: {message}" + (f" {suggestion}" if suggestion else ""))
        self.message = message
        self.temporary = self.default_temporary if temporary is None else temporary
        self.retry_after_ms = retry_after_ms
        self.field = field
        self.details = details
        self.suggestion = suggestion
        self.docs = docs

    def fresh(self) -> "ParleyError":
        """Return an equal exception without traceback, so that each waiter raises one of its own."""
        copy = type(self).__new__(type(self), *self.args)
        copy.args = self.args
        copy.__dict__.update(self.__dict__)
        copy.__cause__ = self.__cause__
        return copy


class Refused(ParleyError):  # noqa: N818 - the protocol's word; it reads as what happened
    """The server refused one request; nothing changed and the connection goes on."""

    default_code = "refused"


class BadRequest(Refused):
    """A field is missing or has a wrong value."""

    default_code = "bad_request"


class InvalidFrame(BadRequest):
    """What was sent is not a frame: too deep, a number beyond 2**53, a lone surrogate."""

    default_code = "invalid_frame"


class UnknownType(BadRequest):
    """The server does not know this frame type; it is older than this client."""

    default_code = "unknown_type"


class PayloadTooLarge(BadRequest):
    """The frame exceeds what the server accepts."""

    default_code = "payload_too_large"


class UnsupportedMediaType(BadRequest):
    """The body is not JSON."""

    default_code = "unsupported_media_type"


class Unauthorized(Refused):
    """The credential is missing or wrong."""

    default_code = "unauthorized"


class TokenExpired(Unauthorized):
    """The credential was right once."""

    default_code = "token_expired"


class PermissionDenied(Refused):
    """The credential does not allow this."""

    default_code = "permission_denied"


class TenantInactive(PermissionDenied):
    """The organisation has been switched off."""

    default_code = "tenant_inactive"


class OriginNotAllowed(PermissionDenied):
    """The page's origin is not on the list."""

    default_code = "origin_not_allowed"


class PolicyViolation(PermissionDenied):
    """A policy of the tenant forbids this."""

    default_code = "policy_violation"


class NotFound(Refused):
    """There is no such thing, or it belongs to somebody else."""

    default_code = "not_found"


class ConversationNotFound(NotFound):
    """The conversation does not exist, was deleted, or belongs to somebody else."""

    default_code = "conversation_not_found"


class FlowNotFound(NotFound):
    """There is no such flow, or none to start with."""

    default_code = "flow_not_found"


class ExecutionNotFound(NotFound):
    """There is no such execution."""

    default_code = "execution_not_found"


class PendingNotFound(NotFound):
    """There is no such pending request."""

    default_code = "pending_not_found"


class Conflict(Refused):
    """The request does not fit the conversation's present state."""

    default_code = "conflict"


class WrongState(Conflict):
    """The execution's status does not allow this."""

    default_code = "wrong_state"


class PendingResolved(Conflict):
    """Somebody has decided this pending request; ``decided`` says who and what."""

    default_code = "pending_resolved"

    @property
    def decided(self) -> Mapping[str, Any]:
        """``{by, at, accepted, comment, edits, answers, digest}``; empty where only your own vote was one."""
        return _object(self.details, "decided")


class PendingExpired(Conflict):
    """The deadline of this pending request is over; the flow goes on as its ``on_timeout`` says."""

    default_code = "pending_expired"

    @property
    def decided(self) -> Mapping[str, Any]:
        """What was decided for everybody when the time was up; empty where nothing was."""
        return _object(self.details, "decided")


class ConversationBusy(Conflict):
    """The conversation is at work, and ``on_busy`` was ``reject``."""

    default_code = "conversation_busy"
    default_temporary = True


class IdempotencyConflict(Conflict):
    """This idempotency key was used for another command."""

    default_code = "idempotency_conflict"


class Unprocessable(Refused):
    """Well-formed, but it cannot be used."""

    default_code = "unprocessable"


class FlowInvalid(Unprocessable):
    """The flow has errors; ``details`` list them."""

    default_code = "flow_invalid"


class MissingAnswers(Unprocessable):
    """A clarification needs more answers; it stays open, so answer again with those that are ``missing``."""

    default_code = "missing_answers"

    @property
    def missing(self) -> tuple[str, ...]:
        """The ids of the questions that lack an answer, or lack one that fits."""
        found = (self.details or {}).get("missing")
        return tuple(str(name) for name in found) if isinstance(found, list) else ()


class TryLater(Refused):
    """The server cannot do it now. This client has tried several times before it raises this."""

    default_code = "try_later"
    default_temporary = True


class RateLimited(TryLater):
    """Too many requests; ``retry_after_ms`` says when."""

    default_code = "rate_limited"


class InboxFull(TryLater):
    """Too many messages wait for this conversation's turn."""

    default_code = "inbox_full"


class Internal(TryLater):
    """The server failed."""

    default_code = "internal"


class Overloaded(TryLater):
    """The server has too much to do."""

    default_code = "overloaded"


class StoreUnavailable(TryLater):
    """The server cannot reach its database."""

    default_code = "store_unavailable"


class DependencyUnavailable(TryLater):
    """Something that the server depends on is away."""

    default_code = "dependency_unavailable"


class TurnError(Refused):
    """Why a turn failed; occurs as ``TurnFailed.error`` only."""

    default_code = "turn_error"


class StepFailed(TurnError):  # noqa: N818
    """A step of the flow failed."""

    default_code = "step_failed"


class Cancelled(TurnError):  # noqa: N818
    """The turn was cancelled by a cancel, a reset or a deletion."""

    default_code = "cancelled"


class LoopDetected(TurnError):  # noqa: N818
    """The flow went in circles."""

    default_code = "loop_detected"


class Expired(TurnError):  # noqa: N818
    """The execution's time was up."""

    default_code = "expired"


_BY_CODE: dict[str, type[Refused]] = {
    cls.default_code: cls
    for cls in (
        BadRequest, InvalidFrame, UnknownType, PayloadTooLarge, UnsupportedMediaType, Unauthorized,
        TokenExpired, PermissionDenied, TenantInactive, OriginNotAllowed, PolicyViolation, NotFound,
        ConversationNotFound, FlowNotFound, ExecutionNotFound, PendingNotFound, WrongState,
        PendingResolved, PendingExpired, ConversationBusy, IdempotencyConflict, FlowInvalid,
        MissingAnswers, RateLimited, InboxFull, Internal, Overloaded, StoreUnavailable,
        DependencyUnavailable, StepFailed, Cancelled, LoopDetected, Expired,
    )
}  # fmt: skip


class TurnFailed(ParleyError):  # noqa: N818
    """The command was accepted, and the turn that it caused failed.

    Attributes:
        error: why, as a typed error (``StepFailed``, ``Cancelled``, ...).
        turn: what the turn said and did before it failed (``parley_client.Turn``).
    """

    default_code = "turn_failed"

    def __init__(self, error: Refused, turn: Any = None) -> None:
        super().__init__(
            error.message,
            code=error.code,
            temporary=error.temporary,
            retry_after_ms=error.retry_after_ms,
            field=error.field,
            details=error.details,
            suggestion=error.suggestion,
            docs=error.docs,
        )
        self.error = error
        self.turn = turn


class ConnectionLost(ParleyError):  # noqa: N818
    """No connection could be made in the time given; ``__cause__`` is the last reason."""

    default_code = "connection_lost"
    default_temporary = True


class ConnectionClosed(ParleyError):  # noqa: N818
    """The connection has ended for good: closed by us, or with a code after which one does not return.

    Attributes:
        close_code: the WebSocket close code (1000 when this side closed).
        reason: what the server said.
    """

    default_code = "connection_closed"

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(f"{reason or 'the connection is closed'} (close code {close_code})")
        self.close_code = close_code
        self.reason = reason


class Timeout(ParleyError, TimeoutError):  # noqa: N818
    """The caller's time is up. The command is not undone: it is still sent, and still takes effect once."""

    default_code = "timeout"
    default_temporary = True


class OutboxFull(ParleyError):  # noqa: N818
    """Too many commands, or too large ones, wait for their acknowledgement; this one was not taken."""

    default_code = "outbox_full"
    default_temporary = True


class OutboxUnusable(ParleyError):  # noqa: N818
    """The outbox's file cannot be used.

    ``code`` is ``outbox_in_use``, ``outbox_unreadable``, ``outbox_unwritable``, or ``outbox_of_another``
    where the commands in it are another user's or for another server.
    """

    default_code = "outbox_unusable"


class ClientMisused(ParleyError):  # noqa: N818
    """A synchronous client was used where it cannot work: ``code`` is ``forked`` or ``inside_callback``."""

    default_code = "client_misused"


class EventsOverflow(ParleyError):  # noqa: N818
    """A reader of events fell behind its bound and was cut off; begin anew, from ``chat.snapshot``."""

    default_code = "events_overflow"
    default_temporary = True


def _object(details: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    found = (details or {}).get(name)
    return found if isinstance(found, Mapping) else {}


def error_from_wire(error: Mapping[str, Any]) -> Refused:
    """Make the typed error of an ``error`` object; an unknown code gives a plain ``Refused``."""
    code = str(error.get("code") or "internal")
    retry_after = error.get("retry_after_ms")
    details = error.get("details")
    return _BY_CODE.get(code, Refused)(
        str(error.get("message") or code),
        code=code,
        temporary=bool(error.get("temporary", False)),
        retry_after_ms=retry_after if isinstance(retry_after, int) else None,
        field=error.get("field"),
        details=details if isinstance(details, Mapping) else None,
        suggestion=error.get("suggestion"),
        docs=error.get("docs"),
    )

"""From a frame to its one answer: the table of handlers, and the one error ladder.

Whatever a handler raises becomes a typed refusal here and nowhere else; what nobody foresaw is logged
with its ids and told as ``internal``, without a word of what happened.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from protocol import frames as wire
from protocol.errors import ErrorCode, Refused
from server.delivery import frames
from server.handlers import (
    acceptance,
    auth,
    cancel,
    clarification,
    history,
    process,
    reset,
    state,
    subscribe,
    typing,
    unsubscribe,
)
from server.handlers.services import Caller, Services
from server.telemetry.logs import STORE_UNAVAILABLE
from storage.base import StoreUnavailable

Handler = Callable[[Any, Caller, Services], Awaitable[bytes | None]]

HANDLERS: Final[Mapping[type, Handler]] = {
    wire.Process: process.handle,
    wire.State: state.handle,
    wire.Reset: reset.handle,
    wire.Cancel: cancel.handle,
    wire.Acceptance: acceptance.handle,
    wire.Clarification: clarification.handle,
    wire.History: history.handle,
    wire.Subscribe: subscribe.handle,
    wire.Unsubscribe: unsubscribe.handle,
    wire.Typing: typing.handle,
    wire.Auth: auth.handle,
}
"""``hello`` is not here: its refusal ends the connection (``gateway.websocket``)."""

RETRY_STORE_MS: Final = 1000

_log = structlog.get_logger(__name__)


async def dispatch(frame: Any, caller: Caller, services: Services) -> bytes | None:
    """Return the frame's ``ack`` or ``error``; None where the handler has answered, or there is no answer.

    Never raises but for cancellation.
    """
    try:
        return await HANDLERS[type(frame)](frame, caller, services)
    except Exception as error:  # noqa: BLE001 - this is the ladder
        refused = refusal_of(error, frame=frame.type, connection_id=caller.connection_id)
        services.metrics.errors[refused.code.value] += 1
        frame_id = getattr(frame, "id", None)
        return frames.error(frame_id, refused) if frame_id is not None else None


def refusal_of(error: Exception, **ids: str | None) -> Refused:
    """Return what a peer is told of ``error``; the unforeseen is logged with ``ids``."""
    match error:
        case Refused():
            return error
        case StoreUnavailable():
            _log.warning(STORE_UNAVAILABLE, error=str(error), **ids)
            return Refused(
                ErrorCode.STORE_UNAVAILABLE,
                "The store cannot serve now.",
                retry_after_ms=RETRY_STORE_MS,
                suggestion="Send it again with the same idempotency key.",
            )
        case _:
            _log.error("unforeseen", exc_info=error, **ids)
            return Refused(
                ErrorCode.INTERNAL,
                "Something went wrong here; it was logged.",
                retry_after_ms=RETRY_STORE_MS,
            )

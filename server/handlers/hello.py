"""``hello``: who is there, what they want to watch, and the ``welcome`` that says what the server knows."""

from typing import Any

import orjson

from protocol.errors import ErrorCode, Refused
from protocol.frames import SUBPROTOCOL, Hello
from server.delivery.hub import Standing
from server.handlers.services import Caller, Services

PING_INTERVAL_S = 25


async def handle(frame: Hello, caller: Caller, services: Services) -> None:
    """Authenticate the connection and send ``welcome``, then replay or snapshot if it names a conversation.

    Raises:
        Refused: the credential or the conversation is refused; nothing was sent.
        ConnectionClosing: the principal has too many connections.
        StoreUnavailable: nothing was sent.
    """
    token = frame.token or caller.bearer
    if not token:
        raise Refused(
            ErrorCode.UNAUTHORIZED,
            "hello brings no token.",
            field="token",
            suggestion='{"type": "hello", "id": "1", "token": "..."}; `parley token` makes one.',
        )
    caller.enter(await services.credentials.principal(token, caller.origin))
    caller.locale, caller.timezone = frame.locale, frame.timezone

    def reply(standing: Standing) -> bytes:
        return welcome(frame.id, caller, services, standing)

    if frame.conversation_id is None:
        caller.outbox.put(welcome(frame.id, caller, services, None))
    else:
        await services.hub.subscribe(caller, frame.conversation_id, frame.resume, reply)


def welcome(frame_id: str, caller: Caller, services: Services, standing: Standing | None) -> bytes:
    """Return the ``welcome`` frame; ``standing`` None: it only authenticated."""
    principal = caller.principal
    expires_in: int | None = None
    if principal.expires_at is not None:
        expires_in = max(0, int(principal.expires_at - services.wall_s()))
    fields: dict[str, Any] = {
        "type": "welcome",
        "id": frame_id,
        "connection_id": caller.connection_id,
        "protocol": SUBPROTOCOL,
        "conversation_id": standing.conversation_id if standing else None,
        "epoch": standing.epoch if standing else None,
        "offset": standing.offset if standing else 0,
        "recovered": standing.recovered if standing else True,
        "principal": principal.to_wire(),
        "ping_interval": PING_INTERVAL_S,
        "token_expires_in": expires_in,
        "limits": {
            "max_frame_bytes": services.limits.max_frame_bytes,
            "frames_per_second": services.frames_per_second,
        },
    }
    return orjson.dumps(fields)

"""The five commands: from a validated frame to the engine, and its acceptance back as an ``ack``.

``process reset cancel acceptance clarification`` differ in what the engine makes of them, not here.
"""

import secrets
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from protocol.codec import command_body, hash_body
from protocol.errors import ErrorCode, Refused
from protocol.frames import Acceptance, Cancel, Clarification, Process, Reset
from server.auth.principal import Principal
from server.delivery import frames
from server.delivery.audience import audience_of, turn_view
from server.engine.types import Accepted, Command
from server.handlers.services import Caller, Services

CommandFrame = Process | Reset | Acceptance | Clarification | Cancel


async def submit(frame: CommandFrame, caller: Caller, services: Services) -> bytes:
    """Have a command accepted; return its ``ack``.

    Raises:
        Refused: by the engine, or ``permission_denied`` for another tenant or user in the frame.
    """
    principal = caller.principal
    command = command_of(frame, principal, locale=caller.locale, timezone=caller.timezone)
    accepted = await accept(command, principal, services)
    return acknowledge(frame.id, accepted, principal, command.body["user_id"])


def command_of(
    frame: CommandFrame,
    principal: Principal,
    *,
    locale: str | None = None,
    timezone: str | None = None,
    correlation_id: str | None = None,
    request_id: str | None = None,
) -> Command:
    """Return the engine's command of a frame. Raises Refused: another tenant or user is named."""
    body = command_body(frame)
    user_id = acting_user(principal, body.get("user_id"))
    require_tenant(principal, body.get("tenant_id"))
    body_hash = hash_body(body, user_id)
    body["user_id"] = user_id
    key = frame.idempotency_key or secrets.token_hex(16)
    return Command(
        frame.type, frame.conversation_id, key, body_hash, body, correlation_id, request_id, locale, timezone
    )


async def accept(command: Command, principal: Principal, services: Services) -> Accepted:
    """Have the engine accept a command, and count its turn. Raises Refused, StoreUnavailable."""
    arrived = perf_counter()
    accepted = await services.engine.submit(command, principal)
    if accepted.result is not None and not accepted.duplicate:
        services.metrics.turn_seconds.observe(perf_counter() - arrived)
    return accepted


def acting_user(principal: Principal, named: str | None) -> str:
    """Return the user that a command acts for: oneself, or with ``users:act`` whoever is named."""
    if named is None or named == principal.user_id:
        return principal.user_id
    if not principal.may("users:act"):
        raise Refused(
            ErrorCode.PERMISSION_DENIED,
            "user_id names another user; that takes the scope users:act.",
            field="user_id",
            suggestion="Leave user_id out to act for yourself.",
        )
    return named


def require_tenant(principal: Principal, named: str | None) -> None:
    """Refuse a ``tenant_id`` that is not the credential's."""
    if named is not None and named != principal.tenant_id:
        raise Refused(
            ErrorCode.PERMISSION_DENIED,
            "tenant_id is not the tenant of your token.",
            field="tenant_id",
            suggestion="Leave tenant_id out; the token decides.",
        )


def acknowledge(frame_id: str, accepted: Accepted, principal: Principal, user_id: str) -> bytes:
    """Return the ``ack`` of an accepted command, its result filtered for who asked."""
    return frames.ack(
        frame_id,
        duplicate=accepted.duplicate,
        command_id=accepted.command_id,
        status=accepted.status,
        execution_id=accepted.execution_id,
        epoch=accepted.epoch,
        offset=accepted.offset,
        result=result_for(accepted, principal, user_id),
    )


def result_for(accepted: Accepted, principal: Principal, user_id: str | None) -> Mapping[str, Any] | None:
    """Return the ended turn's data as who asked may see it; None while it runs."""
    result = accepted.result
    if result is None:
        return None
    audience = audience_of(principal, accepted.record)
    if audience is None and user_id is not None and user_id == accepted.record.user_id:
        audience = "owner"  # a service that acts for the owner sees what the owner sees
    return turn_view(result, audience) if audience is not None else None

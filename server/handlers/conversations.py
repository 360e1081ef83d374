"""Conversations by their id, as REST addresses them: say, wait, read, reset, delete.

What is missing, deleted, another tenant's or another owner's is answered alike: ``conversation_not_found``.
"""

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from protocol.codec import hash_body, validate
from protocol.errors import ErrorCode, Refused
from protocol.frames import Process, Reset
from server.auth.principal import Principal
from server.delivery.snapshot import Page, messages_page
from server.engine.reducer import conversation_not_found
from server.engine.types import Accepted, Command
from server.engine.views import current_state, iso, state_view
from server.handlers import past
from server.handlers.command import accept, command_of, result_for
from server.handlers.executions import Origin, Receipt, as_seen, page_of
from server.handlers.reading import existing
from server.handlers.services import Services
from storage.base import StoreUnavailable
from storage.listing import IDLE, ExecutionFilter, ListPlace
from storage.models import Conversation, Json

LOOK_S: Final = 2.0
"""While a turn is waited for the store is looked at this often, even where nobody says that it has ended."""
HISTORY_BYTES: Final = 4 * 1024 * 1024


# --- commands -------------------------------------------------------------------------------------


def command(
    services: Services,
    principal: Principal,
    kind: str,
    conversation_id: str,
    body: Mapping[str, Json],
    origin: Origin,
) -> Command:
    """Return the command of a ``process`` or ``reset``, the same as the frame's. Raises Refused."""
    key = _one_key(origin.key, body.get("idempotency_key"))
    fields = {**body, "type": kind, "id": "-", "conversation_id": conversation_id, "idempotency_key": key}
    frame = validate(fields, services.limits)
    assert isinstance(frame, Process | Reset)
    return command_of(frame, principal, correlation_id=origin.correlation_id, request_id=origin.request_id)


def amendment(
    principal: Principal, conversation_id: str, body: Mapping[str, Json], origin: Origin
) -> Command:
    """Return the command that sets slots and variables; ``body`` is a validated ``ContextBody``."""
    fields = {**body, "type": "context", "conversation_id": conversation_id}
    return Command(
        "context",
        conversation_id,
        origin.key or secrets.token_hex(16),
        hash_body(fields, principal.user_id),
        {**fields, "user_id": principal.user_id},
        correlation_id=origin.correlation_id,
        request_id=origin.request_id,
    )


def _one_key(header: str | None, field: str | None) -> str | None:
    if header is not None and field is not None and header != field:
        raise Refused(
            ErrorCode.BAD_REQUEST,
            "The header Idempotency-Key and idempotency_key differ.",
            field="idempotency_key",
            suggestion="Send one of them.",
        )
    return header or field


async def settled(services: Services, command: Command, principal: Principal, seconds: float) -> Accepted:
    """Have a command accepted and wait for the end of its turn, ``seconds`` at most. Raises Refused.

    Once it is accepted nothing is raised any more: what cannot be found out is answered as it was known.
    """
    accepted = await accept(command, principal, services)
    turns = services.hub.turns
    if accepted.result is not None or not seconds or turns.closed:
        return accepted
    loop = asyncio.get_running_loop()
    end, ended = loop.time() + seconds, asyncio.Event()
    turn = (principal.tenant_id, command.conversation_id, command.key)
    async with services.hub.watch_turn(turn, ended.set):
        while True:
            ended.clear()
            accepted = await look_again(services, command, principal, accepted)
            left_s = end - loop.time()
            if accepted.result is not None or left_s <= 0 or turns.closed:
                return accepted
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LOOK_S)):
                    await ended.wait()


async def look_again(services: Services, command: Command, principal: Principal, known: Accepted) -> Accepted:
    """Return how an accepted command stands now: sent again, it changes nothing."""
    try:
        now = await services.engine.submit(command, principal)
    except (Refused, StoreUnavailable):
        return known  # it was deleted, the server stops, the store is away: none of that undoes it
    return replace(now, duplicate=known.duplicate)


def receipt(accepted: Accepted, command: Command, principal: Principal) -> Receipt:
    """Return what REST answers of an accepted command."""
    result = result_for(accepted, principal, command.body["user_id"])
    return Receipt(accepted, command.conversation_id, result)


# --- reading --------------------------------------------------------------------------------------


async def list_conversations(
    services: Services,
    principal: Principal,
    wanted: ExecutionFilter,
    *,
    after: ListPlace | None,
    limit: int,
    count: bool,
) -> tuple[list[dict[str, Any]], ListPlace | None, int | None]:
    """Return a page of what ``principal`` may see, the place behind it, and with ``count`` how many in all.

    Without a scope that reads others' conversations that is one's own.
    """
    seen = as_seen(wanted, principal)
    if seen is None:
        return [], None, 0 if count else None
    store, tenant_id = services.store, principal.tenant_id
    page, behind = await page_of(store.conversations, tenant_id, seen, after, limit)
    total = await store.count_conversations(tenant_id, seen) if count else None
    return [_summary(item.record) for item in page], behind, total


def _summary(record: Conversation) -> dict[str, Any]:
    """Return what lists show of a conversation: where it stands, and nothing of what was said."""
    execution = record.execution
    return {
        "conversation_id": record.conversation_id,
        "user_id": record.user_id,
        "project_id": record.project_id,
        "status": execution.status if execution else IDLE,
        "current_state": current_state(record),
        "flow_id": execution.flow_id if execution else None,
        "flow_version": execution.flow_version if execution else None,
        "execution_id": execution.execution_id if execution else None,
        "channel": record.channel,
        "message_count": record.message_count,
        "created_at": iso(record.created_at),
        "last_activity": iso(record.last_activity),
        "epoch": record.epoch,
        "offset": record.offset,
    }


async def show_conversation(services: Services, principal: Principal, conversation_id: str) -> dict[str, Any]:
    """Return what lists show of a conversation, and who is connected to it. Raises Refused.

    ``presence`` is for those who help; the owner gets null.
    """
    record, audience = await existing(services, principal, conversation_id)
    presence = None
    if audience != "owner":
        present = await services.presence.present(principal.tenant_id, conversation_id)
        presence = [{"user_id": one.user_id, "connections": one.connections} for one in present]
    return {**_summary(record), "presence": presence}


async def show_state(services: Services, principal: Principal, conversation_id: str) -> dict[str, Any]:
    """Return the state record. Raises Refused."""
    record, audience = await existing(services, principal, conversation_id)
    return state_view(record, audience)


async def show_context(services: Services, principal: Principal, conversation_id: str) -> dict[str, Any]:
    """Return slots and variables, and where the conversation stood. Raises Refused."""
    state = await show_state(services, principal, conversation_id)
    names = ("conversation_id", "slots", "variables", "epoch", "offset")
    return {name: state[name] for name in names}


async def history(
    services: Services, principal: Principal, conversation_id: str, *, before: int | None, limit: int
) -> Page:
    """Return a page of messages, oldest first. Raises Refused."""
    record, audience = await existing(services, principal, conversation_id)
    return await messages_page(
        services.store, record, audience, before=before, limit=limit, max_bytes=HISTORY_BYTES
    )


async def delete(services: Services, principal: Principal, conversation_id: str) -> None:
    """Delete a conversation with all that was said in it. Raises Refused."""
    if not await services.engine.delete(principal.tenant_id, conversation_id, principal):
        raise conversation_not_found()
    await past.forget(services, principal.tenant_id, conversation_id)

"""Executions by their id: start, list, show, and the commands that REST addresses to one of them.

An execution of another tenant, of another owner without the scope, of a deleted conversation and none at
all are answered alike: ``execution_not_found``. What a command does is the engine's to say, an answer to a
key that is known before everything else.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from protocol.codec import hash_body
from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.delivery.audience import audience_of
from server.delivery.executions import execution_view
from server.engine.types import Accepted, Command
from server.handlers.command import acting_user, require_tenant, result_for
from server.handlers.ids import new_conversation_id
from server.handlers.past import past_execution
from server.handlers.services import Services
from server.handlers.subscribe import execution_not_found
from storage.listing import ExecutionFilter, ExecutionPlace, Listed, ListPlace, deciders_of
from storage.models import Conversation, Json, Pending

Decision = Literal["acceptance", "clarification"]

READING: Final = ("conversations:read", "conversations:write", "conversations:inspect")
_NONE_OF_THEM: Final = "-"
"""The id of no request: the engine then answers a key that it knows, or ``pending_not_found``."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a request brought along: its ids, and the idempotency key if it has one."""

    correlation_id: str
    request_id: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A flow was started, or its start waits (``execution_id`` None)."""

    execution_id: str | None
    conversation_id: str
    correlation_id: str
    command_id: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A command for an execution was accepted."""

    accepted: Accepted
    conversation_id: str
    result: Mapping[str, Any] | None

    @property
    def ended(self) -> bool:
        """Whether its turn has ended already."""
        return self.accepted.status in ("completed", "failed")

    def to_wire(self) -> dict[str, Any]:
        """Return what REST answers: an ``ack`` with the conversation's id."""
        accepted = self.accepted
        return {
            "duplicate": accepted.duplicate,
            "command_id": accepted.command_id,
            "status": accepted.status,
            "conversation_id": self.conversation_id,
            "execution_id": accepted.execution_id,
            "epoch": accepted.epoch,
            "offset": accepted.offset,
            "result": self.result,
        }


# --- reading --------------------------------------------------------------------------------------


async def list_executions(
    services: Services, principal: Principal, wanted: ExecutionFilter, *, after: ListPlace | None, limit: int
) -> tuple[list[dict[str, Any]], ListPlace | None]:
    """Return a page of what ``principal`` may see, and the place behind it; None at the end.

    Without a scope that reads others' conversations that is one's own.
    """
    seen = as_seen(wanted, principal)
    if seen is None:
        return [], None
    page, behind = await page_of(services.store.executions, principal.tenant_id, seen, after, limit)
    views = [_view(item.record, principal) for item in page]
    return [view for view in views if view is not None], behind


def as_seen(wanted: ExecutionFilter, principal: Principal) -> ExecutionFilter | None:
    """Narrow a filter to what ``principal`` may see; None: that is nothing."""
    if any(principal.may(scope) for scope in READING):
        return wanted
    if wanted.user_id not in (None, principal.user_id):
        return None
    return replace(wanted, user_id=principal.user_id)


async def page_of(
    query: Callable[..., Awaitable[list[Listed]]],
    tenant_id: str,
    wanted: ExecutionFilter,
    after: ListPlace | None,
    limit: int,
) -> tuple[list[Listed], ListPlace | None]:
    """Return a page of a store's list, and the place behind it; None at the end."""
    found = await query(tenant_id, wanted, after=after, limit=limit + 1)
    page = found[:limit]
    if not page:
        return [], None
    place = page[-1].place
    more = len(found) > limit or bool(await query(tenant_id, wanted, after=place, limit=1))
    return page, place if more else None


def _view(record: Conversation, principal: Principal) -> dict[str, Any] | None:
    audience = audience_of(principal, record)
    if record.execution is None or audience is None:
        return None
    return execution_view(record.execution, record, audience)


async def show_execution(services: Services, principal: Principal, execution_id: str) -> dict[str, Any]:
    """Return an execution, the current one of its conversation or a former one. Raises Refused."""
    place, record = await _find(services, principal, execution_id)
    audience = audience_of(principal, record)
    if audience is None:
        raise execution_not_found()
    execution = record.execution
    if execution is None or execution.execution_id != execution_id:
        before = place.first_offset - 1
        hidden = audience != "full" and before < record.reset_offset
        execution = None if hidden else await past_execution(services, record, execution_id, after=before)
    if execution is None:
        raise execution_not_found()
    return execution_view(execution, record, audience)


async def _find(
    services: Services, principal: Principal, execution_id: str
) -> tuple[ExecutionPlace, Conversation]:
    place = await services.store.find_execution(principal.tenant_id, execution_id)
    if place is None:
        raise execution_not_found()
    record = await services.engine.read(principal.tenant_id, place.conversation_id)
    if record is None or record.deleted_at is not None:
        raise execution_not_found()
    return place, record


# --- starting -------------------------------------------------------------------------------------


async def start_flow(
    services: Services, principal: Principal, flow_id: str, body: Mapping[str, Json], origin: Origin
) -> Started:
    """Start a flow; ``body`` is a validated ``StartBody``. Raises Refused.

    A key without a conversation id makes the same conversation again, so that sending it again finds it.
    """
    require_tenant(principal, body["tenant_id"])
    named = body["user_id"]
    nobodys = named is None and principal.may("conversations:write")
    user_id = None if nobodys else acting_user(principal, named)
    key = origin.key or secrets.token_hex(16)
    conversation_id = body["conversation_id"] or new_conversation_id(principal, origin.key, "start")
    origin = Origin(
        body["correlation_id"] or origin.correlation_id, body["request_id"] or origin.request_id, key
    )
    sent = {
        name: value
        for name, value in body.items()
        if name not in ("tenant_id", "correlation_id", "request_id", "conversation_id")
    }
    command = {**sent, "type": "start", "conversation_id": conversation_id, "flow_id": flow_id}
    accepted = await _submit(services, principal, command, command, user_id, origin)
    execution = accepted.record.execution
    correlation_id = origin.correlation_id
    if execution is not None and execution.execution_id == accepted.execution_id:
        correlation_id = execution.correlation_id or correlation_id
    return Started(accepted.execution_id, conversation_id, correlation_id, accepted.command_id)


# --- commands -------------------------------------------------------------------------------------


async def command_execution(
    services: Services,
    principal: Principal,
    kind: str,
    execution_id: str,
    body: Mapping[str, Json],
    origin: Origin,
) -> Receipt:
    """Pause, resume, cancel, retry or signal an execution. Raises Refused."""
    _, record = await _find(services, principal, execution_id)
    command = {
        **body,
        "type": kind,
        "conversation_id": record.conversation_id,
        "execution_id": execution_id,
    }
    try:
        accepted = await _submit(services, principal, command, command, principal.user_id, origin)
    except Refused as refused:
        raise _of_execution(refused) from None
    return _receipt(accepted, record.conversation_id, principal, principal.user_id)


async def decide_execution(
    services: Services,
    principal: Principal,
    kind: Decision,
    execution_id: str,
    body: Mapping[str, Json],
    origin: Origin,
) -> Receipt:
    """Decide an acceptance or answer a clarification of an execution. Raises Refused."""
    user_id = acting_user(principal, body["user_id"])
    _, record = await _find(services, principal, execution_id)
    requests = _requests(record, execution_id, kind)
    if audience_of(principal, record) is None:
        # Whoever sees nothing else of it may still decide, or be told again what became of their decision.
        requests = [pending for pending in requests if _is_for(pending, record, principal, user_id)]
    sent = {**body, "type": kind, "conversation_id": record.conversation_id}
    pending_id = body["pending_id"]
    if pending_id is None:
        sent["execution_id"] = (
            execution_id  # it says which request is meant; else the frame's hash is the same
        )
        pending_id = await _only_request(services, record, requests, kind, origin.key)
    elif all(p.pending_id != pending_id for p in requests):
        pending_id = _NONE_OF_THEM
    command = {**sent, "pending_id": pending_id}
    try:
        accepted = await _submit(services, principal, command, sent, user_id, origin)
    except Refused as refused:
        raise _of_execution(refused) from None
    return _receipt(accepted, record.conversation_id, principal, user_id)


def _requests(record: Conversation, execution_id: str, kind: Decision) -> list[Pending]:
    """Return the requests of a kind that the execution has, decided ones included."""
    execution = record.execution
    if execution is None or execution.execution_id != execution_id:
        return []
    return [pending for pending in execution.pending if pending.kind == kind]


def _is_for(pending: Pending, record: Conversation, principal: Principal, user_id: str) -> bool:
    return not set(deciders(principal, user_id)).isdisjoint(deciders_of(pending, record.user_id))


def deciders(principal: Principal, user_id: str | None = None) -> list[str]:
    """Return as what a principal decides: itself, or whom it acts for, and each scope that it has."""
    return [f"user:{user_id or principal.user_id}", *(f"scope:{scope}" for scope in sorted(principal.scopes))]


async def _only_request(
    services: Services, record: Conversation, requests: list[Pending], kind: Decision, key: str | None
) -> str:
    """Return the one open request; where none is, the last that was decided, so that it is told by whom.

    A key that is known is answered by the engine, whatever is open now.
    """
    open_ones = [pending for pending in requests if pending.decided is None]
    if len(open_ones) == 1:
        return open_ones[0].pending_id
    if not open_ones:
        return requests[-1].pending_id if requests else _NONE_OF_THEM
    if key is not None and await _is_known(services, record, key):
        return _NONE_OF_THEM
    raise Refused(
        ErrorCode.BAD_REQUEST,
        f"More than one {kind} is open; pending_id says which is meant.",
        field="pending_id",
        details={"pending": [pending.pending_id for pending in open_ones]},
    )


async def _is_known(services: Services, record: Conversation, key: str) -> bool:
    if any(known.key == key for known in record.recent):
        return True
    return await services.store.find_key(record.tenant_id, record.conversation_id, key) is not None


async def _submit(
    services: Services,
    principal: Principal,
    body: Mapping[str, Json],
    sent: Mapping[str, Json],
    user_id: str | None,
    origin: Origin,
) -> Accepted:
    """Have the engine accept a command. ``sent`` is what its hash covers: the same whenever it is resent."""
    command = Command(
        body["type"],
        body["conversation_id"],
        origin.key or secrets.token_hex(16),
        hash_body(sent, user_id or ""),
        {**body, "user_id": user_id},
        correlation_id=origin.correlation_id,
        request_id=origin.request_id,
    )
    return await services.engine.submit(command, principal)


def _of_execution(refused: Refused) -> Refused:
    """Say of the execution, by which it was addressed, what the engine says of the conversation."""
    if refused.code is ErrorCode.CONVERSATION_NOT_FOUND:
        return execution_not_found()
    if refused.code is ErrorCode.EXECUTION_NOT_FOUND:
        return Refused(
            ErrorCode.WRONG_STATE,
            "This execution has ended, and its conversation has gone on to another.",
            field="execution_id",
        )
    return refused


def _receipt(accepted: Accepted, conversation_id: str, principal: Principal, user_id: str) -> Receipt:
    return Receipt(accepted, conversation_id, result_for(accepted, principal, user_id))

"""What waits for people: open acceptances and clarifications, and hand-offs, of a whole tenant.

Everybody sees what they may decide: their own, and what their scopes let them see to.
"""

from typing import Any, Final

from server.auth.principal import Principal
from server.engine.views import iso, pending_view
from server.handlers.executions import deciders
from server.handlers.services import Services
from storage.listing import Waiting, WaitPlace
from storage.models import Conversation

CLOSED: Final = frozenset({"pending.resolved", "pending.expired"})
RECENT_EVENTS: Final = 200
"""How far back it is looked for how a request was closed; a stream looks seconds after it was."""


async def inbox_page(
    services: Services, principal: Principal, *, after: WaitPlace | None, limit: int
) -> tuple[list[dict[str, Any]], WaitPlace | None]:
    """Return the oldest items behind ``after``, and the place behind them; None at the end."""
    found = await waiting(services, principal, after=after, limit=limit + 1)
    items = [await inbox_item(services, principal, item) for item in found[:limit]]
    place = found[limit - 1].place if len(found) > limit else None
    return [item for item in items if item is not None], place


async def waiting(
    services: Services, principal: Principal, *, after: WaitPlace | None, limit: int
) -> list[Waiting]:
    """Return what waits for ``principal``, the oldest first."""
    return await services.store.waiting(principal.tenant_id, deciders(principal), after=after, limit=limit)


async def inbox_item(services: Services, principal: Principal, item: Waiting) -> dict[str, Any] | None:
    """Return an item as the API shows it, or None where it has been settled meanwhile."""
    record = await services.engine.read(principal.tenant_id, item.conversation_id)
    return _item_of(record, item) if record is not None else None


def _item_of(record: Conversation, item: Waiting) -> dict[str, Any] | None:
    execution = record.execution
    if execution is None:
        return None
    pending = None
    if item.kind == "handoff":
        if execution.execution_id != item.place.wait_id or execution.status != "paused":
            return None
    else:
        asked = (p for p in execution.pending if p.pending_id == item.place.wait_id and p.decided is None)
        pending = next(asked, None)
        if pending is None:
            return None
    return {
        "kind": item.kind,
        "wait_id": item.place.wait_id,
        "since": iso(item.place.since),
        "conversation_id": record.conversation_id,
        "execution_id": execution.execution_id,
        "flow_id": execution.flow_id,
        "flow_version": execution.flow_version,
        "project_id": execution.project_id,
        "user_id": record.user_id,
        "step_id": execution.current_step_id if pending is None else pending.step_id,
        "pending": None if pending is None else pending_view(pending),
    }


async def settled_item(services: Services, principal: Principal, item: Waiting) -> dict[str, Any]:
    """Return what is told of an item that waits no more: how it was decided, where that is still known."""
    record = await services.engine.read(principal.tenant_id, item.conversation_id)
    decided = None
    if record is not None and record.deleted_at is None and item.kind != "handoff":
        decided = await _decided(services, record, item.place.wait_id)
    return {
        "kind": item.kind,
        "wait_id": item.place.wait_id,
        "conversation_id": item.conversation_id,
        "decided": decided,
    }


async def _decided(services: Services, record: Conversation, pending_id: str) -> Any:
    """Return how a request was closed, as the newest events say; the record forgets it when it goes on."""
    batches = await services.store.events(
        record.tenant_id, record.conversation_id, record.epoch, max(0, record.offset - RECENT_EVENTS)
    )
    for event in (event for batch in reversed(batches) for event in batch.events):
        if event.type in CLOSED and event.data["pending_id"] == pending_id:
            return event.data["decided"]
    return None

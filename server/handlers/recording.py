"""A conversation written down as a test, from as much of its log as whoever asks may see."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.delivery.audience import event_views
from server.delivery.snapshot import visible_from
from server.engine.catalog import Catalog
from server.engine.flow.model import Flow
from server.handlers.reading import existing
from server.handlers.services import Services
from server.testing.recording import as_yaml, has_insight, record
from server.testing.runner import action_names
from storage.models import Conversation, Event

MAX_EVENTS: Final = 2_000
MAX_BYTES: Final = 2 * 1024 * 1024
"""Of stored events; what is longer than either is no test that anybody would read."""


async def recorded(services: Services, catalog: Catalog, principal: Principal, conversation_id: str) -> str:
    """Return a conversation as a test file, from its beginning or its last reset; ``pii`` slots are masked.

    Raises:
        Refused: ``conversation_not_found``; ``payload_too_large`` beyond ``MAX_EVENTS`` or ``MAX_BYTES``;
            ``wrong_state`` where a flow of it is gone, so that nobody could tell what is personal.
    """
    conversation, audience = await existing(services, principal, conversation_id)
    events = await _events(services, conversation, visible_from(conversation, audience))
    ran = await _ran(catalog, conversation, events)
    shown = event_views(events, audience, conversation.user_id)
    return await asyncio.to_thread(_written, conversation, shown, ran, _others(catalog, ran))


def _written(
    conversation: Conversation, events: Sequence[Mapping[str, Any]], ran: list[Flow], others: list[Flow]
) -> str:
    test = record(
        "Recorded chat",
        events,
        [*ran, *others],
        owner=conversation.user_id,
        timezone=conversation.timezone,
        locale=conversation.locale,
    )
    return as_yaml([test], insight=has_insight(events) or not action_names(ran))


async def _events(services: Services, record: Conversation, after: int) -> list[Event]:
    """Return all events behind ``after`` up to where ``record`` stands."""
    if record.offset - after > MAX_EVENTS:
        raise _too_long()
    batches = await services.store.events(
        record.tenant_id, record.conversation_id, record.epoch, after,
        limit=2 * MAX_EVENTS, max_bytes=MAX_BYTES,
    )  # fmt: skip
    events = [event for batch in batches for event in batch.events if after < event.offset <= record.offset]
    if len(events) < record.offset - after:
        raise _too_long()
    return events


async def _ran(catalog: Catalog, record: Conversation, events: Sequence[Event]) -> list[Flow]:
    """Return the versions of the flows that ran, as far as events and record name them."""
    named = {(event.data["flow_id"], event.data["flow_version"]) for event in events if _names_flow(event)}
    if record.execution is not None:
        named |= {(frame.flow_id, frame.version) for frame in record.execution.frames}
        named |= set(record.execution.subflows.items())
    keys = sorted(named)
    await catalog.load_versions([key for key in keys if catalog.version(*key) is None])
    flows = [flow for key in keys if (flow := catalog.version(*key)) is not None]
    if len(flows) < len(keys):
        raise Refused(
            ErrorCode.WRONG_STATE,
            "A flow of this conversation is not there any more, so that nobody knows what in it is personal.",
            suggestion="Begin a new conversation and record that.",
        )
    return flows


def _names_flow(event: Event) -> bool:
    return event.data.get("flow_id") is not None and event.data.get("flow_version") is not None


def _others(catalog: Catalog, ran: Sequence[Flow]) -> list[Flow]:
    """Return the other flows that there are: a digression is named by no event."""
    newest = (catalog.newest(flow_id) for flow_id in catalog.flow_ids())
    return [started.flow for started in newest if started is not None and started.flow not in ran]


def _too_long() -> Refused:
    return Refused(
        ErrorCode.PAYLOAD_TOO_LARGE,
        f"This conversation is too long for a test: it has more than {MAX_EVENTS} events, or "
        f"{MAX_BYTES // 1024 // 1024} MiB of them.",
        suggestion="Begin a new conversation and record that.",
    )

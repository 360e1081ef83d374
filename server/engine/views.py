"""What the API shows of a record: the ``state`` record, pending requests, times."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from storage.models import ENDED, Audience, Conversation, Execution, Pending


@lru_cache(maxsize=64)
def iso(ms: int) -> str:
    """Return ``ms`` since the epoch as ISO 8601 UTC with milliseconds: ``2026-01-01T00:00:00.000Z``.

    A turn asks for its own time again and again.
    """
    second, millis = divmod(ms, 1000)
    return f"{_second(second)}.{millis:03d}Z"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def pending_view(pending: Pending) -> dict[str, Any]:
    """Return a pending record as the API shows it."""
    return {
        "pending_id": pending.pending_id,
        "kind": pending.kind,
        "step_id": pending.step_id,
        "title": pending.title,
        "prompt": pending.prompt,
        "questions": [
            {"id": q.id, "text": q.text, "type": q.type, "options": list(q.options), "required": q.required}
            for q in pending.questions
        ],
        "editable": list(pending.editable),
        "by": dict(pending.by) if pending.by is not None else None,
        "answers": dict(pending.answers),
        "votes": [decision_view(vote) for vote in pending.votes],
        "digest": pending.digest,
        "deadline": iso(pending.deadline) if pending.deadline is not None else None,
        "created_at": iso(pending.created_at),
        "decided": decision_view(pending.decided) if pending.decided is not None else None,
    }


def decision_view(decided: Mapping[str, Any]) -> dict[str, Any]:
    """Return a vote, or what closed a request, as the API shows it: ``at`` as text."""
    return {**decided, "at": iso(decided["at"])}


def pending_visible(pending: Pending, audience: Audience, owner: str | None) -> bool:
    """Tell whether ``audience`` sees this request: the owner only what is theirs to answer."""
    if audience != "owner" or pending.by is None:
        return True
    return owner is not None and pending.by.get("user") == owner


def open_pending(execution: Execution | None) -> tuple[Pending, ...]:
    """Return the requests that wait for an answer."""
    if execution is None:
        return ()
    return tuple(pending for pending in execution.pending if pending.decided is None)


def current_state(record: Conversation) -> str:
    """Return the id of the step that the execution stands at; ``idle`` when there is none, or it ended."""
    execution = record.execution
    if execution is None or execution.status in ENDED:
        return "idle"
    return execution.current_step_id or "idle"


def state_view(record: Conversation, audience: Audience) -> dict[str, Any]:
    """Return the state record, as far as ``audience`` may see it.

    The owner sees slots and exposed variables, an agent all pending requests but no slots, and
    ``full`` everything.
    """
    execution = record.execution
    exposed = execution.exposed if execution else ()
    variables = record.variables
    if audience != "full":
        variables = {name: value for name, value in variables.items() if name in exposed}
    return {
        "conversation_id": record.conversation_id,
        "current_state": current_state(record),
        "status": execution.status if execution else "idle",
        "flow_id": execution.flow_id if execution else None,
        "flow_version": execution.flow_version if execution else None,
        "user_id": record.user_id,
        "channel": record.channel,
        "locale": record.locale,
        "slots": {} if audience == "agent" else dict(record.slots),
        "variables": dict(variables),
        "pending": [
            pending_view(pending)
            for pending in open_pending(execution)
            if pending_visible(pending, audience, record.user_id)
        ],
        "completed_steps": list(execution.completed_steps) if execution else [],
        "created_at": iso(record.created_at),
        "last_activity": iso(record.last_activity),
        "message_count": record.message_count,
        "epoch": record.epoch,
        "offset": record.offset,
    }

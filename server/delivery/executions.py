"""Execution records as the API shows them, the current ones and those that the log alone remembers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server.engine.views import iso, pending_view, pending_visible
from storage.base import ConversationStore
from storage.models import ENDED, Attempt, Audience, Conversation, Event, Execution, Frame, Pending

STEPS_KEPT = 500
"""How many of its completed steps a record names; the engine keeps as many."""


def execution_view(execution: Execution, record: Conversation, audience: Audience) -> dict[str, Any]:
    """Return an execution of ``record`` as far as ``audience`` may see it.

    ``pending`` has open and decided requests; ``pending_acceptance`` and ``pending_clarification`` are the
    first open ones of their kinds. Frames, with their variables, and attempts are for ``full`` alone.
    """
    visible = [p for p in execution.pending if pending_visible(p, audience, record.user_id)]
    pause, timer_at = execution.pause, execution.timer_at
    view = {
        "execution_id": execution.execution_id,
        "conversation_id": record.conversation_id,
        "project_id": execution.project_id,
        "user_id": execution.user_id,
        "flow_id": execution.flow_id,
        "flow_version": execution.flow_version,
        "variant": execution.variant,
        "status": execution.status,
        "input": execution.input,
        "output": execution.output,
        "error": dict(execution.error) if execution.error is not None else None,
        "current_step_id": execution.current_step_id,
        "completed_steps": list(execution.completed_steps),
        "pending": [pending_view(p) for p in visible],
        "pending_acceptance": _first_open(visible, "acceptance"),
        "pending_clarification": _first_open(visible, "clarification"),
        "timer_at": None if timer_at is None else iso(timer_at),
        "awaits": execution.awaits,
        "pause": None if pause is None else {
            "by": pause.by,
            "reason": pause.reason,
            "since": iso(pause.since),
            "deadline": None if pause.deadline is None else iso(pause.deadline),
        },
        "command_id": execution.command_id,
        "correlation_id": execution.correlation_id,
        "request_id": execution.request_id,
        "started_at": iso(execution.started_at),
        "updated_at": iso(execution.updated_at),
        "completed_at": None if execution.completed_at is None else iso(execution.completed_at),
    }  # fmt: skip
    if audience == "full":
        view["frames"] = [_frame_view(frame, record) for frame in execution.frames]
        view["attempts"] = [_attempt_view(attempt) for attempt in execution.attempts]
    return view


def _first_open(pending: list[Pending], kind: str) -> dict[str, Any] | None:
    return next((pending_view(p) for p in pending if p.kind == kind and p.decided is None), None)


def _frame_view(frame: Frame, record: Conversation) -> dict[str, Any]:
    """Return a frame; the variables of the outermost are the conversation's."""
    return {
        "frame": frame.frame,
        "parent": frame.parent,
        "flow_id": frame.flow_id,
        "version": frame.version,
        "step_id": frame.step_id,
        "variables": dict(record.variables if frame.parent is None else frame.variables),
        "visits": dict(frame.visits),
    }


def _attempt_view(attempt: Attempt) -> dict[str, Any]:
    return {
        "frame": attempt.frame,
        "step_id": attempt.step_id,
        "visit": attempt.visit,
        "key": attempt.key,
        "message_id": attempt.message_id,
        "number": attempt.number,
        "started_at": iso(attempt.started_at),
    }


async def former_execution(
    store: ConversationStore, record: Conversation, execution_id: str, *, after: int
) -> Execution | None:
    """Fold an execution that is not its conversation's current one from the events behind ``after``.

    What no event says is None: ``input``, ``project_id`` and the ids of the request that began it. None
    where its beginning is not among the events. Reads page by page, up to the execution that followed.
    """
    found: Execution | None = None
    while batches := await store.events(record.tenant_id, record.conversation_id, record.epoch, after):
        for event in (event for batch in batches for event in batch.events):
            if event.execution_id == execution_id:
                found = _folded(found, event, record.user_id)
            elif found is not None and event.type in ("execution.started", "conversation.reset"):
                return found
        after = batches[-1].last_offset
    return found


def _folded(before: Execution | None, event: Event, user_id: str | None) -> Execution | None:
    data: Mapping[str, Any] = event.data
    if before is None:
        if event.type != "execution.started":
            return None
        return Execution(
            event.execution_id or "",
            data["flow_id"],
            data["flow_version"],
            "running",
            user_id,
            command_id=event.command_id,
            started_at=event.time,
            updated_at=event.time,
        )
    after = replace(before, updated_at=event.time, current_step_id=event.step_id or before.current_step_id)
    if event.type == "step.completed" and event.step_id not in before.completed_steps:
        steps = (*before.completed_steps, event.step_id or "")
        return replace(after, completed_steps=steps[-STEPS_KEPT:])
    if event.type == "turn.completed":
        return replace(after, variant=data.get("ab_variant"))
    if not event.type.startswith("execution."):
        return after
    status = data["status"]
    return replace(
        after,
        status=status,
        output=data["output"],
        error=data["error"],
        completed_at=event.time if status in ENDED else None,
    )

"""The turn: opened by a command, ended by exactly one ``turn.completed`` or ``turn.failed``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from protocol.errors import Refused
from server.engine.draft import (
    SUMMARY_BYTES,
    VALUES_BYTES,
    Draft,
    newest_actions,
    newest_within,
    values_within,
)
from server.engine.inputs import Reduction
from server.engine.types import Command
from storage.models import ENDED, CommandState, OpenTurn, RecentKey


def open_turn(draft: Draft, command: Command) -> None:
    """Begin the turn of a command and remember its key."""
    draft.turn = OpenTurn(command.key, None, draft.now)
    draft.messages, draft.actions, draft.steps = [], [], 0
    draft.turn_slots, draft.turn_variables = {}, {}
    draft.remember(
        RecentKey(
            command.key,
            command.body_hash,
            "running",
            draft.execution.execution_id if draft.execution else None,
            draft.offset + 1,
            draft.offset + 1,
        )
    )


def end_turn(draft: Draft, *, error: Mapping[str, Any] | None = None) -> None:
    """Write the turn's one ``turn.completed`` or ``turn.failed``; a run without a command has none."""
    draft.flush_changes()
    turn = draft.turn
    if turn is None:
        return
    if turn.command_id is not None:
        data = _turn_data(draft, turn, error)
        draft.emit("turn.failed" if error else "turn.completed", data, step_id=draft.step_id)
        status: CommandState = "failed" if error else "completed"
        draft.results[turn.command_id] = (status, data)
        draft.settle_key(turn.command_id, status)
    draft.turn = None
    draft.messages, draft.actions, draft.steps = [], [], 0
    draft.turn_slots, draft.turn_variables = {}, {}


def _turn_data(draft: Draft, turn: OpenTurn, error: Mapping[str, Any] | None) -> dict[str, Any]:
    response: dict[str, Any] = {"messages": newest_within(draft.messages, SUMMARY_BYTES)}
    if len(response["messages"]) < len(draft.messages):
        response["truncated"] = True
    state = draft.step_id if draft.status not in ENDED and draft.execution is not None else None
    head = {
        "conversation_id": draft.before.conversation_id,
        "current_state": state or "idle",
        "response": response,
    }
    if error is not None:
        return {**head, "error": dict(error)}
    return {
        **head,
        "context_updates": {
            "slots": values_within(draft.turn_slots, VALUES_BYTES),
            "variables": values_within(draft.turn_variables, VALUES_BYTES),
        },
        "actions_performed": newest_actions(draft.actions),
        "processing_time_ms": max(0, draft.now - turn.started_at),
        "success": True,
        "ab_variant": draft.execution.variant if draft.execution else None,
    }


@contextmanager
def turn_aside(draft: Draft) -> Iterator[None]:
    """Let something else have its turn while the one that runs, if any, keeps all that it has gathered."""
    draft.flush_changes()
    if draft.turn is None:
        yield
        return
    kept = draft.turn, draft.messages, draft.actions, draft.steps, draft.turn_slots, draft.turn_variables
    draft.turn = None
    yield
    draft.flush_changes()
    draft.turn, draft.messages, draft.actions, draft.steps, draft.turn_slots, draft.turn_variables = kept


def open_run(draft: Draft, cause: str) -> None:
    """Begin a run that no command caused: it has no ``turn.*``, and its events name their cause."""
    draft.turn = OpenTurn(None, cause, draft.now)
    draft.messages, draft.actions, draft.steps = [], [], 0
    draft.turn_slots, draft.turn_variables = {}, {}


def refuse_turn(draft: Draft, command: Command, refused: Refused) -> None:
    """Settle a command whose turn came and which is refused: a turn that failed."""
    open_turn(draft, command)
    end_turn(draft, error=refused.to_wire())


def because(draft: Draft, cause: str | None) -> None:
    """Say in the rest of the turn's events why it goes on by itself."""
    draft.cause = cause
    if draft.turn is not None and cause is not None:
        draft.turn = replace(draft.turn, cause=cause)


def reduction(draft: Draft, key: str | None = None, body_hash: str | None = None) -> Reduction:
    """Return what the draft has become, for the runner to make durable."""
    record = draft.freeze()
    status: CommandState = "running"
    result = None
    if key is not None and key in draft.results:
        status, result = draft.results[key]
    return Reduction(
        record=record,
        events=tuple(draft.events),
        effects=tuple(draft.effects),
        key=key,
        body_hash=body_hash,
        status=status,
        result=result,
        unfinished=draft.unfinished,
    )

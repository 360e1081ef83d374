"""Each command in each status; see the table in ``server.engine.reducer``."""

from dataclasses import replace
from typing import Any

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.draft import Draft
from server.engine.folding.ending import end_execution
from server.engine.folding.messages import process
from server.engine.folding.turns import end_turn, open_turn
from server.engine.types import Command
from storage.models import ENDED


def run_command(draft: Draft, command: Command, principal: Principal, *, created: bool = False) -> None:
    """Fold one command that is accepted, or whose turn in the inbox has come. Raises Refused."""
    match command.type:
        case "process":
            process(draft, command, principal, created=created)
        case "reset":
            _reset(draft, command)
        case "cancel":
            _cancel(draft, command)
        case "acceptance" | "clarification":
            _decide(draft, command)
        case other:
            raise Refused(ErrorCode.UNKNOWN_TYPE, f'"{other}" is not a command.', field="type")


def _reset(draft: Draft, command: Command) -> None:
    _preempt(draft, "The conversation was reset.")
    open_turn(draft, command)
    if draft.execution is not None and draft.execution.status not in ENDED:
        draft.set_status("cancelled")
        draft.emit("execution.cancelled", draft.execution_data())
    draft.inbox = tuple(replace(entry, void=True) for entry in draft.inbox)
    draft.slots, draft.variables, draft.pending, draft.attempts = {}, {}, (), ()
    draft.execution, draft.frames, draft.completed, draft.exposed = None, [], [], ()
    draft.set_status("pending")
    draft.emit("conversation.reset", {"reason": command.body.get("reason", "manual_reset")})
    draft.reset_offset = draft.offset
    draft.last_activity = draft.now
    end_turn(draft)


def _cancel(draft: Draft, command: Command) -> None:
    execution = draft.execution
    wanted = command.body.get("execution_id")
    if execution is not None and wanted is not None and wanted != execution.execution_id:
        raise Refused(
            ErrorCode.EXECUTION_NOT_FOUND,
            "This is not the conversation's current execution.",
            field="execution_id",
        )
    if execution is None or execution.status in ENDED:
        raise Refused(
            ErrorCode.WRONG_STATE,
            "Nothing is running that could be cancelled.",
            details={"status": execution.status if execution else "idle"},
        )
    _preempt(draft, "The execution was cancelled.")
    open_turn(draft, command)
    end_execution(draft, "cancelled")
    end_turn(draft)


def _decide(draft: Draft, command: Command) -> None:
    """Acceptance and clarification: by their pending id, whatever the status."""
    pending_id = command.body["pending_id"]
    execution = draft.execution
    known = next((p for p in execution.pending if p.pending_id == pending_id), None) if execution else None
    if known is None or known.kind != command.type:
        raise Refused(ErrorCode.PENDING_NOT_FOUND, "There is no such open request.", field="pending_id")
    if known.decided is not None:
        raise Refused(
            ErrorCode.PENDING_RESOLVED,
            "This request has been answered.",
            details={"decided": dict(known.decided)},
        )
    raise Refused(ErrorCode.PENDING_EXPIRED, "This request can no longer be answered.", field="pending_id")


def _preempt(draft: Draft, reason: str) -> None:
    """End the running turn, and whatever effect it runs, because a command overrides it."""
    if draft.turn is None and not draft.attempts:
        return
    for attempt in draft.attempts:
        data: dict[str, Any] = {"visit": attempt.visit, "attempt": attempt.number, "error": None}
        code = "unknown" if attempt.may_have_written else "cancelled"
        data["error"] = {"code": code, "message": reason, "step_id": attempt.step_id, "details": None}
        draft.emit("step.failed", data, step_id=attempt.step_id, audience="full")
    draft.attempts = ()
    draft.preempts = True
    if draft.turn is not None:
        end_turn(draft, error=Refused(ErrorCode.CANCELLED, reason).to_wire())

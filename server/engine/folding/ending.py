"""How an execution ends: completed, failed, cancelled, interrupted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from protocol.errors import ERRORS, ErrorCode, Refused
from server.engine.draft import Draft, StepFailure, json_bytes
from server.engine.flow.expressions import ExpressionFailed
from server.engine.folding.requests import ask_input, withdraw
from server.engine.folding.turns import end_turn
from storage.models import ExecutionStatus


def end_execution(
    draft: Draft, status: ExecutionStatus, *, output: Any = None, error: Mapping[str, Any] | None = None
) -> None:
    """End the execution with ``status`` and its event; its turn is the caller's to end."""
    execution = draft.execution
    if execution is None:
        return
    draft.flush_changes()
    step_id = draft.step_id
    ask_input(draft, None)
    withdraw(draft, everything=True)
    draft.set_status(status)
    draft.attempts = ()
    draft.execution = replace(
        execution,
        output=output,
        error=error,
        current_step_id=step_id,
        completed_at=draft.now,
        pause=None,
    )
    data = draft.execution_data(output=output, error=error)
    draft.emit(f"execution.{status}", data, step_id=step_id, size=json_bytes(output))


def fail_execution(draft: Draft, failure: StepFailure) -> None:
    """End execution and turn because a step failed and nothing catches it."""
    step_id = draft.step_id
    end_execution(draft, "failed", error=step_error(failure, step_id))
    end_turn(draft, error=wire_error(failure.code, failure.reason, step_id, failure.details))


def abandon_attempts(draft: Draft, reason: str) -> None:
    """Give up whatever effect runs; who runs it sees the fence. A ``write`` is recorded as unknown."""
    for attempt in draft.attempts:
        code = "unknown" if attempt.may_have_written else "cancelled"
        error = {"code": code, "message": reason, "step_id": attempt.step_id, "details": None}
        data = {"visit": attempt.visit, "attempt": attempt.number, "error": error}
        draft.emit("step.failed", data, step_id=attempt.step_id, audience="full")
        draft.preempts = True
    draft.attempts = ()


def step_error(failure: StepFailure, step_id: str | None) -> dict[str, Any]:
    """Return the ``error`` of a step's or an execution's event."""
    details = dict(failure.details) if failure.details else None
    return {"code": failure.code, "message": failure.reason, "step_id": step_id, "details": details}


def wire_error(
    code: str, message: str, step_id: str | None, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the ``error`` of a ``turn.failed``."""
    known = ErrorCode(code)
    wire = Refused(known, message, details={**(details or {}), "step_id": step_id}).to_wire()
    wire["temporary"] = ERRORS[known].temporary
    return wire


def step_failure(error: StepFailure | ExpressionFailed) -> StepFailure:
    """Return ``error`` as the failure of a step: an expression that fails fails its step."""
    return error if isinstance(error, StepFailure) else StepFailure(str(error))


def interrupt(draft: Draft) -> None:
    """End the execution because a later message wants its place."""
    end_execution(draft, "cancelled")
    refusal = Refused(ErrorCode.CANCELLED, "A later message interrupted this turn.")
    end_turn(draft, error=refusal.to_wire())


def wants_interrupt(draft: Draft) -> bool:
    """Tell whether a message that waits wants to interrupt."""
    return any(entry.command.get("on_busy") == "interrupt" and not entry.void for entry in draft.inbox)


def is_safe_point(draft: Draft) -> bool:
    """Tell whether all attempts wait for their back-off, and none is of unknown outcome."""
    return bool(draft.attempts) and all(
        attempt.retry_at is not None and not attempt.may_have_written for attempt in draft.attempts
    )

"""Each command in each status; see the table in ``server.engine.reducer``."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.draft import Draft, json_bytes
from server.engine.folding.amending import amend
from server.engine.folding.decisions import decide
from server.engine.folding.ending import abandon_attempts, end_execution
from server.engine.folding.messages import process
from server.engine.folding.pausing import pause_before_retry, pause_now
from server.engine.folding.requests import withdraw
from server.engine.folding.resuming import happen, resume, retry
from server.engine.folding.starting import begin
from server.engine.folding.turns import end_turn, open_turn, turn_aside
from server.engine.types import Command
from storage.models import ENDED, EVENT_MAX_BYTES, Execution, Pause


def run_command(draft: Draft, command: Command, principal: Principal, *, created: bool = False) -> None:
    """Fold one command that is accepted, or whose turn in the inbox has come. Raises Refused."""
    match command.type:
        case "process":
            process(draft, command, principal, created=created)
        case "reset":
            _reset(draft, command)
        case "cancel":
            _cancel(draft, command)
        case "start":
            begin(draft, command, principal, created=created)
        case "pause":
            _pause(draft, command, principal)
        case "resume":
            _resume(draft, command, principal)
        case "retry":
            _retry(draft, command, principal)
        case "signal":
            _signal(draft, command)
        case "context":
            amend(draft, command, principal)
        case "acceptance" | "clarification":
            decide(draft, command, principal)
        case other:
            raise Refused(ErrorCode.UNKNOWN_TYPE, f'"{other}" is not a command.', field="type")


def _reset(draft: Draft, command: Command) -> None:
    _preempt(draft, "The conversation was reset.")
    open_turn(draft, command)
    if draft.execution is not None and draft.execution.status not in ENDED:
        withdraw(draft, everything=True)
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
    execution = _current(draft, command)
    if execution.status in ENDED:
        raise _wrong_state(draft, "Nothing is running that could be cancelled.")
    _preempt(draft, "The execution was cancelled.")
    open_turn(draft, command)
    end_execution(draft, "cancelled")
    end_turn(draft)


def _pause(draft: Draft, command: Command, principal: Principal) -> None:
    """Pause what waits at once, and what runs at its next safe point. Raises Refused."""
    _operator_only(principal, "pause")
    execution = _current(draft, command)
    if execution.status in ENDED or execution.status == "paused" or execution.pause is not None:
        raise _wrong_state(draft, "Only what runs or waits can be paused.")
    deadline_ms = command.body.get("deadline_ms")
    pause = Pause(
        "ask",
        draft.now,
        by=principal.user_id,
        reason=command.body.get("reason"),
        deadline=None if deadline_ms is None else draft.now + deadline_ms,
    )
    with turn_aside(draft):
        open_turn(draft, command)
        if draft.status == "running":
            draft.set_pause(replace(pause, wanted=True))
        else:
            pause_now(draft, pause)
        end_turn(draft)
    pause_before_retry(draft)


def _resume(draft: Draft, command: Command, principal: Principal) -> None:
    """Go on behind a pause. Raises Refused."""
    _operator_only(principal, "resume")
    execution = _current(draft, command)
    if execution.status != "paused":
        raise _wrong_state(draft, "Only a paused execution can be resumed.")
    open_turn(draft, command)
    resume(draft)


def _retry(draft: Draft, command: Command, principal: Principal) -> None:
    """Go on at the step that failed; what may have been done already takes an operator. Raises Refused."""
    execution = _current(draft, command)
    if execution.status != "failed" or execution.error is None:
        raise _wrong_state(draft, "Only an execution in which a step failed can be tried again.")
    if (execution.error.get("details") or {}).get("outcome") == "unknown":
        _operator_only(principal, "repeat a write that may have happened in")
    open_turn(draft, command)
    retry(draft)


def _signal(draft: Draft, command: Command) -> None:
    """Tell the frame that waits for this event, the innermost first. Raises Refused."""
    execution = _current(draft, command)
    name, payload = command.body["name"], command.body.get("payload")
    if json_bytes(payload) > EVENT_MAX_BYTES // 2:
        message = f"A payload may have {EVENT_MAX_BYTES // 2:,} bytes."
        raise Refused(ErrorCode.PAYLOAD_TOO_LARGE, message, field="payload")
    frames = [] if execution.status in ENDED else draft.frames
    waiting = [p for p, frame in enumerate(frames) if frame.awaits == name and frame.happened is None]
    if not waiting:
        raise _wrong_state(draft, "Nothing waits for this event.", {"awaits": execution.awaits})
    open_turn(draft, command)
    if not happen(draft, waiting[-1], {"cause": "signal", "payload": payload}):
        end_turn(draft)


def _current(draft: Draft, command: Command) -> Execution:
    """Return the execution that a command is for: the conversation's current one. Raises Refused."""
    execution = draft.execution
    wanted = command.body.get("execution_id")
    if execution is not None and wanted is not None and wanted != execution.execution_id:
        raise Refused(
            ErrorCode.EXECUTION_NOT_FOUND,
            "This is not the conversation's current execution.",
            field="execution_id",
        )
    if execution is None:
        raise _wrong_state(draft, "Nothing has been started in this conversation.")
    return execution


def _wrong_state(draft: Draft, message: str, details: Mapping[str, Any] | None = None) -> Refused:
    status = draft.execution.status if draft.execution else "idle"
    return Refused(ErrorCode.WRONG_STATE, message, details={"status": status, **(details or {})})


def _operator_only(principal: Principal, what: str) -> None:
    if not principal.may("conversations:write"):
        message = f'To {what} an execution takes the scope "conversations:write".'
        raise Refused(ErrorCode.PERMISSION_DENIED, message)


def _preempt(draft: Draft, reason: str) -> None:
    """End the running turn, and whatever effect it runs, because a command overrides it."""
    if draft.turn is None and not draft.attempts:
        return
    abandon_attempts(draft, reason)
    draft.preempts = True
    if draft.turn is not None:
        end_turn(draft, error=Refused(ErrorCode.CANCELLED, reason).to_wire())

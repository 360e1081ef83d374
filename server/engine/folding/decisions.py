"""What people decide: acceptances and clarifications, in every status, and what happens without them.

A request is addressed by its id, whatever the execution does at that moment; a decision is never queued.
Where the asking step is the one that waits, the flow goes on at once. Where it is not (a digression stands
above it, an effect runs there, the execution is paused), the decision is recorded, and followed when the
flow returns to the step. The deadline counts by the store's clock at the moment of the reduction, not by
when the sweep comes: a decision behind it is too late.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.draft import Draft, StepFailure, json_bytes
from server.engine.flow.expressions import ExpressionFailed
from server.engine.flow.model import Slot
from server.engine.flow.slots import SlotInvalid, normalise
from server.engine.folding.ahead import Scratch
from server.engine.folding.ending import step_failure
from server.engine.folding.requests import announce, change, check_size, close, decision, is_due, step_of
from server.engine.folding.turns import end_turn, open_run, open_turn, turn_aside
from server.engine.folding.walk import current_step, go_on
from server.engine.reading import complaint
from server.engine.steps.accept import Accept
from server.engine.steps.base import AskingStep, Fail
from server.engine.steps.clarify import Clarify, given_answers
from server.engine.types import Command
from server.engine.views import decision_view, pending_view
from storage.models import EVENT_MAX_BYTES, Conversation, Pending

DECISIONS: Final = frozenset({"acceptance", "clarification"})
ASKING: Final = frozenset({"waiting_acceptance", "waiting_clarification"})
DECISION_MAX_BYTES: Final = 32 * 1024
SHOWN_MAX_BYTES: Final = EVENT_MAX_BYTES - 12 * 1024
"""What a request may take with the comments of its votes; votes without one always have room beside it."""


def may_decide(record: Conversation, command: Command, principal: Principal) -> bool:
    """Tell whether a command that decides may come in, from somebody who may not write here otherwise.

    That is whom the request names. A decision that is known is theirs who sent it: its hash covers them.
    """
    execution = record.execution
    pending = _find(execution.pending if execution else (), command.body.get("pending_id"))
    user_id = command.body.get("user_id") or principal.user_id
    if pending is not None and _permitted(pending, record.user_id, user_id, principal):
        return True
    return any(known.key == command.key and known.body_hash == command.body_hash for known in record.recent)


def decide(draft: Draft, command: Command, principal: Principal) -> None:
    """Fold an acceptance or a clarification, by its pending id.

    Raises:
        Refused: ``pending_not_found``, ``permission_denied``, ``pending_resolved``, ``pending_expired``, and
            what is wrong with the decision itself; in this order.
    """
    body = command.body
    user_id = body.get("user_id") or principal.user_id
    pending = _find(draft.pending, body.get("pending_id"))
    if pending is None or pending.kind != command.type:
        raise Refused(ErrorCode.PENDING_NOT_FOUND, "There is no such request.", field="pending_id")
    if not _permitted(pending, draft.before.user_id, user_id, principal):
        raise Refused(ErrorCode.PERMISSION_DENIED, "This request is for somebody else.", field="pending_id")
    if pending.decided is not None or is_due(pending, draft.now):
        raise _closed(pending)
    _check_size(body)
    with turn_aside(draft):
        open_turn(draft, command)
        draft.last_activity = draft.now
        if pending.kind == "acceptance":
            closed = _accept(draft, pending, body, user_id)
        else:
            answers = given_answers(draft, pending, body["answers"])
            closed = close(draft, pending, decision(draft, user_id, answers=answers))
        _go_on_with(draft, closed)


def expire_due(draft: Draft) -> bool:
    """Close the requests whose deadline has come, and go on where they were waited for."""
    due = [pending for pending in draft.pending if is_due(pending, draft.now)]
    if not due:
        return False
    with turn_aside(draft):
        open_run(draft, "deadline")
        closed = [_expire(draft, pending) for pending in due]
        _go_on_with(draft, next((pending for pending in closed if _is_waited_for(draft, pending)), None))
    return True


def _expire(draft: Draft, pending: Pending) -> Pending:
    step = _asking_step(draft, pending)
    accepted = step.undecided() if step is not None else None
    digest = pending.digest if accepted else None
    return close(draft, pending, decision(draft, None, accepted=accepted, digest=digest))


def _go_on_with(draft: Draft, closed: Pending | None) -> None:
    """Follow a closed request where its step is what waits; else only end the turn."""
    if closed is None or not _is_waited_for(draft, closed):
        end_turn(draft)
        return
    draft.set_status("running")
    draft.emit("execution.resumed", draft.execution_data(), step_id=closed.step_id)
    try:
        outcome = cast("AskingStep", current_step(draft)).follow(draft, closed)
    except (StepFailure, ExpressionFailed) as failure:
        outcome = Fail(step_failure(failure))
    go_on(draft, outcome)


def _is_waited_for(draft: Draft, pending: Pending) -> bool:
    frame = draft.frames[-1] if draft.frames else None
    if frame is None or draft.status not in ASKING:
        return False
    return frame.frame == pending.frame and frame.step_id == pending.step_id


def _find(requests: tuple[Pending, ...], pending_id: object) -> Pending | None:
    return next((p for p in requests if p.pending_id == pending_id and p.kind != "input"), None)


def _permitted(pending: Pending, owner: str | None, user_id: str, principal: Principal) -> bool:
    """Tell whether somebody may decide: whom ``by`` names or who has its scope; without it, the owner."""
    by = pending.by
    if by is None:
        return owner is not None and user_id == owner
    user, scope = by.get("user"), by.get("scope")
    return (user is not None and user_id == user) or (scope is not None and principal.may(scope))


def _closed(pending: Pending) -> Refused:
    decided = pending.decided
    if decided is None or decided["by"] is None:
        details = {"decided": decision_view(decided)} if decided is not None else None
        message = "This request can no longer be answered."
        return Refused(ErrorCode.PENDING_EXPIRED, message, field="pending_id", details=details)
    message = "This request has been answered."
    details = {"decided": decision_view(decided)}
    return Refused(ErrorCode.PENDING_RESOLVED, message, field="pending_id", details=details)


def _check_size(body: Mapping[str, Any]) -> None:
    for name in ("edits", "answers"):
        if json_bytes(body.get(name)) > DECISION_MAX_BYTES:
            message = f'"{name}" may have {DECISION_MAX_BYTES:,} bytes.'
            raise Refused(ErrorCode.PAYLOAD_TOO_LARGE, message, field=name)


# --- acceptance -----------------------------------------------------------------------------------


def _accept(draft: Draft, pending: Pending, body: Mapping[str, Any], user_id: str) -> Pending | None:
    """Count a vote; return the closed request, or None while others have to accept as well."""
    accepted, comment = body["accepted"], body.get("comment")
    _check_vote(draft, pending, body, user_id)
    edits = _edits(draft, pending, body)
    told = {"accepted": accepted, "comment": comment}
    vote = {"by": user_id, "at": draft.now, **told}
    voted = replace(pending, votes=(*pending.votes, vote))
    if not accepted:
        return close(draft, voted, decision(draft, user_id, **told))
    if edits:
        # What the others accepted was something else.
        voted = replace(_edited(draft, replace(pending, votes=()), edits), votes=(vote,))
    if len(voted.votes) < (pending.by or {}).get("quorum", 1):
        if comment and json_bytes(pending_view(voted)) > SHOWN_MAX_BYTES:
            message = "With what others have said this comment is too long to be shown."
            raise Refused(ErrorCode.PAYLOAD_TOO_LARGE, message, field="comment")
        change(draft, voted)
        announce(draft, voted)
        return None
    return close(draft, voted, decision(draft, user_id, **told, edits=edits, digest=voted.digest))


def _check_vote(draft: Draft, pending: Pending, body: Mapping[str, Any], user_id: str) -> None:
    digest = body.get("digest")
    if digest is not None and digest != pending.digest:
        raise _changed(pending.digest)
    mine = next((vote for vote in pending.votes if vote["by"] == user_id), None)
    if mine is not None:
        raise Refused(
            ErrorCode.PENDING_RESOLVED,
            "You have decided; others have to accept as well.",
            field="pending_id",
            details={"decided": None, "vote": decision_view(mine)},
        )
    if body.get("edits") and not body["accepted"]:
        raise Refused(
            ErrorCode.BAD_REQUEST,
            "What is rejected cannot be edited.",
            field="edits",
            suggestion="Accept it with these edits, or leave them out.",
        )
    if body.get("edits") and pending.digest is not None:
        step = _asking_step(draft, pending)
        current = step.digest(draft, pending.frame) if isinstance(step, Accept) else None
        if current != pending.digest:
            raise _changed(current)  # who edits one thing has not seen that another has changed


def _changed(digest: str | None) -> Refused:
    return Refused(
        ErrorCode.WRONG_STATE,
        "What is to be accepted is no longer what you have seen.",
        field="digest",
        details={"digest": digest},
        suggestion="Look at the request again.",
    )


def _edits(draft: Draft, pending: Pending, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the edits as the slots' values. Raises Refused, naming the field."""
    edits = body.get("edits") or {}
    if not edits:
        return {}
    scratch = Scratch(draft, pending.frame)
    return {name: _slot_value(scratch, pending, name, value) for name, value in edits.items()}


def _slot_value(scratch: Draft, pending: Pending, name: str, value: Any) -> Any:
    slot: Slot | None = scratch.flow.slots.get(name)
    if slot is None or name not in pending.editable:
        allowed = ", ".join(pending.editable) or "nothing"
        raise _bad_edit(name, f'"{name[:60]}" may not be edited here.', f"What may be edited: {allowed}.")
    try:
        found = normalise(slot, value)
        why = "A value is needed." if found is None else complaint(scratch, slot, found)
    except SlotInvalid as invalid:
        why = invalid.message
    except ExpressionFailed as failed:
        why = str(failed)
    if why is not None:
        raise _bad_edit(name, why, None)
    return found


def _bad_edit(name: str, message: str, suggestion: str | None) -> Refused:
    return Refused(ErrorCode.BAD_REQUEST, message, field=f"edits.{name[:60]}", suggestion=suggestion)


def _edited(draft: Draft, pending: Pending, edits: Mapping[str, Any]) -> Pending:
    """Return the request as it is with the edits, which become the slots' values."""
    try:
        for name, value in edits.items():
            draft.set_slot(name, value)
    except StepFailure as failure:
        raise Refused(ErrorCode.PAYLOAD_TOO_LARGE, failure.reason, field="edits") from None
    step = _asking_step(draft, pending)
    if not isinstance(step, Accept):
        return pending
    try:
        renewed = step.renewed(draft, pending)
        check_size(renewed)
        return renewed
    except (StepFailure, ExpressionFailed) as failure:
        reason = step_failure(failure).reason
        raise Refused(ErrorCode.BAD_REQUEST, reason, field="edits") from None


def _asking_step(draft: Draft, pending: Pending) -> Accept | Clarify | None:
    frame = next((f for f in draft.frames if f.frame == pending.frame), None)
    step = step_of(draft, frame, pending.step_id) if frame is not None else None
    return step if isinstance(step, Accept | Clarify) else None

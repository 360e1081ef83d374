"""Requests to people: opened, closed, withdrawn, and what an approval binds.

Every request that was announced (``acceptance.requested``, ``clarification.requested``) ends in exactly one
``pending.resolved`` or ``pending.expired``. A closed one stays in the execution for a while, so that who
comes too late is told who decided what. What a form asks (``input``) is no request in this sense: its
questions replace each other without a word.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

import orjson

from server.engine.draft import Draft, FrameDraft, StepFailure, json_bytes
from server.engine.flow.model import Step
from server.engine.steps.base import CallingStep
from server.engine.views import decision_view, pending_view, pending_visible
from storage.models import EVENT_MAX_BYTES, Attempt, Audience, Pending, TimeMs

REQUEST_MAX_BYTES: Final = EVENT_MAX_BYTES // 4
OPEN_MAX_BYTES: Final = 128 * 1024
CLOSED_KEPT: Final = 8
CLOSED_MAX_BYTES: Final = 64 * 1024
_ANY_VISIT: Final = ":"
"""How ``bound_to`` ends where it is the key of a step in whatever visit: the visit is the key's last part."""


def open_request(draft: Draft, pending: Pending) -> None:
    """Announce a request of the innermost frame; what the frame asked before is withdrawn.

    Raises:
        StepFailure: it is too large to be shown, or too many are open.
    """
    size = check_size(pending)
    kept = (p for p in draft.pending if p.decided is None or p.binding is not None)
    others = sum(json_bytes(pending_view(p)) for p in kept)
    if size + others > OPEN_MAX_BYTES:
        raise StepFailure("Too many requests are open at once.", details={"bytes": size + others})
    withdraw(draft)
    if pending.kind == "acceptance":
        _supersede(draft, pending.frame)
    draft.pending = (*draft.pending, pending)
    announce(draft, pending)


def check_size(pending: Pending) -> int:
    """Return the bytes that a request takes where it is shown. Raises StepFailure beyond what it may."""
    size = json_bytes(pending_view(pending))
    if size > REQUEST_MAX_BYTES:
        raise StepFailure("The request is too long to be shown.", details={"bytes": size})
    return size


def announce(draft: Draft, pending: Pending) -> None:
    """Write the event that shows a request as it is now: a new one, or one that has changed."""
    view = pending_view(pending)
    draft.emit(
        f"{pending.kind}.requested",
        view,
        step_id=pending.step_id,
        audience=audience_of(draft, pending),
        size=json_bytes(view),
    )


def change(draft: Draft, pending: Pending) -> None:
    """Put a request in the place of what it was."""
    draft.pending = tuple(pending if p.pending_id == pending.pending_id else p for p in draft.pending)


def decision(draft: Draft, by: str | None, **told: Any) -> dict[str, Any]:
    """Return a request's ``decided``; ``by`` null: nobody answered in time."""
    empty: dict[str, Any] = {"accepted": None, "comment": None, "edits": {}, "answers": None, "digest": None}
    return {"by": by, "at": draft.now, **empty, **told}


def close(draft: Draft, pending: Pending, decided: Mapping[str, Any]) -> Pending:
    """Close a request and tell so. An acceptance binds the effect that its digest names."""
    binding = decided["digest"] if decided["accepted"] else None
    closed = replace(pending, decided=decided, binding=binding)
    change(draft, closed)
    _drop_oldest(draft)
    shown = decision_view(decided)
    draft.emit(
        "pending.expired" if decided["by"] is None else "pending.resolved",
        {"pending_id": pending.pending_id, "kind": pending.kind, "decided": shown},
        step_id=pending.step_id,
        audience=audience_of(draft, pending),
        size=json_bytes(shown),
    )
    return closed


def withdraw(draft: Draft, *, everything: bool = False) -> None:
    """Close what is asked by a frame that goes on without: the innermost, or one that is gone.

    Requests of the frames below stay open, unless ``everything`` ends.
    """
    below = frozenset() if everything else {frame.frame for frame in draft.frames[:-1]}
    for pending in draft.pending:
        if pending.kind != "input" and pending.decided is None and pending.frame not in below:
            close(draft, pending, decision(draft, None))


def drop_gone(draft: Draft) -> None:
    """Close what frames have asked that are no longer there, and forget what their approvals bind."""
    present = {frame.frame for frame in draft.frames}
    for pending in draft.pending:
        if pending.frame not in present and pending.kind != "input":
            if pending.decided is None:
                close(draft, pending, decision(draft, None))
            release(draft, pending.frame)


def release(draft: Draft, frame: int) -> None:
    """Forget what approvals of a frame still bind: it asks anew, or was left for good."""
    draft.pending = tuple([replace(p, binding=None) if p.frame == frame else p for p in draft.pending])


def hand_on(draft: Draft, frame: int, to: int) -> None:
    """Let what approvals of a frame bind be bound by the frame that goes on: who called it, or took over."""
    if draft.pending:
        draft.pending = tuple(
            [replace(p, frame=to) if p.frame == frame and p.binding is not None else p for p in draft.pending]
        )


def _supersede(draft: Draft, frame: int) -> None:
    """Forget the frame's own approvals, and those that have met their effect: it asks for what comes now."""
    for pending in list(_binding(draft)):
        if pending.frame == frame or pending.bound_to is not None:
            change(draft, replace(pending, binding=None))


def was_withdrawn(pending: Pending) -> bool:
    """Tell whether a request was closed by nobody, and not by its deadline either."""
    decided = pending.decided
    if decided is None or decided["by"] is not None:
        return False
    return pending.deadline is None or decided["at"] < pending.deadline


def ask_input(draft: Draft, pending: Pending | None) -> None:
    """Let a form's question take the place of the one before; None: it asks nothing more."""
    kept = tuple([p for p in draft.pending if p.kind != "input"]) if draft.pending else ()
    draft.pending = kept if pending is None else (*kept, pending)


def request_of(draft: Draft, step_id: str) -> Pending | None:
    """Return the newest request of the innermost frame's step; None: it has none, or that was withdrawn."""
    frame = draft.frames[-1].frame
    made = (p for p in reversed(draft.pending) if p.kind != "input")
    newest = next((p for p in made if p.frame == frame and p.step_id == step_id), None)
    return None if newest is None or was_withdrawn(newest) else newest


def is_due(pending: Pending, now: TimeMs) -> bool:
    """Tell whether a request's deadline has come while nobody had answered."""
    return pending.decided is None and pending.deadline is not None and pending.deadline <= now


def audience_of(draft: Draft, pending: Pending) -> Audience:
    """Return the least audience of a request and what follows from it: the owner's own, or agents'."""
    return "owner" if pending_visible(pending, "owner", draft.before.user_id) else "agent"


# --- what an approval binds -----------------------------------------------------------------------


def digest_of(attempt: Attempt) -> str:
    """Return the SHA-256 (hex) of an effect: its action and its arguments, rendered."""
    whole = {"action": attempt.name, "arguments": attempt.arguments}
    return sha256(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)).hexdigest()


def not_as_approved(draft: Draft, attempt: Attempt) -> StepFailure | None:
    """Return the failure of an effect that is asked for and is not the approved one.

    An approval binds the first effect behind it, for good: tried again after it failed, that must still be
    what was approved. What comes after it is free. (Later attempts of one effect are what the first was.)
    A step that was refused was not that effect: the approval goes on binding it, in every visit.
    """
    if attempt.number != 1:
        return None
    digest = ""
    wrong = None
    step = attempt.key.rpartition(_ANY_VISIT)[0] + _ANY_VISIT
    for pending in list(_binding(draft)):
        bound_to = pending.bound_to
        if bound_to is not None and bound_to not in (attempt.key, step):
            if not bound_to.endswith(_ANY_VISIT):  # it was run, and the flow has gone on
                change(draft, replace(pending, binding=None))
            continue
        digest = digest or digest_of(attempt)
        approved = pending.binding == digest
        change(draft, replace(pending, bound_to=attempt.key if approved else step))
        if not approved:
            wrong = pending
    if wrong is None:
        return None
    return StepFailure(
        "This is no longer what was approved, and was not done.",
        details={"pending_id": wrong.pending_id, "approved": wrong.binding, "digest": digest},
    )


def _binding(draft: Draft) -> Iterator[Pending]:
    """Yield the requests whose approval reaches the innermost frame.

    Those of the frame itself, and of the frames that called it (a digression was not called).
    """
    reached = {frame.frame for frame in _callers(draft)}
    for pending in draft.pending:
        if pending.binding is not None and pending.frame in reached:
            yield pending


def _callers(draft: Draft) -> Iterator[FrameDraft]:
    for frame in reversed(draft.frames):
        if frame is not draft.frames[-1] and not isinstance(
            step_of(draft, frame, frame.step_id), CallingStep
        ):
            return
        yield frame


def step_of(draft: Draft, frame: FrameDraft, step_id: str | None) -> Step | None:
    """Return a step of a frame's flow; None where it is gone."""
    flow = draft.flows.version(frame.flow_id, frame.version)
    if flow is None or step_id is None or step_id not in flow.index:
        return None
    return flow.step(step_id)


def _drop_oldest(draft: Draft) -> None:
    """Forget the oldest closed requests beyond what is kept, but none that binds or is to be followed."""
    room, count = CLOSED_MAX_BYTES, CLOSED_KEPT
    waited_for = {(frame.frame, frame.step_id) for frame in draft.frames}
    kept: list[Pending] = []
    for pending in reversed(draft.pending):
        place = (pending.frame, pending.step_id)
        needed = pending.binding is not None or place in waited_for
        waited_for.discard(place)  # an earlier one of the same step has been followed
        if pending.decided is not None and not needed:
            count -= 1
            room -= json_bytes(pending_view(pending))
            if count < 0 or room < 0:
                continue
        kept.append(pending)
    draft.pending = tuple(reversed(kept))

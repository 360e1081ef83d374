"""What is due: a fold that was split, a retry, an attempt whose owner died, a session nobody came back to."""

from dataclasses import replace
from typing import cast

from server.engine.draft import Draft, StepFailure
from server.engine.folding.decisions import expire_due
from server.engine.folding.ending import interrupt, wants_interrupt
from server.engine.folding.expiry import expire_session
from server.engine.folding.resuming import happen, resume
from server.engine.folding.timeouts import expire_overdue, is_overdue
from server.engine.folding.turns import because, end_turn, open_run, reduction
from server.engine.folding.walk import current_step, go_on, walk
from server.engine.inputs import Reduction, Wake
from server.engine.steps.base import Effect, EffectStep, Fail
from storage.models import ENDED


def wake(draft: Draft, wake: Wake) -> Reduction | None:
    """Go on with what is due: a fold that was split, a retry, or an attempt whose owner died."""
    if draft.execution is None:
        return None
    if expire_due(draft):
        return reduction(draft)
    if draft.status != "running":
        return _time_has_come(draft) or expire_session(draft)
    if is_overdue(draft):
        expire_overdue(draft)
        return reduction(draft)
    if wake.reason == "due" and (due := _due_waits(draft)):
        for place in due:  # below a digression that runs an effect: kept until the flow returns to it
            happen(draft, place, {"cause": "timer"})
        return reduction(draft)
    lease = draft.before.lease
    mine = lease is not None and lease.owner == draft.claimant.owner
    if lease is not None and lease.until > draft.now and (wake.reason == "due" or not mine):
        return None
    if not draft.attempts:
        because(draft, None if wake.reason == "continue" else "recovery")
        walk(draft, draft.step_id)
        return reduction(draft)
    attempt = draft.attempts[0]
    if not attempt.may_have_written and wants_interrupt(draft):
        interrupt(draft)
        return reduction(draft)
    if attempt.retry_at is not None:
        if attempt.retry_at > draft.now:
            return None
        because(draft, "retry")
        again = replace(attempt, retry_at=None, number=attempt.number + 1, started_at=draft.now)
        go_on(draft, Effect(again))
        return reduction(draft)
    because(draft, "recovery")
    try:
        step = cast("EffectStep", current_step(draft))
        outcome = step.recovered(draft, attempt)
    except StepFailure as failure:
        outcome = Fail(failure)
    draft.attempts = tuple(other for other in draft.attempts if other.key != attempt.key)
    go_on(draft, outcome, attempt.number)
    return reduction(draft)


def _time_has_come(draft: Draft) -> Reduction | None:
    """End the waits whose time has come, and a pause at its deadline; None where nothing is due."""
    if draft.status in ENDED:
        return None
    due = _due_waits(draft)
    if due:
        open_run(draft, "timer")
    for place in due:  # the innermost comes last: it may go on, and with it the frames change
        happen(draft, place, {"cause": "timer"})
    pause = draft.pause
    over = pause is not None and pause.deadline is not None and pause.deadline <= draft.now
    if draft.status == "paused" and over:
        open_run(draft, "deadline")
        resume(draft, timed_out=True)
    if draft.status != "running":
        end_turn(draft)
    return reduction(draft) if due or over else None


def _due_waits(draft: Draft) -> list[int]:
    """Return the places of the frames whose time has come, the innermost last."""
    return [
        place
        for place, frame in enumerate(draft.frames)
        if frame.timer_at is not None and frame.timer_at <= draft.now and frame.happened is None
    ]

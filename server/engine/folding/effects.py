"""What an effect reports: its result, its failure, how it is getting on."""

from typing import cast

from server.engine.draft import Draft, StepFailure
from server.engine.flow.expressions import ExpressionFailed
from server.engine.folding.ending import interrupt, step_failure, wants_interrupt
from server.engine.folding.pausing import pause_before_retry
from server.engine.folding.turns import reduction
from server.engine.folding.walk import current_step, go_on
from server.engine.inputs import EffectDone, EffectFailed, EffectProgress, Reduction
from server.engine.steps.base import EffectStep, Fail
from server.engine.views import iso
from storage.models import Attempt


def effect_result(draft: Draft, result: EffectDone | EffectFailed) -> Reduction | None:
    """Take what an effect reports; None where its attempt is no longer open."""
    attempt = _open_attempt(draft, result.key, result.number)
    if attempt is None:
        return None
    succeeded = isinstance(result, EffectDone)
    action = {"name": attempt.name, "effect": attempt.effect, "duration_ms": result.duration_ms}
    draft.actions.append(action)
    draft.emit("action.performed", {**action, "success": succeeded}, step_id=attempt.step_id, audience="full")
    draft.attempts = tuple(other for other in draft.attempts if other.key != attempt.key)
    try:
        step = cast("EffectStep", current_step(draft))
        if isinstance(result, EffectDone):
            outcome = step.succeeded(draft, attempt, result.value)
        else:
            outcome = step.failed(draft, attempt, result)
    except (StepFailure, ExpressionFailed) as failure:
        outcome = Fail(step_failure(failure))
    if _interrupted(draft, result):
        interrupt(draft)
    else:
        go_on(draft, outcome, attempt.number)
        pause_before_retry(draft)
    return reduction(draft)


def note_progress(draft: Draft, progress: EffectProgress) -> Reduction | None:
    """Pass on what a running effect has to tell; None where its attempt is no longer open."""
    attempt = _open_attempt(draft, progress.key, progress.number)
    if attempt is None:
        return None
    payload = {"action": attempt.name, "text": progress.text[:2000], "time": iso(draft.now)}
    data = {"name": "action.progress", "payload": payload}
    draft.emit("flow.custom", data, step_id=attempt.step_id, size=len(progress.text))
    return reduction(draft)


def _open_attempt(draft: Draft, key: str, number: int) -> Attempt | None:
    if draft.status != "running":
        return None
    return next(
        (a for a in draft.attempts if a.key == key and a.number == number and a.retry_at is None), None
    )


def _interrupted(draft: Draft, result: EffectDone | EffectFailed) -> bool:
    """Tell whether somebody wants to interrupt: between an effect and the next step is the safe point."""
    return (isinstance(result, EffectFailed) and result.kind == "interrupted") or wants_interrupt(draft)

"""How an execution goes on: resumed from a pause, tried again after a failure, woken by time or an event."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from server.engine.draft import Draft, StepFailure
from server.engine.flow.expressions import ExpressionFailed
from server.engine.folding.ending import step_failure
from server.engine.folding.walk import current_step, enter_again, fail, go_on, walk
from server.engine.steps.base import Effect, Fail, Next, Outcome, PausingStep, WaitingStep

AWAITING = frozenset({"waiting_timer", "waiting_event"})


def resume(draft: Draft, *, timed_out: bool = False) -> None:
    """Leave a pause: behind the hand-off, back to the open question, or where the operator stopped it."""
    pause = draft.pause
    _set_running(draft)
    match pause.then if pause is not None else "ask":
        case "enter":
            walk(draft, draft.step_id)
        case "retry":
            waiting = draft.attempts[0]
            go_on(
                draft,
                Effect(replace(waiting, retry_at=None, number=waiting.number + 1, started_at=draft.now)),
            )
        case "next":
            step = _current(draft)
            if step is not None:
                go_on(draft, step.resumed(timed_out=timed_out) if isinstance(step, PausingStep) else Next())
        case "ask":
            ask_again(draft)


def retry(draft: Draft) -> None:
    """Enter the failed step again, in the same visit: what it does to the world keeps its key."""
    if draft.execution is not None:
        draft.execution = replace(draft.execution, error=None, output=None, completed_at=None)
    _set_running(draft)
    enter_again(draft)


def happen(draft: Draft, place: int, happened: Mapping[str, Any]) -> bool:
    """Tell the frame at ``place`` that what it waits for has come.

    Returns whether the execution went on; else it is kept until that frame is innermost and not paused.
    """
    draft.frames[place].happened = happened
    if place != len(draft.frames) - 1 or draft.status not in AWAITING:
        return False
    _set_running(draft)
    ask_again(draft)
    return True


def ask_again(draft: Draft) -> None:
    """Return to what the current step waits for."""
    step = _current(draft)
    if step is None:
        return
    outcome: Outcome
    try:
        outcome = cast("WaitingStep", step).ask_again(draft)
    except (StepFailure, ExpressionFailed) as failure:
        outcome = Fail(step_failure(failure))
    go_on(draft, outcome)


def _set_running(draft: Draft) -> None:
    draft.set_pause(None)
    draft.set_status("running")
    draft.emit("execution.resumed", draft.execution_data(), step_id=draft.step_id)


def _current(draft: Draft) -> Any:
    try:
        return current_step(draft)
    except StepFailure as failure:
        fail(draft, failure)
        return None

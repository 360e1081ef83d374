"""The walk over steps: enter one after the other until one waits, runs an effect, or the flow ends."""

from collections.abc import Mapping
from typing import Any, Final, assert_never, cast

from server.engine.draft import SPLIT_BYTES, Draft, StepFailure
from server.engine.flow.expressions import ExpressionFailed
from server.engine.flow.model import Flow
from server.engine.folding.ending import end_execution, fail_execution, step_error, step_failure, wire_error
from server.engine.folding.turns import end_turn
from server.engine.steps.base import (
    Effect,
    Fail,
    Finish,
    Goto,
    Next,
    Outcome,
    RetryLater,
    Skip,
    Step,
    Wait,
    WaitingStep,
)

MAX_STEPS_PER_TURN: Final = 250

STOP: Final = object()


def walk(draft: Draft, step_id: str | None) -> None:
    """Enter steps one after the other until one waits, runs an effect, or the execution ends."""
    draft.set_status("running")
    trail: list[str] = []
    while True:
        try:
            step = _step(draft.flow, step_id) if step_id is not None else None
        except StepFailure as failure:
            fail_execution(draft, failure)
            return
        if step is None or step_id is None:
            follow = _finish(draft, Finish("completed"))
            if follow is STOP:
                return
            step_id = cast("str | None", follow)
            continue
        frame = draft.frames[-1]
        if draft.bytes > SPLIT_BYTES:
            frame.step_id, draft.unfinished = step_id, True
            return
        draft.steps += 1
        trail.append(step_id)
        if draft.steps > MAX_STEPS_PER_TURN:
            frame.step_id = step_id
            fail_execution(draft, _loop(trail))
            return
        follow = _follow(draft, step, _enter(draft, step))
        if follow is STOP:
            return
        step_id = cast("str | None", follow)


def go_on(draft: Draft, outcome: Outcome, attempt: int = 1) -> None:
    """Continue after the current step answered with ``outcome`` (to its effect's ``attempt``)."""
    try:
        step = current_step(draft)
    except StepFailure as failure:
        fail_execution(draft, failure)
        return
    follow = _follow(draft, step, outcome, attempt)
    if follow is not STOP:
        walk(draft, cast("str | None", follow))


def current_step(draft: Draft) -> Step:
    """Return the step that the innermost frame stands at. Raises StepFailure where it is gone."""
    return _step(draft.flow, draft.step_id)


def _step(flow: Flow, step_id: str | None) -> Step:
    if step_id is None or step_id not in flow.index:
        raise StepFailure("This conversation's flow has changed and its step is gone.")
    return cast("Step", flow.steps[flow.index[step_id]])


def _loop(trail: list[str]) -> StepFailure:
    last = trail[-1]
    earlier = next((i for i in range(len(trail) - 2, -1, -1) if trail[i] == last), 0)
    shown = trail[earlier:][:20]
    return StepFailure(
        f"The flow went round {MAX_STEPS_PER_TURN} steps without waiting: {' -> '.join(shown)}.",
        code="loop_detected",
        details={"loop": shown},
    )


def _enter(draft: Draft, step: Step) -> Outcome:
    frame = draft.frames[-1]
    common = step.common
    frame.step_id = common.step_id
    visit = frame.visits.get(common.step_id, 0) + 1
    frame.visits = {**frame.visits, common.step_id: visit}
    frame.tries = {name: count for name, count in frame.tries.items() if name != common.step_id}
    try:
        if common.if_ is not None and not common.if_.test(draft.context()):
            draft.emit("step.skipped", _step_data(visit), step_id=common.step_id, audience="full")
            return Skip()
        draft.emit("step.started", _step_data(visit), step_id=common.step_id, audience="full")
        return step.enter(draft)
    except (StepFailure, ExpressionFailed) as failure:
        return Fail(step_failure(failure))


def _step_data(visit: int, attempt: int = 1, error: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"visit": visit, "attempt": attempt, "error": error}


def _follow(draft: Draft, step: Step, outcome: Outcome, number: int = 1) -> object:
    """Write what the step's outcome means; return the next step id, None for the flow's end, or ``STOP``."""
    match outcome:
        case Next():
            _complete_step(draft, step, number)
            return draft.flow.next_of(step.common.step_id)
        case Skip():
            return draft.flow.after(step.common.step_id)
        case Goto(target):
            _complete_step(draft, step, number)
            return target
        case Wait(status):
            draft.set_status(status)
            draft.waiting_event()
            end_turn(draft)
            return STOP
        case Effect(attempt):
            draft.attempts = (*(a for a in draft.attempts if a.key != attempt.key), attempt)
            draft.effects.append(attempt)
            draft.set_status("running")
            return STOP
        case RetryLater(attempt, failure):
            draft.attempts = (*(a for a in draft.attempts if a.key != attempt.key), attempt)
            data = _step_data(attempt.visit, attempt.number, step_error(failure, step.common.step_id))
            draft.emit("step.retrying", data, step_id=step.common.step_id, audience="full")
            draft.set_status("running")
            return STOP
        case Finish():
            _complete_step(draft, step, number)
            return _finish(draft, outcome)
        case Fail(failure):
            return _step_failed(draft, step, failure, number)
        case _:
            assert_never(outcome)


def _visit(draft: Draft, step_id: str) -> int:
    return draft.frames[-1].visits.get(step_id, 1)


def _complete_step(draft: Draft, step: Step, number: int) -> None:
    step_id = step.common.step_id
    if step_id not in draft.completed:
        draft.completed.append(step_id)
    data = _step_data(_visit(draft, step_id), number)
    draft.emit("step.completed", data, step_id=step_id, audience="full")


def _step_failed(draft: Draft, step: Step, failure: StepFailure, number: int) -> object:
    step_id = step.common.step_id
    data = _step_data(_visit(draft, step_id), number, step_error(failure, step_id))
    draft.emit("step.failed", data, step_id=step_id, audience="full")
    if step.common.on_error is not None:
        return step.common.on_error
    fail_execution(draft, failure)
    return STOP


def _finish(draft: Draft, finish: Finish) -> object:
    """End the innermost frame: back to the question it interrupted, or the end of the execution."""
    if len(draft.frames) > 1:
        draft.pop_frame()
        try:
            step = cast("WaitingStep", current_step(draft))
            return _follow(draft, step, step.ask_again(draft))
        except (StepFailure, ExpressionFailed) as failure:
            fail_execution(draft, step_failure(failure))
            return STOP
    end_execution(draft, finish.status, output=finish.output)
    failed = finish.status == "failed"
    message = "The flow ended as failed."
    end_turn(draft, error=wire_error("step_failed", message, draft.step_id) if failed else None)
    return STOP

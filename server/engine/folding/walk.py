"""The walk over steps: enter one after the other until one waits, runs an effect, or the flow ends."""

from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never, cast

from server.engine.draft import SPLIT_BYTES, Draft, StepFailure
from server.engine.flow.expressions import ExpressionFailed
from server.engine.flow.model import Flow
from server.engine.folding.ending import end_execution, fail_execution, step_error, step_failure, wire_error
from server.engine.folding.frames import descend, go_over, subflow
from server.engine.folding.pausing import is_to_pause, pause_at, pause_at_question
from server.engine.folding.requests import drop_gone, hand_on, not_as_approved, withdraw
from server.engine.folding.timeouts import expire_overdue, is_overdue
from server.engine.folding.turns import end_turn
from server.engine.steps.base import (
    Back,
    CallingStep,
    Descend,
    Effect,
    Fail,
    Finish,
    GoOver,
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

DIGRESSION_FAILED: Final = "Sorry, I have no answer to that just now."

STOP: Final = object()


def walk(draft: Draft, step_id: str | None) -> None:
    """Enter steps one after the other until one waits, runs an effect, or the execution ends."""
    draft.set_status("running")
    if draft.pending:
        withdraw(draft)
    if is_overdue(draft):
        draft.frames[-1].step_id = step_id or draft.step_id
        expire_overdue(draft)
        return
    if step_id is not None and is_to_pause(draft):
        pause_at(draft, step_id)
        return
    trail: list[str] = []
    while True:
        try:
            step = _step(draft.flow, step_id) if step_id is not None else None
        except StepFailure as failure:
            follow = _uncaught(draft, failure)
            if follow is STOP:
                return
            step_id = cast("str | None", follow)
            continue
        if step is None or step_id is None:
            follow = _finish(draft, Finish("completed"))
            if follow is STOP:
                return
            step_id = cast("str | None", follow)
            if step_id is not None and is_to_pause(draft):  # the effect before was the last of a called flow
                pause_at(draft, step_id)
                return
            continue
        frame = draft.frames[-1]
        if draft.bytes > SPLIT_BYTES:
            frame.step_id, draft.unfinished = step_id, True
            return
        draft.steps += 1
        trail.append(step_id)
        if draft.steps > MAX_STEPS_PER_TURN:
            frame.step_id = step_id
            follow = _uncaught(draft, _loop(trail))
        else:
            follow = _follow(draft, step, _enter(draft, step))
        if follow is STOP:
            return
        step_id = cast("str | None", follow)


def fail(draft: Draft, failure: StepFailure) -> None:
    """Go on where a failure of the innermost frame is caught: a caller, a digression; or end as failed."""
    follow = _uncaught(draft, failure)
    if follow is not STOP:
        walk(draft, cast("str | None", follow))


def go_on(draft: Draft, outcome: Outcome, attempt: int = 1) -> None:
    """Continue after the current step answered with ``outcome`` (to its effect's ``attempt``)."""
    try:
        step = current_step(draft)
    except StepFailure as failure:
        fail(draft, failure)
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
    try:
        if common.if_ is not None and not common.if_.test(draft.context()):
            draft.emit("step.skipped", _step_data(visit), step_id=common.step_id, audience="full")
            return Skip()
        frame.visits = {**frame.visits, common.step_id: visit}
        frame.tries = {name: count for name, count in frame.tries.items() if name != common.step_id}
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
            if is_to_pause(draft):  # the effect before was the last of a digression
                pause_at_question(draft)
                return STOP
            draft.set_status(status)
            draft.waiting_event()
            end_turn(draft)
            return STOP
        case Effect(attempt):
            wrong = not_as_approved(draft, attempt) if draft.pending else None
            if wrong is not None:
                return _step_failed(draft, step, wrong, number)
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
        case Descend(flow_id, variables):
            return _try(draft, step, lambda: descend(draft, flow_id, variables))
        case GoOver(flow_id):
            return _try(draft, step, lambda: _leave_for(draft, step, flow_id))
        case Back(target):
            draft.pending = tuple(request for request in draft.pending if request.kind != "input")
            return target
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
    return _uncaught(draft, failure)


def _try(draft: Draft, step: Step, change: Callable[[], str | None]) -> object:
    """Change the frames; the step fails where that is not possible."""
    try:
        return change()
    except StepFailure as failure:
        return _step_failed(draft, step, failure, 1)


def _leave_for(draft: Draft, step: Step, flow_id: str) -> str | None:
    subflow(draft, flow_id)  # there is one: from here on the step is done
    _complete_step(draft, step, 1)
    return go_over(draft, flow_id)


def _uncaught(draft: Draft, failure: StepFailure) -> object:
    """Say where a failure that its own step does not catch leads.

    A step that called the failing flow fails with it, and may catch it; a digression ends with its failure,
    and the open question is asked again. Where nobody catches it the execution fails, and keeps its frames:
    ``retry`` goes on at the step that failed.
    """
    for place in range(len(draft.frames) - 2, -1, -1):
        caller = _step_at(draft, place)
        if not isinstance(caller, CallingStep):
            return _end_digression(draft, place)
        if caller.common.on_error is not None:
            while len(draft.frames) > place + 1:
                draft.pop_frame()
                step_id = draft.step_id or ""
                data = _step_data(_visit(draft, step_id), 1, step_error(failure, step_id))
                draft.emit("step.failed", data, step_id=step_id, audience="full")
            if draft.pending:
                drop_gone(draft)
            return caller.common.on_error
    fail_execution(draft, failure)
    return STOP


def _step_at(draft: Draft, place: int) -> Step | None:
    frame = draft.frames[place]
    flow = draft.flows.version(frame.flow_id, frame.version)
    known = flow is not None and frame.step_id in flow.index
    return cast("Step", flow.step(frame.step_id)) if flow and frame.step_id and known else None


def _end_digression(draft: Draft, place: int) -> object:
    """Go back from a digression that failed: a sentence to the user, and the open question again."""
    del draft.frames[place + 2 :]
    draft.pop_frame()
    draft.say(DIGRESSION_FAILED)
    return _back_to_the_question(draft)


def _back_to_the_question(draft: Draft) -> object:
    if draft.pending:
        drop_gone(draft)
    try:
        step = current_step(draft)
    except StepFailure as failure:
        return _uncaught(draft, failure)
    try:
        outcome = cast("WaitingStep", step).ask_again(draft)
    except (StepFailure, ExpressionFailed) as failure:
        outcome = Fail(step_failure(failure))
    return _follow(draft, step, outcome)


def _finish(draft: Draft, finish: Finish) -> object:
    """End the innermost frame: back to who called it, or whose question it interrupted; or the execution."""
    if len(draft.frames) > 1:
        caller = _step_at(draft, -2)
        ended = draft.frames[-1].frame
        draft.pop_frame()
        if not isinstance(caller, CallingStep):
            return _back_to_the_question(draft)
        hand_on(draft, ended, draft.frames[-1].frame)
        try:
            outcome = caller.returned(draft, finish)
        except StepFailure as failure:
            outcome = Fail(failure)
        return _follow(draft, caller, outcome)
    end_execution(draft, finish.status, output=finish.output)
    failed = finish.status == "failed"
    message = "The flow ended as failed."
    end_turn(draft, error=wire_error("step_failed", message, draft.step_id) if failed else None)
    return STOP


def enter_again(draft: Draft) -> None:
    """Enter the step once more that failed, as the same visit: its effect keeps its key."""
    frame = draft.frames[-1]
    step_id = frame.step_id
    if step_id is None:  # it failed before its first step
        try:
            step_id = draft.flow.steps[0].common.step_id
        except StepFailure as failure:
            fail(draft, failure)
            return
    elif step_id in frame.visits:
        frame.visits = {**frame.visits, step_id: frame.visits[step_id] - 1}
    walk(draft, step_id)

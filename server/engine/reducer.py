r"""The engine's heart: (record, input, now, seed, flows) -> the next record, its events, its effects.

Pure: no clock, no randomness, no I/O; the same arguments give the same result, so an input can be
reduced again on a fresher record when a commit misses. This module is the specification of what each
command does in each status:

=============== ================ ============ ================ ==============================
\\               none or ended    running      waiting_input    other waits, paused
=============== ================ ============ ================ ==============================
process         starts a flow    (the inbox)  the step's input recorded
acceptance,     by its pending id, in every status
clarification
cancel          ``wrong_state``  pre-empts    ends             ends
reset           done             pre-empts    done             done
=============== ================ ============ ================ ==============================

The runner keeps commands away from a running execution (they wait in the inbox), checks who may do
what, and makes the reduction durable.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, assert_never, cast

from protocol.errors import ERRORS, ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.draft import (
    SPLIT_BYTES,
    SUMMARY_BYTES,
    Draft,
    FrameDraft,
    StepFailure,
    json_bytes,
    newest_within,
    values_within,
)
from server.engine.flow.expressions import ExpressionFailed
from server.engine.flow.model import Flow
from server.engine.inputs import (
    CommandInput,
    EffectDone,
    EffectFailed,
    EffectProgress,
    Erase,
    Flows,
    Incoming,
    Input,
    NextInbox,
    Reduction,
    Started,
    Wake,
)
from server.engine.reading import fill_slots
from server.engine.schedule import Claimant
from server.engine.steps.base import (
    Effect,
    EffectStep,
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
from server.engine.types import Command
from server.engine.views import iso
from storage.models import (
    ENDED,
    EVENT_MAX_BYTES,
    LATE_FLUSH_MS,
    RING_SIZE,
    TOMBSTONE_MS,
    Attempt,
    CommandState,
    Conversation,
    Execution,
    ExecutionStatus,
    Frame,
    OpenTurn,
    RecentKey,
)

MAX_STEPS_PER_TURN: Final = 250
MAX_FRAMES: Final = 16
MESSAGE_MAX_BYTES: Final = EVENT_MAX_BYTES - 1024
RESTART_COMMAND: Final = "/restart"


def reduce(
    record: Conversation | None,
    event: Input,
    *,
    now: int,
    seed: str,
    flows: Flows,
    claimant: Claimant,
    conversation: tuple[str, str] = ("", ""),
    ring_size: int = RING_SIZE,
) -> Reduction | None:
    """Fold one input.

    Args:
        record: the conversation as it is, or None where it does not exist.
        event: what happened.
        now: the store's time, ms.
        seed: 32 hex digits, different for every call.
        flows: the tenant's flows, with every version that ``record`` names.
        claimant: who takes the lease if an effect follows.
        conversation: (tenant, conversation id), for a command that creates it.
        ring_size: how many idempotency keys the record keeps.

    Returns:
        The reduction; None where nothing is to be done (a result whose attempt is no longer open).

    Raises:
        Refused: the command is refused and nothing changes.
    """
    match event:
        case CommandInput(command, principal):
            record = record or _new_conversation(command, principal, conversation, now, seed)
            draft = Draft(record, now, seed, flows, claimant, ring_size)
            return _accept(draft, command, principal)
        case NextInbox():
            return _next_inbox(record, lambda waiting: Draft(waiting, now, seed, flows, claimant, ring_size))
    if record is None or record.deleted_at is not None:
        return None
    draft = Draft(record, now, seed, flows, claimant, ring_size)
    match event:
        case EffectDone() | EffectFailed():
            return _effect_result(draft, event)
        case EffectProgress():
            return _progress(draft, event)
        case Wake():
            return _wake(draft, event)
        case Erase():
            return _erase(draft)
        case _:
            assert_never(event)


# --- commands -------------------------------------------------------------------------------------


def _accept(draft: Draft, command: Command, principal: Principal) -> Reduction:
    _run_command(draft, command, principal, created=draft.before.revision == 0)
    return _reduction(draft, command.key, command.body_hash)


def _run_command(draft: Draft, command: Command, principal: Principal, *, created: bool = False) -> None:
    match command.type:
        case "process":
            _process(draft, command, principal, created=created)
        case "reset":
            _reset(draft, command)
        case "cancel":
            _cancel(draft, command)
        case "acceptance" | "clarification":
            _decide(draft, command)
        case other:
            raise Refused(ErrorCode.UNKNOWN_TYPE, f'"{other}" is not a command.', field="type")


def _next_inbox(record: Conversation | None, open_draft: Callable[[Conversation], Draft]) -> Reduction | None:
    if record is None or record.deleted_at is not None or not record.inbox:
        return None
    if record.execution is not None and record.execution.status == "running":
        draft = open_draft(record)
        if not (_wants_interrupt(draft) and _is_safe_point(draft)):
            return None
        _interrupt(draft)
        return _reduction(draft)
    entry, rest = record.inbox[0], record.inbox[1:]
    command = Command(
        entry.command["type"], record.conversation_id, entry.key, entry.body_hash, entry.command
    )
    waiting = replace(record, inbox=rest)
    draft = open_draft(waiting)
    if entry.void:
        refusal = Refused(ErrorCode.CANCELLED, "The conversation was reset before this message had its turn.")
        _refuse_turn(draft, command, refusal)
    else:
        try:
            _run_command(draft, command, Principal.from_record(entry.principal))
        except Refused as refused:
            draft = open_draft(waiting)
            _refuse_turn(draft, command, refused)
    return _reduction(draft, entry.key, entry.body_hash)


def _refuse_turn(draft: Draft, command: Command, refused: Refused) -> None:
    _open_turn(draft, command)
    _end_turn(draft, error=refused.to_wire())


def conversation_not_found() -> Refused:
    """Return the one refusal that a missing, a deleted and a foreign conversation have in common."""
    return Refused(
        ErrorCode.CONVERSATION_NOT_FOUND, "There is no such conversation.", field="conversation_id"
    )


def _new_conversation(
    command: Command, principal: Principal, conversation: tuple[str, str], now: int, seed: str
) -> Conversation:
    if command.type != "process":
        raise conversation_not_found()
    body = command.body
    return Conversation(
        tenant_id=conversation[0],
        conversation_id=conversation[1],
        user_id=body.get("user_id") or principal.user_id,
        epoch="e" + seed[:20],
        channel=body.get("channel", "web"),
        locale=command.locale,
        timezone=command.timezone,
        created_at=now,
        last_activity=now,
    )


def _process(draft: Draft, command: Command, principal: Principal, *, created: bool) -> None:
    content = command.body["content"]
    if json_bytes(content) > MESSAGE_MAX_BYTES:
        raise Refused(
            ErrorCode.PAYLOAD_TOO_LARGE,
            f"A message may have {MESSAGE_MAX_BYTES:,} bytes with all that belongs to it.",
            field="content",
        )
    incoming = Incoming(content.get("text"), content.get("payload"), content.get("metadata") or {})
    execution = draft.execution
    speaker = command.body.get("user_id") or principal.user_id
    by_owner = speaker == draft.before.user_id
    fresh = execution is None or execution.status in ENDED
    started: Started | None = None
    if by_owner and fresh:
        started = _choose_flow(draft.flows, incoming, command.body.get("flow_id"))
    _open_turn(draft, command)
    draft.channel = command.body.get("channel", draft.channel)
    if created:
        draft.emit("conversation.created", {"user_id": draft.before.user_id, "channel": draft.channel})
    draft.receive(
        "user" if by_owner else "agent", speaker, incoming.text, incoming.payload, incoming.metadata
    )
    if started is not None:
        _start(draft, started, incoming, command)
    elif by_owner and draft.status == "waiting_input":
        _answer(draft, incoming, command)
    else:
        # A person who does not own the conversation speaks in it; the flow keeps waiting for its own.
        _end_turn(draft)


def _choose_flow(flows: Flows, incoming: Incoming, flow_id: str | None) -> Started:
    if flow_id is not None:
        named = flows.newest(flow_id)
        if named is None:
            raise Refused(
                ErrorCode.FLOW_NOT_FOUND,
                f'There is no published flow "{flow_id}".',
                field="flow_id",
                suggestion="Leave flow_id out to start the default flow.",
            )
        return named
    chosen = flows.understand(incoming.text, incoming.payload, None) or flows.default()
    if chosen is None:
        raise Refused(
            ErrorCode.FLOW_NOT_FOUND,
            "No flow understands this message, and there is no default flow.",
            suggestion='Publish a flow with "default: true", or send flow_id.',
        )
    return chosen


def _reset(draft: Draft, command: Command) -> None:
    _preempt(draft, "The conversation was reset.")
    _open_turn(draft, command)
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
    _end_turn(draft)


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
    _open_turn(draft, command)
    _end_execution(draft, "cancelled")
    _end_turn(draft)


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
        _end_turn(draft, error=Refused(ErrorCode.CANCELLED, reason).to_wire())


# --- turns ----------------------------------------------------------------------------------------


def _open_turn(draft: Draft, command: Command) -> None:
    draft.turn = OpenTurn(command.key, None, draft.now)
    draft.messages, draft.actions, draft.steps = [], [], 0
    draft.turn_slots, draft.turn_variables = {}, {}
    draft.remember(
        RecentKey(
            command.key,
            command.body_hash,
            "running",
            draft.execution.execution_id if draft.execution else None,
            draft.offset + 1,
            draft.offset + 1,
        )
    )


def _end_turn(draft: Draft, *, error: Mapping[str, Any] | None = None) -> None:
    """Write the turn's one ``turn.completed`` or ``turn.failed``; a run without a command has none."""
    draft.flush_changes()
    turn = draft.turn
    if turn is None:
        return
    if turn.command_id is not None:
        data = _turn_data(draft, turn, error)
        draft.emit("turn.failed" if error else "turn.completed", data, step_id=draft.step_id)
        status: CommandState = "failed" if error else "completed"
        draft.results[turn.command_id] = (status, data)
        draft.settle_key(turn.command_id, status)
    draft.turn = None
    draft.messages, draft.actions, draft.steps = [], [], 0
    draft.turn_slots, draft.turn_variables = {}, {}


def _turn_data(draft: Draft, turn: OpenTurn, error: Mapping[str, Any] | None) -> dict[str, Any]:
    response: dict[str, Any] = {"messages": newest_within(draft.messages, SUMMARY_BYTES)}
    if len(response["messages"]) < len(draft.messages):
        response["truncated"] = True
    state = draft.step_id if draft.status not in ENDED and draft.execution is not None else None
    head = {
        "conversation_id": draft.before.conversation_id,
        "current_state": state or "idle",
        "response": response,
    }
    if error is not None:
        return {**head, "error": dict(error)}
    room = SUMMARY_BYTES // 2
    return {
        **head,
        "context_updates": {
            "slots": values_within(draft.turn_slots, room),
            "variables": values_within(draft.turn_variables, room),
        },
        "actions_performed": list(draft.actions),
        "processing_time_ms": max(0, draft.now - turn.started_at),
        "success": True,
        "ab_variant": draft.execution.variant if draft.execution else None,
    }


def _reduction(draft: Draft, key: str | None = None, body_hash: str | None = None) -> Reduction:
    record = draft.freeze()
    status: CommandState = "running"
    result = None
    if key is not None and key in draft.results:
        status, result = draft.results[key]
    return Reduction(
        record=record,
        events=tuple(draft.events),
        effects=tuple(draft.effects),
        key=key,
        body_hash=body_hash,
        status=status,
        result=result,
        unfinished=draft.unfinished,
    )


# --- starting and answering -----------------------------------------------------------------------


def _start(draft: Draft, started: Started, incoming: Incoming | None, command: Command) -> None:
    flow = started.flow
    execution_id = draft.new_execution_id()
    draft.variables, draft.frames, draft.completed = (
        {},
        [FrameDraft(Frame(0, None, flow.flow_id, started.version, None))],
        [],
    )
    draft.attempts, draft.pending, draft.exposed = (), (), tuple(sorted(flow.exposed))
    draft.execution = Execution(
        execution_id=execution_id,
        flow_id=flow.flow_id,
        flow_version=started.version,
        status="running",
        user_id=draft.before.user_id,
        project_id=draft.before.project_id,
        input={"text": incoming.text, "payload": incoming.payload} if incoming else None,
        correlation_id=command.correlation_id,
        request_id=command.request_id,
        started_at=draft.now,
        updated_at=draft.now,
    )
    draft.set_status("running")
    draft.emit("execution.started", draft.execution_data())
    try:
        for name, slot in flow.slots.items():
            if not slot.keep and name in draft.slots:
                draft.set_slot(name, None)
            if slot.default is not None and draft.slots.get(name) is None:
                draft.set_slot(name, slot.default)
        for name, value in flow.variables.items():
            draft.set_variable(name, value)
    except StepFailure as failure:
        _fail_execution(draft, failure)
        return
    _enter_frame(draft, flow, incoming)


def _enter_frame(draft: Draft, flow: Flow, incoming: Incoming | None) -> None:
    """Begin at the flow's first step; the message that started it fills its slots, but no text one."""
    try:
        if incoming is not None and incoming.text:
            fill_slots(draft, flow, incoming.text)
    except StepFailure as failure:
        _fail_execution(draft, failure)
        return
    _walk(draft, flow.steps[0].common.step_id if flow.steps else None)


def _answer(draft: Draft, incoming: Incoming, command: Command) -> None:
    """A message for the step that waits for input: commands, the open slot, digressions, a text slot."""
    if incoming.said.strip().lower() == RESTART_COMMAND:
        _restart(draft, command)
        return
    try:
        step = cast("WaitingStep", _current_step(draft))
        outcome = step.read(draft, incoming)
        if outcome is None:
            if _digress(draft, incoming):
                return
            outcome = step.fall_back(draft, incoming)
    except (StepFailure, ExpressionFailed) as failure:
        outcome = Fail(step_failure(failure))
    _go_on(draft, outcome)


def step_failure(error: StepFailure | ExpressionFailed) -> StepFailure:
    """Return ``error`` as the failure of a step: an expression that fails fails its step."""
    return error if isinstance(error, StepFailure) else StepFailure(str(error))


def _restart(draft: Draft, command: Command) -> None:
    frame = draft.frames[0]
    newest = draft.flows.newest(frame.flow_id)
    flow = draft.flows.version(frame.flow_id, frame.version)
    started = newest or (Started(flow, frame.version) if flow is not None else None)
    _end_execution(draft, "cancelled")
    if started is None:
        _end_turn(draft)
    else:
        _start(draft, started, None, command)


def _digress(draft: Draft, incoming: Incoming) -> bool:
    """Answer from another flow, if this one lets it; its end returns to the open question."""
    if len(draft.frames) >= MAX_FRAMES or not draft.flow.interruptible_by:
        return False
    chosen = draft.flows.understand(incoming.text, incoming.payload, draft.flow.interruptible_by)
    if chosen is None:
        return False
    draft.pending = ()
    draft.push_frame(chosen.flow.flow_id, chosen.version)
    draft.set_status("running")
    _enter_frame(draft, chosen.flow, incoming)
    return True


# --- the walk over steps --------------------------------------------------------------------------


def _current_step(draft: Draft) -> Step:
    return _step(draft.flow, draft.step_id)


def _step(flow: Flow, step_id: str | None) -> Step:
    if step_id is None or step_id not in flow.index:
        raise StepFailure("This conversation's flow has changed and its step is gone.")
    return cast("Step", flow.steps[flow.index[step_id]])


def _go_on(draft: Draft, outcome: Outcome, attempt: int = 1) -> None:
    """Continue after the current step answered with ``outcome`` (to its effect's ``attempt``)."""
    try:
        step = _current_step(draft)
    except StepFailure as failure:
        _fail_execution(draft, failure)
        return
    follow = _follow(draft, step, outcome, attempt)
    if follow is not _STOP:
        _walk(draft, cast("str | None", follow))


_STOP: Final = object()


def _walk(draft: Draft, step_id: str | None) -> None:
    """Enter steps one after the other until one waits, runs an effect, or the execution ends."""
    draft.set_status("running")
    trail: list[str] = []
    while True:
        try:
            step = _step(draft.flow, step_id) if step_id is not None else None
        except StepFailure as failure:
            _fail_execution(draft, failure)
            return
        if step is None or step_id is None:
            follow = _finish(draft, Finish("completed"))
            if follow is _STOP:
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
            _fail_execution(draft, _loop(trail))
            return
        follow = _follow(draft, step, _enter(draft, step))
        if follow is _STOP:
            return
        step_id = cast("str | None", follow)


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
    """Write what the step's outcome means; return the next step id, None for the flow's end, or ``_STOP``."""
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
            _end_turn(draft)
            return _STOP
        case Effect(attempt):
            draft.attempts = (*(a for a in draft.attempts if a.key != attempt.key), attempt)
            draft.effects.append(attempt)
            draft.set_status("running")
            return _STOP
        case RetryLater(attempt, failure):
            draft.attempts = (*(a for a in draft.attempts if a.key != attempt.key), attempt)
            data = _step_data(attempt.visit, attempt.number, _error(failure, step.common.step_id))
            draft.emit("step.retrying", data, step_id=step.common.step_id, audience="full")
            draft.set_status("running")
            return _STOP
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


def _error(failure: StepFailure, step_id: str | None) -> dict[str, Any]:
    details = dict(failure.details) if failure.details else None
    return {"code": failure.code, "message": failure.reason, "step_id": step_id, "details": details}


def _step_failed(draft: Draft, step: Step, failure: StepFailure, number: int) -> object:
    step_id = step.common.step_id
    data = _step_data(_visit(draft, step_id), number, _error(failure, step_id))
    draft.emit("step.failed", data, step_id=step_id, audience="full")
    if step.common.on_error is not None:
        return step.common.on_error
    _fail_execution(draft, failure)
    return _STOP


def _finish(draft: Draft, finish: Finish) -> object:
    """End the innermost frame: back to the question it interrupted, or the end of the execution."""
    if len(draft.frames) > 1:
        draft.pop_frame()
        try:
            step = cast("WaitingStep", _current_step(draft))
            return _follow(draft, step, step.ask_again(draft))
        except (StepFailure, ExpressionFailed) as failure:
            _fail_execution(draft, step_failure(failure))
            return _STOP
    _end_execution(draft, finish.status, output=finish.output)
    failed = finish.status == "failed"
    message = "The flow ended as failed."
    _end_turn(draft, error=_wire_error("step_failed", message, draft.step_id) if failed else None)
    return _STOP


def _end_execution(
    draft: Draft, status: ExecutionStatus, *, output: Any = None, error: Mapping[str, Any] | None = None
) -> None:
    execution = draft.execution
    if execution is None:
        return
    draft.flush_changes()
    step_id = draft.step_id
    draft.set_status(status)
    draft.attempts, draft.pending = (), ()
    draft.execution = replace(
        execution, output=output, error=error, current_step_id=step_id, completed_at=draft.now
    )
    data = draft.execution_data(output=output, error=error)
    draft.emit(f"execution.{status}", data, step_id=step_id, size=json_bytes(output))


def _fail_execution(draft: Draft, failure: StepFailure) -> None:
    step_id = draft.step_id
    _end_execution(draft, "failed", error=_error(failure, step_id))
    _end_turn(draft, error=_wire_error(failure.code, failure.reason, step_id, failure.details))


def _wire_error(
    code: str, message: str, step_id: str | None, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    known = ErrorCode(code)
    wire = Refused(known, message, details={**(details or {}), "step_id": step_id}).to_wire()
    wire["temporary"] = ERRORS[known].temporary
    return wire


# --- effects --------------------------------------------------------------------------------------


def _effect_result(draft: Draft, result: EffectDone | EffectFailed) -> Reduction | None:
    attempt = _open_attempt(draft, result.key, result.number)
    if attempt is None:
        return None
    succeeded = isinstance(result, EffectDone)
    action = {"name": attempt.name, "effect": attempt.effect, "duration_ms": result.duration_ms}
    draft.actions.append(action)
    draft.emit("action.performed", {**action, "success": succeeded}, step_id=attempt.step_id, audience="full")
    draft.attempts = tuple(other for other in draft.attempts if other.key != attempt.key)
    try:
        step = cast("EffectStep", _current_step(draft))
        if isinstance(result, EffectDone):
            outcome = step.succeeded(draft, attempt, result.value)
        else:
            outcome = step.failed(draft, attempt, result)
    except (StepFailure, ExpressionFailed) as failure:
        outcome = Fail(step_failure(failure))
    if _interrupted(draft, result):
        _interrupt(draft)
    else:
        _go_on(draft, outcome, attempt.number)
    return _reduction(draft)


def _open_attempt(draft: Draft, key: str, number: int) -> Attempt | None:
    if draft.status != "running":
        return None
    return next(
        (a for a in draft.attempts if a.key == key and a.number == number and a.retry_at is None), None
    )


def _interrupted(draft: Draft, result: EffectDone | EffectFailed) -> bool:
    """Tell whether somebody wants to interrupt: between an effect and the next step is the safe point."""
    return (isinstance(result, EffectFailed) and result.kind == "interrupted") or _wants_interrupt(draft)


def _wants_interrupt(draft: Draft) -> bool:
    return any(entry.command.get("on_busy") == "interrupt" and not entry.void for entry in draft.inbox)


def _is_safe_point(draft: Draft) -> bool:
    """Tell whether all attempts wait for their back-off, and none is of unknown outcome."""
    return bool(draft.attempts) and all(
        attempt.retry_at is not None and not attempt.may_have_written for attempt in draft.attempts
    )


def _interrupt(draft: Draft) -> None:
    _end_execution(draft, "cancelled")
    refusal = Refused(ErrorCode.CANCELLED, "A later message interrupted this turn.")
    _end_turn(draft, error=refusal.to_wire())


def _progress(draft: Draft, progress: EffectProgress) -> Reduction | None:
    attempt = _open_attempt(draft, progress.key, progress.number)
    if attempt is None:
        return None
    payload = {"action": attempt.name, "text": progress.text[:2000], "time": iso(draft.now)}
    data = {"name": "action.progress", "payload": payload}
    draft.emit("flow.custom", data, step_id=attempt.step_id, size=len(progress.text))
    return _reduction(draft)


def _wake(draft: Draft, wake: Wake) -> Reduction | None:
    """Go on with what is due: a fold that was split, a retry, or an attempt whose owner died."""
    if draft.status != "running" or draft.execution is None:
        return None
    lease = draft.before.lease
    mine = lease is not None and lease.owner == draft.claimant.owner
    if lease is not None and lease.until > draft.now and (wake.reason == "due" or not mine):
        return None
    if not draft.attempts:
        _because(draft, None if wake.reason == "continue" else "recovery")
        _walk(draft, draft.step_id)
        return _reduction(draft)
    attempt = draft.attempts[0]
    if not attempt.may_have_written and _wants_interrupt(draft):
        _interrupt(draft)
        return _reduction(draft)
    if attempt.retry_at is not None:
        if attempt.retry_at > draft.now:
            return None
        _because(draft, "retry")
        again = replace(attempt, retry_at=None, number=attempt.number + 1, started_at=draft.now)
        _go_on(draft, Effect(again))
        return _reduction(draft)
    _because(draft, "recovery")
    try:
        step = cast("EffectStep", _current_step(draft))
        outcome = step.recovered(draft, attempt)
    except StepFailure as failure:
        outcome = Fail(failure)
    draft.attempts = tuple(other for other in draft.attempts if other.key != attempt.key)
    _go_on(draft, outcome, attempt.number)
    return _reduction(draft)


def _because(draft: Draft, cause: str | None) -> None:
    """Say in the rest of the turn's events why it goes on by itself."""
    draft.cause = cause
    if draft.turn is not None and cause is not None:
        draft.turn = replace(draft.turn, cause=cause)


# --- deletion -------------------------------------------------------------------------------------


def _erase(draft: Draft) -> Reduction:
    """Leave a tombstone: the ids, the fence, and nothing that anybody said."""
    before = draft.before
    record = Conversation(
        tenant_id=before.tenant_id,
        conversation_id=before.conversation_id,
        user_id=None,
        epoch=before.epoch,
        offset=before.offset,
        revision=before.revision + 1,
        fence=before.fence + 1,
        commit_id=draft.seed,
        wake_at=draft.now + LATE_FLUSH_MS,
        deleted_at=draft.now,
        expires_at=draft.now + TOMBSTONE_MS,
        created_at=before.created_at,
        last_activity=draft.now,
    )
    return Reduction(record=record, events=())

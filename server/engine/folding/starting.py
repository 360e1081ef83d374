"""How a flow begins: by a message, by ``/restart``, as a digression from another."""

from typing import Any

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.draft import Draft, FrameDraft, StepFailure
from server.engine.flow.model import Flow
from server.engine.folding.ending import end_execution, fail_execution
from server.engine.folding.frames import MAX_FRAMES, versions_below
from server.engine.folding.given import Given, read_given
from server.engine.folding.requests import ask_input
from server.engine.folding.turns import end_turn, open_turn
from server.engine.folding.walk import fail, walk
from server.engine.inputs import Flows, Incoming, Started
from server.engine.reading import fill_slots
from server.engine.types import Command
from storage.models import ENDED, Execution, Frame


def choose_flow(flows: Flows, incoming: Incoming, flow_id: str | None) -> Started:
    """Return the flow that a message starts: named, understood, or the default. Raises Refused."""
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


def begin(draft: Draft, command: Command, principal: Principal, *, created: bool) -> None:
    """Fold the command ``start``: a flow by its id, with values that it begins with. Raises Refused.

    What has not ended is in the way, unless ``on_busy`` says ``interrupt``: then it is cancelled.
    """
    body = command.body
    started = _named(draft, body["flow_id"], body.get("version"))
    context = body.get("initial_context") or {}
    given = read_given(started.flow, context, body.get("input"), inner=principal.may("conversations:write"))
    execution = draft.execution
    in_the_way = execution if execution is not None and execution.status not in ENDED else None
    if in_the_way is not None and body.get("on_busy") != "interrupt":
        raise Refused(
            ErrorCode.CONVERSATION_BUSY,
            "An execution in this conversation has not ended.",
            details={"status": in_the_way.status, "execution_id": in_the_way.execution_id},
            suggestion='Cancel it, or send on_busy "interrupt"; or start in another conversation.',
        )
    open_turn(draft, command)
    if in_the_way is not None:
        end_execution(draft, "cancelled")
    draft.channel = body.get("channel") or draft.channel
    if created:
        draft.emit("conversation.created", {"user_id": draft.before.user_id, "channel": draft.channel})
    start(draft, started, None, command, given)


def _named(draft: Draft, flow_id: str, version: int | None) -> Started:
    newest = draft.flows.newest(flow_id)
    if version is None or newest is None or newest.version == version:
        found = newest
    else:
        flow = draft.flows.version(flow_id, version)
        found = Started(flow, version) if flow is not None else None
    if found is None:
        what = f'There is no published flow "{flow_id}"'
        message = f"{what}." if version is None else f"{what} in version {version}."
        raise Refused(ErrorCode.FLOW_NOT_FOUND, message, field="flow_id")
    return found


def start(
    draft: Draft, started: Started, incoming: Incoming | None, command: Command, given: Given | None = None
) -> None:
    """Begin an execution of a flow; a message that starts it fills its slots, as do ``given`` values."""
    flow = started.flow
    execution_id = draft.new_execution_id()
    draft.variables, draft.frames, draft.completed = (
        {},
        [FrameDraft(Frame(0, None, flow.flow_id, started.version, None))],
        [],
    )
    draft.attempts, draft.pending, draft.exposed = (), (), tuple(sorted(flow.exposed))
    input_: Any = {"text": incoming.text, "payload": incoming.payload} if incoming else None
    draft.execution = Execution(
        execution_id=execution_id,
        flow_id=flow.flow_id,
        flow_version=started.version,
        status="running",
        user_id=draft.before.user_id,
        project_id=command.body.get("project_id") or draft.before.project_id,
        input=input_ if given is None else given.input,
        correlation_id=command.correlation_id,
        request_id=command.request_id,
        started_at=draft.now,
        updated_at=draft.now,
        timeout_ms=flow.timeout_ms,
        subflows=versions_below(draft.flows, started) if flow.subflows else {},
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
        if given is not None:
            given.fill(draft)
    except StepFailure as failure:
        fail_execution(draft, failure)
        return
    enter_frame(draft, flow, incoming)


def enter_frame(draft: Draft, flow: Flow, incoming: Incoming | None) -> None:
    """Begin at the flow's first step; the message that started it fills its slots, but no text one."""
    try:
        if incoming is not None and incoming.text:
            fill_slots(draft, flow, incoming.text)
    except StepFailure as failure:
        fail(draft, failure)
        return
    walk(draft, flow.steps[0].common.step_id if flow.steps else None)


def restart(draft: Draft, command: Command) -> None:
    """Cancel the execution and begin its flow anew, in its newest version."""
    frame = draft.frames[0]
    newest = draft.flows.newest(frame.flow_id)
    flow = draft.flows.version(frame.flow_id, frame.version)
    started = newest or (Started(flow, frame.version) if flow is not None else None)
    end_execution(draft, "cancelled")
    if started is None:
        end_turn(draft)
    else:
        start(draft, started, None, command)


def digress(draft: Draft, incoming: Incoming) -> bool:
    """Answer from another flow, if this one lets it; its end returns to the open question."""
    if len(draft.frames) >= MAX_FRAMES or not draft.flow.interruptible_by:
        return False
    chosen = draft.flows.understand(incoming.text, incoming.payload, draft.flow.interruptible_by)
    if chosen is None:
        return False
    ask_input(draft, None)
    draft.push_frame(chosen.flow.flow_id, chosen.version)
    draft.set_status("running")
    enter_frame(draft, chosen.flow, incoming)
    return True

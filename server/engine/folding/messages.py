"""``process``: what a message does in each status."""

from collections.abc import Mapping
from typing import Any, Final, cast

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.draft import Draft, StepFailure, json_bytes
from server.engine.flow.expressions import ExpressionFailed
from server.engine.folding.corrections import explicit_correction
from server.engine.folding.ending import step_failure
from server.engine.folding.starting import choose_flow, digress, restart, start
from server.engine.folding.turns import end_turn, open_turn
from server.engine.folding.walk import current_step, go_on
from server.engine.inputs import Incoming, Started
from server.engine.steps.base import Fail, WaitingStep
from server.engine.types import Command
from storage.models import ENDED, EVENT_MAX_BYTES

MESSAGE_MAX_BYTES: Final = EVENT_MAX_BYTES - 1024

RESTART_COMMAND: Final = "/restart"
ANSWERED: Final = frozenset({"waiting_input", "waiting_clarification"})
MEANWHILE: Final = frozenset({"waiting_acceptance", "waiting_timer", "waiting_event"})


def process(draft: Draft, command: Command, principal: Principal, *, created: bool) -> None:
    """Fold what a person said. Raises Refused."""
    content = command.body["content"]
    if _may_be_large(content) and json_bytes(content) > MESSAGE_MAX_BYTES:
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
        started = choose_flow(draft.flows, incoming, command.body.get("flow_id"))
    open_turn(draft, command)
    draft.channel = command.body.get("channel", draft.channel)
    if created:
        draft.emit("conversation.created", {"user_id": draft.before.user_id, "channel": draft.channel})
    draft.receive(
        "user" if by_owner else "agent", speaker, incoming.text, incoming.payload, incoming.metadata
    )
    if started is not None:
        start(draft, started, incoming, command)
    elif by_owner and draft.status in ANSWERED:
        _answer(draft, incoming, command)
    elif by_owner and draft.status in MEANWHILE:
        _meanwhile(draft, incoming, command)
    else:
        # Somebody who does not own the conversation speaks in it, or it is paused and a person reads it: the
        # flow does not move.
        end_turn(draft)


def _may_be_large(content: Mapping[str, Any]) -> bool:
    """Tell whether the size of a message is worth finding out; of a character JSON makes 6 bytes at most."""
    characters = len(content.get("text") or "") + len(content.get("payload") or "")
    return bool(content.get("metadata")) or 6 * characters > MESSAGE_MAX_BYTES - 1024


def _meanwhile(draft: Draft, incoming: Incoming, command: Command) -> None:
    """A message while the flow waits for something else: a command, a digression, or the step's words."""
    if incoming.said.strip().lower() == RESTART_COMMAND:
        restart(draft, command)
        return
    try:
        if digress(draft, incoming):
            return
        words = current_step(draft).common.while_waiting
        if words is not None:
            draft.say(words.render({} if words.is_constant else draft.context()))
    except (StepFailure, ExpressionFailed):
        pass  # there are no words then; what is waited for comes nevertheless
    end_turn(draft)


def _answer(draft: Draft, incoming: Incoming, command: Command) -> None:
    """A message for the step that waits for input: commands, the open slot, digressions, a text slot."""
    if incoming.said.strip().lower() == RESTART_COMMAND:
        restart(draft, command)
        return
    try:
        step = cast("WaitingStep", current_step(draft))
        outcome = explicit_correction(draft, step, incoming) or step.read(draft, incoming)
        if outcome is None:
            if digress(draft, incoming):
                return
            outcome = step.fall_back(draft, incoming)
    except (StepFailure, ExpressionFailed) as failure:
        outcome = Fail(step_failure(failure))
    go_on(draft, outcome)

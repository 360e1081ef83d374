"""``context``: slots and variables set from outside, by name. Nothing else moves.

What is asked for stays asked for, and what was decided stays decided: whoever wants the flow to go on says
something (``docs/decisions/0028-a-context-is-amended-not-steered.md``).
"""

from collections.abc import Mapping
from typing import Any

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.draft import Draft, StepFailure
from server.engine.flow.expressions import ExpressionFailed
from server.engine.flow.model import Flow, Slot
from server.engine.flow.node import did_you_mean
from server.engine.flow.slots import SlotInvalid, normalise
from server.engine.folding.turns import end_turn, open_turn
from server.engine.reading import complaint
from server.engine.types import Command
from storage.models import ENDED


def amend(draft: Draft, command: Command, principal: Principal) -> None:
    """Fold the command ``context``. Raises Refused, and then nothing has changed."""
    slots: Mapping[str, Any] = command.body.get("slots") or {}
    variables: Mapping[str, Any] = command.body.get("variables") or {}
    if variables and not principal.may("conversations:write"):
        message = 'To set variables takes the scope "conversations:write".'
        raise Refused(ErrorCode.PERMISSION_DENIED, message, field="variables")
    if draft.execution is None or draft.execution.status in ENDED:
        raise Refused(
            ErrorCode.WRONG_STATE,
            "No flow runs here that would know these slots and variables.",
            details={"status": draft.execution.status if draft.execution else "idle"},
            suggestion="Start one, with the values as its initial_context.",
        )
    flows = [flow for f in reversed(draft.frames) if (flow := draft.flows.version(f.flow_id, f.version))]
    declared = {name: slot for flow in reversed(flows) for name, slot in flow.slots.items()}
    values = {name: _normal(declared, name, value) for name, value in slots.items()}
    for name in variables:
        _check_variable(flows[-1:], name)
    open_turn(draft, command)
    try:
        _set(draft, declared, values, variables)
    except StepFailure as failure:
        raise Refused(ErrorCode.PAYLOAD_TOO_LARGE, failure.reason, details=failure.details) from None
    end_turn(draft)


def _set(
    draft: Draft, declared: Mapping[str, Slot], slots: Mapping[str, Any], variables: Mapping[str, Any]
) -> None:
    for name, value in variables.items():
        draft.set_root_variable(name, value)
    for name, value in slots.items():
        draft.set_slot(name, value)
    for name, value in slots.items():
        if value is None:
            continue
        try:
            why = complaint(draft, declared[name], value)
        except ExpressionFailed as failed:
            why = failed.message
        if why is not None:
            raise _refused("slots", name, why)


def _normal(declared: Mapping[str, Slot], name: str, value: Any) -> Any:
    if name not in declared:
        hint = did_you_mean(name, list(declared))
        raise _refused("slots", name, "No flow that runs here has such a slot.", hint)
    try:
        return None if value is None else normalise(declared[name], value)
    except SlotInvalid as invalid:
        raise _refused("slots", name, f"The value does not fit: {invalid.message}") from None


def _check_variable(flows: list[Flow], name: str) -> None:
    """Only the outermost flow's are the conversation's; those of a flow inside it are its own."""
    known = [known for flow in flows for known in flow.variables]
    if name not in known:
        hint = did_you_mean(name, known)
        raise _refused("variables", name, "The flow that runs here has no such variable.", hint)


def _refused(where: str, name: str, message: str, suggestion: str | None = None) -> Refused:
    return Refused(ErrorCode.BAD_REQUEST, message, field=f"{where}.{name[:64]}", suggestion=suggestion)

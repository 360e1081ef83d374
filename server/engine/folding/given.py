"""What a ``start`` brings along: values for slots and variables, and the input."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from protocol.errors import ErrorCode, Refused
from server.engine.draft import Draft
from server.engine.flow.expressions import ExpressionFailed
from server.engine.flow.model import Flow
from server.engine.flow.node import did_you_mean
from server.engine.flow.slots import SlotInvalid, normalise
from server.engine.reading import complaint

INPUT: Final = "input"


@dataclass(frozen=True, slots=True)
class Given:
    """Values by slot and variable, normalised, and the execution's ``input`` (any JSON)."""

    slots: Mapping[str, Any]
    variables: Mapping[str, Any]
    input: Any

    def fill(self, draft: Draft) -> None:
        """Set the values. Raises StepFailure without room, Refused where a slot's rule is broken."""
        for name, value in self.variables.items():
            draft.set_variable(name, value)
        for name, value in self.slots.items():
            draft.set_slot(name, value)
        flow = draft.flow
        for name, value in self.slots.items():
            try:
                why = complaint(draft, flow.slots[name], value)
            except ExpressionFailed as failed:
                why = failed.message
            if why is not None:
                raise _refused(name, why)


def read_given(flow: Flow, context: Mapping[str, Any], input_: Any, *, inner: bool) -> Given:
    """Sort ``initial_context`` by what the flow declares. Raises Refused for what fits nothing.

    A name is a slot's, else a variable's; ``input`` in it is the execution's input where none is given.
    ``inner``: variables may be set, the flow's inner workings; who may not is told of slots alone.
    """
    slots: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    for name, value in context.items():
        if name in flow.slots:
            slots[name] = _slot_value(flow, name, value)
        elif inner and name in flow.variables:
            variables[name] = value
        elif name == INPUT:
            input_ = value if input_ is None else input_
        elif inner:
            hint = did_you_mean(name, [*flow.slots, *flow.variables])
            raise _refused(name, f'The flow "{flow.flow_id}" has no such slot or variable.', hint)
        else:
            hint = did_you_mean(name, list(flow.slots))
            what = f'The flow "{flow.flow_id}" has no such slot'
            raise _refused(name, f'{what}; to set variables takes the scope "conversations:write".', hint)
    return Given(slots, variables, input_)


def _slot_value(flow: Flow, name: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        return normalise(flow.slots[name], value)
    except SlotInvalid as invalid:
        raise _refused(name, f"The value does not fit: {invalid.message}") from None


def _refused(name: str, message: str, suggestion: str | None = None) -> Refused:
    return Refused(
        ErrorCode.BAD_REQUEST, message, field=f"initial_context.{name[:64]}", suggestion=suggestion
    )

"""``emit``: tells whoever listens, as ``flow.custom``."""

from dataclasses import dataclass
from typing import ClassVar, Self

from server.engine.draft import Draft, StepFailure, json_bytes
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import JsonTemplate, Node
from server.engine.steps.base import Next, Outcome
from server.engine.steps.wait import EVENT_NAME
from storage.models import EVENT_MAX_BYTES


@dataclass(frozen=True, slots=True)
class Emit:
    """``emit: name`` with its payload in ``with``, or ``emit: {name, payload}``."""

    keyword: ClassVar[str] = "emit"
    common: StepCommon
    name: str
    payload: JsonTemplate

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read the event's name and what goes with it."""
        inner = node.mapping("emit") if node.is_mapping("emit") else None
        holder, name_key, payload_key = (inner, "name", "payload") if inner else (node, "emit", "with")
        name = holder.matching(name_key, EVENT_NAME, "a name such as appointment.created", required=True)
        given = holder.has(payload_key)
        payload = holder.templates(payload_key) if given else JsonTemplate.constant(None)
        if inner is not None:
            inner.finish()
        return cls(common, name or "", payload)

    def enter(self, draft: Draft) -> Outcome:
        """Write the event and go on."""
        payload = self.payload.value({} if self.payload.is_constant else draft.context())
        size = json_bytes(payload)
        if size > EVENT_MAX_BYTES // 2:
            raise StepFailure("The payload is too large for an event.", details={"bytes": size})
        data = {"name": self.name, "payload": payload}
        draft.emit("flow.custom", data, step_id=self.common.step_id, size=size)
        return Next()

    def targets(self) -> tuple[str, ...]:
        """It only goes on."""
        return ()

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions of the payload."""
        return self.payload.expressions

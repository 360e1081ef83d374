"""``call``: runs another flow inside this one, and goes on with what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from server.engine.draft import Draft, StepFailure
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import JsonTemplate, Node
from server.engine.steps.base import Descend, Fail, Finish, Next, Outcome


@dataclass(frozen=True, slots=True)
class Call:
    """``call: flow_id`` with ``with`` and ``save`` beside it, or ``call: {flow, with, save}``.

    The called flow has variables of its own, which ``with`` sets, and shares the slots. The output of its
    ``end`` is this step's result; that it fails, or ends as anything but completed, is this step's failure.
    """

    keyword: ClassVar[str] = "call"
    common: StepCommon
    flow_id: str
    arguments: JsonTemplate

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read which flow, and with what."""
        inner = node.mapping("call") if node.is_mapping("call") else None
        holder, key = (inner, "flow") if inner is not None else (node, "call")
        flow_id = holder.flow_id(key, "with") or ""
        if holder.has("with") and not holder.is_mapping("with"):
            holder.problem("wrong-type", '"with" should be a mapping of variables', "with")
        arguments = holder.templates("with") if holder.has("with") else JsonTemplate.constant({})
        if inner is not None:
            if inner.has("save"):
                common = replace(common, save=inner.save_path("save"))
            inner.finish()
        return cls(common, flow_id, arguments)

    def enter(self, draft: Draft) -> Outcome:
        """Begin the other flow."""
        arguments: Mapping[str, Any] = self.arguments.value(draft.context()) or {}
        for name, value in arguments.items():
            draft.check_room(name, value, arguments)
        return Descend(self.flow_id, arguments)

    def returned(self, draft: Draft, finish: Finish) -> Outcome:
        """Take what the called flow ended with. May raise StepFailure."""
        if finish.status != "completed":
            reason = f'The flow "{self.flow_id}" ended as {finish.status}.'
            return Fail(StepFailure(reason, details={"flow_id": self.flow_id, "status": finish.status}))
        if self.common.save is not None:
            draft.save(self.common.save, finish.output, expose=self.common.expose)
        return Next()

    def targets(self) -> tuple[str, ...]:
        """It only goes on."""
        return ()

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions of the arguments."""
        return self.arguments.expressions

    def subflows(self) -> tuple[str, ...]:
        """Return the flow it calls."""
        return (self.flow_id,)

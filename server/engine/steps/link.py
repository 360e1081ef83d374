"""``link``: goes over to another flow for good."""

from dataclasses import dataclass
from typing import ClassVar, Self

from server.engine.draft import Draft
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import Node
from server.engine.steps.base import GoOver, Outcome


@dataclass(frozen=True, slots=True)
class Link:
    """``link: flow_id``: the other flow takes this one's place, with variables of its own."""

    keyword: ClassVar[str] = "link"
    common: StepCommon
    flow_id: str

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read which flow."""
        return cls(common, node.flow_id("link") or "")

    def enter(self, draft: Draft) -> Outcome:
        """Go over."""
        return GoOver(self.flow_id)

    def targets(self) -> tuple[str, ...]:
        """It leads to no step of this flow."""
        return ()

    def expressions(self) -> tuple[Expression, ...]:
        """It evaluates nothing."""
        return ()

    def subflows(self) -> tuple[str, ...]:
        """Return the flow it goes over to."""
        return (self.flow_id,)

"""``end``: ends the execution, or the digression that it stands in."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, cast

from server.engine.draft import Draft, StepFailure, json_bytes
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import JsonTemplate, Node
from server.engine.steps.base import Finish, Outcome
from storage.models import EVENT_MAX_BYTES


@dataclass(frozen=True, slots=True)
class End:
    """``end: completed | failed | cancelled``, with an ``output`` beside it."""

    keyword: ClassVar[str] = "end"
    common: StepCommon
    status: Literal["completed", "failed", "cancelled"]
    output: JsonTemplate | None

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read the status and the output."""
        status = node.choice("end", ("completed", "failed", "cancelled"), "completed")
        output = node.templates("output") if node.has("output") else None
        return cls(common, cast("Literal['completed', 'failed', 'cancelled']", status), output)

    def enter(self, draft: Draft) -> Outcome:
        """End here."""
        if self.output is None:
            return Finish(self.status)
        output = self.output.value(draft.context())
        size = json_bytes(output)
        if size > EVENT_MAX_BYTES // 2:
            raise StepFailure("The output is too large.", details={"bytes": size})
        return Finish(self.status, output)

    def targets(self) -> tuple[str, ...]:
        """Nothing follows."""
        return ()

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions of the output."""
        return self.output.expressions if self.output is not None else ()

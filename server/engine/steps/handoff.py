"""``handoff``: a person takes the conversation over, until it is resumed."""

from dataclasses import dataclass
from typing import ClassVar, Self

from server.engine.draft import Draft
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import Node
from server.engine.flow.templates import Template
from server.engine.steps.base import Goto, Next, Outcome, Wait
from server.engine.steps.wait import MAX_WAIT_MS
from storage.models import Pause


@dataclass(frozen=True, slots=True)
class Handoff:
    """``handoff: to`` or ``handoff: {to, deadline, on_timeout}``.

    The execution is ``paused``: operators speak in the conversation, the flow does not move. It goes on
    behind the step when somebody resumes it; at the deadline at ``on_timeout``, else behind the step too.
    """

    keyword: ClassVar[str] = "handoff"
    common: StepCommon
    to: Template
    deadline_ms: int | None = None
    on_timeout: str | None = None

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read to whom, and for how long at most."""
        inner = node.mapping("handoff") if node.is_mapping("handoff") else None
        if inner is None:
            return cls(common, node.template("handoff"))
        to, deadline_ms = inner.template("to"), inner.duration("deadline", MAX_WAIT_MS)
        on_timeout = inner.target("on_timeout")
        if on_timeout is not None and deadline_ms is None:
            inner.problem("missing-field", '"on_timeout" needs a "deadline"', "on_timeout")
        inner.finish()
        return cls(common, to, deadline_ms, on_timeout)

    def enter(self, draft: Draft) -> Outcome:
        """Ask for a person and pause."""
        to = self.to.render({} if self.to.is_constant else draft.context())
        deadline = None if self.deadline_ms is None else draft.now + self.deadline_ms
        draft.emit("handoff.requested", {"to": to[:1000]}, step_id=self.common.step_id, size=len(to))
        draft.set_pause(Pause("next", draft.now, deadline=deadline))
        return Wait("paused")

    def resumed(self, *, timed_out: bool) -> Outcome:
        """Say where it goes on."""
        return Goto(self.on_timeout) if timed_out and self.on_timeout is not None else Next()

    def targets(self) -> tuple[str, ...]:
        """Return where its deadline leads."""
        return (self.on_timeout,) if self.on_timeout is not None else ()

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions of whom it names."""
        return self.to.expressions

"""``branch``: goes where the first true condition says."""

from dataclasses import dataclass
from typing import ClassVar, Self

from server.engine.draft import Draft
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import Node
from server.engine.steps.base import Goto, Next, Outcome


@dataclass(frozen=True, slots=True)
class Branch:
    """``branch: [{if, goto}, ..., {else: step}]``; without a match it goes on with the next step."""

    keyword: ClassVar[str] = "branch"
    common: StepCommon
    cases: tuple[tuple[Expression, str], ...]
    otherwise: str | None

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read the cases; ``else`` is the last one."""
        cases: list[tuple[Expression, str]] = []
        otherwise: str | None = None
        items = node.nodes("branch")
        if not items:
            node.problem(
                "branch-empty", "A branch needs at least one case.", "branch", "- {if: ..., goto: step}"
            )
        for position, item in enumerate(items):
            if item.has("else"):
                otherwise = item.target("else")
                if position != len(items) - 1:
                    item.problem(
                        "else-not-last",
                        '"else" must be the last case; what follows is never reached.',
                        "else",
                    )
            else:
                condition, target = item.expression("if"), item.target("goto")
                if condition is not None and target is not None:
                    cases.append((condition, target))
            item.finish()
        return cls(common, tuple(cases), otherwise)

    def enter(self, draft: Draft) -> Outcome:
        """Evaluate the cases in order."""
        context = draft.context()
        for condition, target in self.cases:
            if condition.test(context):
                return Goto(target)
        return Goto(self.otherwise) if self.otherwise is not None else Next()

    def targets(self) -> tuple[str, ...]:
        """Return where the cases lead."""
        found = [target for _, target in self.cases]
        return tuple(found if self.otherwise is None else [*found, self.otherwise])

    def expressions(self) -> tuple[Expression, ...]:
        """Return the conditions."""
        return tuple(condition for condition, _ in self.cases)

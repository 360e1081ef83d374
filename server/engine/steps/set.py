"""``set``: gives slots and variables new values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from server.engine.draft import Draft
from server.engine.flow.dependencies import names_in
from server.engine.flow.expressions import Expression
from server.engine.flow.model import Path, Slot, StepCommon
from server.engine.flow.node import JsonTemplate, Node
from server.engine.steps.base import Next, Outcome


@dataclass(frozen=True, slots=True)
class Set:
    """``set: {variables.name: value, slots.name: value}``; values may hold ``${}``, in order."""

    keyword: ClassVar[str] = "set"
    common: StepCommon
    values: tuple[tuple[tuple[str, ...], JsonTemplate], ...]

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read the assignments."""
        inner = node.mapping("set")
        if inner is None:
            return cls(common, ())
        values = []
        for key in inner.keys():  # noqa: SIM118 - a Node is no dict
            path = inner.path_of(key)
            value = inner.templates(key)
            if path is not None:
                values.append((path, value))
        return cls(common, tuple(values))

    def enter(self, draft: Draft) -> Outcome:
        """Assign one after the other; a later one sees the earlier ones."""
        for path, template in self.values:
            draft.save(path, template.value(draft.context()), expose=self.common.expose)
        return Next()

    def links(self, slots: Mapping[str, Slot]) -> list[tuple[frozenset[Path], frozenset[Path]]]:
        """Return for each assignment what it reads and what it sets."""
        return [(names_in(value.expressions), frozenset([path])) for path, value in self.values]

    def targets(self) -> tuple[str, ...]:
        """It only goes on."""
        return ()

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions of the values."""
        return tuple(expression for _, template in self.values for expression in template.expressions)

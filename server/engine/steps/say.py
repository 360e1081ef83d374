"""``say``: one message to the user, with buttons where there is something to press."""

from dataclasses import dataclass
from typing import ClassVar, Self

from server.engine.draft import Draft
from server.engine.flow.expressions import Expression
from server.engine.flow.model import StepCommon
from server.engine.flow.node import Node
from server.engine.flow.templates import Template
from server.engine.steps.base import Next, Outcome


@dataclass(frozen=True, slots=True)
class Button:
    """Pressing it sends ``payload`` (the title where none is given)."""

    title: Template
    payload: Template


@dataclass(frozen=True, slots=True)
class Say:
    """``say: text`` or ``say: {text, buttons}``."""

    keyword: ClassVar[str] = "say"
    common: StepCommon
    text: Template
    buttons: tuple[Button, ...] = ()

    @classmethod
    def parse(cls, node: Node, common: StepCommon) -> Self:
        """Read ``say`` (and ``buttons`` beside or inside it)."""
        inner = node.mapping("say") if node.is_mapping("say") else None
        if inner is None:
            return cls(common, node.template("say"), parse_buttons(node))
        text = inner.template("text")
        buttons = parse_buttons(inner)
        inner.finish()
        return cls(common, text, buttons)

    def enter(self, draft: Draft) -> Outcome:
        """Say it and go on."""
        context = {} if self._is_constant() else draft.context()
        buttons = tuple(
            {"title": button.title.render(context), "payload": button.payload.render(context)}
            for button in self.buttons
        )
        draft.say(self.text.render(context), buttons)
        return Next()

    def _is_constant(self) -> bool:
        return self.text.is_constant and all(
            b.title.is_constant and b.payload.is_constant for b in self.buttons
        )

    def targets(self) -> tuple[str, ...]:
        """It only goes on."""
        return ()

    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions in its templates."""
        found = list(self.text.expressions)
        for button in self.buttons:
            found += [*button.title.expressions, *button.payload.expressions]
        return tuple(found)


def parse_buttons(node: Node) -> tuple[Button, ...]:
    """Read ``buttons: [{title, payload}]``."""
    buttons = []
    for item in node.nodes("buttons"):
        title = item.template("title")
        payload = item.template("payload") if item.has("payload") else title
        item.finish()
        buttons.append(Button(title, payload))
    return tuple(buttons)

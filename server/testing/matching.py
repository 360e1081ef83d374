"""What a test expects of a value: just this, some of it, a pattern, one of several."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from server.engine.flow.expressions import (
    Expression,
    ExpressionFailed,
    ExpressionInvalid,
    compile_expression,
)
from server.engine.flow.node import Findings, did_you_mean
from server.engine.flow.source import Fields, Items, Leaf, Tree, plain

OPERATORS: Final = ("equals", "contains", "matches", "any_of", "present")
SHOWN_CHARS: Final = 2_000

Place = tuple[int, int]


class Mismatch(NamedTuple):
    """Where a value is not as expected: the way into it, the expectation's place, and both sides."""

    path: str
    place: Place
    expected: str
    got: str


class Matcher(Protocol):
    """An expectation of one value."""

    @property
    def place(self) -> Place:
        """Its line and column."""
        ...

    def differ(self, value: Any, path: str = "") -> Mismatch | None:
        """Return the first difference; None where the value fits."""
        ...

    def __str__(self) -> str:
        """The expectation in words."""
        ...


@dataclass(frozen=True, slots=True)
class Equals:
    """The value itself. A number equals a number of another type; true is no number."""

    wanted: Any
    place: Place

    def differ(self, value: Any, path: str = "") -> Mismatch | None:
        """Return the difference."""
        return None if _same(self.wanted, value) else Mismatch(path, self.place, str(self), shown(value))

    def __str__(self) -> str:
        return shown(self.wanted)


@dataclass(frozen=True, slots=True)
class Contains:
    """A text with this in it, or a list with such an item."""

    item: Matcher
    place: Place

    def differ(self, value: Any, path: str = "") -> Mismatch | None:
        """Return the difference."""
        if isinstance(value, str) and isinstance(self.item, Equals):
            found = str(self.item.wanted) in value
        else:
            found = isinstance(value, list | tuple) and any(self.item.differ(v) is None for v in value)
        return None if found else Mismatch(path, self.place, str(self), shown(value))

    def __str__(self) -> str:
        return f"something that contains {self.item}"


@dataclass(frozen=True, slots=True)
class Matches:
    """A text in which a regular expression (RE2: linear time) is found."""

    pattern: str
    expression: Expression
    place: Place

    def differ(self, value: Any, path: str = "") -> Mismatch | None:
        """Return the difference."""
        text = value if isinstance(value, str) else shown(value)
        found = self.expression.test({"value": text})
        return None if found else Mismatch(path, self.place, str(self), shown(value))

    def __str__(self) -> str:
        return f"something that matches {self.pattern}"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of several."""

    choices: tuple[Matcher, ...]
    place: Place

    def differ(self, value: Any, path: str = "") -> Mismatch | None:
        """Return the difference."""
        if any(choice.differ(value) is None for choice in self.choices):
            return None
        return Mismatch(path, self.place, str(self), shown(value))

    def __str__(self) -> str:
        return "one of: " + ", ".join(map(str, self.choices))


@dataclass(frozen=True, slots=True)
class Present:
    """Anything but null; or, with false, null."""

    wanted: bool
    place: Place

    def differ(self, value: Any, path: str = "") -> Mismatch | None:
        """Return the difference."""
        if (value is not None) == self.wanted:
            return None
        return Mismatch(path, self.place, str(self), shown(value))

    def __str__(self) -> str:
        return "anything" if self.wanted else "nothing"


@dataclass(frozen=True, slots=True)
class Each:
    """A list with just these items."""

    items: tuple[Matcher, ...]
    place: Place

    def differ(self, value: Any, path: str = "") -> Mismatch | None:
        """Return the first item's difference, or that of the lists' lengths."""
        if not isinstance(value, list | tuple):
            return Mismatch(path, self.place, str(self), shown(value))
        for number, (item, inner) in enumerate(zip(self.items, value, strict=False)):
            found = item.differ(inner, f"{path}[{number}]")
            if found is not None:
                return found
        if len(self.items) != len(value):
            return Mismatch(path, self.place, str(self), shown(value))
        return None

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.items))}]"


@dataclass(frozen=True, slots=True)
class Having:
    """A mapping with these fields; it may have others."""

    fields: Mapping[str, Matcher]
    place: Place

    def differ(self, value: Any, path: str = "") -> Mismatch | None:
        """Return the first field's difference. A field that is not there is null."""
        if not isinstance(value, Mapping):
            return Mismatch(path, self.place, str(self), shown(value))
        for name, item in self.fields.items():
            found = item.differ(value.get(name), f"{path}.{name}" if path else name)
            if found is not None:
                return found
        return None

    def __str__(self) -> str:
        return "{" + ", ".join(f"{name}: {item}" for name, item in self.fields.items()) + "}"


def shown(value: Any) -> str:
    """Return a value as people read it: texts in quotes, the rest as JSON, all of it bounded."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]} ..."


def _same(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(value, bool):
        return wanted is value
    if isinstance(wanted, Mapping) and isinstance(value, Mapping):
        return wanted.keys() == value.keys() and all(_same(item, value[key]) for key, item in wanted.items())
    if isinstance(wanted, list | tuple) and isinstance(value, list | tuple):
        return len(wanted) == len(value) and all(map(_same, wanted, value))
    return bool(wanted == value)


# --- reading --------------------------------------------------------------------------------------


def read_matcher(tree: Tree, findings: Findings, *, as_text: bool = False) -> Matcher:
    """Make a matcher of what stands in a file; what is wrong is recorded.

    Args:
        tree: a value, a list or mapping of them, or one operator with its operand.
        findings: takes the problems.
        as_text: whether scalars are texts as they are written: ``42`` is ``"42"``.
    """
    place = (tree.line, tree.column)
    if isinstance(tree, Leaf):
        return Equals(tree.text if as_text and tree.value is not None else tree.value, place)
    if isinstance(tree, Items):
        return Each(tuple(read_matcher(item, findings, as_text=as_text) for item in tree.items), place)
    operator = next(iter(tree.fields), "") if len(tree.fields) == 1 else ""
    if operator in OPERATORS:
        return _operation(operator, tree, findings, as_text)
    if as_text:
        _refuse_fields(tree, findings)
    fields = {name: read_matcher(value, findings) for name, (_, value) in tree.fields.items()}
    return Having(fields, place)


def _operation(operator: str, tree: Fields, findings: Findings, as_text: bool) -> Matcher:
    place = (tree.line, tree.column)
    operand = tree.fields[operator][1]
    match operator:
        case "contains":
            return Contains(read_matcher(operand, findings, as_text=as_text), place)
        case "matches":
            return _pattern(operand, findings, place)
        case "any_of" if isinstance(operand, Items) and operand.items:
            choices = tuple(read_matcher(item, findings, as_text=as_text) for item in operand.items)
            return AnyOf(choices, place)
        case "any_of":
            findings.add("wrong-type", '"any_of" should be a list', (operand.line, operand.column))
        case "present" if isinstance(operand, Leaf) and isinstance(operand.value, bool):
            return Present(operand.value, place)
        case "present":
            findings.add("wrong-type", '"present" should be true or false', (operand.line, operand.column))
    return Equals(operand.text if as_text and isinstance(operand, Leaf) else plain(operand), place)


def _pattern(operand: Tree, findings: Findings, place: Place) -> Matcher:
    if not isinstance(operand, Leaf):
        findings.add("wrong-type", '"matches" should be a regular expression', (operand.line, operand.column))
        return Present(True, place)
    literal = "".join(_escaped(operand.text))
    try:
        expression = compile_expression(f'value.matches("{literal}")')
        expression.test({"value": ""})
    except (ExpressionInvalid, ExpressionFailed):
        message = "this is no regular expression (of RE2: without look-around and back-references)"
        findings.add("pattern", message, (operand.line, operand.column))
        return Present(True, place)
    return Matches(operand.text, expression, place)


def _escaped(text: str) -> Iterator[str]:
    for character in text:
        yield {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"}.get(character, character)


def _refuse_fields(tree: Fields, findings: Findings) -> None:
    for name, (key, _) in tree.fields.items():
        if name not in OPERATORS:
            hint = did_you_mean(name, OPERATORS)
            message = f"a text is expected by one of: {', '.join(OPERATORS)}"
            findings.add("unknown-field", message, (key.line, key.column), hint)
            return
    findings.add("unknown-field", "a text is expected in one way only", (tree.line, tree.column))

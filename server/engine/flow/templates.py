"""Templates: text with ``${expression}`` in it, and JSON whose texts are such templates.

``$${`` stands for a literal ``${``. Whatever is inside ``${...}`` is CEL, with its own braces and quotes.
There are no filters, no conditions and no loops: what needs them is an expression.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Self

from server.engine.flow.expressions import (
    Expression,
    ExpressionInvalid,
    compile_expression,
    plain_text,
)

MAX_TEMPLATE_CHARS: Final = 20_000
_OPEN: Final = re.compile(r"\$\$\{|\$\{")
_INSIDE: Final = re.compile(
    r"""(?P<text>\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}(?:[^\\]|\\.)*?'{3}|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<brace>[{}])|[^"'{}]+|["']""",
    re.VERBOSE | re.DOTALL,
)


class Template:
    """A compiled template; immutable and safe to share.

    Attributes:
        source: what the author wrote.
        expressions: the expressions in it.
        offsets: where each of them begins in the source (from 0).
        references: the paths that its expressions read.
    """

    __slots__ = ("_parts", "expressions", "offsets", "references", "source")

    def __init__(self, source: str, parts: tuple[str | Expression, ...], offsets: tuple[int, ...]) -> None:
        self.source = source
        self._parts = parts
        self.expressions = tuple(part for part in parts if isinstance(part, Expression))
        self.offsets = offsets
        self.references = _references(self.expressions)

    def __repr__(self) -> str:
        return f"Template({self.source!r})"

    @property
    def is_constant(self) -> bool:
        """Whether the text is the same in every context."""
        return not self.expressions

    @property
    def is_expression(self) -> bool:
        """Whether the whole text is one ``${...}``, whose value it has then."""
        return len(self._parts) == 1 and isinstance(self._parts[0], Expression)

    def render(self, context: Mapping[str, Any]) -> str:
        """Return the text; null is nothing, lists and objects are JSON.

        Raises:
            ExpressionFailed: an expression in it has no value.
        """
        return "".join(
            [part if isinstance(part, str) else plain_text(part.evaluate(context)) for part in self._parts]
        )

    def value(self, context: Mapping[str, Any]) -> Any:
        """Return the expression's own value where the whole text is one ``${...}``, else the text.

        Raises:
            ExpressionFailed: an expression in it has no value.
        """
        if len(self._parts) == 1 and isinstance(self._parts[0], Expression):
            return self._parts[0].evaluate(context)
        return self.render(context)


def compile_template(source: str) -> Template:
    """Compile a template.

    Raises:
        ExpressionInvalid: with the column (from 1) inside ``source``.
    """
    if len(source) > MAX_TEMPLATE_CHARS:
        raise ExpressionInvalid(f"a text may have at most {MAX_TEMPLATE_CHARS:,} characters", 1)
    parts: list[str | Expression] = []
    offsets: list[int] = []
    position, text = 0, ""
    while found := _OPEN.search(source, position):
        text += source[position : found.start()]
        position = found.end()
        if found.group() == "$${":
            text += "${"
            continue
        if text:
            parts.append(text)
            text = ""
        end = _end_of(source, position)
        parts.append(_compile_at(source[position:end], position))
        offsets.append(position)
        position = end + 1
    text += source[position:]
    if text:
        parts.append(text)
    return Template(source, tuple(parts), tuple(offsets))


def _end_of(source: str, start: int) -> int:
    """Return where the ``}`` stands that ends the expression beginning at ``start``."""
    depth = 0
    for token in _INSIDE.finditer(source, start):
        brace = token.group("brace")
        if brace == "{":
            depth += 1
        elif brace == "}":
            if depth == 0:
                return token.start()
            depth -= 1
    raise ExpressionInvalid("${ is not closed by }", start - 1, "$${ for a literal ${")


def _compile_at(source: str, offset: int) -> Expression:
    try:
        return compile_expression(source)
    except ExpressionInvalid as error:
        raise ExpressionInvalid(error.message, offset + error.column, error.suggestion) from None


class JsonTemplate:
    """JSON in which every text (keys are not) is a template; immutable.

    Attributes:
        source: the JSON as written.
        expressions: the expressions of all templates in it.
        references: the paths that they read.
    """

    __slots__ = ("_tree", "expressions", "references", "source")

    def __init__(self, source: Any, tree: Any) -> None:
        self.source = source
        self._tree = tree
        self.expressions = tuple(found for template in _templates(tree) for found in template.expressions)
        self.references = _references(self.expressions)

    @classmethod
    def constant(cls, value: Any) -> Self:
        """Return one that stands for this value as it is; ``${`` in its texts means nothing."""
        return cls(value, value)

    def __repr__(self) -> str:
        return f"JsonTemplate({self.source!r})"

    @property
    def is_constant(self) -> bool:
        """Whether the value is the same in every context."""
        return not self.expressions

    @property
    def may_be_mapping(self) -> bool:
        """Whether the value is a mapping, or that of an expression, which may be one."""
        return isinstance(self._tree, dict) or (isinstance(self._tree, Template) and self._tree.is_expression)

    def value(self, context: Mapping[str, Any]) -> Any:
        """Return fresh JSON with every template replaced by its value.

        Raises:
            ExpressionFailed: an expression in it has no value.
        """
        return _fill(self._tree, context)


def _references(expressions: Iterable[Expression]) -> frozenset[tuple[str, ...]]:
    return frozenset(path for expression in expressions for path in expression.references)


def compile_json_template(source: Any) -> JsonTemplate:
    """Compile JSON whose texts are templates.

    Raises:
        ExpressionInvalid: from the first text that is no template.
    """
    return JsonTemplate(source, _compile_tree(source))


def _compile_tree(value: Any) -> Any:
    if isinstance(value, str):
        return compile_template(value)
    if isinstance(value, Mapping):
        return {key: _compile_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_compile_tree(item) for item in value]
    return value


def _templates(tree: Any) -> Iterator[Template]:
    if isinstance(tree, Template):
        yield tree
        return
    inner: Iterable[Any] = ()
    if isinstance(tree, dict):
        inner = tree.values()
    elif isinstance(tree, list):
        inner = tree
    for item in inner:
        yield from _templates(item)


def _fill(tree: Any, context: Mapping[str, Any]) -> Any:
    if isinstance(tree, Template):
        return tree.value(context)
    if isinstance(tree, dict):
        return {key: _fill(item, context) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_fill(item, context) for item in tree]
    return tree

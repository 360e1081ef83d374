"""The fast path: a path, size(path), or a comparison of such with each other or a literal, in Python.

Measured on one core: 0.4-1 us against 6 us natively (374 us with 50 small records behind the path). It
decides only where Python and CEL agree beyond doubt, and leaves all else, errors included, to the library.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final

from server.engine.flow.grammar import Reader, Token, literal_text

_I64: Final = 2**63


class _Missing:
    """Says that the fast path does not know; the library decides."""


MISSING: Final = _Missing()

Read = Callable[[Mapping[str, Any]], Any]
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}
_SCALARS: Final = frozenset({str, bool, int, float, type(None)})


def fast_path(reader: Reader) -> Read | None:
    """Return what evaluates a simple expression, or answers ``MISSING`` where the library has to."""
    left, index = _fast_operand(reader, 0)
    if left is None:
        return None
    if index == len(reader.tokens):
        return left
    operator = reader.tokens[index].text
    if reader.tokens[index].kind != "op" or operator not in _ORDER:
        return None
    right, index = _fast_operand(reader, index + 1)
    if right is None or index != len(reader.tokens):
        return None
    return _fast_comparison(left, operator, right)


def _fast_operand(reader: Reader, index: int) -> tuple[Read | None, int]:
    """Return how to read the operand at ``index`` (``None``: not simple) and the index behind it."""
    tokens = reader.tokens
    if index >= len(tokens):
        return None, index
    for path in reader.paths:
        if path.first == index and not reader.in_macro(index):
            return _fast_read(path.steps), path.last + 1
        sized = path.first == index + 2 and tokens[index].text == "size" and tokens[index].kind == "ident"
        if sized and tokens[index + 1].text == "(" and reader.closing[index + 1] == path.last + 1:
            return _fast_size(_fast_read(path.steps)), path.last + 2
    return _fast_literal(tokens[index]), index + 1


def _fast_literal(token: Token) -> Read | None:
    value: Any
    text = literal_text(token)
    if text is not None:
        value = text
    elif token.kind == "int" and token.text.isdecimal() and int(token.text) < _I64:
        value = int(token.text)
    elif token.kind == "float":
        value = float(token.text)
    elif token.text in {"true", "false", "null"}:
        value = {"true": True, "false": False, "null": None}[token.text]
    else:
        return None
    return lambda _context: value


def _fast_read(steps: tuple[str | int, ...]) -> Read:
    if len(steps) == 2 and isinstance(steps[1], str):
        return _fast_read_two(str(steps[0]), steps[1])

    def read(context: Mapping[str, Any]) -> Any:
        value: Any = context
        for step in steps:
            if isinstance(step, str) and isinstance(value, Mapping):
                value = value.get(step, MISSING)
            elif isinstance(step, int) and isinstance(value, list | tuple) and step < len(value):
                value = value[step]
            else:
                return MISSING
        return _json_or_missing(value)

    return read


def _fast_read_two(root: str, name: str) -> Read:
    default = None if root == "slots" else MISSING

    def read(context: Mapping[str, Any]) -> Any:
        outer = context.get(root)
        return _json_or_missing(outer.get(name, default)) if isinstance(outer, Mapping) else MISSING

    return read


def _json_or_missing(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is bool or kind is list or kind is dict or value is None:
        return value
    if kind is int:
        return value if -_I64 <= value < _I64 else MISSING
    if kind is float:
        return value if isfinite(value) else MISSING
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else MISSING


def _fast_size(read: Read) -> Read:
    def size(context: Mapping[str, Any]) -> Any:
        value = read(context)
        return len(value) if isinstance(value, str | list | dict) else MISSING

    return size


def _fast_comparison(left: Read, operator: str, right: Read) -> Read:
    compare = _ORDER[operator]
    equality = operator in {"==", "!="}

    def decide(context: Mapping[str, Any]) -> Any:
        a, b = left(context), right(context)
        kind = type(a)
        if kind is type(b) and (kind is str or kind is int or kind is float or kind is bool):
            return compare(a, b)
        if equality and kind in _SCALARS and type(b) in _SCALARS and (a is None or b is None):
            return (a is b) is (operator == "==")
        return MISSING

    return decide

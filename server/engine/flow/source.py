"""From YAML or JSON text to a tree whose every value knows its line and column.

Owns syntax only: no key is known here. YAML is read event by event (ruamel.yaml), so that depth, size and
alias bombs are bounded before anything recurses; scalars follow YAML 1.2's core schema (``yes`` and
``2026-11-21`` are texts). Nothing is raised but ``SourceInvalid``.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml import events as yaml_events
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from server.engine.flow.model import Problem

MAX_SOURCE_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_NODES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar. ``text`` is it as written; ``inner`` is where its first character stands, if one can tell."""

    value: str | int | float | bool | None
    text: str
    line: int
    column: int
    inner: tuple[int, int] | None = None

    def at(self, offset: int) -> tuple[int, int]:
        """Return line and column of a character of ``text``; of the scalar where that is not exact."""
        if self.inner is None:
            return self.line, self.column
        before = self.text[:offset]
        newlines = before.count("\n")
        return self.inner[0] + newlines, self.inner[1] + len(before) - (before.rfind("\n") + 1)


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence."""

    items: "tuple[Tree, ...]"
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping; its keys are texts and unique."""

    fields: "dict[str, tuple[Leaf, Tree]]"
    line: int
    column: int


Tree = Leaf | Items | Fields


class SourceInvalid(Exception):  # noqa: N818
    """The text cannot be read at all."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def plain(tree: Tree) -> Any:
    """Return the tree as plain JSON."""
    if isinstance(tree, Leaf):
        return tree.value
    if isinstance(tree, Items):
        return [plain(item) for item in tree.items]
    return {key: plain(value) for key, (_, value) in tree.fields.items()}


def read_source(source: str, file: str, what: str = "a flow") -> tuple[Tree, tuple[Problem, ...]]:
    """Read YAML or JSON text; return the tree and the problems that leave one (duplicate keys).

    ``what`` is what the file should hold, in the words of problems.

    Raises:
        SourceInvalid: too large, too deep, empty, or neither YAML nor JSON.
    """
    if len(source) > MAX_SOURCE_BYTES or len(source.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
        raise _invalid(file, 1, 1, "too-large", f"{what} may have at most {MAX_SOURCE_BYTES // 1024} KiB")
    for position, character in enumerate(source):
        if "\ud800" <= character <= "\udfff" or character == "\0":
            line, column = _place(source, position)
            raise _invalid(file, line, column, "syntax", "this character may not stand in a file")
    is_json = file.endswith(".json") or _is_json(source)
    if is_json:
        _check_json(source, file, what)
        source = source.replace(
            "\t", " "
        )  # JSON's texts hold no raw tabs, and YAML takes none between tokens
    return _Composer(source, file, is_json, what).compose()


def _is_json(source: str) -> bool:
    if not source.lstrip().startswith("{"):
        return False
    try:
        json.loads(source)
    except (ValueError, RecursionError):
        return False
    return True


def _check_json(source: str, file: str, what: str) -> None:
    if not source.strip():
        return
    try:
        json.loads(source)
    except json.JSONDecodeError as error:
        message = f"this is no JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise _invalid(file, error.lineno, error.colno, "syntax", message) from None
    except (ValueError, RecursionError):
        raise _invalid(file, 1, 1, "too-deep", f"{what} may be nested at most {MAX_DEPTH} deep") from None


def _invalid(file: str, line: int, column: int, rule: str, message: str) -> SourceInvalid:
    return SourceInvalid(Problem(file, line, column, "error", rule, message))


def _place(source: str, position: int) -> tuple[int, int]:
    return source.count("\n", 0, position) + 1, position - source.rfind("\n", 0, position)


_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})
_INT: Final = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")


def _scalar(text: str) -> str | int | float | bool | None:
    """Resolve a plain scalar by YAML 1.2's core schema (without octal, hexadecimal, infinity)."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if abs(number) != float("inf") else text
    return text


@dataclass(slots=True)
class _Open:
    """A collection that is being read."""

    line: int
    column: int
    anchor: str | None
    is_mapping: bool
    items: list[Tree] = field(default_factory=list)
    fields: dict[str, tuple[Leaf, Tree]] = field(default_factory=dict)
    key: Leaf | None = None
    size: int = 1


_LINE_BREAK: Final = re.compile("\r\n|[\n\r]")
"""What counts as a new line in the parser's marks."""


class _Composer:
    """Builds the tree from the parser's events, without recursion."""

    def __init__(self, source: str, file: str, is_json: bool, what: str) -> None:
        self.what = what
        self.source = source
        self.lines = _LINE_BREAK.split(source)
        self.file = file
        self.is_json = is_json
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[Tree, int, int]] = {}
        self.problems: list[Problem] = []
        self.nodes = 0
        self.root: Tree | None = None

    def compose(self) -> tuple[Tree, tuple[Problem, ...]]:
        try:
            for event in self._events():
                self._take(event)
        except MarkedYAMLError as error:
            raise self._syntax_error(error) from None
        except (YAMLError, ValueError, RecursionError):
            raise _invalid(self.file, 1, 1, "syntax", "this is no YAML") from None
        if self.root is None or (isinstance(self.root, Leaf) and self.root.value is None):
            raise _invalid(self.file, 1, 1, "empty-file", f"the file is empty; it should hold {self.what}")
        return self.root, tuple(self.problems)

    def _events(self) -> Iterator[Any]:
        yaml = YAML(typ="safe", pure=True)
        yield from yaml.parse(self.source)

    def _syntax_error(self, error: MarkedYAMLError) -> SourceInvalid:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        text = " ".join(str(error.problem or error.context or "this is no YAML").split())
        if "'\\t'" in text:
            text = "a tab cannot indent YAML; use spaces"
        return _invalid(self.file, line, column, "syntax", text[:160])

    def _take(self, event: Any) -> None:
        if isinstance(event, yaml_events.DocumentStartEvent):
            if self.root is not None:
                raise self._refuse(
                    event, "syntax", f"a file is one document, with {self.what}; this is a second one"
                )
        elif isinstance(event, yaml_events.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml_events.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml_events.MappingStartEvent | yaml_events.SequenceStartEvent):
            self._open(event)
        elif isinstance(event, yaml_events.MappingEndEvent | yaml_events.SequenceEndEvent):
            self._close()

    def _refuse(self, event: Any, rule: str, message: str) -> SourceInvalid:
        mark = event.start_mark
        return _invalid(self.file, mark.line + 1, mark.column + 1, rule, message)

    def _open(self, event: Any) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise self._refuse(event, "too-deep", f"{self.what} may be nested at most {MAX_DEPTH} deep")
        self._check_tag(event)
        if self.stack and self.stack[-1].is_mapping and self.stack[-1].key is None:
            raise self._refuse(event, "wrong-type", "a key is a text")
        mark = event.start_mark
        is_mapping = isinstance(event, yaml_events.MappingStartEvent)
        self.stack.append(_Open(mark.line + 1, mark.column + 1, event.anchor, is_mapping))

    def _close(self) -> None:
        done = self.stack.pop()
        tree: Tree
        if done.is_mapping:
            tree = Fields(done.fields, done.line, done.column)
        else:
            tree = Items(tuple(done.items), done.line, done.column)
        self._add(tree, done.size, done.anchor)

    def _check_tag(self, event: Any) -> None:
        tag = getattr(event, "tag", None)
        if tag is None and getattr(event, "ctag", None) is not None:
            tag = str(event.ctag)
        if tag not in (None, "", "!", "None"):
            raise self._refuse(event, "syntax", "tags (!...) are not part of the language")

    def _scalar(self, event: Any) -> None:
        text: str = event.value
        is_plain = event.style in (None, "")
        if not is_plain or not event.implicit[0]:
            self._check_tag(event)
        if not text.isascii():
            text = self._join_surrogates(text, event)
        value = _scalar(text) if is_plain else text
        mark = event.start_mark
        leaf = Leaf(value, text, mark.line + 1, mark.column + 1, self._inner(event, text))
        self._add(leaf, 1, event.anchor)

    def _join_surrogates(self, text: str, event: Any) -> str:
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            raise self._refuse(event, "syntax", "half a character (a lone surrogate)") from None

    def _inner(self, event: Any, text: str) -> tuple[int, int] | None:
        """Where the text's first character stands, if every character of it can be found from there."""
        start, end = event.start_mark, event.end_mark
        if event.style in ("|",):
            for number in range(start.line + 1, min(end.line + 1, len(self.lines))):
                line = self.lines[number]
                if line.strip():
                    indent = len(line) - len(line.lstrip(" "))
                    return (number + 1, indent + 1) if number == start.line + 1 else None
            return None
        if start.line != end.line or start.line >= len(self.lines):
            return None
        quoted = 1 if event.style in ("'", '"') else 0
        column = start.column + quoted
        if self.lines[start.line][column : column + len(text)] != text:
            return None
        return start.line + 1, column + 1

    def _alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            raise self._refuse(event, "syntax", f"there is no anchor &{event.anchor} above")
        tree, size, depth = self.anchors[event.anchor]
        if len(self.stack) + depth > MAX_DEPTH:
            raise self._refuse(event, "too-deep", f"{self.what} may be nested at most {MAX_DEPTH} deep")
        self._add(tree, size, None, event)

    def _add(self, tree: Tree, size: int, anchor: str | None, event: Any = None) -> None:
        if anchor is not None:
            self.anchors[anchor] = (tree, size, _depth(tree))
        self.nodes += 1 if event is None else size
        if self.nodes > MAX_NODES:
            raise _invalid(
                self.file,
                tree.line,
                tree.column,
                "too-large",
                f"{self.what} may have at most {MAX_NODES:,} values",
            )
        if not self.stack:
            self.root = tree
            return
        parent = self.stack[-1]
        parent.size += size
        if not parent.is_mapping:
            parent.items.append(tree)
        elif parent.key is None:
            parent.key = self._key(tree)
        else:
            self._field(parent, parent.key, tree)
            parent.key = None

    def _key(self, tree: Tree) -> Leaf:
        if not isinstance(tree, Leaf):
            raise _invalid(self.file, tree.line, tree.column, "wrong-type", "a key is a text")
        return tree

    def _field(self, parent: _Open, key: Leaf, value: Tree) -> None:
        if key.text in parent.fields:
            first = parent.fields[key.text][0]
            message = f'"{key.text[:60]}" is here twice, first in line {first.line}'
            self.problems.append(Problem(self.file, key.line, key.column, "error", "duplicate-key", message))
            return
        parent.fields[key.text] = (key, value)


def _depth(tree: Tree) -> int:
    if isinstance(tree, Leaf):
        return 0
    inner = tree.items if isinstance(tree, Items) else tuple(value for _, value in tree.fields.values())
    return 1 + max((_depth(item) for item in inner), default=0)

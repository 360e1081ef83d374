"""The grammar of expressions: a scanner that reads CEL before the native library does.

It bounds a source (length, tokens, nesting, macros, patterns), knows every function by name, finds the paths
it refers to, and what has to be rewritten for the library. What passes here is handed on; only there it
is decided whether it is an expression.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, NamedTuple

CONTEXT_ROOTS: Final = (
    "slots",
    "variables",
    "input",
    "user",
    "tenant",
    "config",
    "event",
    "now",
    "today",
    "value",
)
"""The names an expression may start from."""

Path = tuple[str, ...]

MAX_SOURCE_CHARS: Final = 2_000
MAX_TOKENS: Final = 400
MAX_NESTING: Final = 16
MAX_PATTERN_CHARS: Final = 200

MACROS: Final = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})
FUNCTIONS: Final = frozenset(
    {"size", "string", "int", "uint", "double", "bytes", "timestamp", "duration", "type", "dyn", "has"}
)
METHODS: Final = frozenset(
    {
        "size",
        "contains",
        "startsWith",
        "endsWith",
        "matches",
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
    }
)
RESERVED: Final = frozenset(
    {
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    }
)
KEYWORDS: Final = frozenset({"true", "false", "null", "in"})
_PYTHONISMS: Final = {"and": "&&", "or": "||", "not": "!", "True": "true", "False": "false", "None": "null"}


class ExpressionInvalid(ValueError):  # noqa: N818 - what happened, not that it is an error
    """The source is no expression. ``column`` counts from 1 inside the source; the message is user-safe."""

    def __init__(self, message: str, column: int, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.column = column
        self.suggestion = suggestion


class Token(NamedTuple):
    """A part of the source: its kind (string, float, int, uint, ident, op), text and offset."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.start + len(self.text)


_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n\f]+|//[^\n]*)+)
    |(?P<string>[bB]?[rR](?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')
        |[bB]?(?:\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}(?:[^\\]|\\.)*?'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
    |(?P<float>(?:[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?))
    |(?P<int>0[xX][0-9a-fA-F]+|[0-9]+)(?P<unsigned>[uU])?
    |(?P<ident>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<op>==|!=|<=|>=|&&|\|\||[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)


def scan(source: str) -> list[Token]:
    """Split the source into tokens, without spaces and comments."""
    tokens: list[Token] = []
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            raise _bad_character(source, position)
        kind = match.lastgroup or ""
        if kind == "unsigned":
            kind = "uint"
        if kind != "space":
            tokens.append(Token(kind, match.group(), position))
            if len(tokens) > MAX_TOKENS:
                raise ExpressionInvalid(f"an expression may have at most {MAX_TOKENS} parts", position + 1)
        position = match.end()
    if not tokens:
        raise ExpressionInvalid("the expression is empty", 1)
    return tokens


def _bad_character(source: str, position: int) -> ExpressionInvalid:
    character = source[position]
    column = position + 1
    if character in "\"'":
        return ExpressionInvalid("the text in quotes does not end", column)
    suggestion = {"=": "==", "&": "&&", "|": "||"}.get(character)
    return ExpressionInvalid(f"unexpected character {character!r}", column, suggestion)


_PAIRS: Final = {")": "(", "]": "[", "}": "{"}


def _brackets(tokens: Sequence[Token]) -> dict[int, int]:
    """Return the index of the closing bracket for each opening one; refuse what is unbalanced or too deep."""
    closing: dict[int, int] = {}
    stack: list[int] = []
    for index, token in enumerate(tokens):
        if token.kind != "op":
            continue
        if token.text in "([{":
            stack.append(index)
            if len(stack) > MAX_NESTING:
                raise ExpressionInvalid(f"brackets may be nested at most {MAX_NESTING} deep", token.start + 1)
        elif token.text in _PAIRS:
            if not stack or tokens[stack[-1]].text != _PAIRS[token.text]:
                raise ExpressionInvalid(f"{token.text!r} closes nothing", token.start + 1)
            closing[stack.pop()] = index
    if stack:
        opening = tokens[stack[-1]]
        raise ExpressionInvalid(f"{opening.text!r} is not closed", opening.start + 1)
    return closing


def literal_text(token: Token) -> str | None:
    """Return what a plain quoted text means, or ``None`` where it has a prefix, triple quotes or escapes."""
    text = token.text
    if token.kind != "string" or text[0] not in "\"'" or text[:3] in ('"""', "'''") or "\\" in text:
        return None
    return text[1:-1]


@dataclass(frozen=True, slots=True)
class Macro:
    """A macro's name and variable, and the token indexes between which that is bound."""

    name: str
    variable: str
    first: int
    last: int

    @property
    def copies(self) -> bool:
        """Whether it makes a list."""
        return self.name in {"map", "filter"}


@dataclass(frozen=True, slots=True)
class ReadPath:
    """A path from a root: ``slots.date``, ``variables.offers[0].id``; first and last token of it."""

    steps: tuple[str | int, ...]
    first: int
    last: int

    @property
    def reference(self) -> tuple[str, ...]:
        """The names up to the first list index."""
        names: list[str] = []
        for step in self.steps:
            if isinstance(step, int):
                break
            names.append(step)
        return tuple(names)


class Reader:
    """Reads the tokens once: macros, paths, function names, and what has to be rewritten."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = scan(source)
        self.closing = _brackets(self.tokens)
        self.macros = self._find_macros()
        self.paths: list[ReadPath] = []
        self.edits: list[tuple[int, int, str]] = []
        self.patterns: list[Token] = []
        index = 0
        while index < len(self.tokens):
            index = self._read(index)

    def _text(self, index: int) -> str:
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def _is(self, index: int, text: str) -> bool:
        return 0 <= index < len(self.tokens) and self.tokens[index] == ("op", text, self.tokens[index].start)

    def _kind(self, index: int) -> str:
        return self.tokens[index].kind if 0 <= index < len(self.tokens) else ""

    def _find_macros(self) -> list[Macro]:
        macros: list[Macro] = []
        for index, token in enumerate(self.tokens):
            called = token.kind == "ident" and self._is(index - 1, ".") and self._is(index + 1, "(")
            if not called or token.text not in MACROS:
                continue
            if self._kind(index + 2) != "ident" or not self._is(index + 3, ","):
                raise ExpressionInvalid(
                    f"{token.text} wants a name first, as in list.{token.text}(item, item.price > 3)",
                    token.start + 1,
                )
            variable = self._text(index + 2)
            if variable in CONTEXT_ROOTS:
                raise ExpressionInvalid(
                    f"{variable!r} is taken; name the items otherwise", self.tokens[index + 2].start + 1
                )
            if any(macro.first < index < macro.last for macro in macros):
                raise ExpressionInvalid(f"{token.text} may not stand inside another macro", token.start + 1)
            macros.append(Macro(token.text, variable, index + 2, self.closing[index + 1]))
        return macros

    def _bound(self, index: int) -> bool:
        name = self._text(index)
        return any(macro.variable == name and macro.first <= index < macro.last for macro in self.macros)

    def in_macro(self, index: int) -> bool:
        """Whether the token stands in a macro's body."""
        return any(macro.first <= index < macro.last for macro in self.macros)

    def _read(self, index: int) -> int:
        """Read what starts at ``index`` and return the index behind it."""
        token = self.tokens[index]
        if token.kind == "op" and token.text == "{" and self._kind(index - 1) == "ident":
            raise ExpressionInvalid("messages (Name{...}) are not part of the language", token.start + 1)
        if token.kind != "ident" or token.text in KEYWORDS:
            if token == ("op", ".", token.start):
                self._check_dot(index)
            return index + 1
        if self._is(index - 1, "."):
            if self._is(index + 1, "("):
                self._method(index)
            return index + 1
        if self._is(index + 1, "("):
            return self._function(index)
        if self._bound(index):
            return index + 1
        return self._path(index)

    def _check_dot(self, index: int) -> None:
        before = self._text(index - 1)
        operand = self._kind(index - 1) in {"ident", "string"} or before in {")", "]", "}"}
        if not operand or self._kind(index + 1) != "ident":
            raise ExpressionInvalid("a dot stands between two names", self.tokens[index].start + 1)

    def _method(self, index: int) -> None:
        token = self.tokens[index]
        if token.text in MACROS:
            return
        if token.text not in METHODS:
            raise _unknown_function(token, METHODS | MACROS)
        if token.text == "size":
            self.edits.append((token.start, token.end, "parley_size"))
        if token.text == "matches":
            self._check_pattern(index)

    def _check_pattern(self, index: int) -> None:
        # A pattern is compiled at each evaluation, natively: one that a user may write, or a huge one,
        # would hold the event loop (66 ms measured for [\w]{900}).
        pattern = self.tokens[index + 2]
        if pattern.kind != "string" or self.closing[index + 1] != index + 3:
            raise ExpressionInvalid("matches wants one pattern, written out in quotes", pattern.start + 1)
        if len(pattern.text) > MAX_PATTERN_CHARS:
            raise ExpressionInvalid(
                f"a pattern may have at most {MAX_PATTERN_CHARS} characters", pattern.start + 1
            )
        repeats = [int(n) for pair in _REPEAT.findall(pattern.text) for n in pair if n]
        product = 1
        for repeat in repeats:
            product *= max(repeat, 1)
        if product > 1_000:
            raise ExpressionInvalid("the pattern repeats too often", pattern.start + 1)
        self.patterns.append(pattern)

    def _function(self, index: int) -> int:
        token = self.tokens[index]
        if token.text not in FUNCTIONS:
            raise _unknown_function(token, FUNCTIONS)
        if token.text == "has":
            return self._has(index)
        if token.text in {"size", "string"}:
            self.edits.append((token.start, token.end, f"parley_{token.text}"))
        return index + 1

    def _has(self, index: int) -> int:
        """``has(slots.x)`` asks whether the slot is filled: an unfilled one is null in our context."""
        end = self.closing[index + 1]
        if self._kind(index + 2) == "ident" and not self._bound(index + 2):
            after = self._path(index + 2)
            path = self.paths[-1]
            if after == end and len(path.steps) == 2 and path.steps[0] == "slots":
                start, stop = self.tokens[index].start, self.tokens[end].end
                inside = self.source[self.tokens[index + 2].start : self.tokens[end].start]
                self.edits.append((start, stop, f"({inside}\n != null)"))
            return after
        return index + 1

    def _path(self, index: int) -> int:
        token = self.tokens[index]
        if token.text in RESERVED:
            raise ExpressionInvalid(f"{token.text!r} is a reserved word", token.start + 1)
        if token.text in _PYTHONISMS:
            raise ExpressionInvalid(f"unknown word {token.text!r}", token.start + 1, _PYTHONISMS[token.text])
        steps: list[str | int] = [token.text]
        end = index + 1
        while True:
            step = self._path_step(end)
            if step is None:
                break
            name, end = step
            steps.append(name)
        self.paths.append(ReadPath(tuple(steps), index, end - 1))
        return end

    def _path_step(self, index: int) -> tuple[str | int, int] | None:
        if self._is(index, ".") and self._kind(index + 1) == "ident" and not self._is(index + 2, "("):
            return self._text(index + 1), index + 2
        if self._is(index, "[") and self._is(index + 2, "]"):
            text = literal_text(self.tokens[index + 1])
            if text is not None:
                return text, index + 3
            if self._kind(index + 1) == "int" and self._text(index + 1).isdecimal():
                return int(self._text(index + 1)), index + 3
        return None

    def rewritten(self) -> str:
        """The source that the library gets; equal to the author's but for the edits."""
        parts: list[str] = []
        position = 0
        for start, end, text in sorted(self.edits):
            parts += (self.source[position:start], text)
            position = end
        return "".join(parts) + self.source[position:]


_REPEAT = re.compile(r"\{([0-9]{1,6})(?:,([0-9]{0,6}))?\}")


def _unknown_function(token: Token, known: frozenset[str]) -> ExpressionInvalid:
    close = get_close_matches(token.text, known, 1, 0.6)
    aliases = {"len": "size", "str": "string", "float": "double", "lower": None, "any": "exists"}
    suggestion = close[0] if close else aliases.get(token.text)
    return ExpressionInvalid(f"unknown function {token.text!r}", token.start + 1, suggestion)

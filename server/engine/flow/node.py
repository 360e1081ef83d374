"""A mapping of a flow file with typed getters that record problems instead of raising.

A step's ``parse`` reads its keys through these getters and always gets something harmless back; whether
the flow is any good is decided at the end, from all ``Findings`` together. ``finish`` reports the keys
that nobody asked for.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Protocol, overload

from server.engine.flow.expressions import Expression, ExpressionInvalid, compile_expression
from server.engine.flow.model import (
    MAX_RETRIES,
    MAX_TIMEOUT_MS,
    RETRY_REASONS,
    Effect,
    Path,
    Problem,
    Retry,
    Severity,
    Step,
    StepCommon,
)
from server.engine.flow.source import Fields, Items, Leaf, Tree, plain
from server.engine.flow.templates import JsonTemplate, Template, compile_json_template, compile_template

__all__ = ["Findings", "JsonTemplate", "Node", "Template"]

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
FLOW_ID: Final = re.compile(r"[a-z0-9_-]{1,64}")
ACTION_NAME: Final = re.compile(r"[A-Za-z_]\w{0,99}\.[A-Za-z_]\w{0,99}", re.ASCII)
UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
COMMON_FIELDS: Final = (
    "id", "if", "goto", "timeout", "retry", "on_error", "save", "effect", "expose", "while_waiting",
)  # fmt: skip
_LATER_FIELDS: Final = ("after",)
_DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")


def did_you_mean(name: str, known: Collection[str]) -> str | None:
    """Return the known name that ``name`` was probably meant to be."""
    found = get_close_matches(name.lower(), list(known), 1, 0.6)
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Use:
    """An expression with where it stands.

    ``condition`` says that it must be true or false; ``slot`` is the slot that ``value`` stands for, in
    validations.
    """

    expression: Expression
    leaf: Leaf
    offset: int
    condition: bool = False
    slot: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A step named by another one."""

    step_id: str
    place: Tree


@dataclass(frozen=True, slots=True)
class Subflow:
    """Another flow that a step names, with the variables of it that the step sets."""

    flow_id: str
    place: Tree
    arguments: tuple[Leaf, ...] = ()


@dataclass(slots=True)
class Findings:
    """What is gathered while one file is read: problems, and names to be checked when all are known."""

    file: str
    actions: Collection[str] | None = None
    problems: list[Problem] = field(default_factory=list)
    slots: Collection[str] = ()
    uses: list[Use] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    flows: list[Subflow] = field(default_factory=list)
    saves: list[tuple[Path, Tree, bool]] = field(default_factory=list)
    validated_slot: str | None = None
    exposing: bool = False
    lost_steps: set[str] = field(default_factory=set)

    def add(
        self,
        rule: str,
        message: str,
        place: tuple[int, int],
        suggestion: str | None = None,
        severity: Severity = "error",
    ) -> None:
        """Record a problem at (line, column)."""
        self.problems.append(Problem(self.file, *place, severity, rule, message, suggestion))


class Node:
    """One mapping of the file, with the findings it reports to.

    A getter marks its key as known. A key with ``null`` counts as absent, except for ``has``,
    ``templates`` and ``value``.
    """

    __slots__ = ("_asked", "_fields", "_findings", "_what", "column", "line")

    def __init__(self, tree: Fields, findings: Findings, what: str = "flow") -> None:
        self._fields = tree.fields
        self._findings = findings
        self._what = what
        self._asked: set[str] = set()
        self.line = tree.line
        self.column = tree.column

    def problem(
        self,
        rule: str,
        message: str,
        key: str | None = None,
        suggestion: str | None = None,
        *,
        severity: Severity = "error",
    ) -> None:
        """Record a problem, at the value of ``key`` if it is there, else at this mapping."""
        self._findings.add(rule, message, self.place(key), suggestion, severity)

    def place(self, key: str | None) -> tuple[int, int]:
        """Return line and column of the key's value, else of this mapping."""
        if key is None or key not in self._fields:
            return self.line, self.column
        name, value = self._fields[key]
        empty = isinstance(value, Leaf) and value.value is None and not value.text
        return (name.line, name.column) if empty else (value.line, value.column)

    def key_place(self, key: str) -> tuple[int, int]:
        """Return line and column of a key that is there."""
        name, _ = self._fields[key]
        return name.line, name.column

    # -- what is there -----------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Tell whether the key is there, be it null; it counts as known from now on."""
        self._asked.add(key)
        return key in self._fields

    def is_mapping(self, key: str) -> bool:
        """Tell whether the key holds a mapping."""
        return key in self._fields and isinstance(self._fields[key][1], Fields)

    def is_list(self, key: str) -> bool:
        """Tell whether the key holds a list."""
        return key in self._fields and isinstance(self._fields[key][1], Items)

    def keys(self) -> tuple[str, ...]:
        """Return the keys in file order."""
        return tuple(self._fields)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield key and plain value, in file order; all keys count as known."""
        for key, (_, value) in self._fields.items():
            self._asked.add(key)
            yield key, plain(value)

    def value(self, key: str, default: Any = None) -> Any:
        """Return the plain JSON at ``key``."""
        self._asked.add(key)
        return plain(self._fields[key][1]) if key in self._fields else default

    def _get(self, key: str, required: bool = False) -> Tree | None:
        """Return the tree at ``key``; ``None`` where it is absent or null."""
        self._asked.add(key)
        found = self._fields.get(key)
        tree = found[1] if found is not None else None
        if tree is not None and not (
            isinstance(tree, Leaf) and tree.value is None and tree.text in {"", "~", "null"}
        ):
            return tree
        if required:
            self.problem("missing-field", f'{self._what} needs "{key}"', key if found else None)
        return None

    def _wrong(self, key: str, wanted: str) -> None:
        self.problem("wrong-type", f'"{key}" should be {wanted}', key)

    # -- scalars -----------------------------------------------------------------------------------

    @overload
    def text(self, key: str, default: str, *, required: bool = False) -> str: ...
    @overload
    def text(self, key: str, default: None = None, *, required: bool = False) -> str | None: ...
    def text(self, key: str, default: str | None = None, *, required: bool = False) -> str | None:
        """Return a text as it is; a number is taken as written."""
        tree = self._get(key, required)
        if tree is None:
            return default
        if isinstance(tree, Leaf) and not isinstance(tree.value, bool):
            return tree.text
        self._wrong(key, "a text")
        return default

    def boolean(self, key: str, default: bool = False) -> bool:
        """Return true or false."""
        tree = self._get(key)
        if tree is None:
            return default
        if isinstance(tree, Leaf) and isinstance(tree.value, bool):
            return tree.value
        guess = {"yes": "true", "on": "true", "no": "false", "off": "false"}
        hint = guess.get(tree.text.lower()) if isinstance(tree, Leaf) else None
        self.problem("wrong-type", f'"{key}" should be true or false', key, hint)
        return default

    @overload
    def integer(
        self, key: str, minimum: int, maximum: int, default: int, *, required: bool = False
    ) -> int: ...
    @overload
    def integer(
        self, key: str, minimum: int, maximum: int, default: None = None, *, required: bool = False
    ) -> int | None: ...
    def integer(
        self, key: str, minimum: int, maximum: int, default: int | None = None, *, required: bool = False
    ) -> int | None:
        """Return a whole number within the bounds (both included)."""
        tree = self._get(key, required)
        if tree is None:
            return default
        value = tree.value if isinstance(tree, Leaf) else None
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(key, "a whole number")
            return default
        if not minimum <= value <= maximum:
            self.problem("out-of-range", f'"{key}" should be {minimum} to {maximum}', key)
            return default
        return value

    def number(self, key: str, minimum: float, maximum: float, default: float) -> float:
        """Return a number within the bounds (both included)."""
        tree = self._get(key)
        if tree is None:
            return default
        value = tree.value if isinstance(tree, Leaf) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(key, "a number")
            return default
        if not minimum <= value <= maximum:
            self.problem("out-of-range", f'"{key}" should be {minimum:g} to {maximum:g}', key)
            return default
        return float(value)

    @overload
    def choice(self, key: str, options: Collection[str], default: str, *, required: bool = False) -> str: ...
    @overload
    def choice(
        self, key: str, options: Collection[str], default: None = None, *, required: bool = False
    ) -> str | None: ...
    def choice(
        self, key: str, options: Collection[str], default: str | None = None, *, required: bool = False
    ) -> str | None:
        """Return one of the options."""
        tree = self._get(key, required)
        if tree is None:
            return default
        if isinstance(tree, Leaf) and tree.text in options:
            return tree.text
        suggestion = did_you_mean(tree.text, options) if isinstance(tree, Leaf) else None
        self.problem("unknown-option", f'"{key}" should be one of: {", ".join(options)}', key, suggestion)
        return default

    def duration(self, key: str, maximum_ms: int | None = None) -> int | None:
        """Return milliseconds from "500ms", "5s", "2m", "4h" or "1d"."""
        tree = self._get(key)
        if tree is None:
            return None
        found = _DURATION.fullmatch(tree.text.strip()) if isinstance(tree, Leaf) else None
        if found is None:
            hint = f"{tree.text}s" if isinstance(tree, Leaf) and tree.text.isdecimal() else None
            self.problem("duration", f'"{key}" should be a duration such as 500ms, 5s, 2m or 4h', key, hint)
            return None
        value = int(found[1]) * UNITS_MS[found[2]]
        if maximum_ms is not None and value > maximum_ms:
            days, hours = maximum_ms // UNITS_MS["d"], maximum_ms // UNITS_MS["h"]
            limit = f"{days}d" if days else f"{hours}h"
            self.problem("timeout-limit", f'"{key}" may be at most {limit}', key)
            return None
        return value

    def names(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        """Return texts from one text or a list of texts."""
        return tuple(leaf.text for leaf in self._leaves(key, required))

    def _leaves(self, key: str, required: bool = False) -> tuple[Leaf, ...]:
        tree = self._get(key, required)
        if tree is None:
            return ()
        inner = tree.items if isinstance(tree, Items) else (tree,)
        leaves: list[Leaf] = []
        for item in inner:
            if isinstance(item, Leaf) and item.value is not None and item.text.strip():
                leaves.append(item)
            else:
                place = (item.line, item.column)
                self._findings.add("wrong-type", f'"{key}" should be a text or a list of texts', place)
        return tuple(leaves)

    # -- expressions and templates -----------------------------------------------------------------

    def expression(self, key: str, *, required: bool = True, condition: bool = True) -> Expression | None:
        """Return a CEL expression; ``None`` where it is absent or wrong (which is recorded)."""
        tree = self._get(key, required)
        if tree is None:
            return None
        if not isinstance(tree, Leaf):
            self._wrong(key, "an expression")
            return None
        try:
            expression = compile_expression(tree.text)
        except ExpressionInvalid as error:
            self._expression_problem(tree, error)
            return None
        self._use(expression, tree, 0, condition)
        return expression

    def _expression_problem(self, leaf: Leaf, error: ExpressionInvalid) -> None:
        text = leaf.text.strip()
        if text.startswith("${") and text.endswith("}"):
            message = "an expression stands here without ${}"
            self._findings.add("expression", message, (leaf.line, leaf.column), text[2:-1].strip())
            return
        place = leaf.at(min(error.column - 1, len(leaf.text)))
        self._findings.add("expression", f"in the expression: {error.message}", place, error.suggestion)

    def _use(self, expression: Expression, leaf: Leaf, offset: int, condition: bool = False) -> None:
        slot = self._findings.validated_slot
        self._findings.uses.append(Use(expression, leaf, offset, condition, slot))

    def template(self, key: str, *, required: bool = True) -> Template:
        """Return a template; the empty one where it is absent or wrong (which is recorded)."""
        tree = self._get(key, required)
        if tree is None:
            return compile_template("")
        if isinstance(tree, Leaf):
            return self._template(tree)
        self._wrong(key, "a text")
        return compile_template("")

    def _template(self, leaf: Leaf) -> Template:
        try:
            template = compile_template(leaf.text)
        except ExpressionInvalid as error:
            place = leaf.at(min(error.column - 1, len(leaf.text)))
            self._findings.add("expression", f"in ${{...}}: {error.message}", place, error.suggestion)
            return compile_template("")
        for expression, offset in zip(template.expressions, template.offsets, strict=True):
            self._use(expression, leaf, offset)
        return template

    def templates(self, key: str, *, required: bool = True) -> JsonTemplate:
        """Return any JSON with each text a template; null where it is absent or wrong."""
        self._asked.add(key)
        if key not in self._fields:
            if required:
                self._get(key, True)
            return JsonTemplate.constant(None)
        tree = self._fields[key][1]
        before = len(self._findings.problems)
        for leaf in _leaves_of(tree):
            if isinstance(leaf.value, str):
                self._template(leaf)
        if len(self._findings.problems) > before:
            return JsonTemplate.constant(None)
        return compile_json_template(plain(tree))

    def tree(self, key: str, *, required: bool = False, null: bool = False) -> Tree | None:
        """Return what stands at ``key``, for readers of their own; with ``null``, null as such."""
        self._asked.add(key)
        if null and key in self._fields:
            return self._fields[key][1]
        return self._get(key, required)

    # -- structure ---------------------------------------------------------------------------------

    def mapping(self, key: str, *, required: bool = False, what: str | None = None) -> "Node | None":
        """Return the mapping at ``key``."""
        tree = self._get(key, required)
        if tree is None:
            return None
        if isinstance(tree, Fields):
            return Node(tree, self._findings, what or f'"{key}"')
        self._wrong(key, "a mapping")
        return None

    def nodes(self, key: str, *, required: bool = False, what: str | None = None) -> "tuple[Node, ...]":
        """Return the mappings of the list at ``key``; what is no mapping is recorded and left out."""
        tree = self._get(key, required)
        if tree is None:
            return ()
        if not isinstance(tree, Items):
            self._wrong(key, "a list")
            return ()
        found: list[Node] = []
        for item in tree.items:
            if isinstance(item, Fields):
                found.append(Node(item, self._findings, what or f'an item of "{key}"'))
            else:
                place = (item.line, item.column)
                self._findings.add("wrong-type", f'an item of "{key}" should be a mapping', place)
        return tuple(found)

    # -- names of the flow -------------------------------------------------------------------------

    def target(self, key: str, *, required: bool = False) -> str | None:
        """Return a step id; whether there is such a step is checked when all are known."""
        tree = self._get(key, required)
        if tree is None:
            return None
        if not isinstance(tree, Leaf) or isinstance(tree.value, bool):
            self._wrong(key, "the id of a step")
            return None
        self._findings.targets.append(Target(tree.text, tree))
        return tree.text

    def flow_id(self, key: str, arguments: str | None = None) -> str | None:
        """Return the id of another flow.

        That there is one, and that it has the variables that ``arguments`` (the key of a mapping) sets, is
        checked where the folder is known.
        """
        tree = self._get(key, required=True)
        if tree is None:
            return None
        if not isinstance(tree, Leaf) or not FLOW_ID.fullmatch(tree.text):
            self._wrong(key, "the id of a flow")
            return None
        given = self._fields.get(arguments or "")
        fields = given[1].fields if given is not None and isinstance(given[1], Fields) else {}
        self._findings.flows.append(Subflow(tree.text, tree, tuple(name for name, _ in fields.values())))
        return tree.text

    def matching(self, key: str, pattern: str, wanted: str, *, required: bool = False) -> str | None:
        """Return a text that the pattern matches as a whole."""
        found = self.text(key, required=required)
        if found is not None and not re.fullmatch(pattern, found):
            self._wrong(key, wanted)
            return None
        return found

    def slot_names(self, key: str) -> tuple[str, ...]:
        """Return the names of declared slots; others are recorded and left out. At least one is needed."""
        found: list[str] = []
        for leaf in self._leaves(key, required=True):
            if leaf.text in self._findings.slots:
                found.append(leaf.text)
            else:
                place = (leaf.line, leaf.column)
                hint = did_you_mean(leaf.text, self._findings.slots)
                self._findings.add("unknown-slot", f'there is no slot "{leaf.text}"', place, hint)
        if self.is_list(key) and not self._fields[key][1].items:  # type: ignore[union-attr]
            self.problem("missing-field", f'"{key}" needs at least one slot', key)
        return tuple(found)

    def slot_paths(self, key: str) -> tuple[str, ...]:
        """Return the names of declared slots that are written ``slots.name``; others are left out."""
        found: list[str] = []
        for leaf in self._leaves(key):
            root, _, name = leaf.text.partition(".")
            if root == "slots" and name in self._findings.slots:
                found.append(name)
                continue
            place = (leaf.line, leaf.column)
            hint = did_you_mean(name or root, self._findings.slots)
            message = f'"{leaf.text[:60]}" is no slot; write slots.name'
            self._findings.add("unknown-slot", message, place, f"slots.{hint}" if hint else None)
        return tuple(dict.fromkeys(found))

    def save_path(self, key: str) -> Path | None:
        """Return where to save: ``variables.name`` or ``slots.name``."""
        tree = self._get(key)
        if tree is None:
            return None
        if isinstance(tree, Leaf):
            return self._path(tree)
        self._wrong(key, "a path such as variables.offers")
        return None

    def path_of(self, key: str) -> Path | None:
        """Return the path that the key itself is: ``variables.name`` or ``slots.name``."""
        return self._path(self._fields[key][0])

    def _path(self, leaf: Leaf) -> Path | None:
        place = (leaf.line, leaf.column)
        root, dot, name = leaf.text.partition(".")
        if root not in {"variables", "slots"} or not dot or not NAME.fullmatch(name):
            hint = f"variables.{leaf.text}" if NAME.fullmatch(leaf.text) else None
            message = f'"{leaf.text[:60]}" is no place to save to; write variables.name or slots.name'
            self._findings.add("save-path", message, place, hint)
            return None
        if root == "slots" and name not in self._findings.slots:
            hint = did_you_mean(name, self._findings.slots)
            self._findings.add("unknown-slot", f'there is no slot "{name}"', place, hint)
            return None
        self._findings.saves.append(((root, name), leaf, self._findings.exposing))
        return root, name

    def action_name(self, key: str) -> str | None:
        """Return the name of an action, ``module.function``; checked where the actions are known."""
        tree = self._get(key, required=True)
        if tree is None:
            return None
        if not isinstance(tree, Leaf) or not ACTION_NAME.fullmatch(tree.text):
            self._wrong(key, "the name of an action, module.function")
            return None
        actions = self._findings.actions
        if actions is not None and tree.text not in actions:
            hint = did_you_mean(tree.text, actions)
            self.problem("unknown-action", f'there is no action "{tree.text}"', key, hint)
        return tree.text

    # -- the end -----------------------------------------------------------------------------------

    def common(self, default_id: str = "step") -> StepCommon:
        """Read the fields that every step may have."""
        for key in _LATER_FIELDS:
            if self.has(key):
                self._asked.add(key)
                self.problem("unsupported", f'"{key}" is not supported by this version', key)
        self._findings.exposing = expose = self.boolean("expose")
        return StepCommon(
            step_id=self._step_id(default_id),
            if_=self.expression("if", required=False),
            goto=self.target("goto"),
            timeout_ms=self.duration("timeout", MAX_TIMEOUT_MS),
            retry=self._retry(),
            save=self.save_path("save"),
            on_error=self.target("on_error"),
            effect=self._effect(),
            expose=expose,
            while_waiting=self.template("while_waiting") if self.has("while_waiting") else None,
            line=self.line,
        )

    def _step_id(self, default_id: str) -> str:
        step_id = self.text("id", default_id)
        if not NAME.fullmatch(step_id):
            self.problem("name-pattern", "a step id is a-z, 0-9 and _, and begins with a letter", "id")
        return step_id

    def _effect(self) -> Effect | None:
        known: dict[str, Effect] = {"read": "read", "idempotent": "idempotent", "write": "write"}
        found = self.choice("effect", known)
        return known[found] if found is not None else None

    def _retry(self) -> Retry | None:
        inner = self.mapping("retry", what="retry")
        if inner is None:
            return None
        delay_ms = inner.duration("delay", MAX_TIMEOUT_MS)
        reasons = inner.names("on")
        for reason in reasons:
            if reason not in RETRY_REASONS:
                hint = did_you_mean(reason, RETRY_REASONS)
                known = ", ".join(RETRY_REASONS)
                inner.problem("unknown-option", f'"on" should be among: {known}', "on", hint)
        result = Retry(
            max=inner.integer("max", 1, MAX_RETRIES, 1, required=True),
            delay_ms=1_000 if delay_ms is None else delay_ms,
            factor=inner.number("factor", 1.0, 10.0, 2.0),
            on=reasons or ("timeout", "unavailable"),
        )
        inner.finish()
        return result

    def finish(self) -> None:
        """Report the keys that nobody asked for."""
        for key, (name, _) in self._fields.items():
            if key not in self._asked:
                hint = did_you_mean(key, self._asked)
                self._findings.add(
                    "unknown-field", f'{self._what} has no field "{key[:60]}"', (name.line, name.column), hint
                )


class StepType(Protocol):
    """What ``server.engine.steps.step_types()`` lists: a step class that parses itself."""

    keyword: str

    def parse(self, node: Node, common: StepCommon) -> Step:
        """Read the step's own keys; problems are recorded at the node, never raised."""
        ...


def _leaves_of(tree: Tree) -> Iterator[Leaf]:
    if isinstance(tree, Leaf):
        yield tree
    elif isinstance(tree, Items):
        for item in tree.items:
            yield from _leaves_of(item)
    else:
        for _, value in tree.fields.values():
            yield from _leaves_of(value)

"""From a flow's source to a ``Flow``, or to every problem in it; and from a folder to its flows.

Syntax is ``source``'s, single keys are ``node``'s, what a step kind means is its own ``parse``'s, and what
only shows when everything is known is ``lint``'s. Reading a folder is the only I/O here.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from server.engine.flow.dependencies import links_of
from server.engine.flow.expressions import KEYWORDS, RESERVED, compile_expression
from server.engine.flow.lint import lint
from server.engine.flow.model import (
    ITEM_TYPES,
    MAX_ITEMS,
    MAX_TIMEOUT_MS,
    SLOT_TYPES,
    Flow,
    FlowInvalid,
    Intent,
    Problem,
    Slot,
    SlotType,
    Step,
    Validation,
)
from server.engine.flow.node import (
    COMMON_FIELDS,
    FLOW_ID,
    NAME,
    Findings,
    Node,
    StepType,
    Subflow,
    did_you_mean,
)
from server.engine.flow.phones import regions
from server.engine.flow.slots import SlotInvalid, fold, normalise
from server.engine.flow.source import Fields, SourceInvalid, Tree, read_source

LATER_STEPS: Final = (
    "http",
    "tool",
    "llm",
    "parallel",
)
_NEVER: Final = compile_expression("false")
LATER_SLOT_TYPES: Final = ("object",)
SUFFIXES: Final = (".yaml", ".yml", ".json")
MAX_STEPS: Final = 1_000
MAX_OPTIONS: Final = 200


def compile_flow(
    source: str,
    source_name: str,
    *,
    actions: Collection[str] | None = None,
    steps: Mapping[str, StepType] | None = None,
) -> Flow:
    """Compile a flow.

    Args:
        source: YAML or JSON text.
        source_name: the file's name, for problems.
        actions: the names of the actions there are; ``None`` leaves names of actions unchecked.
        steps: the step kinds by keyword; those of ``server.engine.steps`` where not given.

    Raises:
        FlowInvalid: with all problems, sorted by place.
    """
    compiled = _compile(source, source_name, actions, steps)
    if compiled.flow is None:
        raise FlowInvalid(compiled.problems)
    return compiled.flow


class LoadedFlow(NamedTuple):
    """A flow of a folder with the text it was made from."""

    flow: Flow
    source: str
    path: Path


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What a folder holds: the flows that compile, and all problems, warnings included."""

    flows: tuple[LoadedFlow, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error (warnings do not count)."""
        return all(problem.severity != "error" for problem in self.problems)


def load_folder(folder: Path | str, actions: Collection[str] | None = None) -> FolderReport:
    """Compile each ``*.yaml``, ``*.yml`` and ``*.json`` of a folder, in the order of their names.

    A broken file is left out and reported. A second flow with the same id, or a second default, is a
    problem of the later file. A lone flow is the default. Never raises for what is in the files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = Problem(str(folder), 1, 1, "error", "no-folder", "there is no such folder")
        return FolderReport((), (problem,))
    found: list[LoadedFlow] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    calls: list[tuple[Path, Subflow]] = []
    default: str | None = None
    for path in sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and not p.name.startswith(".")):
        compiled = _compile_file(path, actions)
        problems += compiled.problems
        flow = compiled.flow
        if flow is None:
            continue
        if flow.flow_id in seen:
            message = f'the flow "{flow.flow_id}" is already in {seen[flow.flow_id]}'
            problems.append(Problem(str(path), *compiled.place, "error", "duplicate-flow", message))
            continue
        seen[flow.flow_id] = path.name
        calls += [(path, target) for target in compiled.calls]
        if flow.is_default and default is not None:
            message = f"{default} is the default already"
            problems.append(Problem(str(path), *compiled.place, "error", "two-defaults", message))
            flow = replace(flow, is_default=False)
        elif flow.is_default:
            default = path.name
        found.append(LoadedFlow(flow, compiled.source, path))
    if len(found) == 1:
        found = [found[0]._replace(flow=replace(found[0].flow, is_default=True))]
    problems += _unknown_interrupters(found, seen)
    problems += _unknown_subflows(calls, {loaded.flow.flow_id: loaded.flow for loaded in found})
    return FolderReport(tuple(found), tuple(problems))


def _unknown_interrupters(found: list[LoadedFlow], known: Collection[str]) -> list[Problem]:
    problems: list[Problem] = []
    for loaded in found:
        for flow_id in loaded.flow.interruptible_by:
            if flow_id not in known:
                message = f'"interruptible_by" names "{flow_id}", which is no flow of this folder'
                hint = did_you_mean(flow_id, known)
                problems.append(Problem(str(loaded.path), 1, 1, "warning", "unknown-flow", message, hint))
    return problems


def _unknown_subflows(calls: list[tuple[Path, Subflow]], known: Mapping[str, Flow]) -> list[Problem]:
    problems: list[Problem] = []

    def warn(path: Path, place: Tree, rule: str, message: str, hint: str | None) -> None:
        problems.append(Problem(str(path), place.line, place.column, "warning", rule, message, hint))

    for path, called in calls:
        flow = known.get(called.flow_id)
        if flow is None:
            message = f'"{called.flow_id}" is no flow of this folder'
            warn(path, called.place, "unknown-flow", message, did_you_mean(called.flow_id, known))
            continue
        for name in called.arguments:
            if name.text not in flow.variables:
                message = f'the flow "{flow.flow_id}" declares no variable "{name.text[:60]}"'
                warn(path, name, "unknown-argument", message, did_you_mean(name.text, flow.variables))
    return problems


def _compile_file(path: Path, actions: Collection[str] | None) -> "_Compiled":
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line = before.count(b"\n") + 1
        column = len(before) - before.rfind(b"\n")
        return _failed(Problem(str(path), line, column, "error", "syntax", "the file is not UTF-8 text"))
    except OSError:
        return _failed(Problem(str(path), 1, 1, "error", "unreadable", "the file cannot be read"))
    return _compile(source, str(path), actions, None)


@dataclass(frozen=True, slots=True)
class _Compiled:
    flow: Flow | None
    problems: tuple[Problem, ...]
    source: str = ""
    place: tuple[int, int] = (1, 1)
    calls: tuple[Subflow, ...] = ()


def _failed(problem: Problem) -> _Compiled:
    return _Compiled(None, (problem,))


def _compile(
    source: str,
    source_name: str,
    actions: Collection[str] | None,
    steps: Mapping[str, StepType] | None,
) -> _Compiled:
    try:
        tree, problems = read_source(source, source_name)
    except SourceInvalid as error:
        return _failed(error.problem)
    findings = Findings(source_name, actions, list(problems))
    if not isinstance(tree, Fields):
        findings.add("wrong-type", "a flow is a mapping: flow, slots, steps ...", (tree.line, tree.column))
        return _Compiled(None, tuple(findings.problems))
    node = Node(tree, findings, "a flow")
    flow = _FlowReader(node, findings, steps if steps is not None else _known_steps()).read(source)
    found = tuple(sorted(dict.fromkeys(findings.problems), key=lambda p: (p.line, p.column, p.rule)))
    place = node.place("flow")
    if any(problem.severity == "error" for problem in found):
        return _Compiled(None, found, source, place)
    return _Compiled(replace(flow, warnings=found), found, source, place, tuple(findings.flows))


def _known_steps() -> Mapping[str, StepType]:
    # The step kinds import this package, so they can only be looked up when a flow is compiled.
    from server.engine.steps import step_types

    return step_types()


def _item_type(kind: str | None) -> SlotType:
    return next((each for each in ITEM_TYPES if each == kind), "text")


class _FlowReader:
    """Reads one flow's mapping from top to bottom."""

    def __init__(self, node: Node, findings: Findings, steps: Mapping[str, StepType]) -> None:
        self.node = node
        self.findings = findings
        self.kinds = steps

    def read(self, source: str) -> Flow:
        node = self.node
        flow_id = node.text("flow", "", required=True)
        if flow_id and not FLOW_ID.fullmatch(flow_id):
            node.problem("name-pattern", "a flow id is a-z, 0-9, _ and -, at most 64 of them", "flow")
        name = node.text("name", flow_id)
        if len(name) > 255:
            node.problem("out-of-range", '"name" may have at most 255 characters', "name")
        slots = self._slots()
        variables = self._variables()
        steps = self._steps()
        flow = Flow(
            flow_id=flow_id,
            name=name,
            description=node.text("description", ""),
            is_default=node.boolean("default"),
            triggers=self._triggers(),
            interruptible_by=node.names("interruptible_by"),
            slots=slots,
            variables=variables,
            timeout_ms=node.duration("timeout", MAX_TIMEOUT_MS),
            steps=tuple(step for step, _ in steps),
            index={step.common.step_id: place for place, (step, _) in reversed(list(enumerate(steps)))},
            exposed=frozenset(path[1] for path, _, exposed in self.findings.saves if exposed),
            links=links_of([step for step, _ in steps], slots),
            subflows=tuple(dict.fromkeys(other.flow_id for other in self.findings.flows)),
            source_name=self.findings.file,
            sha256=hashlib.sha256(source.encode("utf-8", "replace")).hexdigest(),
        )
        node.finish()
        lint(flow, steps, self.findings)
        return flow

    # -- triggers ----------------------------------------------------------------------------------

    def _triggers(self) -> tuple[Intent, ...]:
        triggers = self.node.mapping("triggers", what='"triggers"')
        if triggers is None:
            return ()
        intents = tuple(self._intent(item) for item in triggers.nodes("intents", what="an intent"))
        triggers.finish()
        return intents

    def _intent(self, node: Node) -> Intent:
        intent = Intent(
            name=node.text("name", "", required=True),
            keywords=node.names("keywords"),
            examples=node.names("examples"),
            minimum=node.number("min", 0.1, 1.0, 0.6),
            payloads=node.names("payloads"),
        )
        if not (intent.keywords or intent.examples or intent.payloads):
            node.problem("empty-intent", "an intent needs keywords, examples or payloads")
        for keyword in intent.keywords:
            if not fold(keyword):
                node.problem(
                    "empty-intent", f'the keyword "{keyword[:40]}" has no letter or digit', "keywords"
                )
        node.finish()
        return intent

    # -- slots and variables -----------------------------------------------------------------------

    def _slots(self) -> Mapping[str, Slot]:
        declared = self.node.mapping("slots", what='"slots"')
        if declared is None:
            return {}
        self.findings.slots = declared.keys()
        slots: dict[str, Slot] = {}
        for name in declared.keys():  # noqa: SIM118 - a Node is no dict
            self._check_name(declared, name, "slot")
            node = declared.mapping(name, required=True, what=f'the slot "{name}"')
            if node is not None:
                self.findings.validated_slot = name
                slots[name] = self._slot(name, node)
                self.findings.validated_slot = None
        return slots

    def _check_name(self, node: Node, name: str, what: str) -> None:
        if not NAME.fullmatch(name) or name in RESERVED or name in KEYWORDS:
            message = f"a {what}'s name is a-z, 0-9 and _, begins with a letter and is no word of CEL"
            self.findings.add("name-pattern", message, node.key_place(name))

    def _slot(self, name: str, node: Node) -> Slot:
        kind = self._slot_type(node)
        options = node.names("options")
        self._check_options(node, kind, options)
        slot = Slot(
            name=name,
            type=kind,
            options=options,
            aliases=self._aliases(node, options),
            validate=tuple(self._validation(item) for item in node.nodes("validate", what="a validation")),
            pii=node.boolean("pii"),
            keep=node.boolean("keep"),
            prompt=node.template("prompt") if node.has("prompt") else None,
            region=self._region(node, kind),
        )
        if kind == "list":
            slot = self._list(node, slot)
        default = self._default(node, slot)
        node.finish()
        return replace(slot, default=default)

    def _list(self, node: Node, slot: Slot) -> Slot:
        minimum = node.integer("min", 0, MAX_ITEMS, 1)
        maximum = node.integer("max", 1, MAX_ITEMS, max(20, minimum))
        if minimum > maximum:
            node.problem("out-of-range", f'"min" is more than "max" ({maximum})', "min")
        return replace(slot, items=self._items(node, slot.name), minimum=minimum, maximum=maximum)

    def _items(self, node: Node, name: str) -> Slot:
        """Read what a list is made of: a type, or a mapping with one and what belongs to it."""
        if not node.is_mapping("items"):
            kind = node.choice("items", ITEM_TYPES, required=True)
            if kind == "choice":
                node.problem(
                    "choice-options", "items of type choice need {type: choice, options: [...]}", "items"
                )
            return Slot(name, _item_type(kind))
        inner = node.mapping("items", what='"items"')
        assert inner is not None
        kind = inner.choice("type", ITEM_TYPES, required=True)
        item_type = _item_type(kind)
        options = inner.names("options")
        self._check_options(inner, item_type, options)
        aliases, region = self._aliases(inner, options), self._region(inner, item_type)
        inner.finish()
        return Slot(name, item_type, options, aliases, region=region)

    def _region(self, node: Node, kind: SlotType) -> str | None:
        region = node.text("region") if kind == "phone" else None
        if region is not None and region not in regions():
            hint = (
                "GB" if region.upper() == "UK" else next((r for r in regions() if r == region.upper()), None)
            )
            message = '"region" should be a country of ISO 3166, in two capital letters, such as FR'
            node.problem("unknown-option", message, "region", hint)
            return None
        return region

    def _slot_type(self, node: Node) -> SlotType:
        found = node.value("type")
        if found in LATER_SLOT_TYPES:
            node.problem("unsupported", f'the slot type "{found}" is not supported by this version', "type")
            return "text"
        chosen = node.choice("type", SLOT_TYPES, required=True)
        return next((kind for kind in SLOT_TYPES if kind == chosen), "text")

    def _check_options(self, node: Node, kind: SlotType, options: tuple[str, ...]) -> None:
        if kind == "choice" and not options:
            node.problem("choice-options", 'a slot of type choice needs "options"', "options")
        if kind == "boolean" and options and len(options) != 2:
            message = "a boolean has two options: what its yes and what its no is called"
            node.problem("choice-options", message, "options")
        key = "options" if node.has("options") and kind != "boolean" else "aliases"
        if kind != "choice" and node.has(key):
            where = "; what a list is made of stands in its items" if kind == "list" else ""
            node.problem("choice-options", f'"{key}" is for slots of type choice{where}', key)
        if len(options) > MAX_OPTIONS:
            node.problem("out-of-range", f"a slot may have at most {MAX_OPTIONS} options", "options")
        folded: dict[str, str] = {}
        for option in options:
            if folded.setdefault(fold(option), option) != option or options.count(option) > 1:
                node.problem("ambiguous-alias", f'the option "{option}" is there twice', "options")

    def _aliases(self, node: Node, options: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        inner = node.mapping("aliases", what='"aliases"')
        if inner is None:
            return {}
        aliases: dict[str, tuple[str, ...]] = {}
        owner = {fold(option): option for option in options}
        for option in inner.keys():  # noqa: SIM118 - a Node is no dict
            names = inner.names(option)
            if option not in options:
                hint = did_you_mean(option, options)
                message = f'there is no option "{option}" to give other names to'
                self.findings.add("unknown-option", message, inner.key_place(option), hint)
                continue
            for alias in names:
                if owner.setdefault(fold(alias), option) != option:
                    inner.problem("ambiguous-alias", f'"{alias}" means {owner[fold(alias)]} already', option)
            aliases[option] = names
        return aliases

    def _validation(self, node: Node) -> Validation:
        condition = node.expression("if")
        say = node.template("say")
        node.finish()
        return Validation(condition or _NEVER, say)

    def _default(self, node: Node, slot: Slot) -> Any:
        value = node.value("default")
        if value is None:
            return None
        try:
            return normalise(slot, value)
        except SlotInvalid as error:
            node.problem("slot-default", f"the default does not fit: {error.message}", "default")
            return None

    def _variables(self) -> Mapping[str, Any]:
        declared = self.node.mapping("variables", what='"variables"')
        if declared is None:
            return {}
        for name in declared.keys():  # noqa: SIM118 - a Node is no dict
            self._check_name(declared, name, "variable")
        return dict(declared.items())

    # -- steps -------------------------------------------------------------------------------------

    def _steps(self) -> list[tuple[Step, Node]]:
        nodes = self.node.nodes("steps", required=True, what="a step")
        if self.node.is_list("steps") and not nodes and not self.findings.problems:
            self.node.problem("empty-steps", "a flow needs at least one step", "steps")
        if len(nodes) > MAX_STEPS:
            self.node.problem("too-large", f"a flow may have at most {MAX_STEPS:,} steps", "steps")
        steps: list[tuple[Step, Node]] = []
        for number, node in enumerate(nodes[:MAX_STEPS], 1):
            kind = self._kind(node)
            if kind is None:
                self._note_lost_step(node, f"step_{number}")
                continue
            common = node.common(f"step_{number}")
            steps.append((kind.parse(node, common), node))
            node.finish()
        return steps

    def _note_lost_step(self, node: Node, default_id: str) -> None:
        """Keep the id of a step that cannot be read, so that what leads to it is not reported as well."""
        found = node.value("id")
        self.findings.lost_steps.add(found if isinstance(found, str) else default_id)

    def _kind(self, node: Node) -> StepType | None:
        keys = node.keys()
        keywords = [key for key in keys if key in self.kinds or key in LATER_STEPS]
        if len(keywords) > 1:
            message = f"a step does one thing; this one has {' and '.join(keywords)}"
            self.findings.add("two-keywords", message, node.key_place(keywords[1]))
            return None
        if not keywords:
            self._unknown_keyword(node)
            return None
        keyword = keywords[0]
        if keyword not in self.kinds:
            message = f'step "{keyword}" is not supported by this version'
            self.findings.add("unsupported", message, node.key_place(keyword))
            return None
        return self.kinds[keyword]

    def _unknown_keyword(self, node: Node) -> None:
        known = (*self.kinds, *LATER_STEPS)
        keys = node.keys()
        others = [key for key in keys if key not in COMMON_FIELDS]
        for key in others:
            hint = did_you_mean(key, known)
            if hint is not None:
                message = f'"{key[:60]}" is no kind of step'
                self.findings.add("unknown-step-kind", message, node.key_place(key), hint)
                return
        message = f"a step needs one of: {', '.join(sorted(self.kinds))}"
        place = node.key_place(others[0]) if others else (node.line, node.column)
        self.findings.add("unknown-step-kind", message, place)

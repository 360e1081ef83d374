"""Rules about a whole flow: names that do not exist, steps nobody reaches, loops, types of expressions.

What is wrong with a single key is found where it is read (``node``, ``loader``, the steps). ``RULES`` lists
all rules of the language, whoever finds them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from server.engine.flow.expressions import CONTEXT_ROOTS, Expression, ExpressionFailed
from server.engine.flow.model import Flow, Severity, Slot, Step
from server.engine.flow.node import Findings, Node, Use, did_you_mean

RULES: Final[Mapping[str, tuple[Severity, str]]] = {
    "syntax": ("error", "The file is neither YAML nor JSON, or uses what the language leaves out (tags)."),
    "too-large": ("error", "The file has more than 256 KiB, 20,000 values or 1,000 steps."),
    "too-deep": ("error", "The file is nested more than 32 deep."),
    "empty-file": ("error", "There is nothing in the file."),
    "duplicate-key": ("error", "A mapping has the same key twice."),
    "wrong-type": ("error", "A value has the wrong type, such as a list where a text belongs."),
    "missing-field": ("error", "A field that is needed is not there."),
    "unknown-field": ("error", "A field that nobody knows."),
    "unknown-option": ("error", "A value that is not among those allowed."),
    "out-of-range": ("error", "A number or a length beyond its limits."),
    "duration": ("error", "No duration such as 500ms, 5s, 2m or 4h."),
    "timeout-limit": ("error", "A timeout or delay of more than two hours, or a wait of more than a year."),
    "name-pattern": ("error", "An id or name with characters that are not allowed."),
    "unsupported": ("error", "A part of the language that this version does not have yet."),
    "unknown-step-kind": ("error", "A step without a keyword that says what it does."),
    "two-keywords": ("error", "A step with two keywords."),
    "empty-steps": ("error", "A flow without steps."),
    "duplicate-step": ("error", "Two steps with the same id."),
    "unknown-step": ("error", "A step that is named but not there."),
    "unreachable": ("warning", "A step that nothing leads to."),
    "endless-loop": ("warning", "Steps that lead to each other for ever and never wait."),
    "missing-else": ("warning", "A branch without an else: without a match the next step follows."),
    "branch-empty": ("error", "A branch without cases."),
    "else-not-last": ("error", "An else before other cases."),
    "expression": ("error", "An expression or template that does not compile."),
    "expression-type": ("error", "An expression whose operands can never fit, or a condition that is none."),
    "unknown-name": ("error", "An expression starts from a name that there is not."),
    "unknown-slot": ("error", "A slot that is not declared."),
    "unknown-variable": ("error", "A variable that is neither declared nor saved."),
    "ask-unknown-slot": ("error", "A question for a slot that the step does not collect."),
    "choice-options": ("error", "A choice without options, or options where they have no place."),
    "ambiguous-alias": ("error", "An option or alias that means two things."),
    "slot-default": ("error", "A default that is no value of its slot."),
    "save-path": ("error", "A place to save to that is neither variables.name nor slots.name."),
    "unknown-action": ("error", "An action that is in none of the loaded modules."),
    "missing-effect": ("error", "An action that does not say what it does to the world."),
    "while-waiting": ("error", '"while_waiting" at a step that does not wait, or waits for a message.'),
    "no-attempts": ("error", '"timeout" or "retry" at a step that runs no action: there is nothing to try.'),
    "on-unknown-not-write": ("error", '"on_unknown" beside another effect than write.'),
    "wait-empty": ("error", "A wait that says neither for how long, nor until when, nor for which event."),
    "empty-intent": ("error", "An intent that nothing can match."),
    "duplicate-flow": ("error", "Two flows of a folder with the same id."),
    "two-defaults": ("error", "Two default flows in a folder."),
    "unknown-flow": ("warning", "A flow that is named but not in the folder."),
    "unknown-argument": ("warning", "A call sets a variable that the called flow does not declare."),
    "no-folder": ("error", "The folder of flows is not there."),
    "unreadable": ("error", "A file that cannot be read."),
}
"""Every rule with its severity and what it means."""

EFFECT_KEYWORDS: Final = frozenset({"action", "http", "tool"})
DEADLINE_KEYWORDS: Final = frozenset({"accept", "clarify", "handoff"})
STOPPING_KEYWORDS: Final = EFFECT_KEYWORDS | {"end", "link", "call", "handoff"}
"""Steps at which a turn may stop, beside those that wait."""


def lint(flow: Flow, steps: Sequence[tuple[Step, Node]], findings: Findings) -> None:
    """Check what can only be checked when the whole flow is known; adds to ``findings``."""
    _check_ids(steps, findings)
    _check_targets(flow, findings)
    for step, node in steps:
        if step.keyword in EFFECT_KEYWORDS and step.common.effect is None and not node.has("effect"):
            node.problem(
                "missing-effect",
                f'"{step.common.step_id}" must say what it does: effect: read, idempotent or write',
                step.keyword,
            )
        if step.keyword not in EFFECT_KEYWORDS:
            _check_attempts(step, node)
        if step.common.while_waiting is not None and (not _waits(step) or step.keyword == "collect"):
            message = f'"{step.common.step_id}" waits for nothing but a message, if at all'
            node.problem("while-waiting", message, "while_waiting")
        if step.keyword == "branch":
            _check_cases(node)
        if step.keyword == "branch" and not _leaves_for_good(step):
            message = f'"{step.common.step_id}" has no else; without a match the next step follows'
            node.problem("missing-else", message, severity="warning")
    _check_names(flow, findings)
    if not any(problem.severity == "error" for problem in findings.problems):
        _check_types(flow, findings)
        _check_paths(flow, steps)


def _check_ids(steps: Sequence[tuple[Step, Node]], findings: Findings) -> None:
    seen: dict[str, int] = {}
    for step, node in steps:
        step_id = step.common.step_id
        if step_id in seen:
            message = f'the id "{step_id}" is taken by the step in line {seen[step_id]}'
            node.problem("duplicate-step", message, "id")
        seen.setdefault(step_id, node.line)


def _check_attempts(step: Step, node: Node) -> None:
    """Report what bounds and repeats the attempts of an effect at a step that has none."""
    for key in ("timeout", "retry"):
        if node.has(key):
            deadline = step.keyword in DEADLINE_KEYWORDS and key == "timeout"
            hint = f'"deadline" inside "{step.keyword}" says how long it waits' if deadline else None
            node.problem(
                "no-attempts", f'"{step.common.step_id}" runs no action that "{key}" could be for', key, hint
            )


def _check_cases(node: Node) -> None:
    for case in node.nodes("branch"):
        if not case.has("else") and not case.has("goto"):
            case.problem("missing-field", 'a case needs "goto": where it leads')


def _check_targets(flow: Flow, findings: Findings) -> None:
    known = {*flow.index, *findings.lost_steps}
    for target in findings.targets:
        if target.step_id not in known:
            place = (target.place.line, target.place.column)
            hint = did_you_mean(target.step_id, known)
            findings.add("unknown-step", f'there is no step "{target.step_id[:60]}"', place, hint)


# -- names in expressions ----------------------------------------------------------------------------


def _check_names(flow: Flow, findings: Findings) -> None:
    variables = {*flow.variables, *(path[1] for path, _, _ in findings.saves if path[0] == "variables")}
    for use in findings.uses:
        for reference, offset in use.expression.places:
            found = _name_problem(reference, use, findings.slots, variables)
            if found is not None:
                rule, message, hint = found
                findings.add(rule, message, use.leaf.at(use.offset + offset), hint)


def _name_problem(
    reference: tuple[str, ...], use: Use, slots: Iterable[str], variables: Iterable[str]
) -> tuple[str, str, str | None] | None:
    root = reference[0]
    if root not in CONTEXT_ROOTS:
        return "unknown-name", f'there is no "{root}" in expressions', _root_hint(root, slots, variables)
    if root == "value" and use.slot is None:
        return "unknown-name", '"value" is known in a slot\'s "validate" only', None
    if len(reference) < 2:
        return None
    name = reference[1]
    if root == "slots" and name not in slots:
        return "unknown-slot", f'there is no slot "{name}"', _prefixed("slots", name, slots)
    if root == "variables" and name not in variables:
        hint = _prefixed("variables", name, variables)
        return "unknown-variable", f'there is no variable "{name}": declare it, or save to it', hint
    return None


def _root_hint(root: str, slots: Iterable[str], variables: Iterable[str]) -> str | None:
    if root in slots:
        return f"slots.{root}"
    if root in variables:
        return f"variables.{root}"
    return did_you_mean(root, CONTEXT_ROOTS)


def _prefixed(root: str, name: str, known: Iterable[str]) -> str | None:
    found = did_you_mean(name, list(known))
    return f"{root}.{found}" if found else None


# -- types of expressions ----------------------------------------------------------------------------
# CEL checks types when it evaluates. Where an expression reads nothing but slots, dates and constants, it
# is evaluated once on a typical value of each type: what fails by its types there fails always.

_SAMPLES: Final[Mapping[str, Any]] = {
    "text": "a",
    "number": 1.5,
    "integer": 1,
    "boolean": True,
    "date": "2026-11-21",
    "time": "14:30",
    "datetime": "2026-11-21T14:30:00Z",
    "email": "ann@example.org",
    "phone": "+4930901820",
    "url": "https://example.org/",
}


def _sample(slot: Slot) -> Any:
    if slot.items is not None:
        return [_sample(slot.items)]
    return slot.options[0] if slot.type == "choice" else _SAMPLES[slot.type]


def _check_types(flow: Flow, findings: Findings) -> None:
    slots = {name: _sample(slot) for name, slot in flow.slots.items()}
    context = {"slots": slots, "today": "2026-11-21", "now": "2026-11-21T04:00:00.000Z"}
    for use in findings.uses:
        if not use.expression.roots <= {"slots", "today", "now", "value"}:
            continue
        value = {"value": slots[use.slot]} if use.slot is not None else {}
        message = _type_problem(use.expression, {**context, **value}, use.condition)
        if message is not None:
            findings.add("expression-type", message, use.leaf.at(use.offset))


def _type_problem(expression: Expression, context: Mapping[str, Any], condition: bool) -> str | None:
    try:
        value = expression.evaluate(context)
    except ExpressionFailed as failure:
        return failure.message if failure.is_type_error else None
    if condition and not isinstance(value, bool):
        return f"{expression.source[:60]!r} is no condition: it is neither true nor false"
    return None


# -- ways through the flow ---------------------------------------------------------------------------


def _leaves_for_good(step: Step) -> bool:
    """Tell whether a step that is entered never goes on to the next one of the list."""
    if step.keyword == "branch":
        return getattr(step, "otherwise", None) is not None
    if step.keyword == "accept":
        return getattr(step, "accepted", None) is not None
    return step.keyword in {"end", "link"}


def _waits(step: Step) -> bool:
    return hasattr(step, "ask_again")


def _ways(flow: Flow) -> dict[str, set[str]]:
    """Return for each step the steps that may follow it."""
    ways: dict[str, set[str]] = {}
    for place, step in enumerate(flow.steps):
        common = step.common
        following = set(step.targets())
        if common.on_error is not None:
            following.add(common.on_error)
        if common.goto is not None:
            following.add(common.goto)
        goes_on = common.goto is None and not _leaves_for_good(step)
        if (goes_on or common.if_ is not None) and place + 1 < len(flow.steps):
            following.add(flow.steps[place + 1].common.step_id)
        ways[common.step_id] = following
    return ways


def _check_paths(flow: Flow, steps: Sequence[tuple[Step, Node]]) -> None:
    if not flow.steps:
        return
    ways = _ways(flow)
    reached = _reach(flow.steps[0].common.step_id, ways)
    for step, node in steps:
        step_id = step.common.step_id
        if step_id not in reached:
            node.problem("unreachable", f'nothing leads to "{step_id}"', severity="warning")
    _check_loops(flow, steps, ways, reached)


def _reach(start: str, ways: Mapping[str, set[str]]) -> set[str]:
    reached, waiting = set[str](), [start]
    while waiting:
        step_id = waiting.pop()
        if step_id not in reached:
            reached.add(step_id)
            waiting += ways[step_id]
    return reached


def _check_loops(
    flow: Flow, steps: Sequence[tuple[Step, Node]], ways: Mapping[str, set[str]], reached: set[str]
) -> None:
    """Warn of circles that cannot be left and in which nothing waits; each is reported once."""
    last = flow.steps[-1].common.step_id
    back: dict[str, set[str]] = {step_id: set() for step_id in ways}
    for step_id, following in ways.items():
        for other in following:
            back[other].add(step_id)
    told: set[str] = set()
    for step, node in steps:
        step_id = step.common.step_id
        if step_id not in reached or step_id in told:
            continue
        circle = _reach(step_id, ways)
        closed = circle <= _reach(step_id, back)
        members = [flow.step(member) for member in circle]
        stops = any(_waits(s) or s.keyword in STOPPING_KEYWORDS for s in members)
        runs_out = last in circle and flow.next_of(last) is None and not _leaves_for_good(flow.steps[-1])
        if closed and ways[step_id] and not stops and not runs_out:
            told |= circle
            shown = " -> ".join(s.common.step_id for s in flow.steps if s.common.step_id in circle)
            node.problem("endless-loop", f"this goes round for ever: {shown}", severity="warning")

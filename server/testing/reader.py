"""From a test file to a ``Suite``, or to everything that is wrong in it."""

import datetime
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from server.auth.principal import Principal
from server.auth.roles import ROLES, SCOPES, scopes_of
from server.engine.flow.model import Problem
from server.engine.flow.node import Findings, Node, did_you_mean
from server.engine.flow.source import Fields, Items, Leaf, SourceInvalid, Tree, plain, read_source
from server.engine.inputs import FailureKind
from server.testing.clock import START_MS
from server.testing.expectations import EXPECTATIONS, Expectation, read_called
from server.testing.matching import read_matcher
from server.testing.suite import (
    DEFAULT_USER,
    DOINGS,
    FAILURE_KINDS,
    TENANT,
    Case,
    Doing,
    DoingKind,
    Line,
    Stub,
    Suite,
)

MAX_MS: Final = 400 * 86_400_000
_VARIABLE: Final = re.compile(r"\$\{vars\.(\w+)\}")


class SuiteInvalid(Exception):  # noqa: N818 - what happened
    """A test file cannot be run. ``problems`` are all that is wrong in it, in file order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def read_suite(source: str, file: str, *, actions: Collection[str] | None = None) -> Suite:
    """Read a test file.

    Args:
        source: YAML or JSON text.
        file: its name, for problems; ``flows`` in it is relative to its folder.
        actions: the actions that the flows call; None leaves their names unchecked.

    Raises:
        SuiteInvalid: with all problems.
    """
    try:
        tree, problems = read_source(source, file, what="a test file")
    except SourceInvalid as invalid:
        raise SuiteInvalid((invalid.problem,)) from None
    findings = Findings(file, actions, list(problems))
    suite = None
    if isinstance(tree, Fields):
        suite = _SuiteReader(tree, findings).read()
    else:
        findings.add("wrong-type", "a test file is a mapping: tests, actions ...", (tree.line, tree.column))
    if suite is None or findings.problems:
        found = dict.fromkeys(findings.problems)
        raise SuiteInvalid(tuple(sorted(found, key=lambda p: (p.line, p.column, p.rule))))
    return suite


@dataclass(frozen=True, slots=True)
class _Setting:
    """What a file says for all its tests, and a test for itself."""

    users: Mapping[str, Principal]
    stubs: Mapping[str, tuple[Stub, ...]]
    now_ms: int = START_MS
    timezone: str | None = None
    locale: str | None = None
    channel: str = "web"
    session_ms: int | None = None


class _SuiteReader:
    def __init__(self, tree: Fields, findings: Findings) -> None:
        self.tree = tree
        self.findings = findings

    def read(self) -> Suite:
        shared = _variables(self.tree, {}, self.findings)
        head = Fields(
            {name: entry for name, entry in self.tree.fields.items() if name != "tests"},
            self.tree.line,
            self.tree.column,
        )
        node = self._node(head, shared, "a test file")
        start = _Setting({DEFAULT_USER: Principal(DEFAULT_USER, TENANT)}, {})
        setting = self._setting(node, start)
        flows = node.text("flows")
        suite = Suite(
            file=self.findings.file,
            name=node.text("suite", Path(self.findings.file).stem),
            cases=tuple(self._cases(shared, setting)),
            flows=Path(self.findings.file).parent / flows if flows is not None else None,
            config=_plain_mapping(node, "config"),
        )
        node.value("tests")
        node.finish()
        return suite

    def _node(self, tree: Fields, variables: Mapping[str, Any], what: str) -> Node:
        return Node(_filled(tree, variables, self.findings), self.findings, what)

    # -- settings ----------------------------------------------------------------------------------

    def _setting(self, node: Node, before: _Setting) -> _Setting:
        node.has("vars")
        users = {**before.users, **self._users(node)}
        return replace(
            before,
            users=users,
            stubs={**before.stubs, **self._stubs(node)},
            now_ms=self._now(node, before.now_ms),
            timezone=self._timezone(node, before.timezone),
            locale=node.text("locale", before.locale or "") or None,
            channel=node.text("channel", before.channel),
            session_ms=found if (found := node.duration("session")) is not None else before.session_ms,
        )

    def _now(self, node: Node, default: int) -> int:
        text = node.text("now")
        if text is None:
            return default
        try:
            found = datetime.datetime.fromisoformat(text)
        except ValueError:
            node.problem("time", '"now" should be a time such as 2030-01-07T09:00:00Z', "now")
            return default
        if found.tzinfo is None:
            node.problem("time", '"now" should say its offset', "now", f"{text}Z")
            return default
        return int(found.timestamp() * 1000)

    def _timezone(self, node: Node, default: str | None) -> str | None:
        name = node.text("timezone")
        if name is None:
            return default
        try:
            ZoneInfo(name)
        except (OSError, ValueError, KeyError):  # a folder's name, a path, a name that is not there
            node.problem("timezone", f'there is no time zone "{name[:60]}"', "timezone")
        return name

    def _users(self, node: Node) -> dict[str, Principal]:
        declared = node.mapping("users", what='"users"')
        found: dict[str, Principal] = {}
        if declared is None:
            return found
        for name in declared.keys():  # noqa: SIM118 - a Node is no dict
            user = declared.mapping(name, what="a user")
            role = user.choice("role", ROLES, "user") if user is not None else "user"
            scopes = user.names("scopes") if user is not None else ()
            for scope in scopes:
                if scope not in SCOPES and user is not None:
                    hint = did_you_mean(scope, SCOPES)
                    user.problem("unknown-option", f'there is no scope "{scope[:60]}"', "scopes", hint)
            if user is not None:
                user.finish()
            found[name] = Principal(name, TENANT, role, scopes_of(role, frozenset(scopes)))
        return found

    # -- stubs -------------------------------------------------------------------------------------

    def _stubs(self, node: Node) -> dict[str, tuple[Stub, ...]]:
        declared = node.mapping("actions", what='"actions"')
        found: dict[str, tuple[Stub, ...]] = {}
        known = self.findings.actions
        if declared is None:
            return found
        for name in declared.keys():  # noqa: SIM118 - a Node is no dict
            if known is not None and name not in known:
                hint = did_you_mean(name, known)
                message = f'no flow calls an action "{name[:100]}"'
                self.findings.add("unknown-action", message, declared.key_place(name), hint)
            nodes = declared.nodes(name, what="a stub") if declared.is_list(name) else ()
            if not declared.is_list(name):
                single = declared.mapping(name, required=True, what="a stub")
                nodes = (single,) if single is not None else ()
            found[name] = tuple(self._stub(n, at == len(nodes)) for at, n in enumerate(nodes, 1))
        return found

    def _stub(self, node: Node, last: bool) -> Stub:
        with_ = node.tree("with")
        arguments = read_matcher(with_, self.findings) if with_ is not None else None
        fails = node.choice("fails", FAILURE_KINDS)
        kind: FailureKind | None = next((k for k in FAILURE_KINDS if k == fails), None)
        ways = [key for key in ("returns", "fails", "real") if node.has(key)]
        if len(ways) > 1:
            node.problem("stub", f"a stub does one thing; this one has {' and '.join(ways)}", ways[1])
        stub = Stub(
            place=(node.line, node.column),
            arguments=arguments,
            returns=node.value("returns"),
            fails=kind,
            message=node.text("message", "It failed."),
            unknown=node.boolean("unknown"),
            after_ms=node.duration("after", MAX_MS) or 0,
            times=node.integer("times", 1, 1_000),
            real=node.boolean("real"),
        )
        node.finish()
        if stub.times is None and stub.arguments is None and not last:
            return replace(stub, times=1)
        return stub

    # -- cases -------------------------------------------------------------------------------------

    def _cases(self, shared: Mapping[str, Any], setting: _Setting) -> list[Case]:
        node = Node(self.tree, self.findings, "a test file")
        tests = node.tree("tests", required=True)
        if tests is None:
            return []
        if not isinstance(tests, Items) or not tests.items:
            self.findings.add("wrong-type", '"tests" should be a list of tests', (tests.line, tests.column))
            return []
        cases: list[Case] = []
        seen: dict[str, int] = {}
        for item in tests.items:
            if not isinstance(item, Fields):
                message = "a test is a mapping: name, conversation ..."
                self.findings.add("wrong-type", message, (item.line, item.column))
                continue
            variables = {**shared, **_variables(item, shared, self.findings)}
            case = self._case(self._node(item, variables, "a test"), setting)
            if seen.setdefault(case.name, item.line) != item.line:
                message = f'the name "{case.name[:60]}" is taken by the test in line {seen[case.name]}'
                self.findings.add("duplicate-test", message, case.place)
            cases.append(case)
        return cases

    def _case(self, node: Node, before: _Setting) -> Case:
        setting = self._setting(node, before)
        called = node.tree("called")
        case = Case(
            name=node.text("name", "", required=True),
            place=node.place("name"),
            lines=tuple(
                self._line(item, setting.users)
                for item in node.nodes("conversation", required=True, what="a line")
            ),
            stubs=setting.stubs,
            now_ms=setting.now_ms,
            timezone=setting.timezone,
            locale=setting.locale,
            channel=setting.channel,
            session_ms=setting.session_ms,
            skip=node.text("skip"),
            expected=(read_called(called, self.findings),) if called is not None else (),
        )
        node.finish()
        return case

    # -- lines -------------------------------------------------------------------------------------

    def _line(self, node: Node, users: Mapping[str, Principal]) -> Line:
        kinds = [kind for kind in DOINGS if kind in node.keys()]  # noqa: SIM118 - a Node is no dict
        if len(kinds) > 1:
            message = f"one thing is done in a line; this one has {' and '.join(kinds)}"
            self.findings.add("two-doings", message, node.key_place(kinds[1]))
        who = node.text("as", DEFAULT_USER)
        if who not in users:
            node.problem("unknown-user", f'"users" has no "{who[:60]}"', "as", did_you_mean(who, users))
        doing = self._doing(node, kinds[0]) if kinds else None
        line = Line(
            place=doing.place if doing is not None else (node.line, node.column),
            doing=doing,
            who=users.get(who, users[DEFAULT_USER]),
            at_once=node.boolean("at_once"),
            expected=tuple(self._expectations(node)),
        )
        self._finish_line(node)
        return line

    def _expectations(self, node: Node) -> list[Expectation]:
        found = []
        for name in node.keys():  # noqa: SIM118 - a Node is no dict
            if name in EXPECTATIONS:
                tree = node.tree(name, null=True)
                if tree is not None:
                    found.append(EXPECTATIONS[name](tree, self.findings))
        return found

    def _finish_line(self, node: Node) -> None:
        """Report unknown keys with a guess among all that a line may have, not only those it has."""
        for name in (*DOINGS, *EXPECTATIONS, "as", "at_once"):
            node.has(name)
        node.finish()

    def _doing(self, node: Node, kind: DoingKind) -> Doing:
        return Doing(kind, self._body(node, kind), node.key_place(kind))

    def _body(self, node: Node, kind: DoingKind) -> dict[str, Any]:
        match kind:
            case "user":
                return {
                    "text": self._said(node),
                    "payload": node.text("payload"),
                    "flow_id": node.text("flow_id"),
                    "on_busy": node.choice("on_busy", ("enqueue", "reject", "interrupt"), "enqueue"),
                }
            case "press":
                return {"button": node.text("press", "", required=True)}
            case "wait":
                return {"ms": (node.duration("wait", MAX_MS) or 0) if node.tree("wait", required=True) else 0}
            case "accept" | "reject":
                edits = _plain_mapping(node, "edits")
                return {"accepted": kind == "accept", "comment": node.text(kind), "edits": edits}
            case "answer":
                return {"answers": _plain_mapping(node, "answer", required=True)}
            case "start":
                flow_id, given = node.text("start", "", required=True), _plain_mapping(node, "with")
                return {"flow_id": flow_id, "initial_context": given, "input": node.value("input")}
            case "signal":
                return {"name": node.text("signal", "", required=True), "payload": node.value("payload")}
            case "reset":
                return {"reason": node.text("reset", "manual_reset")}
            case "pause":
                return {"reason": node.text("pause"), "deadline_ms": node.duration("deadline", MAX_MS)}
            case "cancel" | "resume" | "retry":
                return {"comment" if kind == "resume" else "reason": node.text(kind)}

    def _said(self, node: Node) -> str:
        text = node.tree("user", required=True)
        if isinstance(text, Leaf):
            return text.text
        if text is not None:
            node.problem("wrong-type", '"user" should be a text', "user")
        return ""


def _plain_mapping(node: Node, key: str, *, required: bool = False) -> dict[str, Any]:
    inner = node.mapping(key, required=required, what=f'"{key}"')
    return dict(inner.items()) if inner is not None else {}


# --- variables of the test itself -----------------------------------------------------------------


def _variables(tree: Fields, above: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Return ``vars``; those of a test may use those of its file."""
    found = tree.fields.get("vars")
    if found is None:
        return {}
    if not isinstance(found[1], Fields):
        findings.add("wrong-type", '"vars" should be a mapping', (found[1].line, found[1].column))
        return {}
    filled = _filled(found[1], above, findings)
    return {name: plain(value) for name, (_, value) in filled.fields.items()}


def _filled(tree: Fields, variables: Mapping[str, Any], findings: Findings) -> Fields:
    """Return the mapping with every ``${vars.name}`` in its values replaced."""
    fields = {
        name: (key, value if name == "vars" else _fill(value, variables, findings))
        for name, (key, value) in tree.fields.items()
    }
    return Fields(fields, tree.line, tree.column)


def _fill(tree: Tree, variables: Mapping[str, Any], findings: Findings) -> Tree:
    if isinstance(tree, Fields):
        return _filled(tree, variables, findings)
    if isinstance(tree, Items):
        return Items(tuple(_fill(item, variables, findings) for item in tree.items), tree.line, tree.column)
    if not isinstance(tree.value, str) or "${vars." not in tree.value:
        return tree
    for match in _VARIABLE.finditer(tree.text):
        if match[1] not in variables:
            hint = did_you_mean(match[1], variables)
            findings.add("unknown-variable", f'"vars" has no "{match[1]}"', tree.at(match.start()), hint)
            return tree
    whole = _VARIABLE.fullmatch(tree.text)
    if whole is not None:
        return _grown(variables[whole[1]], tree)
    text = _VARIABLE.sub(lambda match: _text(variables[match[1]]), tree.text)
    return Leaf(text, text, tree.line, tree.column)


def _grown(value: Any, place: Leaf) -> Tree:
    """Return plain JSON as a tree that stands where the variable stood."""
    if isinstance(value, Mapping):
        fields = {name: (_leaf(name, place), _grown(inner, place)) for name, inner in value.items()}
        return Fields(fields, place.line, place.column)
    if isinstance(value, list):
        return Items(tuple(_grown(inner, place) for inner in value), place.line, place.column)
    return _leaf(value, place)


def _leaf(value: Any, place: Leaf) -> Leaf:
    return Leaf(value, _text(value), place.line, place.column)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)

"""Each file of ``broken/`` holds what authors get wrong; its last lines say what the compiler must answer."""

import re
from pathlib import Path

import pytest

from server.engine.flow.lint import RULES
from server.engine.flow.loader import compile_flow
from server.engine.flow.model import FlowInvalid, Problem

FOLDER = Path(__file__).parent / "broken"
FILES = sorted(FOLDER.glob("*.yaml"))
ACTIONS = {"calendar.search", "calendar.reserve"}
EXPECTED = re.compile(r"^# expect: (\S+) (\d+):(\d+)(?: (.+))?$", re.MULTILINE)

Place = tuple[int, int, str, str | None]


def problems_of(path: Path) -> tuple[Problem, ...]:
    try:
        return compile_flow(path.read_text(), path.name, actions=ACTIONS).warnings
    except FlowInvalid as error:
        return error.problems


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_mistake_is_found_where_it_is(path: Path) -> None:
    """Rule, line, column and suggestion of each problem, and no other problem."""
    expected = {
        (int(line), int(column), rule, suggestion or None)
        for rule, line, column, suggestion in EXPECTED.findall(path.read_text())
    }
    found: set[Place] = {(p.line, p.column, p.rule, p.suggestion) for p in problems_of(path)}
    assert expected
    assert found == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_problem_is_readable_and_has_its_rules_severity(path: Path) -> None:
    for problem in problems_of(path):
        assert problem.file == path.name
        assert problem.severity == RULES[problem.rule][0]
        assert 5 < len(problem.message) < 220
        assert str(problem).startswith(f"{path.name}:{problem.line}:{problem.column}: {problem.severity} [")


NEED_MORE_THAN_A_FILE = {
    "duplicate-flow",
    "two-defaults",
    "unknown-flow",
    "unknown-argument",
    "no-folder",
    "unreadable",
    "empty-file",
}


def test_each_rule_has_a_case() -> None:
    """Rules about folders and empty files are in ``test_loader.py``."""
    seen = {rule for path in FILES for rule, *_ in EXPECTED.findall(path.read_text())}
    assert seen == set(RULES) - NEED_MORE_THAN_A_FILE

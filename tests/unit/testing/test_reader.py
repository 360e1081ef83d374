"""Each file of ``broken/`` holds what authors of tests get wrong; its last lines say what is answered."""

import re
from pathlib import Path

import pytest

from server.engine.flow.model import Problem
from server.testing.reader import SuiteInvalid, read_suite

FILES = sorted((Path(__file__).parent / "broken").glob("*.yaml"))
ACTIONS = {"calendar.search", "calendar.reserve"}
EXPECTED = re.compile(r"^# expect: (\S+) (\d+):(\d+)(?: (.+))?$", re.MULTILINE)


def problems_of(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(SuiteInvalid) as raised:
        read_suite(path.read_text(), path.name, actions=ACTIONS)
    return raised.value.problems


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_mistake_is_found_where_it_is(path: Path) -> None:
    expected = {
        (rule, int(line), int(column), suggestion or None)
        for rule, line, column, suggestion in EXPECTED.findall(path.read_text())
    }
    assert expected
    assert {(p.rule, p.line, p.column, p.suggestion) for p in problems_of(path)} == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_problem_is_a_readable_line(path: Path) -> None:
    for problem in problems_of(path):
        assert 5 < len(problem.message) < 220
        assert str(problem).startswith(f"{path.name}:{problem.line}:{problem.column}: error [")


def test_json_is_read_too() -> None:
    suite = read_suite('{"tests": [{"name": "a", "conversation": [{"user": "hi"}]}]}', "a.json")
    assert [case.name for case in suite.cases] == ["a"]


def test_a_file_is_named_after_itself_unless_it_says_otherwise() -> None:
    body = "tests: [{name: a, conversation: [{user: hi}]}]\n"
    assert read_suite(body, "tests/booking.yaml").name == "booking"
    assert read_suite(f"suite: all of it\n{body}", "tests/booking.yaml").name == "all of it"

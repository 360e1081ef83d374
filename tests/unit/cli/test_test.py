"""``parley test``: what it runs, what it prints, how it ends."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from server.cli.errors import FAILED, OK, USAGE
from server.cli.group import run
from tests.unit.testing.orders import FLOW, HEAD

EXAMPLES = Path(__file__).parents[3] / "examples"
GOOD = HEAD + "      - user: milk\n        reply: Buy milk?\n"
BAD = GOOD.replace("a test", "a bad test").replace("Buy milk?", "Buy silk?")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (("flows/order.yaml", FLOW), ("tests/order.yaml", GOOD)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("arguments", [[], ["."], ["tests"], ["tests/order.yaml"], ["tests", "."]])
def test_what_passes_is_counted_and_nothing_else(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["test", *arguments]) == OK
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "1 passed\n")


def test_a_failure_is_told_by_line_and_column_with_both_sides(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "tests" / "bad.yaml").write_text(BAD)
    assert run(["test"]) == FAILED
    printed = capsys.readouterr()
    assert printed.out == (
        "tests/bad.yaml:6:16: a bad test: reply\n"
        '    expected  "Buy silk?"\n'
        '    got       "Buy milk?"\n'
        "                   ^\n"
    )
    assert printed.err == "1 passed, 1 failed\n"


def test_k_chooses_by_file_and_name(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "tests" / "bad.yaml").write_text(BAD)
    assert run(["test", "-k", "A TEST"]) == OK
    assert run(["test", "-k", "bad.yaml"]) == FAILED
    assert run(["test", "-k", "order.yaml", "-k", "a bad"]) == FAILED
    assert run(["test", "-k", "nothing"]) == USAGE
    assert "no test has 'nothing'" in capsys.readouterr().err


def test_coverage_names_what_is_missing_and_is_a_threshold(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["test", "--coverage"]) == OK
    printed = capsys.readouterr().out
    assert "order    4/10       3/8    38.9%" in printed
    assert "  flows/order.yaml:7: ask: never: -> lost" in printed
    assert run(["test", "--fail-under", "38"]) == OK
    assert run(["test", "--fail-under", "39"]) == FAILED
    assert "only 38.9 % of the flows is covered; 39 % is asked for" in capsys.readouterr().err


def test_json_has_everything(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "tests" / "bad.yaml").write_text(BAD)
    assert run(["test", "--json", "--coverage"]) == FAILED
    report = json.loads(capsys.readouterr().out)
    assert {name: report[name] for name in ("ok", "passed", "failed", "skipped")} == {
        "ok": False, "passed": 1, "failed": 1, "skipped": 0,
    }  # fmt: skip
    bad, good = report["tests"]
    assert (bad["file"], bad["line"], bad["status"], good["status"]) == (
        "tests/bad.yaml",
        3,
        "failed",
        "passed",
    )
    assert bad["failures"] == [
        {"line": 6, "column": 16, "what": "reply", "expected": '"Buy silk?"', "got": '"Buy milk?"'}
    ]
    (flow,) = report["coverage"]["flows"]
    assert (flow["flow_id"], flow["steps"], flow["steps_entered"]) == ("order", 10, 4)


# Attributes and children as the JUnit schema of Jenkins (and of the Ant task) knows them.
JUNIT = {
    "testsuites": ({"tests", "failures", "errors", "skipped", "time", "name"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped", "time"}, {"testcase"}),
    "testcase": ({"name", "classname", "time", "file", "line"}, {"skipped", "failure"}),
    "skipped": ({"message"}, set()),
    "failure": ({"message", "type"}, set()),
}


def test_junit_is_what_its_readers_expect(project: Path) -> None:
    (project / "tests" / "bad.yaml").write_text(BAD.replace("a bad test", '"<b> & \\e[0m"'))
    (project / "tests" / "skip.yaml").write_text(GOOD.replace("- name", "- skip: later\n    name"))
    assert run(["test", "--junit", "out/report.xml"]) == FAILED
    root = ElementTree.parse(project / "out" / "report.xml").getroot()
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = JUNIT[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("3", "1", "1")
    for suite in root:
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases))
        assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
    (failure,) = root.iter("failure")
    assert failure.get("message") == "line 6: reply"
    assert (failure.text or "").startswith("tests/bad.yaml:6:16: <b> & [0m: reply\n    expected")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tests/order.yaml", "tests: [{nmae: a}]\n", "tests/order.yaml:1:10: error [unknown-field]"),
        ("tests/order.yaml", GOOD.replace("shop.look", "shop.lok"), "(did you mean shop.look?)"),
        ("flows/order.yaml", FLOW.replace("goto: over", "goto: ovr"), "flows/order.yaml:"),
    ],
)
def test_what_is_broken_is_told_by_line_and_column(
    name: str, text: str, said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / name).write_text(text)
    assert run(["test"]) == USAGE
    printed = capsys.readouterr()
    assert said in printed.out
    assert "cannot be run" in printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["flows/empty"], "there are no tests in flows/empty"),
        (["other"], "there are no tests in other"),
        (["latin.yaml"], "latin.yaml is not UTF-8 text"),
    ],
)
def test_where_there_is_nothing_to_run_that_is_said(
    arguments: list[str], said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "flows" / "empty").mkdir()
    (project / "other" / "flows").mkdir(parents=True)
    (project / "other" / "flows" / "order.yaml").write_text(FLOW)
    (project / "latin.yaml").write_bytes(b"tests: \xff\n")
    assert run(["test", *arguments]) == USAGE
    assert said in capsys.readouterr().err


def test_a_file_may_bring_flows_of_its_own(project: Path) -> None:
    (project / "tests" / "order.yaml").write_text(f"flows: ../others/one.yaml\n{GOOD}")
    assert run(["test"]) == USAGE
    (project / "others").mkdir()
    (project / "others" / "one.yaml").write_text(FLOW)
    assert run(["test"]) == OK


def test_a_stub_may_stand_for_the_projects_own_action(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called in real time, with a thread of its own: the conversation waits for it."""
    monkeypatch.syspath_prepend(project)
    (project / "parley.toml").write_text('actions = ["a_real.shop"]\n')
    (project / "a_real").mkdir()
    (project / "a_real" / "__init__.py").write_text("")
    (project / "a_real" / "shop.py").write_text(
        "import time\ndef look(context, *, what, most):\n"
        "    time.sleep(0.05)\n    return {'name': f'{what}!'}\n"
    )
    (project / "tests" / "order.yaml").write_text(
        GOOD.replace("{returns: {name: milk}}", "{real: true}").replace("Buy milk?", "Buy milk!?")
    )
    assert run(["test"]) == OK


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/flows")))
def test_the_examples_pass_their_tests_and_reach_all_of_their_flows(name: str) -> None:
    assert run(["test", str(EXAMPLES / name), "--fail-under", "100"]) == OK

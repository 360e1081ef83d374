"""``parley check``: problems by line and column, for people and for machines."""

import json
from pathlib import Path

import pytest

from server.cli.errors import FAILED, OK, USAGE
from server.cli.group import run

FLOW = """\
flow: echo
steps:
  - {id: hello, say: "Hello."}
  - {id: done, end: completed}
"""
BAD = "flow: bad\nsteps:\n  - {id: x, sya: hi}\n"
CALLS = "flow: w\nsteps:\n  - {id: x, action: MODULE.cuont, effect: read}\n  - {id: done, end: completed}\n"
WARNED = (
    'flow: w\nsteps:\n  - {id: a, say: "A.", goto: c}\n  - {id: b, say: "B."}\n  - {id: c, end: completed}\n'
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "echo.yaml").write_text(FLOW)
    return tmp_path


def test_good_flows_are_counted_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check"]) == OK
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "1 file, 0 errors, 0 warnings\n")


@pytest.mark.parametrize("arguments", [[], ["flows"], ["flows/bad.yaml"], ["."]])
def test_a_problem_is_told_by_line_and_column(
    project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "flows" / "bad.yaml").write_text(BAD)
    assert run(["check", *arguments]) == FAILED
    printed = capsys.readouterr()
    assert printed.out.startswith("flows/bad.yaml:3:13: error")
    assert "1 error" in printed.err


def test_a_warning_is_no_error_unless_one_says_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "flows" / "w.yaml").write_text(WARNED)
    assert run(["check", "flows/w.yaml"]) == OK
    assert "flows/w.yaml:4:" in capsys.readouterr().out
    assert run(["check", "--strict", "flows/w.yaml"]) == FAILED


def test_several_paths_are_checked_together(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "more").mkdir()
    (project / "more" / "bad.yaml").write_text(BAD)
    assert run(["check", "flows", "more"]) == FAILED
    assert capsys.readouterr().err == "2 files, 1 error, 0 warnings\n"


def test_flows_of_one_folder_are_checked_against_each_other(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "flows" / "same.yaml").write_text(FLOW)
    assert run(["check"]) == FAILED
    assert "already in echo.yaml" in capsys.readouterr().out


def test_problems_are_there_for_machines(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "flows" / "bad.yaml").write_text(BAD)
    assert run(["check", "--json"]) == FAILED
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["files"]) == (False, 2)
    (problem,) = report["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == ("flows/bad.yaml", 3, 13)
    assert (problem["severity"], problem["suggestion"]) == ("error", "say")


@pytest.mark.parametrize("place", [".", "flows/w.yaml", "flows"])
def test_the_actions_of_a_project_are_known(
    project: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = f"actions_of_{place.replace('.', '_').replace('/', '_')}"
    (project / f"{module}.py").write_text("def count(context):\n    return 1\n")
    (project / "parley.toml").write_text(f'actions = ["{module}"]\n')
    (project / "flows" / "w.yaml").write_text(CALLS.replace("MODULE", module))
    assert run(["check", place]) == FAILED
    assert f"{module}.count" in capsys.readouterr().out


def test_outside_of_projects_names_of_actions_are_taken_as_they_are(project: Path) -> None:
    (project / "flows" / "w.yaml").write_text(CALLS.replace("MODULE", "anything"))
    assert run(["check"]) == OK


@pytest.mark.parametrize(
    ("place", "said"), [("nowhere", "does not exist"), ("empty", "no flows"), ("latin.yaml", "UTF-8")]
)
def test_what_cannot_be_checked_is_said(
    project: Path, place: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "empty").mkdir()
    (project / "latin.yaml").write_bytes(b"flow: \xff\n")
    assert run(["check", place]) == USAGE
    assert said in capsys.readouterr().err


def test_actions_that_cannot_be_loaded_are_a_sentence(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "parley.toml").write_text('actions = ["no.such.module"]\n')
    assert run(["check"]) == USAGE
    assert "no.such.module" in capsys.readouterr().err

"""``parley graph``: by file or by id, to the output or to a file."""

from pathlib import Path

import pytest

from server.cli.errors import FAILED, OK, USAGE
from server.cli.group import run

FLOW = 'flow: hello\nsteps: [{id: hi, say: "Hi."}, {id: done, end: completed}]\n'


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "hello.yaml").write_text(FLOW, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("named", ["flows/hello.yaml", "hello"])
def test_a_flow_is_found_by_its_file_and_by_its_id(named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["graph", named]) == OK
    assert "flowchart TD" in capsys.readouterr().out


def test_a_picture_is_written(project: Path) -> None:
    assert run(["graph", "hello", "--format", "svg", "--out", "hello.svg"]) == OK
    assert (project / "hello.svg").read_text(encoding="utf-8").startswith("<svg ")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["graph", "helo"], USAGE, 'no flow "helo" here that compiles; there are hello'),
        (["graph", "flows/broken.yaml"], FAILED, "broken.yaml:2:8: error"),
        (["graph", "hello", "--out", "no/such/folder.svg"], FAILED, "cannot be written"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    project: Path, arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "flows" / "broken.yaml").write_text("flow: broken\nsteps: 3\n", encoding="utf-8")
    assert run(arguments) == code
    assert told in capsys.readouterr().err

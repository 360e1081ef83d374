"""``parley bench`` works; what it measures is asserted nowhere."""

import json
from pathlib import Path

from server.cli.errors import CANNOT_START, FAILED, OK, USAGE
from tests.support.commands import Dev, parley

GREET = "flow: greet\ndefault: true\nsteps: [{id: hello, say: Hello.}, {id: done, end: completed}]\n"
SHORT = ("--seconds", "0.2", "--connections", "2")


def project(folder: Path, flow: str = GREET) -> Path:
    (folder / "flows").mkdir()
    (folder / "flows" / "one.yaml").write_text(flow)
    return folder


def test_it_measures_a_server_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    folder = project(tmp_path)
    done = parley("bench", "--json", *SHORT, cwd=folder)
    assert done.returncode == OK, done.stderr
    found = json.loads(done.stdout)
    assert found["connections"] == 2
    assert found["turns"] >= 2
    assert found["failed"] == 0
    assert found["p50_ms"] <= found["p99_ms"]
    assert "no comparison" in found["note"]
    assert [path.name for path in folder.iterdir()] == ["flows"]


def test_it_measures_a_server_that_runs_and_says_what_it_is_not(tmp_path: Path) -> None:
    folder = project(tmp_path)
    with Dev(folder) as dev:
        done = parley("bench", "--url", dev.url, "--seconds", "0.1", "--connections", "1", cwd=folder)
    assert done.returncode == OK, done.stderr
    assert "turns/s" in done.stdout
    assert "no comparison" in done.stdout
    assert "CPU" not in done.stdout, "another's process is not looked into"


def test_other_machines_are_left_alone_unless_one_insists(tmp_path: Path) -> None:
    refused = parley("bench", "--url", "https://chat.example", cwd=project(tmp_path))
    assert (refused.returncode, "--i-know" in refused.stderr) == (USAGE, True)


def test_a_project_that_cannot_be_served_is_said(tmp_path: Path) -> None:
    done = parley("bench", *SHORT, cwd=project(tmp_path, "flow: broken\nsteps: 7\n"))
    assert done.returncode == CANNOT_START
    assert "broken flows" in done.stderr
    assert "Traceback" not in done.stderr


def test_turns_that_fail_are_no_result(tmp_path: Path) -> None:
    flow = (
        "flow: lost\ndefault: true\nvariables: {n: null}\n"
        "steps: [{id: n, set: {variables.n: '${1 / 0}'}}, {id: done, end: completed}]\n"
    )
    done = parley("bench", *SHORT, "--json", cwd=project(tmp_path, flow))
    assert done.returncode == FAILED, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == found["turns"]

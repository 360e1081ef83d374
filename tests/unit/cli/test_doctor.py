"""``parley doctor``: each thing that would keep a server from working is found, with what to do."""

import json
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from server.cli.errors import FAILED, OK
from server.cli.group import run
from server.settings import Settings
from storage.sqlite import SqliteStore

SECRET = "s" * 32
FLOW = 'flow: hello\nsteps: [{id: hi, say: "Hi."}, {id: done, end: completed}]\n'


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (*Settings.model_fields, "url", "token"):
        monkeypatch.delenv(f"PARLEY_{name.upper()}", raising=False)
    monkeypatch.setenv("PARLEY_JWT_SECRET", SECRET)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PARLEY_PORT", str(free.getsockname()[1]))
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "hello.yaml").write_text(FLOW, encoding="utf-8")
    return tmp_path


def examined(
    capsys: pytest.CaptureFixture[str], *options: str, code: int = OK
) -> dict[str, dict[str, str | None]]:
    assert run(["doctor", "--json", *options]) == code
    return {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_a_sound_project_has_no_problem_and_nothing_is_written(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = examined(capsys)
    assert {"python", "settings", "actions", "flows", "store", "disk", "port", "clock", "limits"} == set(
        found
    )
    assert all(finding["level"] != "problem" for finding in found.values())
    assert [path.name for path in project.iterdir()] == ["flows"]


def test_every_finding_that_is_not_fine_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARLEY_STORE", "memory:")
    monkeypatch.setenv("PARLEY_ACTIONS", "no_such_module")
    found = examined(capsys, code=FAILED)
    assert found["store"]["level"] == "warning"
    assert found["actions"]["level"] == "problem"
    assert all(bool(finding["fix"]) == (finding["level"] != "ok") for finding in found.values())


def test_wrong_settings_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARLEY_PROT", "1")
    found = examined(capsys, code=FAILED)
    assert "did you mean PARLEY_PORT?" in str(found["settings"]["fix"])


def test_a_missing_secret_is_a_problem_of_serve_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PARLEY_JWT_SECRET")
    assert examined(capsys, code=FAILED)["settings"]["level"] == "problem"
    assert examined(capsys, "--dev")["settings"]["level"] == "ok"


def test_a_broken_flow_is_found(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "flows" / "hello.yaml").write_text("flow: hello\nsteps: 3\n", encoding="utf-8")
    assert examined(capsys, code=FAILED)["flows"]["fix"] == "`parley check` says where and what."


@pytest.mark.parametrize(
    ("store", "told"),
    [("sqlite:gone/parley.db", "does not exist"), ("sqlite:flows/hello.yaml", "no database")],
)
def test_a_store_that_cannot_be_used_is_found(
    store: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARLEY_STORE", store)
    assert told in str(examined(capsys, code=FAILED)["store"]["message"])


def test_somebody_elses_database_is_found(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(project / "parley.db")) as other:
        other.execute("CREATE TABLE mine (x)")
    assert "not one of Parley's" in str(examined(capsys, code=FAILED)["store"]["message"])


async def test_a_store_in_use_is_told_and_left_alone(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SqliteStore(project / "parley.db")
    await store.open()
    try:
        assert "in use by the server" in str(examined(capsys)["store"]["message"])
        await store.ping()
    finally:
        await store.close()
    assert "in use" not in str(examined(capsys)["store"]["message"])


def test_a_port_that_is_taken_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("PARLEY_PORT", str(other.getsockname()[1]))
        found = examined(capsys, code=FAILED)
    assert found["port"]["level"] == "problem"


def test_it_can_be_read_by_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == OK
    assert "ok       flows: hello" in capsys.readouterr().out


def test_it_says_that_dev_cannot_write_to_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the tests may run as root, who may write anywhere
    store = examined(capsys, "--dev", code=FAILED)["store"]
    assert store["level"] == "problem"
    assert "cannot make .parley" in str(store["message"])

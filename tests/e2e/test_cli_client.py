"""The commands that are clients: ``tail``, ``state``, ``reset`` and ``smoke``, beside a real server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Dev, Terminal, parley
from tests.support.ports import free_port

FLOW = """\
flow: order
default: true
slots:
  size: {type: choice, options: [small, large]}
steps:
  - id: what
    collect: [size]
    ask: {size: "Which size?"}
  - {id: thanks, say: "One ${slots.size} coffee."}
  - {id: done, end: completed}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "order.yaml").write_text(FLOW)
    return tmp_path


@pytest.fixture
def dev(project: Path) -> Iterator[Dev]:
    with Dev(project) as running:
        yield running


def test_state_and_reset(project: Path, dev: Dev) -> None:
    said = parley("chat", "--conversation", "c1", cwd=project, says="coffee\n")
    assert "Which size?" in said.stdout
    shown = parley("state", "c1", cwd=project)
    assert shown.stdout.startswith("waiting_input at what of order (version 1)")
    assert "open: input" in shown.stdout
    record = json.loads(parley("state", "c1", "--json", cwd=project).stdout)
    assert record["current_state"] == "what"
    assert parley("reset", "c1", cwd=project).returncode == 0
    assert parley("state", "c1", cwd=project).stdout.startswith("idle at idle")


def test_what_does_not_exist_is_a_sentence(project: Path, dev: Dev) -> None:
    refused = parley("state", "c-none", cwd=project)
    assert refused.returncode == 1
    assert refused.stderr.startswith("parley: There is no such conversation.")
    for command in (["state", "no such"], ["chat", "--conversation", "no such"]):
        told = parley(*command, cwd=project, says="hello\n")
        assert (told.returncode, "conversation_id must be" in told.stderr) == (1, True), told.stderr
        stranger = parley(*command, "--token", "x.y.z", cwd=project, says="hello\n")
        assert (stranger.returncode, "does not take the token" in stranger.stderr) == (4, True), (
            stranger.stderr
        )
    unreachable = parley("state", "c1", "--url", f"http://127.0.0.1:{free_port()}", cwd=project)
    assert unreachable.returncode == 4
    assert "nothing answers at" in unreachable.stderr


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_tail_shows_what_happens_until_ctrl_c(project: Path, dev: Dev, form: list[str]) -> None:
    with Terminal(["tail", "c1", *form], project) as tail:
        tail.shows("Events of c1 from now on; Ctrl-C ends it.")
        parley("chat", "--conversation", "c1", cwd=project, says="coffee\n")
        tail.shows("conversation.created")
        tail.shows("step.started")
        tail.shows("turn.completed")
        tail.type("\x03")
        assert tail.wait() == 130
        assert "Traceback" not in tail.screen.text


def test_smoke_finds_a_sound_server_sound(project: Path, dev: Dev) -> None:
    walked = parley("smoke", "--json", cwd=project)
    assert walked.returncode == 0, walked.stdout
    steps = json.loads(walked.stdout)
    assert len(steps) == 9
    assert [step for step in steps if step["problem"]] == []


def test_smoke_says_what_is_wrong(project: Path, dev: Dev) -> None:
    refused = parley("smoke", "--token", "x.y.z", cwd=project)
    assert refused.returncode == 1
    assert "PROBLEM" in refused.stdout
    assert "hello was refused: unauthorized" in refused.stdout
    dev.kill()
    gone = parley("smoke", cwd=project)
    assert gone.returncode == 4
    assert f"{dev.url}/livez does not answer" in gone.stdout
    for address in ("ftp://x", "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://[::1"):
        named = parley("smoke", address, cwd=project)
        assert (named.returncode, "is no address of a server" in named.stderr) == (2, True), named.stderr


def test_a_terminal_that_lacks_a_character_shows_the_rest(project: Path) -> None:
    file = project / "flows" / "order.yaml"
    file.write_text(FLOW.replace("Which size?", "Size? \N{SNOWMAN}"), encoding="utf-8")
    env = {"PYTHONIOENCODING": "latin-1"}
    with Dev(project):
        said = parley("chat", cwd=project, says="coffee\n", env=env)
        record = parley("chat", "--json", cwd=project, says="coffee\n", env=env)
    assert (said.returncode, record.returncode) == (0, 0), said.stderr
    assert said.stdout.startswith("Size? ?")
    texts = [event.get("data", {}).get("text") for event in map(json.loads, record.stdout.splitlines())]
    assert "Size? \N{SNOWMAN}" in texts


@pytest.mark.parametrize(("module", "command"), [("rich_click", "version"), ("uvicorn", "dev")])
def test_ctrl_c_while_modules_are_imported_is_silent(project: Path, module: str, command: str) -> None:
    """The current folder comes first where `python -m` looks for modules, so that this one is imported."""
    (project / f"{module}.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    ended = parley(command, cwd=project)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.parametrize("command", [["version"], ["graph", "flows/order.yaml"]])
def test_output_that_cannot_be_written_is_a_sentence(project: Path, command: list[str]) -> None:
    program = [sys.executable, "-m", "server", *command]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(program, cwd=project, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "parley: the output cannot be written (No space left on device).\n"
    closed = 'exec "$0" "$@" >&-'
    silent = subprocess.run(["sh", "-c", closed, *program], cwd=project, stderr=subprocess.PIPE, text=True)
    assert (silent.returncode, silent.stderr) == (0, "")

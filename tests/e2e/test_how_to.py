"""The how-to pages, followed to the letter: their files, their commands, their conversations."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.cli.project import Project
from tests.support.commands import Dev, parley

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "wait-for-a-person.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def typed(transcript: str) -> str:
    """Return what a transcript's person types, as the input of a pipe."""
    return "".join(line.removeprefix("> ") + "\n" for line in transcript.splitlines() if line.startswith(">"))


def shown(transcript: str) -> list[str]:
    return [line for line in transcript.splitlines() if not line.startswith(">")]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "office"
    (folder / "flows").mkdir(parents=True)
    (folder / "flows" / "leave.yaml").write_text(blocks("yaml")[0])
    assert parley("check", "office", cwd=tmp_path).returncode == 0
    with Dev(folder):
        yield folder


def operator(office: Path) -> dict[str, str]:
    made = parley("token", "office", "--user", "olga", "--role", "operator", cwd=office.parent)
    assert made.returncode == 0, made.stderr
    return {"PARLEY_TOKEN": made.stdout.strip()}


def ask(office: Path) -> None:
    asks = blocks("text")[0]
    said = parley("chat", "office", "--conversation", "mine", cwd=office.parent, says=typed(asks))
    assert (said.returncode, said.stdout.splitlines()) == (0, shown(asks)), said.stderr
    assert "within 15 minutes" in said.stderr


def test_one_terminal_asks_and_another_decides(office: Path) -> None:
    ask(office)
    decides = blocks("text")[1]
    said = parley(
        "chat",
        "office",
        "--conversation",
        "mine",
        cwd=office.parent,
        env=operator(office),
        says=typed(decides),
    )
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[-2:] == shown(decides)
    late = parley("chat", "office", "--conversation", "mine", cwd=office.parent, says="/state\n")
    assert "completed" in late.stderr


def test_a_program_decides_what_is_in_the_inbox(office: Path) -> None:
    ask(office)
    url = str(Project(office).address())
    paths = os.pathsep.join((str(ROOT), str(ROOT / "clients" / "python" / "src")))
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0].replace("http://127.0.0.1:8765", url)],
        env={**os.environ, "PYTHONPATH": paths, **operator(office)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "3 days of holiday from 2031-05-19 on? until 20" in done.stdout
    heard = parley("chat", "office", "--conversation", "mine", cwd=office.parent, says="/history\n")
    assert "You are off from 2031-05-19 on." in heard.stdout

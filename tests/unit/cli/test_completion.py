"""``parley completion``: what shells are given, and what they get when they ask."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli.errors import OK
from server.cli.group import COMMANDS, run


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_a_script(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["completion", shell]) == OK
    assert "_PARLEY_COMPLETE" in capsys.readouterr().out


def asked(words: str, at: int) -> list[str]:
    """What a shell is told about the word under its cursor."""
    program = Path(sys.executable).with_name("parley")
    answer = subprocess.run(
        [program],
        env={
            "PATH": os.environ["PATH"],
            "_PARLEY_COMPLETE": "zsh_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(at),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return answer.stdout.splitlines()


def test_commands_are_completed() -> None:
    assert {"check", "chat"} <= set(asked("parley ch", 1)) <= {*COMMANDS, *asked("parley ch", 1)}


def test_options_and_choices_of_a_command_are_completed() -> None:
    assert "--format" in asked("parley graph --fo", 2)
    assert {"mermaid", "svg"} <= set(asked("parley graph --format ", 3))

"""What a newcomer gets wrong: each mistake is answered by one sentence that says what to do."""

import os
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.commands import Dev, parley
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef0123456789abcdef"
FLOW = "flow: x\nsteps:\n  - {{id: a, {}}}\n"


class Mistake(NamedTuple):
    """What is typed, what stands in the project and in the environment, and what the answer must say."""

    typed: str
    says: str
    code: int
    files: Mapping[str, str] = {}
    env: Mapping[str, str] = {}


MISTAKES = {
    "a misspelt command": Mistake("dve", "Did you mean 'dev'?", 2),
    "an unknown option": Mistake("dev cafe --prot 1", "--port", 2),
    "no such folder": Mistake("dev cofe", "name a folder with a parley.toml or flow files", 2),
    "a folder without flows": Mistake("dev .", "there is no flows folder", 3),
    "an empty folder": Mistake("dev .", "`parley init FOLDER` makes a new project", 3),
    "nobody's home folder": Mistake("dev ~nosuchuser/x", "does not exist; name a folder", 2),
    "flows in nobody's home folder": Mistake(
        "dev cafe", "there is no flows folder", 3, env={"PARLEY_FLOWS": "~nosuchuser/flows"}
    ),
    "a name that no file can have": (
        Mistake(f"check {'x' * 300}", "does not exist", 2)  # says Python itself from 3.14 on
        if sys.version_info >= (3, 14)
        else Mistake(f"check {'x' * 300}", "cannot be used (File name too long).", 1)
    ),
    "a choice that is not made": Mistake("completion", "Choose from: bash, fish, zsh. `parley", 2),
    "no token for tail": Mistake("tail c1", "name it: `parley tail --project FOLDER`", 2),
    "a misspelt setting": Mistake("dev cafe", "did you mean PARLEY_PORT?", 2, env={"PARLEY_PROT": "1"}),
    "a wrong value": Mistake("dev cafe", "from 0 to 65535", 2, env={"PARLEY_PORT": "99999"}),
    "a setting of another kind of store": Mistake(
        "dev cafe", "must be sqlite:FILE", 2, env={"PARLEY_STORE": "postgres://x"}
    ),
    "an origin without a scheme": Mistake(
        "dev cafe", "origins like https://shop.example", 2, env={"PARLEY_ORIGINS": "shop.example"}
    ),
    "settings that are no TOML": Mistake("dev cafe", "is not TOML", 2, {"cafe/parley.toml": 'port = "x\n'}),
    "a misspelt name in .env": Mistake(
        "dev cafe", "did you mean PARLEY_JWT_SECRET?", 2, {"cafe/.env": "PARLEY_JWT_SECRT=x\n"}
    ),
    "serve without a secret": Mistake("serve cafe", "openssl rand -hex 32", 2),
    "serve with a short secret": Mistake(
        "serve cafe", "at least 32 bytes", 2, env={"PARLEY_JWT_SECRET": "short"}
    ),
    "serve with a broken flow": Mistake(
        "serve cafe", "did you mean say?", 3, {"cafe/flows/x.yaml": FLOW.format("sya: hi")},
        {"PARLEY_JWT_SECRET": SECRET},
    ),
    "a module of actions that is not there": Mistake(
        "dev cafe", 'there is no module "shopp"', 3, env={"PARLEY_ACTIONS": "shopp"}
    ),
    "a module of actions that is broken": Mistake(
        "dev cafe", "SyntaxError", 3, {"cafe/shop.py": "def price(:\n"}
    ),
    "listening to everybody": Mistake("dev cafe --host 0.0.0.0", "add --public", 2),
    "an address that is not ours": Mistake(
        "dev cafe --public --host 192.0.2.1", "is no address of this machine", 3,
        env={"PARLEY_JWT_SECRET": SECRET},
    ),
    "a chat without a server": Mistake("chat cafe --token x --wait 0.5", "start `parley dev`", 4),
    "a chat without a token": Mistake("chat cafe", "there is no token", 2),
    "keys of a serve that was given its secret elsewhere": Mistake(
        "keys list --project cafe --url http://127.0.0.1:1", "set PARLEY_JWT_SECRET to the server's", 2
    ),
    "an address that is none": Mistake("chat cafe --token x --url shop", "http", 2),
    "a project over a project": Mistake("init cafe", "`parley new flow NAME` adds a flow", 2),
    "a flow with capitals": Mistake("new flow Order --project cafe", "1 to 64 of a-z 0-9 _ -", 2),
    "an unknown kind of step": Mistake(
        "check cafe", "did you mean say?", 1, {"cafe/flows/x.yaml": FLOW.format("sya: hi")}
    ),
    "a colon in a text": Mistake(
        "check cafe", "x.yaml:3:", 1, {"cafe/flows/x.yaml": FLOW.format("say: hi: ho")}
    ),
    "a tab in YAML": Mistake(
        "check cafe", "use spaces", 1, {"cafe/flows/x.yaml": "flow: x\nsteps:\n\t- {id: a, say: hi}\n"}
    ),
    "an action that is not there": Mistake(
        "check cafe", "did you mean shop.price?", 1,
        {"cafe/flows/x.yaml": FLOW.format("action: shop.prize, effect: read")},
    ),
    "an action without an effect class": Mistake(
        "check cafe", "effect: read, idempotent or write", 1,
        {"cafe/flows/x.yaml": FLOW.format("action: shop.price")},
    ),
    "a slot that is not declared": Mistake(
        "check cafe", "size", 1, {"cafe/flows/x.yaml": FLOW.format("collect: [size]")}
    ),
    "a step that is not there": Mistake(
        "check cafe", "there is no step", 1, {"cafe/flows/x.yaml": FLOW.format("say: hi, goto: b")}
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `parley init` has made the project `cafe`."""
    folder = tmp_path_factory.mktemp("made")
    assert parley("init", "cafe", cwd=folder).returncode == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path, dirs_exist_ok=True))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence_that_says_what_to_do(folder: Path, name: str) -> None:
    mistake = MISTAKES[name]
    for file, text in mistake.files.items():
        (folder / file).write_text(text, encoding="utf-8")
    env = {"PARLEY_PORT": str(free_port()), **mistake.env}  # the usual one may be taken
    answer = parley(*mistake.typed.split(), cwd=folder, env=env)
    said = answer.stdout + answer.stderr
    assert answer.returncode == mistake.code, said
    assert mistake.says in said
    assert "Traceback" not in said
    assert "AssertionError" not in said


@contextmanager
def _listening() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("secret", [None, ""])
def test_a_taken_port(folder: Path, secret: str | None) -> None:
    """With an empty secret too, which is what compose files make of one that is not set."""
    with _listening() as port:
        env = {} if secret is None else {"PARLEY_JWT_SECRET": secret}
        answer = parley("dev", "cafe", "--port", str(port), cwd=folder, env=env)
    assert answer.returncode == 3
    assert answer.stderr.startswith(f"parley: port {port} is taken: stop what listens")


def test_a_wrong_token(folder: Path) -> None:
    with Dev(folder / "cafe") as dev:
        answer = parley("chat", "cafe", "--url", dev.url, "--token", "nonsense", cwd=folder, says="hi\n")
    assert answer.returncode == 4
    assert "does not take the token" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    (folder / "cafe").chmod(0o555)
    try:
        answer = parley("dev", "cafe", cwd=folder)
    finally:
        (folder / "cafe").chmod(0o755)
    assert answer.returncode == 3
    assert "give yourself the permission" in answer.stderr


def test_a_python_that_is_too_old(tmp_path: Path) -> None:
    """What `make` says where the only Python there is is not new enough."""
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    old.chmod(0o755)
    answer = subprocess.run(
        [ROOT / ".ci" / "venv", tmp_path / "venv"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(old)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 1
    assert "Parley needs Python 3.11 or newer" in answer.stderr
    assert not (tmp_path / "venv").exists()


def test_the_oldest_python_is_said_by_the_packages() -> None:
    """pip refuses an older Python by itself, with the version that is needed."""
    for file in ("pyproject.toml", "clients/python/pyproject.toml"):
        project = tomllib.loads((ROOT / file).read_text(encoding="utf-8"))["project"]
        assert project["requires-python"] == ">=3.11"
    assert sys.version_info >= (3, 11)

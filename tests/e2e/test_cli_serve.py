"""``parley serve`` and its clients, as processes."""

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.support.commands import SECRET, Running, Serve, command, environment, parley

FLOW = """\
flow: echo
steps:
  - {id: hello, say: "Hello."}
  - {id: done, end: completed}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "echo.yaml").write_text(FLOW)
    return tmp_path


def as_user(project: Path, url: str, *arguments: str) -> dict[str, str]:
    """Return the environment of a client of ``url``."""
    token = parley("token", *arguments, cwd=project, env={"PARLEY_JWT_SECRET": SECRET}).stdout.strip()
    return {"PARLEY_URL": url, "PARLEY_TOKEN": token}


def test_serve_answers_and_its_token_command_opens_the_door(project: Path) -> None:
    with Serve(project) as server:
        with urllib.request.urlopen(f"{server.url}/readyz") as answer:
            assert answer.status == 200
        env = as_user(project, server.url, "--user", "ann", "--tenant", "acme")
        said = parley("chat", cwd=project, env=env, says="hi\n")
        assert (said.stdout, said.returncode) == ("Hello.\n", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_in_good_order(project: Path, number: signal.Signals) -> None:
    with Serve(project) as server:
        assert server.signal(number) == 0
        assert "Traceback" not in server.err.text
        for line in server.err.text.splitlines():
            assert json.loads(line)["level"] == "info"


def test_serve_says_where_it_is_to_people_too(project: Path) -> None:
    with Running(["serve", "--port", "0"], project, {"PARLEY_JWT_SECRET": SECRET}) as server:
        server.out.wait_for(r"^Parley serves on http://127\.0\.0\.1:\d+$")


CANNOT = {
    "a store that could lose what was acked": (["--store", "mongodb://h/p?w=1"], "remove it from the URL"),
    "a store that is none": (["--store", "nowhere:factory"], "nowhere"),
    "a folder that is not there": (["--store", "sqlite:no/such/folder/p.db"], "no/such/folder"),
    "a host of somebody else": (["--host", "192.0.2.1"], "no address of this machine"),
    "a host that is no name": (["--host", "no.such.host.invalid"], "no address of this machine"),
    "flows elsewhere": (["--flows", "elsewhere"], "no flows folder elsewhere"),
    "actions elsewhere": (["--actions", "no.such.module"], "no.such.module"),
}


@pytest.mark.parametrize(("arguments", "said"), CANNOT.values(), ids=CANNOT)
def test_what_cannot_start_says_why(project: Path, arguments: list[str], said: str) -> None:
    refused = parley("serve", "--port", "0", *arguments, cwd=project, env={"PARLEY_JWT_SECRET": SECRET})
    assert refused.returncode == 3
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""


def test_serve_refuses_a_broken_flow_by_line_and_column(project: Path) -> None:
    (project / "flows" / "bad.yaml").write_text("flow: bad\nsteps:\n  - {id: x, sya: hi}\n")
    refused = parley("serve", "--port", "0", cwd=project, env={"PARLEY_JWT_SECRET": SECRET})
    assert refused.returncode == 3
    assert "bad.yaml:3:13: error" in refused.stderr
    assert "did you mean say?" in refused.stderr


def test_a_second_server_on_the_same_file_is_refused(project: Path) -> None:
    with Serve(project):
        second = parley("serve", "--port", "0", cwd=project, env={"PARLEY_JWT_SECRET": SECRET})
    assert second.returncode == 3
    assert "parley.db" in second.stderr
    assert "PARLEY_STORE" in second.stderr


def test_a_file_that_is_no_database_is_a_sentence_and_stays_what_it_is(project: Path) -> None:
    (project / "parley.db").write_text("shopping list " * 1000)
    refused = parley("serve", "--port", "0", cwd=project, env={"PARLEY_JWT_SECRET": SECRET})
    assert refused.returncode == 3
    assert "Traceback" not in refused.stderr
    assert (project / "parley.db").read_text() == "shopping list " * 1000


def test_dotenv_and_toml_are_read_from_the_project(project: Path) -> None:
    (project / ".env").write_text(f"PARLEY_JWT_SECRET={SECRET}\nPARLEY_DEFAULT_TENANT=acme\n")
    (project / "parley.toml").write_text('log_level = "error"\n')
    with Running(["serve", "--port", "0", str(project)], project.parent) as server:
        server.out.wait_for("serves on")
        assert server.signal(signal.SIGTERM) == 0
        assert server.err.text == ""


def test_a_conversation_of_somebody_else_is_not_shown(project: Path) -> None:
    with Serve(project) as server:
        arguments = ["chat", "--conversation", "c1"]
        ann = as_user(project, server.url, "--user", "ann", "--tenant", "acme")
        bob = as_user(project, server.url, "--user", "bob", "--tenant", "acme")
        assert parley(*arguments, cwd=project, env=ann, says="hi\n").returncode == 0
        refused = parley(*arguments, cwd=project, env=bob, says="hi\n")
        assert refused.returncode == 1
        assert refused.stdout == ""
        assert refused.stderr == "parley: There is no such conversation.\n"


def test_a_token_that_is_not_taken_ends_a_chat(project: Path) -> None:
    wrong = [
        {"PARLEY_JWT_SECRET": "another-secret-of-at-least-32-bytes!"},
        {"PARLEY_JWT_SECRET": SECRET, "PARLEY_JWT_ISSUER": "them"},
    ]
    with Serve(project) as server:
        for env in wrong:
            token = parley("token", "--user", "u", "--tenant", "t", cwd=project, env=env).stdout.strip()
            chat_env = {"PARLEY_URL": server.url, "PARLEY_TOKEN": token}
            refused = parley("chat", cwd=project, env=chat_env, says="hi\n")
            assert refused.returncode == 4
            assert "does not take the token" in refused.stderr
            assert token not in refused.stderr


def test_a_reader_that_goes_away_is_no_error(project: Path) -> None:
    shell = f"{' '.join(command('token', '--help'))} | head -c 1"
    done = subprocess.run(
        ["sh", "-c", shell],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_nothing_but_the_asked_command_is_imported(project: Path) -> None:
    code = (
        "import sys\nfrom server.cli.group import run\nrun(['version'])\n"
        "heavy = {'pydantic', 'uvicorn', 'jwt', 'structlog', 'asyncio'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [*command()[:1], "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        cwd=os.sep,
    )
    assert done.stdout.splitlines()[-1] == "[]"

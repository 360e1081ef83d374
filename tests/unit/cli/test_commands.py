"""The command line as a whole: help, mistakes, exit codes, version, tokens."""

import json
import re
from pathlib import Path

import pytest
import rich_click as click

from server.auth.tokens import TokenVerifier
from server.cli.errors import EXIT_CODES, OK, UNREACHABLE, USAGE
from server.cli.group import COMMANDS, command, run
from server.cli.project import Project
from server.settings import Settings

SECRET = "s" * 32


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (*Settings.model_fields, "url", "token"):
        monkeypatch.delenv(f"PARLEY_{name.upper()}", raising=False)
    return tmp_path


def test_every_command_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == OK
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == OK
    assert f"parley {name}" in capsys.readouterr().out
    found = command(name)
    assert found.help
    options = [param for param in found.params if isinstance(param, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_a_misspelt_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verison"]) == USAGE
    assert "Did you mean 'version'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["token"],
        ["token", "--user", "u", "--role", "boss"],
        ["token", "--user", "u", "--scope", "every:thing"],
        ["token", "--user", "u", "--ttl", "soon"],
        ["token", "--user", "u", "--ttl", "0"],
        ["token", "--user", "u", "--ttl", "-5m"],
        ["serve", "--prot", "1"],
        ["serve", "a", "b"],
        ["chat", "--no-such"],
        ["check", "nowhere.yaml"],
        ["dev", "nowhere"],
        ["version", "--verbose"],
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"parley: [^\n]+\n", printed.err)
    assert "Traceback" not in printed.err


def test_the_signing_secret_is_no_flag() -> None:
    """Everybody on the machine can read the command line of a process."""
    names = {option for name in ("dev", "serve") for param in command(name).params for option in param.opts}
    assert "--jwt-secret" not in names
    assert "--port" in names


@pytest.mark.parametrize("name", ["dev", "serve"])
def test_every_other_setting_is_a_flag(name: str) -> None:
    flags = {param.name for param in command(name).params}
    assert set(Settings.model_fields) - flags == {"jwt_secret"}


def test_wrong_settings_are_listed_one_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_PORT", "x")
    monkeypatch.setenv("PARLEY_PROT", "1")
    assert run(["serve", "--drain-seconds", "-1"]) == USAGE
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "parley: 4 settings are wrong:"
    assert [line.split()[0] for line in said[1:]] == [
        "PARLEY_PROT", "PARLEY_JWT_SECRET", "--drain-seconds", "PARLEY_PORT"
    ]  # fmt: skip


@pytest.mark.parametrize("typed", ["version", "--version"])
def test_the_version_is_printed(capsys: pytest.CaptureFixture[str], typed: str) -> None:
    assert run([typed]) == OK
    assert re.fullmatch(r"parley \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_the_version_is_there_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["protocol"] == "parley.v1"
    assert set(found) == {"version", "protocol", "python"}


def test_a_token_is_alone_on_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_JWT_SECRET", SECRET)
    arguments = [
        "--user",
        "ann",
        "--tenant",
        "acme",
        "--role",
        "operator",
        "--scope",
        "audit:read",
        "--scope",
    ]
    assert run(["token", *arguments, "flows:publish", "--ttl", "2h"]) == OK
    (line,) = capsys.readouterr().out.splitlines()
    verifier = TokenVerifier.from_settings(Settings(jwt_secret=SECRET))
    claims = verifier.claims(line)
    assert claims["exp"] - claims["iat"] == 7200
    principal = verifier.verify(line, claims["iat"])
    assert (principal.user_id, principal.tenant_id, principal.role) == ("ann", "acme", "operator")
    assert {"audit:read", "flows:publish", "conversations:read"} <= principal.scopes


def test_a_token_is_there_for_machines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_JWT_SECRET", SECRET)
    monkeypatch.setenv("PARLEY_DEFAULT_TENANT", "home")
    assert run(["token", "--user", "ann", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert (found["user_id"], found["tenant_id"], found["role"], found["scopes"]) == (
        "ann",
        "home",
        "user",
        [],
    )
    assert found["token"].count(".") == 2


def test_a_token_follows_the_settings_of_its_project(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "shop").mkdir()
    (here / "shop" / "parley.toml").write_text(
        f'jwt_secret = "{SECRET}"\njwt_issuer = "shop"\njwt_claim_tenant = "org"\ndefault_tenant = "t1"\n'
    )
    assert run(["token", "shop", "--user", "ann"]) == OK
    settings = Project.at(Path("shop")).settings({})
    claims = TokenVerifier.from_settings(settings).claims(capsys.readouterr().out.strip())
    assert (claims["iss"], claims["org"]) == ("shop", "t1")


def test_beside_dev_a_token_needs_no_settings(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project(here)
    project.make_state()
    secret = project.make_secret()
    assert run(["token", "--user", "ann"]) == OK
    verifier = TokenVerifier.from_settings(Settings(jwt_secret=secret))
    assert verifier.claims(capsys.readouterr().out.strip())["tenant_id"] == "default"


def test_without_a_secret_there_is_no_token(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["token", "--user", "ann", "--tenant", "t"]) == USAGE
    assert "PARLEY_JWT_SECRET" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--user", "ann"], "--tenant"),
        (["--user", " ", "--tenant", "t"], "names no user"),
        (["--user", "x" * 200, "--tenant", "t"], "128"),
        (["--user", "ann", "--tenant", "a b"], "tenant_id"),
    ],
)
def test_a_token_that_the_server_would_refuse_is_not_printed(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_JWT_SECRET", SECRET)
    assert run(["token", *arguments]) == USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err


WRONG = {
    "unknown variable": ({"PARLEY_PROT": "1"}, "did you mean PARLEY_PORT?"),
    "port": ({"PARLEY_PORT": "many"}, "from 0 to 65535, not 'many'"),
    "short secret": ({"PARLEY_JWT_SECRET": "short"}, "has 5 bytes"),
    "no secret": ({"PARLEY_JWT_SECRET": ""}, "openssl rand -hex 32"),
    "redis beside sqlite": ({"PARLEY_BUS": "redis://localhost"}, "exactly one"),
    "keys of a provider": ({"PARLEY_JWKS_URL": "https://idp.example/keys"}, "PARLEY_JWT_SECRET only"),
}


@pytest.mark.parametrize(("env", "said"), WRONG.values(), ids=WRONG)
def test_serve_refuses_wrong_settings(
    env: dict[str, str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PARLEY_JWT_SECRET": SECRET, **env}.items():
        monkeypatch.setenv(name, value)
    assert run(["serve"]) == USAGE
    assert said in capsys.readouterr().err


def test_serve_does_not_use_the_secret_of_dev(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Project(here).make_state()
    Project(here).make_secret()
    assert run(["serve"]) == USAGE
    assert "PARLEY_JWT_SECRET" in capsys.readouterr().err


CHATS = {
    "nobody there": (
        {"PARLEY_URL": "http://127.0.0.1:9", "PARLEY_TOKEN": "x"},
        UNREACHABLE,
        "nothing answers",
    ),
    "no URL": ({"PARLEY_URL": "localhost", "PARLEY_TOKEN": "x"}, USAGE, "http://host:port"),
    "token in the URL": ({"PARLEY_URL": "http://h?token=x", "PARLEY_TOKEN": "x"}, USAGE, "no credentials"),
    "no token": ({}, USAGE, "PARLEY_TOKEN"),
    "no tenant": ({"PARLEY_JWT_SECRET": SECRET}, USAGE, "PARLEY_TOKEN"),
}


@pytest.mark.parametrize(("env", "code", "said"), CHATS.values(), ids=CHATS)
def test_a_chat_that_cannot_begin_says_why(
    env: dict[str, str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert run(["chat", "--wait", "0.3"]) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_exit_codes_are_documented() -> None:
    assert set(EXIT_CODES) == {0, 1, 2, 3, 4, 130}
    page = (Path(__file__).parents[3] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in page

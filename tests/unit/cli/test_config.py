"""``parley config``: what the settings are, where they come from, and no secret in it."""

import json
from pathlib import Path

import pytest

from server.cli.errors import OK, USAGE
from server.cli.group import run
from server.settings import Settings

SECRET = "correct-horse-battery-staple-and-more"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (*Settings.model_fields, "url", "token"):
        monkeypatch.delenv(f"PARLEY_{name.upper()}", raising=False)
    (tmp_path / "parley.toml").write_text('port = 9000\nactions = ["my_shop.calendar"]\n', encoding="utf-8")
    (tmp_path / ".env").write_text(
        f"# mine\nPARLEY_JWT_SECRET={SECRET}\nPARLEY_STORE=mongodb://me:hidden@db/parley\n", encoding="utf-8"
    )
    monkeypatch.setenv("PARLEY_LIMITS", "off")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["config", *arguments]) == OK
    return capsys.readouterr().out


def test_each_value_has_its_source(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(capsys, "explain", "--json"))
    assert set(found) == set(Settings.model_fields)
    assert found["port"] == {"value": "9000", "source": str(project / "parley.toml")}
    assert found["jwt_secret"]["source"] == f"{project / '.env'}:2"
    assert found["limits"] == {"value": "off", "source": "environment"}
    assert found["host"] == {"value": "127.0.0.1", "source": "default"}


@pytest.mark.parametrize("what", ["show", "explain", "env"])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_secret_is_told(what: str, form: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, what, *form)
    assert SECRET not in text
    assert "hidden" not in text
    assert "***" in text


@pytest.mark.parametrize("name", ["port", "PORT", "PARLEY_PORT", "--port"])
def test_one_setting_is_explained_by_any_of_its_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "explain", "--", name)
    assert text.startswith("port = 9000\n")
    assert "It must be a whole number from 0 to 65535." in text


def test_what_env_prints_can_be_read_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads(told(capsys, "show", "--json"))
    text = told(capsys, "env")
    monkeypatch.delenv("PARLEY_LIMITS")
    (project / "parley.toml").unlink()
    secrets = (project / ".env").read_text(encoding="utf-8")
    (project / ".env").write_text(text + secrets, encoding="utf-8")
    after = json.loads(told(capsys, "show", "--json"))
    assert {name: setting["value"] for name, setting in after.items()} == {
        name: setting["value"] for name, setting in before.items()
    }


def test_a_misspelt_setting_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "explain", "prot"]) == USAGE
    assert "did you mean port?" in capsys.readouterr().err


def test_settings_that_are_wrong_are_said_as_serve_says_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "parley.toml").write_text("port = 99999\n", encoding="utf-8")
    assert run(["config", "show"]) == USAGE
    assert "must be a whole number from 0 to 65535" in capsys.readouterr().err

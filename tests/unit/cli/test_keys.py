"""``parley keys`` and ``parley origins`` over a store that no server has."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from server.cli.errors import FAILED, OK, UNREACHABLE, USAGE
from server.cli.group import run
from server.settings import Settings
from storage.open import open_store

SHOP = "https://shop.example"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (*Settings.model_fields, "url", "token"):
        monkeypatch.delenv(f"PARLEY_{name.upper()}", raising=False)
    (tmp_path / "flows").mkdir()
    return tmp_path


class Cli:
    """Runs commands, and gives what they print."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def __call__(self, *arguments: str, code: int = OK) -> tuple[str, str]:
        found = run(list(arguments))
        printed = self._captured.readouterr()
        assert found == code, printed.err
        return printed.out, printed.err

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json")[0])

    def make(self, *origins: str) -> dict[str, Any]:
        named = [part for origin in origins or (SHOP,) for part in ("--origin", origin)]
        made: dict[str, Any] = self.json("keys", "create", "--publishable", *named)
        return made


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def stored(here: Path) -> list[Any]:
    async def read() -> list[Any]:
        store = open_store(f"sqlite:{here}/.parley/parley.db")
        await store.open()
        try:
            return list(await store.api_keys("default"))
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_new_key_is_alone_on_standard_output(cli: Cli, here: Path) -> None:
    out, err = cli("keys", "create", "--publishable", "--origin", SHOP)
    assert re.fullmatch(r"pk_[A-Za-z0-9_-]{43}\n", out)
    assert re.search(r"made key_[0-9a-f]{16} of tenant default for https://shop\.example", err)
    (key,) = stored(here)
    assert key.origins == (SHOP,)
    assert out.strip() not in str(key)


def test_a_key_is_as_the_options_say(cli: Cli) -> None:
    made = cli.json(
        "keys", "create", "--publishable", "--origin", SHOP, "--origin", "http://localhost:3000",
        "--name", "Shop", "--description", "all of it", "--tier", "free", "--rate-limit", "7",
        "--expires", "90d", "--tenant", "acme",
    )  # fmt: skip
    assert made["tenant_id"] == "acme"
    assert made["origins"] == [SHOP, "http://localhost:3000"]
    assert (made["name"], made["description"], made["tier"]) == ("Shop", "all of it", "free")
    assert made["rate_limit_per_minute"] == 7
    assert made["expires_at"] > made["created_at"]
    assert cli.json("keys", "list") == []
    (listed,) = cli.json("keys", "list", "--tenant", "acme")
    assert "key" not in listed
    assert {**listed, "key": made["key"]} == made
    assert cli.json("keys", "show", made["key_id"], "--tenant", "acme") == listed


def test_a_secret_key_has_role_and_scopes(cli: Cli) -> None:
    made = cli.json(
        "keys", "create", "--role", "operator", "--scope", "audit:read", "--user", "crm", "--name", "CRM"
    )
    assert made["key"].startswith("sk_")
    assert (made["role"], made["scopes"], made["user_id"]) == ("operator", ["audit:read"], "crm")


def test_keys_are_revoked_and_rotated(cli: Cli) -> None:
    made = cli.make()
    rotated = cli.json("keys", "rotate", made["key_id"])
    assert rotated["key"] != made["key"]
    assert cli("keys", "revoke", made["key_id"])[0] == f"revoked {made['key_id']}\n"
    assert "revoked" in cli("keys", "list")[0]
    assert "was revoked" in cli("keys", "rotate", made["key_id"], code=FAILED)[1]


def test_more_keys_than_a_page_are_listed(cli: Cli, here: Path) -> None:
    from server.cli.keyring import Keyring, Place

    keyring = Keyring(Place(None, None, None, None, None))
    for _ in range(3):
        cli.make()
    assert len(keyring.all()) == 3
    assert len(cli("keys", "list")[0].splitlines()) == 3


def test_origins_are_added_and_removed(cli: Cli) -> None:
    key_id = cli.make()["key_id"]
    assert cli("origins", "add", "https://WWW.shop.example:443")[0] == (
        f"{key_id}: https://shop.example https://www.shop.example\n"
    )
    assert cli("origins", "remove", SHOP)[0] == f"{key_id}: https://www.shop.example\n"
    assert "no page at all" in cli("origins", "remove", "https://www.shop.example", code=FAILED)[1]
    other = cli.make("https://other.example")["key_id"]
    assert "name one by --key" in cli("origins", "add", SHOP, code=USAGE)[1]
    cli("origins", "add", SHOP, "--key", other)
    assert {found["origin"]: found["by"] for found in cli.json("origins", "list")} == {
        SHOP: [other], "https://other.example": [other], "https://www.shop.example": [key_id],
    }  # fmt: skip


def test_the_origins_of_the_settings_are_listed_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_ORIGINS", "https://intranet.example")
    made = cli.make()
    assert cli("origins", "list")[0].splitlines() == [
        "https://intranet.example  PARLEY_ORIGINS",
        f"https://shop.example      {made['key_id']}",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["keys", "create", "--publishable"], FAILED, "needs the origins"),
        (["keys", "create", "--publishable", "--origin", "shop.example"], FAILED, "scheme, host and port"),
        (["keys", "create", "--rate-limit", "5"], FAILED, "for publishable keys"),
        (["keys", "create", "--tier", "gold"], USAGE, "standard"),
        (["keys", "create", "--expires", "soon"], USAGE, "90s, 60m"),
        (["keys", "show", "key_none"], FAILED, "no such key"),
        (["keys", "revoke", "../../x"], FAILED, "no such key"),
        (["origins", "add", SHOP], FAILED, "parley keys create"),
        (["keys", "list", "--store", "memory:"], USAGE, "keeps nothing"),
        (["keys", "list", "--url", "http://127.0.0.1:1", "--token", "t"], UNREACHABLE, "nothing answers"),
        (["keys", "list", "--url", "nonsense", "--token", "t"], USAGE, "no URL"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(cli: Cli, arguments: list[str], code: int, said: str) -> None:
    out, err = cli(*arguments, code=code)
    assert out == ""
    assert re.fullmatch(r"parley: [^\n]+\n", err)
    assert said in err


def test_without_keys_it_is_told_how_to_make_one(cli: Cli) -> None:
    for what in ("keys", "origins"):
        out, err = cli(what, "list")
        assert out == ""
        assert "parley keys create --publishable" in err
        assert cli.json(what, "list") == []


@pytest.mark.parametrize(
    "looks", [["keys", "list"], ["origins", "list"], ["keys", "show", "key_x"], ["origins", "add", SHOP]]
)
def test_only_a_new_key_makes_a_store(cli: Cli, here: Path, looks: list[str]) -> None:
    run([*looks])
    run([*looks, "--store", "sqlite:other.db"])
    assert [path.name for path in here.iterdir()] == ["flows"]
    assert "there is no store other.db" in cli("keys", "list", "--store", "sqlite:other.db", code=USAGE)[1]


@pytest.mark.parametrize("what", ["list", "create"])
def test_a_folder_without_flows_gets_no_store(cli: Cli, here: Path, what: str) -> None:
    (here / "flows").rmdir()
    assert "go to the project's folder" in cli("keys", what, code=USAGE)[1]
    assert list(here.iterdir()) == []

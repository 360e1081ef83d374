"""Settings: where they come from, what beats what, and what is said about wrong ones."""

from pathlib import Path
from typing import Any

import pytest

from server.settings import Problem, Settings, SettingsInvalid, normal_origin, without_credentials

SECRET = "s" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def load(
    folder: Path,
    env: dict[str, str] | None = None,
    *,
    toml: str = "",
    dotenv: str = "",
    needs_secret: bool = False,
    **flags: Any,
) -> Settings:
    if toml:
        (folder / "parley.toml").write_text(toml, encoding="utf-8")
    if dotenv:
        (folder / ".env").write_text(dotenv, encoding="utf-8")
    return Settings.load(env or {}, flags, folder, needs_secret=needs_secret)


def problems(folder: Path, *args: Any, **kwargs: Any) -> list[Problem]:
    with pytest.raises(SettingsInvalid) as caught:
        load(folder, *args, **kwargs)
    return list(caught.value.problems)


def test_without_any_source_the_defaults_are_those_of_the_reference(folder: Path) -> None:
    settings = load(folder)
    assert (settings.host, settings.port) == ("127.0.0.1", 8765)
    assert settings.bus == "memory:"
    assert settings.jwt_secret is None
    assert (settings.jwt_issuer, settings.jwt_audience) == ("parley", "parley")
    assert (settings.session_hours, settings.message_max_chars) == (48, 2000)
    assert (settings.max_frame_bytes, settings.frames_per_second) == (65536, 20)
    assert settings.drain_seconds == 25


def test_relative_paths_are_below_the_project_folder(folder: Path) -> None:
    settings = load(folder, toml='flows = "talks"\n')
    assert settings.flows == folder / "talks"
    assert settings.store == f"sqlite:{folder}/parley.db"


def test_absolute_paths_stay(folder: Path) -> None:
    settings = load(folder, {"PARLEY_STORE": "sqlite:/data/p.db", "PARLEY_FLOWS": "/data/flows"})
    assert settings.store == "sqlite:/data/p.db"
    assert settings.flows == Path("/data/flows")


def test_a_flag_beats_the_environment_beats_dotenv_beats_toml(folder: Path) -> None:
    toml = "port = 1\nsession_hours = 1\nframes_per_second = 1\nmessage_max_chars = 1\n"
    dotenv = "PARLEY_PORT=2\nPARLEY_SESSION_HOURS=2\nPARLEY_FRAMES_PER_SECOND=2\n"
    env = {"PARLEY_PORT": "3", "PARLEY_SESSION_HOURS": "3"}
    settings = load(folder, env, toml=toml, dotenv=dotenv, port=4)
    assert settings.port == 4
    assert settings.session_hours == 3
    assert settings.frames_per_second == 2
    assert settings.message_max_chars == 1


def test_a_flag_that_was_not_given_says_nothing(folder: Path) -> None:
    assert load(folder, {"PARLEY_PORT": "3"}, port=None).port == 3


def test_defaults_of_a_command_are_weaker_than_every_source(folder: Path) -> None:
    defaults = {"default_tenant": "default", "log_format": "console"}
    settings = Settings.load({"PARLEY_LOG_FORMAT": "json"}, {}, folder, defaults=defaults)
    assert settings.default_tenant == "default"
    assert settings.log_format == "json"


@pytest.mark.parametrize(
    ("written", "read"),
    [("a.b, c", ("a.b", "c")), ("", ()), ("one", ("one",)), ("one,,two,", ("one", "two"))],
)
def test_lists_are_written_with_commas_in_the_environment(
    folder: Path, written: str, read: tuple[str, ...]
) -> None:
    assert load(folder, {"PARLEY_ACTIONS": written}).actions == read


def test_lists_are_arrays_in_toml(folder: Path) -> None:
    assert load(folder, toml='actions = ["a.b", "c"]\n').actions == ("a.b", "c")


@pytest.mark.parametrize(("written", "read"), [("on", True), ("off", False), ("OFF", False)])
def test_switches_are_on_or_off(folder: Path, written: str, read: bool) -> None:
    assert load(folder, {"PARLEY_LIMITS": written}).limits is read


def test_an_emptied_issuer_stays_empty(folder: Path) -> None:
    settings = load(folder, {"PARLEY_JWT_ISSUER": "", "PARLEY_JWT_AUDIENCE": ""})
    assert (settings.jwt_issuer, settings.jwt_audience) == ("", "")


@pytest.mark.parametrize("name", ["JWT_SECRET", "JWKS_URL", "DEFAULT_TENANT", "INSTANCE_ID"])
def test_an_empty_variable_is_an_unset_one_where_nothing_is_a_value(folder: Path, name: str) -> None:
    assert getattr(load(folder, {f"PARLEY_{name}": ""}), name.lower()) is None


def test_dotenv_may_quote_export_and_comment(folder: Path) -> None:
    dotenv = "# ours\nexport PARLEY_PORT='99' # comment\nPARLEY_DEFAULT_TENANT=\"acme\"\n\nOPENAI_API_KEY=x\n"
    settings = load(folder, dotenv=dotenv)
    assert settings.port == 99
    assert settings.default_tenant == "acme"


def test_names_of_test_programs_are_left_alone(folder: Path) -> None:
    assert load(folder, {"PARLEY_TEST_FAILPOINT": "x", "PATH": "/bin"}, dotenv="PARLEY_TEST_A=1\n")


def test_names_of_clients_are_left_alone(folder: Path) -> None:
    assert load(folder, {"PARLEY_TOKEN": "x", "PARLEY_URL": "http://h"}, dotenv="PARLEY_TOKEN=x\n")


def test_settings_are_frozen(folder: Path) -> None:
    settings = load(folder)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_a_program_makes_settings_directly() -> None:
    assert Settings(store="memory:", port=0).port == 0
    with pytest.raises(ValueError, match="extra"):
        Settings(prot=1)  # type: ignore[call-arg]


WRONG = [
    ("HOST", "", "an address"),
    ("PORT", "abc", "from 0 to 65535, not 'abc'"),
    ("PORT", "65536", "from 0 to 65535"),
    ("PORT", "-1", "from 0 to 65535"),
    ("PORT", "", "from 0 to 65535"),
    ("PORT", "1.5", "from 0 to 65535"),
    ("STORE", "postgres://x", "sqlite:FILE, mongodb://HOST/DATABASE"),
    ("STORE", "sqlite:", "sqlite:FILE"),
    ("STORE", "", "sqlite:FILE"),
    ("WORKERS", "0", "a whole number from 1 to 64"),
    ("MONGO_POOL", "0", "from 1 to 1000"),
    ("MONGO_TIMEOUT_MS", "6000", "from 100 to 5000"),
    ("BUS", "kafka://x", "memory:, redis://HOST, rediss://HOST (TLS) or module:factory"),
    ("MONGO_DRIVER", "mongoengine", "pymongo or motor"),
    ("ACTIONS", "my-shop.calendar", "import paths"),
    ("ACTIONS", "a/b.py", "import paths"),
    ("JWT_SECRET", "short", "has 5 bytes and must have at least 32"),
    ("JWT_SECRET", "s" * 31, "has 31 bytes"),
    ("JWT_SECRET", "-----BEGIN PUBLIC KEY-----" + "x" * 40, "is a key or certificate"),
    ("JWKS_URL", "https://idp.example/keys", "PARLEY_JWT_SECRET only"),
    ("DEFAULT_TENANT", "a b", "1 to 100 of"),
    ("DEFAULT_TENANT", "x" * 101, "1 to 100 of"),
    ("ORIGINS", "shop.example", "origins like https://shop.example"),
    ("ORIGINS", "https://*", "origins like"),
    ("ORIGINS", "https://a*.example", "origins like"),
    ("ORIGINS", "https://shop.example/path", "origins like"),
    ("ORIGINS", "null", "origins like"),
    ("ORIGINS", "https://a..example", "origins like"),
    ("ORIGINS", "https://a.example:0", "origins like"),
    ("ORIGINS", "*", "origins like"),
    ("TRUSTED_PROXIES", "10.0.0.0/33", "addresses or networks"),
    ("LOG_LEVEL", "loud", "debug, info, warning or error"),
    ("LOG_FORMAT", "xml", "json or console"),
    ("SESSION_HOURS", "-1", "0 to 8760"),
    ("SESSION_HOURS", "nan", "0 to 8760"),
    ("SESSION_HOURS", "inf", "0 to 8760"),
    ("MESSAGE_MAX_CHARS", "0", "from 1 to 100000"),
    ("MAX_FRAME_BYTES", "10", "from 1024"),
    ("FRAMES_PER_SECOND", "0", "from 1"),
    ("LIMITS", "maybe", "on or off"),
    ("VISITORS_PER_ADDRESS", "0", "from 1"),
    ("CONNECTIONS_PER_PRINCIPAL", "0", "from 1"),
    ("CONNECTIONS_PER_INSTANCE", "none", "from 1"),
    ("DRAIN_SECONDS", "-1", "from 0"),
    ("SWEEP_SECONDS", "0", "from 0.01"),
    ("INSTANCE_ID", "a b", "1 to 64 of"),
    ("JWT_CLAIM_TENANT", "a b", "name of a claim"),
    ("JWT_CLAIM_SCOPES", "", "names of claims"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_a_wrong_value_is_said_with_its_variable_and_what_would_be_right(
    folder: Path, name: str, value: str, said: str
) -> None:
    (problem,) = problems(folder, {f"PARLEY_{name}": value})
    assert problem.name == f"PARLEY_{name}"
    assert problem.source == "environment"
    assert said in problem.message


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "set PARLEY_STORE to mongodb://... and PARLEY_BUS to redis://..., or leave PARLEY_WORKERS"),
        ({"PARLEY_STORE": "mongodb://h/p"}, "set PARLEY_BUS to redis://..., or leave"),
        ({"PARLEY_STORE": "memory:"}, "set PARLEY_STORE to mongodb://... and PARLEY_BUS to redis://..., or"),
    ],
)
def test_workers_need_what_joins_them(folder: Path, env: dict[str, str], said: str) -> None:
    (problem,) = problems(folder, {"PARLEY_WORKERS": "3", **env})
    assert problem.name == "PARLEY_WORKERS"
    assert said in problem.message


@pytest.mark.parametrize("written", ["2.0", " 2", "+2"])
def test_workers_are_judged_as_they_are_read(folder: Path, written: str) -> None:
    (problem,) = problems(folder, {"PARLEY_WORKERS": written})
    assert "asks for 2 processes" in problem.message


@pytest.mark.parametrize("host", ["..", "api..example", ".example", "x" * 64])
def test_a_host_that_can_be_no_name_is_refused(folder: Path, host: str) -> None:
    (problem,) = problems(folder, {"PARLEY_HOST": host})
    assert problem.message.startswith(f"must be an address to listen on, e.g. 127.0.0.1, not '{host[:60]}")


def test_every_setting_has_a_wrong_value_above_or_is_free_text() -> None:
    free = {"flows", "jwt_issuer", "jwt_audience"}
    claims = {name for name in Settings.model_fields if name.startswith("jwt_claim_")}
    assert {name.lower() for name, _, _ in WRONG} | free | claims == set(Settings.model_fields)


UNKNOWN = [
    ("PARLEY_PROT", "PARLEY_PORT"),
    ("PARLEY_STOER", "PARLEY_STORE"),
    ("PARLEY_SECRET", "PARLEY_JWT_SECRET"),
    ("PARLEY_ORIGIN", "PARLEY_ORIGINS"),
    ("PARLEY_port", "PARLEY_PORT"),
    ("PARLEY_TENANT", "PARLEY_DEFAULT_TENANT"),
    ("PARLEY_LOGLEVEL", "PARLEY_LOG_LEVEL"),
]


@pytest.mark.parametrize(("name", "meant"), UNKNOWN)
def test_an_unknown_variable_is_refused_with_a_suggestion(folder: Path, name: str, meant: str) -> None:
    (problem,) = problems(folder, {name: "1"})
    assert problem.name == name
    assert problem.message == f"is no setting; did you mean {meant}?"


def test_an_unknown_variable_like_nothing_we_know_is_refused_with_where_to_look(folder: Path) -> None:
    (problem,) = problems(folder, {"PARLEY_XYZZY": "1"})
    assert "docs/reference/settings.md" in problem.message


def test_an_unknown_key_in_toml_is_refused_with_a_suggestion(folder: Path) -> None:
    found = problems(folder, toml='prot = 1\nPORT = 2\nPARLEY_HOST = "h"\n[jwt]\nsecret = "x"\n')
    assert [(p.name, p.message.removeprefix("is no setting; did you mean ")) for p in found] == [
        ("prot", "port?"),
        ("PORT", "port?"),
        ("PARLEY_HOST", "host?"),
        ("jwt", "jwt_secret?"),
    ]
    assert all(p.source == str(folder / "parley.toml") for p in found)


def test_an_unknown_name_in_dotenv_is_refused_with_its_line(folder: Path) -> None:
    found = problems(folder, dotenv="A=1\nPARLEY_PROT=1\nPARLY_PORT=2\n")
    assert [(p.name, p.source) for p in found] == [
        ("PARLEY_PROT", f"{folder / '.env'}:2"),
        ("PARLY_PORT", f"{folder / '.env'}:3"),
    ]


def test_all_problems_of_all_sources_are_said_at_once(folder: Path) -> None:
    found = problems(
        folder,
        {"PARLEY_PORT": "abc", "PARLEY_TYPO": "1", "PARLEY_BUS": "redis://h"},
        toml='log_level = "loud"\n',
        dotenv="PARLEY_JWT_SECRET=short\n",
        drain_seconds=-1,
    )
    assert {problem.name for problem in found} == {
        "PARLEY_PORT",
        "PARLEY_TYPO",
        "PARLEY_BUS",
        "log_level",
        "PARLEY_JWT_SECRET",
        "--drain-seconds",
    }


def test_a_value_that_a_stronger_source_replaces_is_not_judged(folder: Path) -> None:
    assert load(folder, {"PARLEY_PORT": "1"}, toml='port = "abc"\n').port == 1


@pytest.mark.parametrize("store", ["sqlite:parley.db", "memory:"])
def test_a_store_of_one_instance_with_a_networked_bus_is_refused(folder: Path, store: str) -> None:
    (problem,) = problems(folder, {"PARLEY_STORE": store, "PARLEY_BUS": "redis://h"})
    assert "exactly one" in problem.message
    assert "mongodb://" in problem.message
    with pytest.raises(ValueError, match="exactly one"):
        Settings(store=store, bus="redis://h")


def test_a_shared_store_with_a_networked_bus_is_taken(folder: Path) -> None:
    assert load(folder, {"PARLEY_STORE": "mongodb://h/p", "PARLEY_BUS": "redis://h"})


def test_a_missing_secret_is_a_problem_only_where_it_is_needed(folder: Path) -> None:
    assert load(folder).jwt_secret is None
    (problem,) = problems(folder, needs_secret=True)
    assert problem.name == "PARLEY_JWT_SECRET"
    assert "openssl rand -hex 32" in problem.message
    assert load(folder, {"PARLEY_JWT_SECRET": SECRET}, needs_secret=True).jwt_secret is not None


def test_a_secret_of_many_bytes_in_few_characters_is_long_enough(folder: Path) -> None:
    assert load(folder, {"PARLEY_JWT_SECRET": "ä" * 16}).jwt_secret is not None


def test_broken_files_are_said_with_their_place(folder: Path) -> None:
    (problem,) = problems(folder, toml="port = \n")
    assert problem.source == str(folder / "parley.toml")
    assert "line 1" in problem.message
    (folder / "parley.toml").unlink()
    (problem,) = problems(folder, dotenv="PARLEY_PORT=1\nwhat is this\n'\n")[:1]
    assert problem.source == f"{folder / '.env'}:2"


@pytest.mark.parametrize("name", ["parley.toml", ".env"])
def test_files_that_are_no_text_or_no_files_are_said(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\xff\xfe\x00")
    (problem,) = problems(folder)
    assert "UTF-8" in problem.message
    (folder / name).unlink()
    (folder / name).mkdir()
    (problem,) = problems(folder)
    assert "cannot be read" in problem.message


def test_numbers_in_toml_may_not_be_booleans(folder: Path) -> None:
    (problem,) = problems(folder, toml="port = true\n")
    assert problem.name == "port"


def test_no_secret_shows_in_problems_or_representations(folder: Path) -> None:
    canary = "canary-4711"
    found = problems(
        folder,
        {"PARLEY_JWT_SECRET": canary, "PARLEY_SECRET": canary, "PARLEY_STORE": f"pg://u:{canary}@h/db"},
        dotenv=f"PARLEY_JWTSECRET={canary}\n",
    )
    assert canary not in str(found)
    settings = Settings(
        store=f"mongodb://u:{canary}@h/db",
        bus=f"redis://:{canary}@h",
        jwt_secret=canary * 4,
    )
    assert canary not in repr(settings)
    assert canary not in str(settings)


def test_long_values_are_cut_in_messages(folder: Path) -> None:
    (problem,) = problems(folder, {"PARLEY_PORT": "9" * 500})
    assert len(problem.message) < 150


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("https://Shop.Example", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("http://shop.example:80", "http://shop.example"),
        ("http://localhost:0080", "http://localhost"),
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("http://[::1]:8765", "http://[::1]:8765"),
        ("https://*.shop.example:8443", "https://*.shop.example:8443"),
    ],
)
def test_origins_have_one_form(written: str, normal: str) -> None:
    assert normal_origin(written) == normal


def test_credentials_in_addresses_are_masked() -> None:
    assert without_credentials("mongodb://u:p@h/db") == "mongodb://***@h/db"
    assert without_credentials("redis://:p@ss@h/1") == "redis://***@h/1", "a password with an @ in it"
    assert without_credentials("sqlite:a@b.db") == "sqlite:a@b.db"
    assert without_credentials("rediss://h/1?password=p%3D&db=2") == "rediss://h/1?password=***&db=2"
    keyed = "mongodb://h/db?w=1&tlsCertificateKeyFilePassword=p"
    assert without_credentials(keyed) == "mongodb://h/db?w=1&tlsCertificateKeyFilePassword=***"

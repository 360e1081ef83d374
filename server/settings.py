"""Every setting of the server: frozen, read once, and passed in.

A setting is named the same everywhere: ``PARLEY_PORT`` in the environment and in ``.env``, ``port`` in
``parley.toml``, ``--port`` as a flag. A flag beats the environment, which beats ``.env``, which beats
``parley.toml``, which beats the default. What is unknown or wrong is refused, all of it at once, each
with the place it was read from and what would be right there.

Importing this module touches nothing; ``Settings.load`` reads two files below the folder it is given
and the mapping it is given, never ``os.environ`` by itself.

Why not pydantic-settings: it merges its sources before it validates, so an error can no longer say
which file it came from; it has no refusal of unknown names in the environment; and it takes the
environment from the process. What is left of it here is the pydantic model, and the parser of ``.env``
files (python-dotenv).
"""

import difflib
import io
import ipaddress
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

PREFIX: Final = "PARLEY_"
TEST_PREFIX: Final = "PARLEY_TEST_"
"""Names below this prefix steer test programs (failpoints and the like) and are no settings."""

CLIENT_NAMES: Final = frozenset({"PARLEY_URL", "PARLEY_TOKEN"})
"""What clients (``parley chat``, programs with an SDK) are told by the environment."""

TOML_NAME: Final = "parley.toml"
DOTENV_NAME: Final = ".env"
MIN_SECRET_BYTES: Final = 32
"""RFC 7518, 3.2: an HS256 key has at least the size of the hash."""

_SHOWN_CHARS = 60
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>(?:\*\.)?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SQLITE = "sqlite:"
_FACTORY = r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)+"
_STORE = re.compile(rf"sqlite:.+|memory:|mongodb(\+srv)?://.+|(?!sqlite:|memory:|mongodb:){_FACTORY}")
_BUS = re.compile(rf"memory:|rediss?://.+|(?!memory:|rediss?:){_FACTORY}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PUBLIC = ("-----BEGIN ", "ssh-")  # HMAC with what may be public: RFC 8725, 2.1
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]+(?=@)")
"""Up to the last ``@``, as drivers read a password with one in it."""
_WHOLE: Final = TypeAdapter(int)
_QUERY_CREDENTIALS: Final = re.compile(r"(?i)([?&][^=&#]*(?:user|pass|secret|token|key|auth)[^=&#]*=)[^&#]+")
"""Redis takes a password so, MongoDB that of a key file; names like ``authSource`` are masked too."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the settings.

    Attributes:
        name: the setting as it was written, or the file that cannot be read.
        source: where it was read from, for a person.
        message: what is wrong, and what would be right.
    """

    name: str
    source: str
    message: str

    def __str__(self) -> str:
        """Return the problem as one line."""
        return f"{self.name} ({self.source}): {self.message}"


class SettingsInvalid(Exception):  # noqa: N818 - reads as what happened, like Refused
    """The settings cannot be used; ``problems`` says everything that is wrong with them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def normal_origin(origin: str) -> str:
    """Return a browser origin, or a pattern of origins, in the one form that is compared.

    Lower case, without a default port. ``https://*.example.com`` is the only form of wildcard: a whole
    leftmost label.

    Raises:
        ValueError: it is not ``scheme://host[:port]``.
    """
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None or ".." in match["host"] or int(match["port"] or 1) not in range(1, 65536):
        raise ValueError("not an origin")
    port = match["port"]
    if port is None or str(int(port)) == _DEFAULT_PORTS[match["scheme"]]:
        return f"{match['scheme']}://{match['host']}"
    return f"{match['scheme']}://{match['host']}:{int(port)}"


def without_credentials(url: str) -> str:
    """Return ``url`` with the user and password in it masked, also those in its query, fit to be shown."""
    return _QUERY_CREDENTIALS.sub(r"\1***", _URL_CREDENTIALS.sub("***", url))


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _matching(pattern: re.Pattern[str]) -> AfterValidator:
    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise ValueError("does not match")
        return value

    return AfterValidator(check)


def _check_secret(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        secret = value.get_secret_value()
        if len(secret.encode()) < MIN_SECRET_BYTES or secret.startswith(_PUBLIC):
            raise ValueError("too short, or no secret")
    return value


def _resolvable(value: str) -> str:
    value.encode("idna")  # as the resolver does it, which knows no other way to say that it is no name
    return value


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value, strict=False))


def _about(description: str, expects: str) -> Any:
    """Describe a setting: what it does, and (for error messages) what it must be."""
    return Field(description=description, json_schema_extra={"expects": expects})


_Claim = Annotated[str, Field(pattern=r"^[^\s]{1,200}$")]
_CLAIM = "the name of a claim, e.g. sub or https://example.com/tenant"
_Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class Settings(BaseModel):
    """All settings, validated. Make it by ``load``, or directly where a program knows what it wants."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    host: Annotated[
        str,
        Field(min_length=1),
        AfterValidator(_resolvable),
        _about("Address to listen on.", "an address to listen on, e.g. 127.0.0.1"),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Field(ge=0, le=65535),
        _about("Port to listen on; 0 takes a free one.", "a whole number from 0 to 65535"),
    ] = 8765
    store: Annotated[
        str,
        _matching(_STORE),
        _about(
            "Where conversations are kept; a relative path is below the project folder.",
            "sqlite:FILE, mongodb://HOST/DATABASE, memory: or module:factory",
        ),
    ] = "sqlite:parley.db"
    bus: Annotated[
        str,
        _matching(_BUS),
        _about(
            "How instances tell each other what happened, and what they count; `memory:` serves one.",
            "memory:, redis://HOST, rediss://HOST (TLS) or module:factory",
        ),
    ] = "memory:"
    mongo_driver: Annotated[
        Literal["pymongo", "motor"],
        BeforeValidator(_lower),
        _about("The driver behind a `mongodb://` store.", "pymongo or motor"),
    ] = "pymongo"
    mongo_pool: Annotated[
        int,
        Field(ge=1, le=1000),
        _about(
            "Most connections to MongoDB at a time; `maxPoolSize` in the URL wins.",
            "a whole number from 1 to 1000",
        ),
    ] = 32
    mongo_timeout_ms: Annotated[
        int,
        Field(ge=100, le=5000),
        _about(
            "Longest that a call to MongoDB waits, all in all; `timeoutMS` in the URL wins.",
            "a whole number from 100 to 5000",
        ),
    ] = 3_000
    flows: Annotated[
        Path,
        _about("Folder of the flow files; relative to the project folder.", "the path of a folder"),
    ] = Path("flows")
    actions: Annotated[
        tuple[Annotated[str, _matching(_MODULE)], ...],
        BeforeValidator(_split),
        _about("Python modules with actions, e.g. `my_shop.calendar`.", "import paths with commas between"),
    ] = ()
    jwt_secret: Annotated[
        SecretStr | None,
        BeforeValidator(_empty_is_none),
        AfterValidator(_check_secret),
        _about(
            "Secret that signs and verifies tokens (HS256). `serve` needs it; `dev` keeps its own.",
            f"at least {MIN_SECRET_BYTES} bytes; `openssl rand -hex 32` makes one",
        ),
    ] = None
    jwt_issuer: Annotated[
        str, _about("Required `iss` claim; emptied on purpose, none is required.", "text")
    ] = "parley"
    jwt_audience: Annotated[
        str, _about("Required `aud` claim; emptied on purpose, none is required.", "text")
    ] = "parley"
    jwt_claim_user: Annotated[_Claim, _about("Claim that holds the user.", _CLAIM)] = "sub"
    jwt_claim_tenant: Annotated[_Claim, _about("Claim that holds the tenant.", _CLAIM)] = "tenant_id"
    jwt_claim_role: Annotated[_Claim, _about("Claim that holds the role.", _CLAIM)] = "role"
    jwt_claim_tier: Annotated[_Claim, _about("Claim that holds the tier.", _CLAIM)] = "tier"
    jwt_claim_scopes: Annotated[
        _Names,
        Field(min_length=1),
        _about("Claims that hold scopes; the first that is there counts.", "names of claims, commas between"),
    ] = ("scope", "scopes", "permissions")
    jwks_url: Annotated[
        str | None,
        BeforeValidator(_empty_is_none),
        _about(
            "Address of an identity provider's keys. This version refuses it: only HS256 is there yet.",
            "unset, because this version verifies by PARLEY_JWT_SECRET only",
        ),
    ] = None
    default_tenant: Annotated[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")] | None,
        BeforeValidator(_empty_is_none),
        _about(
            "Tenant of tokens without a tenant claim; unset, such tokens are refused. `dev`: `default`.",
            "1 to 100 of A-Z a-z 0-9 _ -",
        ),
    ] = None
    origins: Annotated[
        tuple[Annotated[str, AfterValidator(normal_origin)], ...],
        BeforeValidator(_split),
        _about(
            "Browser origins that may connect, e.g. `https://shop.example,https://*.example.com`.",
            "origins like https://shop.example or https://*.example.com, commas between",
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(_network)], ...],
        BeforeValidator(_split),
        _about("Proxies whose `X-Forwarded-For` is believed.", "addresses or networks like 10.0.0.0/8"),
    ] = ()
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(_lower),
        _about("Least level that is logged.", "debug, info, warning or error"),
    ] = "info"
    log_format: Annotated[
        Literal["json", "console"],
        BeforeValidator(_lower),
        _about("One JSON object a line, or lines for people. `dev`: `console`.", "json or console"),
    ] = "json"
    session_hours: Annotated[
        float,
        Field(ge=0, le=24 * 365),
        _about(
            "Hours without a message after which an execution that waits for its user expires, at the next "
            "full hour; 0: never.",
            "a number of hours, 0 to 8760",
        ),
    ] = 48
    message_max_chars: Annotated[
        int,
        Field(ge=1, le=100_000),
        _about("Longest message text.", "a whole number from 1 to 100000"),
    ] = 2000
    max_frame_bytes: Annotated[
        int,
        Field(ge=1024, le=1_048_576),
        _about("Largest client frame.", "a whole number from 1024 to 1048576"),
    ] = 65536
    frames_per_second: Annotated[
        int,
        Field(ge=1, le=100_000),
        _about("Client frames a second and connection; burst twice that.", "a whole number from 1 to 100000"),
    ] = 20
    limits: Annotated[
        bool,
        _about(
            "Rate limits of the tiers, for the visitors of keys without a rate of their own.", "on or off"
        ),
    ] = True
    visitors_per_address: Annotated[
        int,
        Field(ge=1),
        _about("Tokens that visitors of one address may ask for a minute.", "a whole number from 1"),
    ] = 120
    connections_per_principal: Annotated[
        int, Field(ge=1), _about("Open connections of one user.", "a whole number from 1")
    ] = 100
    connections_per_instance: Annotated[
        int, Field(ge=1), _about("Open connections of one server process.", "a whole number from 1")
    ] = 20_000
    drain_seconds: Annotated[
        float,
        Field(ge=0, le=600),
        _about("How long running steps may go on after SIGTERM.", "a number of seconds from 0 to 600"),
    ] = 25
    sweep_seconds: Annotated[
        float,
        Field(ge=0.01, le=60),
        _about("Pause between two looks for what is due.", "a number of seconds from 0.01 to 60"),
    ] = 1.0
    workers: Annotated[
        int,
        Field(ge=1, le=64),
        _about(
            "Server processes of `serve`, which share the port; each is an instance, so several need a "
            "`mongodb://` store and a `redis://` bus.",
            "a whole number from 1 to 64",
        ),
    ] = 1
    instance_id: Annotated[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None,
        BeforeValidator(_empty_is_none),
        _about(
            "Name of this process in logs and leases; unset, it is made. Workers add `-1`, `-2` and so on.",
            "1 to 64 of A-Z a-z 0-9 . _ -",
        ),
    ] = None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Keep the passwords of store and bus out of logs and tracebacks, as pydantic keeps secrets."""
        for name, value in super().__repr_args__():
            yield name, without_credentials(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        for _name, message in _combination_problems(dict(self)):
            raise ValueError(message)
        return self

    @classmethod
    def load(
        cls,
        env: Mapping[str, str],
        overrides: Mapping[str, Any],
        cwd: Path,
        *,
        defaults: Mapping[str, Any] | None = None,
        needs_secret: bool = False,
    ) -> "Settings":
        """Read the settings of the project in ``cwd``.

        Args:
            env: the environment; only names that begin with ``PARLEY_`` are looked at.
            overrides: what flags said, by the setting's lower-case name; None means not said.
            cwd: the project folder: its ``.env`` and ``parley.toml`` are read if they exist, and
                relative paths are below it.
            defaults: values that a command has instead of the model's own defaults.
            needs_secret: whether a missing ``JWT_SECRET`` is a problem.

        Raises:
            SettingsInvalid: something is unknown, malformed or does not fit; it says everything.
        """
        found, problems = _collect(env, overrides, cwd)
        if needs_secret and _value(found, "jwt_secret") in (None, "") and not _value(found, "jwks_url"):
            problems.append(
                Problem(
                    "PARLEY_JWT_SECRET",
                    "not set",
                    "is needed to verify tokens: set it to at least 32 random bytes, e.g. by "
                    '`export PARLEY_JWT_SECRET="$(openssl rand -hex 32)"`, or use `parley dev`',
                )
            )
        values = {
            **(defaults or {}),
            **{name: given.value for name, given in found.items() if not _is_unset(name, given)},
        }
        problems += _field_problems(values, found)
        for name, message in _combination_problems(values):
            problems.append(Problem(_shown_name(name, found), _source(name, found), message))
        if problems:
            raise SettingsInvalid(problems)
        return cls.model_validate(_below(cwd, values))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting's value comes from.

    Attributes:
        value: it as text, fit to be shown: secrets and passwords are masked; empty where there is none.
        source: a file, ``environment``, ``flag`` or ``default``.
    """

    value: str
    source: str


def origins_of(settings: Settings, env: Mapping[str, str], cwd: Path) -> dict[str, Origin]:
    """Return for each setting what it is and where that was read; ``settings`` is what ``load`` returned."""
    found, _ = _collect(env, {}, cwd)
    return {
        name: Origin(
            _fit_to_show(getattr(settings, name)), found[name].source if name in found else "default"
        )
        for name in Settings.model_fields
    }


def _fit_to_show(value: object) -> str:
    """Return a value as one would write it in the environment."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return without_credentials(str(value))  # a SecretStr masks itself


@dataclass(frozen=True, slots=True)
class _Given:
    value: Any
    name: str  # as it was written: PARLEY_PORT, port, --port
    source: str


def _is_unset(name: str, given: _Given) -> bool:
    """Tell whether an empty text stands for nothing: compose files pass what is not set so."""
    return given.value == "" and Settings.model_fields[name].default is None


def _collect(
    env: Mapping[str, str], overrides: Mapping[str, Any], cwd: Path
) -> tuple[dict[str, _Given], list[Problem]]:
    """Read all sources, the weakest first; a later one replaces what an earlier one gave."""
    found: dict[str, _Given] = {}
    problems: list[Problem] = []
    for given in (*_from_toml(cwd / TOML_NAME), *_from_dotenv(cwd / DOTENV_NAME), *_from_env(env)):
        if isinstance(given, Problem):
            problems.append(given)
        else:
            found[_key(given.name)] = given
    for name, value in overrides.items():
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            found[name] = _Given(value, flag, "flag")
    return found, problems


def _key(written: str) -> str:
    return written.removeprefix(PREFIX).lower()


def _from_toml(path: Path) -> Iterator[_Given | Problem]:
    text = _read(path)
    if isinstance(text, Problem):
        yield text
        return
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        yield Problem(TOML_NAME, str(path), f"is not TOML: {error}")
        return
    for name, value in table.items():
        if name in Settings.model_fields:
            yield _Given(value, name, str(path))
        else:
            yield Problem(name, str(path), _unknown(name.lower().removeprefix("parley_"), str.lower))


def _from_dotenv(path: Path) -> Iterator[_Given | Problem]:
    text = _read(path)
    if isinstance(text, Problem):
        yield text
        return
    if not text:
        return
    from dotenv.parser import parse_stream  # only where there is such a file

    for binding in parse_stream(io.StringIO(text)):
        source = f"{path}:{binding.original.line}"
        if binding.error:
            yield Problem(DOTENV_NAME, source, "cannot be read; a line is NAME=value")
        elif binding.key is not None and (given := _from_variable(binding.key, binding.value, source)):
            yield given


def _from_env(env: Mapping[str, str]) -> Iterator[_Given | Problem]:
    for name, value in env.items():
        if name.startswith(PREFIX) and (given := _from_variable(name, value, "environment")):
            yield given


def _from_variable(name: str, value: str | None, source: str) -> _Given | Problem | None:
    """Look at one variable; those of other programs, which a ``.env`` may hold too, are left alone."""
    if name.startswith(TEST_PREFIX) or name in CLIENT_NAMES:
        return None
    if not name.startswith(PREFIX):
        near = difflib.get_close_matches(name, _variables(), 1, 0.85)
        return Problem(name, source, f"is no setting; did you mean {near[0]}?") if near else None
    if name not in _variables():
        return Problem(name, source, _unknown(_key(name), lambda key: PREFIX + key.upper()))
    return _Given(value or "", name, source)


def _variables() -> list[str]:
    return [PREFIX + name.upper() for name in Settings.model_fields]


def _unknown(name: str, written: Any) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, 1, 0.6) or [
        known for known in Settings.model_fields if name and (known.endswith(name) or known.startswith(name))
    ]
    if near:
        return f"is no setting; did you mean {written(near[0])}?"
    return "is no setting; docs/reference/settings.md lists them"


def _read(path: Path) -> str | Problem:
    """Return a file's text, "" if there is no such file."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError:
        return Problem(path.name, str(path), "is not UTF-8 text")
    except OSError as error:
        return Problem(path.name, str(path), f"cannot be read: {error.strerror}")


def _field_problems(values: Mapping[str, Any], found: Mapping[str, _Given]) -> Iterator[Problem]:
    """Validate each value by itself, so that one wrong value hides no other."""
    wrong = {
        name
        for name, value in values.items()
        if isinstance(value, bool) and Settings.model_fields[name].annotation is not bool
    }
    try:
        Settings.model_validate({name: value for name, value in values.items() if name not in wrong})
    except ValidationError as error:
        wrong |= {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
    for name in sorted(wrong):
        yield Problem(_shown_name(name, found), _source(name, found), _wrong(name, values[name]))


def expects(name: str) -> str:
    """Return what a setting must be, in words."""
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["expects"])


def _wrong(name: str, value: object) -> str:
    if name == "jwt_secret" and str(value).startswith(_PUBLIC):
        return f"is a key or certificate and must be a secret of {expects(name)}"
    if name == "jwt_secret":
        return f"has {len(str(value).encode())} bytes and must have {expects(name)}"
    shown = without_credentials(str(value))
    if len(shown) > _SHOWN_CHARS:
        shown = shown[:_SHOWN_CHARS] + "..."
    return f"must be {expects(name)}, not {shown!r}"


def _combination_problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (setting, sentence) for what is right alone and wrong together."""
    store, bus = str(values.get("store", _SQLITE)), str(values.get("bus", "memory:"))
    if bus.startswith("redis") and store.startswith((_SQLITE, "memory:")):
        kind = "SQLite file" if store.startswith(_SQLITE) else "memory store"
        yield (
            "bus",
            f"joins several instances, but a {kind} serves exactly one: leave PARLEY_BUS unset, or set "
            "PARLEY_STORE to mongodb://...",
        )
    workers = _whole(values.get("workers", 1))
    if workers > 1:
        alone = []
        if store.startswith((_SQLITE, "memory:")):
            alone.append("PARLEY_STORE to mongodb://...")
        if bus == "memory:":
            alone.append("PARLEY_BUS to redis://...")
        if alone:
            yield (
                "workers",
                f"asks for {workers} processes, each an instance of its own: set {' and '.join(alone)}, "
                "or leave PARLEY_WORKERS unset",
            )
    if values.get("jwks_url"):
        yield "jwks_url", f"must be {expects('jwks_url')}"


def _whole(value: object) -> int:
    """Return the number that a field of whole numbers takes ``value`` for; 1 where it takes it for none."""
    try:
        return _WHOLE.validate_python(value)
    except ValidationError:
        return 1  # the field itself says what is wrong


def _value(found: Mapping[str, _Given], name: str) -> Any:
    return found[name].value if name in found else None


def _shown_name(name: str, found: Mapping[str, _Given]) -> str:
    return found[name].name if name in found else PREFIX + name.upper()


def _source(name: str, found: Mapping[str, _Given]) -> str:
    return found[name].source if name in found else "default"


def with_home(path: Path) -> Path:
    """Return a path with its ``~`` resolved, or as it is where there is no such user: as shells do."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _below(cwd: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Make relative paths absolute, below the project folder."""
    resolved = dict(values)
    resolved["flows"] = cwd / with_home(Path(values.get("flows") or "flows"))
    store = values.get("store", "sqlite:parley.db")
    if store.startswith(_SQLITE) and ":memory:" not in store:
        resolved["store"] = _SQLITE + str(cwd / with_home(Path(store.removeprefix(_SQLITE))))
    return resolved

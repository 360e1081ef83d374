"""The reference pages of settings and commands, and ``.env.example``, made from what they are.

``python -m server.cli.reference`` writes them; a test tells whether they are current.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

import rich_click as click

from server.cli.errors import EXIT_CODES
from server.cli.group import COMMANDS, command
from server.settings import CLIENT_NAMES, DOTENV_NAME, PREFIX, TEST_PREFIX, TOML_NAME, Settings, expects

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "docs" / "reference"

_CLIENT_NAMES: Final = " and ".join(f"`{name}`" for name in sorted(CLIENT_NAMES))

_SETTINGS_INTRO: Final = f"""\
# Settings

<!-- Written by `python -m server.cli.reference`; change `server/settings.py` instead. -->

A setting has one name everywhere: `{PREFIX}PORT` in the environment and in `{DOTENV_NAME}`, `port` in
`{TOML_NAME}`, `--port` as a flag of `parley dev` and `parley serve`. A flag beats the environment, which
beats `{DOTENV_NAME}`, which beats `{TOML_NAME}`, which beats the default. Both files are read from the
project's folder, and relative paths are below it (those of flags: below the current folder).

In the environment and in `{DOTENV_NAME}`, a list is written with commas, a switch as `on` or `off`; in
`{TOML_NAME}`, a list is an array. An unknown name is an error, with a suggestion; so is every value that
does not fit, and all problems are reported at once. Names that begin with `{TEST_PREFIX}` are left alone,
and so are {_CLIENT_NAMES}, which are for clients, and other programs' variables in `{DOTENV_NAME}`.
`JWT_SECRET` is no flag, because everybody on a machine can read the command lines of its processes.

`dev` has defaults of its own: `DEFAULT_TENANT` `default`, `LOG_FORMAT` `console`, `LOG_LEVEL` `warning`,
`DRAIN_SECONDS` 5, `STORE` and `JWT_SECRET` in the project's `.parley` folder. Its own page may
always connect, whatever `ORIGINS` says.

A SQLite or memory store serves exactly one instance, so it is refused together with a networked `BUS`.

| setting | default | it must be | what it is |
|---|---|---|---|
"""

_SETTINGS_REDIS: Final = """\

## Redis

`PARLEY_BUS=redis://[[USER]:PASSWORD@]HOST[:PORT][/DB][?OPTION=VALUE&...]`, or `rediss://` for TLS.
User and password are percent-encoded. Redis 6.2 or newer, 7.0 for a cluster. It needs no persistence, as
nothing rests on what it holds: bus, limits, who is connected, a cache. `maxmemory-policy` should be
`noeviction`: with another one, limits and who is connected are forgotten where memory is short.

| option | default | what it is |
|---|---|---|
| `prefix` |  | Stands before every key and channel: several installations can share a server. |
| `cluster` | `auto` | `yes` or `no` where the server does not tell. HOST may be any node. |
| `ssl_ca_certs` | the system's | File of the CA that the server's certificate must be of. |
| `ssl_certfile`, `ssl_keyfile`, `ssl_password` |  | The certificate that Parley shows, if one is wanted. |
| `ssl_check_hostname` | `true` | Whether the certificate must be for HOST. |
| `ssl_cert_reqs` | `required` | `none` trusts any certificate: only where nobody else can listen. |

A user of its own needs `~parley:* &parley:*` (the prefix in front) and `+@read +@write +@pubsub
+@scripting +@connection +time +info +cluster|slots`. A Redis that cannot be reached, or not yet, does
not keep an instance from starting: it serves its own connections, `/readyz` says degraded, and it goes
on trying. Wrong credentials, missing rights, an old version and an untrusted certificate are refused at
the start.
"""

_ENV_INTRO: Final = f"""\
# Copy this to .env, for docker-compose.yml or for a project's own folder, and keep that from others' eyes.
# Written by `python -m server.cli.reference`. What is commented out shows the default of `parley serve`;
# docker-compose.yml has its own for HOST, PORT, STORE, BUS and TRUSTED_PROXIES.

# Required. Signs and verifies tokens: at least 32 bytes; `openssl rand -hex 32` makes one.
{PREFIX}JWT_SECRET=

# For docker-compose.yml only: the port of the balancer, and the project that is served.
#PUBLIC_PORT=8080
#PROJECT=./examples/booking
"""

_CLI_INTRO: Final = """\
# The command line

<!-- Written by `python -m server.cli.reference`; change `server/cli/` instead. -->

`parley COMMAND --help` tells the same in the terminal. `python -m server` is `parley`. PROJECT is a folder
with a `parley.toml` or a `flows` folder in it; without it, the current folder is the project.

An error is a sentence on standard error that says what to do.

| exit code | meaning |
|---|---|
"""


def settings_page() -> str:
    """Return ``docs/reference/settings.md``."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(field.get_default())} | {_cell(expects(name))} "
        f"| {_cell(field.description or '')} |"
        for name, field in Settings.model_fields.items()
    ]
    return _SETTINGS_INTRO + "\n".join(rows) + "\n" + _SETTINGS_REDIS


def cli_page() -> str:
    """Return ``docs/reference/cli.md``."""
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    return _CLI_INTRO + codes + "".join(_command_section(name) for name in COMMANDS)


def env_example() -> str:
    """Return ``.env.example``: every setting with its default, commented out."""
    return _ENV_INTRO + "".join(
        f"\n# {field.description}\n#{PREFIX}{name.upper()}={_default(field.get_default()).strip('`')}\n"
        for name, field in Settings.model_fields.items()
        if name != "jwt_secret"
    )


def pages() -> Mapping[Path, str]:
    """Return the pages by their files."""
    return {
        FOLDER / "settings.md": settings_page(),
        FOLDER / "cli.md": cli_page(),
        ROOT / ".env.example": env_example(),
    }


def _default(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _command_section(name: str) -> str:
    found = command(name)
    if isinstance(found, click.Group):
        parts = (_section(f"{name} {part}", found.commands[part], 3) for part in found.commands)
        return f"\n## parley {name}\n\n{_paragraphs(found.help or '')}\n{''.join(parts)}"
    return _section(name, found, 2)


def _section(name: str, found: click.Command, level: int) -> str:
    arguments = [
        param.make_metavar(click.Context(found))
        for param in found.params
        if param.param_type_name == "argument"
    ]
    usage = " ".join(["parley", name, "[OPTIONS]", *arguments])
    options = [param for param in found.params if isinstance(param, click.Option)]
    settings = {option.name for option in options} & set(Settings.model_fields)
    takes_all = len(settings) == len(Settings.model_fields) - 1  # the secret is no flag
    own = [option for option in options if not takes_all or option.name not in settings]
    lines = [f"\n{'#' * level} parley {name}\n", f"`{usage}`\n", _paragraphs(found.help or "")]
    if own:
        lines += ["\n| option | what it is |\n|---|---|", *(_option_row(option) for option in own)]
    if takes_all:
        lines.append("\nAnd a flag for every setting of [settings](settings.md) but `JWT_SECRET`.")
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _option_row(option: click.Option) -> str:
    metavar = "" if option.is_flag else f" {option.make_metavar(click.Context(click.Command('x')))}"
    default = f" Default: `{option.default}`." if option.show_default else ""
    return f"| `{', '.join(option.opts)}{_cell(metavar)}` | {_cell(option.help or '')}{default} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _write() -> Iterator[Path]:
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        yield path


if __name__ == "__main__":
    for written in _write():
        click.echo(written)

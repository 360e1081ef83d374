"""A project as the commands see it: its folder, its settings, and what ``dev`` keeps in ``.parley/``.

``.parley/`` is mode 0700 and holds the secret that ``dev`` signs with (mode 0600), the SQLite file, and,
while ``dev`` runs, its address; so ``chat`` and ``token`` beside it need to be told nothing.
"""

import contextlib
import errno
import json
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from server.cli.errors import CANNOT_START, USAGE, CliError
from server.settings import TOML_NAME, Settings, SettingsInvalid, with_home

STATE_NAME: Final = ".parley"
DEV_TENANT: Final = "default"
DEV_USER: Final = "dev"

FLOW_ENDINGS: Final = (".yaml", ".yml", ".json")


class Project:
    """A project folder.

    Args:
        folder: absolute path.
        flows: the flows folder, where the command line named it.
    """

    def __init__(self, folder: Path, flows: Path | None = None) -> None:
        self.folder = folder
        self.flows = flows
        self.state = folder / STATE_NAME

    @classmethod
    def at(cls, place: Path | None) -> "Project":
        """Find the project that an argument names.

        It is a project folder, its ``parley.toml``, or a folder with nothing but flow files; then the
        project is the current folder.

        Raises:
            CliError: there is no such thing.
        """
        here = Path.cwd()
        if place is None:
            return cls(here)
        path = here / with_home(place)
        if path.is_file() and path.name == TOML_NAME:
            return cls(path.parent.resolve())
        if not path.is_dir():
            what = "is not a project folder" if path.exists() else "does not exist"
            raise CliError(f"{place} {what}; name a folder with a {TOML_NAME} or flow files in it.", USAGE)
        path = path.resolve()
        if not (path / TOML_NAME).exists() and not (path / "flows").is_dir() and _has_flows(path):
            return cls(here, flows=path)
        return cls(path)

    def settings(
        self,
        overrides: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any] | None = None,
        needs_secret: bool = False,
    ) -> Settings:
        """Read the settings, the environment of the process included.

        Raises:
            CliError: they are wrong; the message has a line for each problem.
        """
        given = dict(overrides)
        if self.flows is not None and given.get("flows") is None:
            given["flows"] = self.flows
        try:
            return Settings.load(os.environ, given, self.folder, defaults=defaults, needs_secret=needs_secret)
        except SettingsInvalid as error:
            problems = [f"  {problem}" for problem in error.problems]
            count = "a setting is" if len(problems) == 1 else f"{len(problems)} settings are"
            raise CliError("\n".join([f"{count} wrong:", *problems]), USAGE) from None

    def import_actions_from(self) -> None:
        """Let the modules of ``ACTIONS`` be found in the project folder."""
        if str(self.folder) not in sys.path:
            sys.path.append(str(self.folder))

    def secret(self) -> str | None:
        """Return the secret that ``dev`` keeps, None if it never ran here.

        Raises:
            CliError: it cannot be read.
        """
        try:
            return self._secret_path.read_text(encoding="ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise CliError(
                f"{self._secret_path} cannot be read ({_reason(error)}); remove it, and `parley dev` makes "
                "a new one.",
                CANNOT_START,
            ) from None

    def make_state(self) -> None:
        """Make the folder for what ``dev`` keeps, if there is none.

        Raises:
            CliError: it cannot be made or written to.
        """
        try:
            self.state.mkdir(mode=0o700, exist_ok=True)
            ignore = self.state / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n", encoding="ascii")
        except OSError as error:
            raise self._unwritable(error) from None
        if not os.access(self.state, os.W_OK | os.X_OK):
            raise self._unwritable(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def make_secret(self) -> str:
        """Return the secret that ``dev`` keeps, made now if there is none; it outlives every restart.

        Raises:
            CliError: it cannot be written or read.
        """
        try:
            if self.secret() is None:
                self._write_secret(secrets.token_hex(32))
            self._secret_path.chmod(0o600)
        except OSError as error:
            raise self._unwritable(error) from None
        secret = self.secret()
        assert secret is not None
        return secret

    def write_address(self, url: str) -> None:
        """Note where ``dev`` serves."""
        with contextlib.suppress(OSError):
            self._address_path.write_text(json.dumps({"url": url, "pid": os.getpid()}), encoding="utf-8")

    def forget_address(self) -> None:
        """Take the note away, if it is still ours."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(self._address_path.read_text(encoding="utf-8"))["pid"] == os.getpid():
                self._address_path.unlink()

    def address(self) -> str | None:
        """Return where ``dev`` serves, or served when it was killed."""
        try:
            return str(json.loads(self._address_path.read_text(encoding="utf-8"))["url"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def command(self, name: str) -> str:
        """Return how to run a command for this project from the current folder, the way this one was."""
        place = [] if self.folder == Path.cwd() else [shlex.quote(shown(self.folder))]
        return " ".join([_program(), name, *place])

    @property
    def _secret_path(self) -> Path:
        return self.state / "secret"

    @property
    def _address_path(self) -> Path:
        return self.state / "dev.json"

    def _unwritable(self, error: OSError) -> CliError:
        return CliError(
            f"{self.state} cannot be written ({_reason(error)}); `dev` keeps its secret and its store there: "
            "give yourself the permission, or copy the project.",
            CANNOT_START,
        )

    def _write_secret(self, secret: str) -> None:
        """Write the secret whole or not at all; of two that start together, the first one's counts."""
        draft = self.state / f"secret.{os.getpid()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, self._secret_path)
        draft.unlink()


def _program() -> str:
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m server"
    found = shutil.which(called.name)
    if found is not None and Path(found).resolve() == called.resolve():
        return called.name
    return shlex.quote(os.path.relpath(called))


def _has_flows(folder: Path) -> bool:
    return any(path.suffix in FLOW_ENDINGS for path in folder.iterdir())


def _reason(error: Exception) -> str:
    return (error.strerror or "") if isinstance(error, OSError) else "not text"


def shown(path: Path) -> str:
    """Return a path as somebody in the current folder would write it."""
    here, resolved = Path.cwd(), path.resolve()
    return str(resolved.relative_to(here)) if resolved.is_relative_to(here) else str(path)

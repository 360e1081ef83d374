"""Options that several commands share: a project, and a flag for every setting."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from server.settings import PREFIX, Settings, with_home

_Command = TypeVar("_Command", bound=Callable[..., Any])

_NO_FLAG = frozenset({"jwt_secret"})
"""The command line of a process can be read by every user of the machine."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)")


class Duration(click.ParamType[int]):
    """A time like ``90s``, ``60m``, ``8h`` or ``30d``; its value is in whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds."""
        match = _DURATION.fullmatch(str(value))
        seconds = int(match[1]) * _UNITS[match[2] or "s"] if match else 0
        if seconds == 0:
            self.fail(f"{value!r} is no duration; write 90s, 60m, 8h or 30d.", param, ctx)
        return seconds


def with_project(command: _Command) -> _Command:
    """Add the argument ``place``: the project."""
    return click.argument("place", metavar="[PROJECT]", required=False, type=click.Path(path_type=Path))(
        command
    )


def with_settings(command: _Command) -> _Command:
    """Add a flag for every setting; a flag that is not there has the value None."""
    for name, field in reversed(Settings.model_fields.items()):
        if name not in _NO_FLAG:
            text = (field.description or "").replace("`", "")
            command = click.option(
                f"--{name.replace('_', '-')}",
                name,
                metavar=_metavar(name),
                help=f"{text} {PREFIX}{name.upper()}",
            )(command)
    return command


def _metavar(name: str) -> str:
    known = {
        "port": "PORT",
        "host": "ADDRESS",
        "flows": "FOLDER",
        "limits": "on|off",
        "log_format": "json|console",
    }
    return known.get(name, "VALUE")


def overrides_of(flags: dict[str, Any]) -> dict[str, Any]:
    """Return flags as overrides; paths on the command line are relative to the current folder."""
    overrides = dict(flags)
    if overrides.get("flows"):
        overrides["flows"] = Path.cwd() / with_home(Path(overrides["flows"]))
    store = overrides.get("store")
    if isinstance(store, str) and store.startswith("sqlite:") and ":memory:" not in store:
        overrides["store"] = f"sqlite:{Path.cwd() / with_home(Path(store.removeprefix('sqlite:')))}"
    return overrides

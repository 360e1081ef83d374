"""``parley config``."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import rich_click as click

from server.cli.errors import OK, USAGE, CliError
from server.cli.project import Project
from server.settings import PREFIX, Origin, Settings, expects, origins_of


@click.command()
@click.argument("what", type=click.Choice(["show", "explain", "env"]))
@click.argument("name", metavar="[SETTING]", required=False)
@click.option(
    "--project", "place", type=click.Path(path_type=Path), metavar="PROJECT", help="Whose settings."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def config(what: str, name: str | None, place: Path | None, as_json: bool) -> int:
    """Tell the settings of a project, as `serve` would read them here and now.

    `show` prints what they are. `explain` tells where each comes from and what it is for; with the name
    of a SETTING it tells that one. `env` prints a `.env` file: what is set, and the rest commented out.
    Secrets and passwords are masked, everywhere.
    """
    project = Project.at(place)
    wanted = [_setting(name)] if name else list(Settings.model_fields)
    origins = origins_of(project.settings({}), os.environ, project.folder)
    shown = {setting: origins[setting] for setting in wanted}
    if as_json:
        click.echo(json.dumps({key: {"value": o.value, "source": o.source} for key, o in shown.items()}))
        return OK
    lines = {"show": _show, "explain": _explain, "env": _env}[what](shown)
    click.echo("\n".join(lines))
    return OK


def _setting(written: str) -> str:
    """Return a setting's name, however it is written. Raises CliError."""
    import difflib

    name = written.removeprefix("--").replace("-", "_").lower().removeprefix(PREFIX.lower())
    if name in Settings.model_fields:
        return name
    near = difflib.get_close_matches(name, Settings.model_fields, 1)
    hint = f" did you mean {near[0]}?" if near else " `parley config show` lists them."
    raise CliError(f"{written} is no setting;{hint}", USAGE)


def _show(origins: Mapping[str, Origin]) -> Iterator[str]:
    width = max(map(len, origins))
    for name, origin in origins.items():
        yield f"{click.style(f'{name:<{width}}', fg='cyan')}  {origin.value}".rstrip()


def _explain(origins: Mapping[str, Origin]) -> Iterator[str]:
    for place, (name, origin) in enumerate(origins.items()):
        field = Settings.model_fields[name]
        if place:
            yield ""
        yield f"{name} = {origin.value or '(nothing)'}"
        yield f"    from {origin.source}"
        yield f"    {field.description}"
        yield f"    It must be {expects(name)}."


def _env(origins: Mapping[str, Origin]) -> Iterator[str]:
    for name, origin in origins.items():
        yield f"# {Settings.model_fields[name].description}"
        line = f"{PREFIX}{name.upper()}={origin.value}"
        is_set = origin.source != "default" and "***" not in origin.value
        yield line if is_set else f"#{line}"

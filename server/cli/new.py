"""``parley new``."""

import re
from pathlib import Path
from typing import Final

import rich_click as click

from server.cli.errors import FAILED, OK, USAGE, CliError
from server.cli.project import Project, shown
from server.cli.templates import flow_text

_FLOW_ID: Final = re.compile(r"[a-z0-9_-]{1,64}")


@click.command()
@click.argument("what", type=click.Choice(["flow"]))
@click.argument("name")
@click.option("--project", "place", type=click.Path(path_type=Path), metavar="FOLDER", help="The project.")
def new(what: str, name: str, place: Path | None) -> int:
    """Add a flow to a project: a file that compiles, to be filled with steps of your own.

    NAME is the flow's id: small letters, digits, - and _.
    """
    if _FLOW_ID.fullmatch(name) is None:
        raise CliError(f"{name} is no flow id: 1 to 64 of a-z 0-9 _ -, e.g. book_appointment.", USAGE)
    folder = Project.at(place).settings({}).flows
    if not folder.is_dir():
        raise CliError(
            f"there is no folder {shown(folder)}; `parley init FOLDER` makes a project, --project names one.",
            USAGE,
        )
    file = folder / f"{name}.yaml"
    try:
        with file.open("x", encoding="utf-8") as made:
            made.write(flow_text(name))
    except FileExistsError:
        raise CliError(f"{shown(file)} is there already.", USAGE) from None
    except OSError as error:
        raise CliError(f"{shown(file)} cannot be written ({error.strerror}).", FAILED) from None
    click.echo(f"Made {shown(file)}. A `parley dev` that runs reads it at once.")
    return OK

"""``parley graph``."""

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from server.cli.errors import FAILED, OK, USAGE, CliError
from server.cli.project import Project

if TYPE_CHECKING:
    from server.engine.flow.model import Flow


@click.command()
@click.argument("flow", metavar="FLOW")
@click.option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "svg"]),
    default="mermaid",
    show_default=True,
    help="Mermaid for a page that draws it, or a picture.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="The file to write.")
def graph(flow: str, form: str, out: Path | None) -> int:
    """Draw a flow: its steps from top to bottom, and the ways between them.

    FLOW is a flow file, or the id of a flow of the project in this folder.
    """
    from server.engine.flow.graph import mermaid, svg

    found = _flow(flow)
    text = svg(found) if form == "svg" else mermaid(found)
    if out is None:
        click.echo(text, nl=False)
        return OK
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{out} cannot be written: {error.strerror}.", FAILED) from None
    return OK


def _flow(named: str) -> "Flow":
    from server.engine.flow.loader import load_folder

    path = Path(named)
    if path.is_file():
        return _compiled(path)
    folder = Project.at(None).settings({}).flows
    if not folder.is_dir():
        raise CliError(f"{named} is no file, and this folder is no project with flows.", USAGE)
    report = load_folder(folder)
    known = {loaded.flow.flow_id: loaded.flow for loaded in report.flows}
    if named not in known:
        there = f"there are {', '.join(sorted(known))}" if known else "there is none"
        raise CliError(f'there is no flow "{named}" here that compiles; {there}.', USAGE)
    return known[named]


def _compiled(path: Path) -> "Flow":
    from server.engine.flow.loader import compile_flow
    from server.engine.flow.model import FlowInvalid

    try:
        return compile_flow(path.read_text(encoding="utf-8"), str(path))
    except FlowInvalid as error:
        raise CliError("the flow does not compile:\n" + str(error), FAILED) from None
    except (OSError, UnicodeDecodeError):
        raise CliError(f"{path} cannot be read as text.", USAGE) from None

"""``parley state``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from server.cli.access import DEVELOPER, WAIT_S, access_to, run_client, with_access
from server.cli.errors import OK
from server.cli.project import Project

if TYPE_CHECKING:
    from parley_client import AsyncParley, State


@click.command()
@click.argument("conversation")
@click.option("--project", "place", type=click.Path(path_type=Path), metavar="FOLDER", help="The project.")
@with_access
@click.option("--json", "as_json", is_flag=True, help="Print the state record as JSON.")
def state(
    conversation: str, place: Path | None, user_id: str, url: str | None, token: str | None, as_json: bool
) -> int:
    """Show where a conversation stands: its step, slots, variables and open requests."""
    access = access_to(Project.at(place), "state", url=url, token=token, user_id=user_id, scopes=DEVELOPER)

    async def ask(parley: "AsyncParley") -> "State":
        return await parley.conversation(conversation).state()

    found = run_client(access, WAIT_S, ask)
    click.echo(json.dumps(found.raw) if as_json else "\n".join(_lines(found)))
    return OK


def _lines(state: "State") -> list[str]:
    flow = f" of {state.flow_id} (version {state.flow_version})" if state.flow_id else ""
    where = click.style(f"{state.status} at {state.current_state}", bold=True)
    lines = [f"{where}{flow}, offset {state.offset}, user {state.user_id}"]
    for title, values in (("slots", state.slots), ("variables", state.variables)):
        lines += [f"  {title}.{name} = {json.dumps(value)}" for name, value in values.items()]
    for pending in state.pending:
        until = f", until {pending.deadline}" if pending.deadline else ""
        lines.append(f"  open: {pending.kind} {pending.pending_id} at {pending.step_id}{until}")
    return lines

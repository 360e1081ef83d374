"""``parley tail``."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from server.cli.access import DEVELOPER, WAIT_S, access_to, run_client, with_access
from server.cli.errors import OK
from server.cli.project import Project

if TYPE_CHECKING:
    from parley_client import AsyncParley


_HEAD: Final = frozenset({"type", "offset", "time", "execution_id", "step_id", "command_id", "cause", "data"})


@click.command()
@click.argument("conversation")
@click.option("--project", "place", type=click.Path(path_type=Path), metavar="FOLDER", help="The project.")
@with_access
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each event.")
def tail(
    conversation: str, place: Path | None, user_id: str, url: str | None, token: str | None, as_json: bool
) -> int:
    """Show a conversation's events as they happen, until Ctrl-C or until it is deleted.

    It goes on over lost connections without losing an event. With a token made here everything is shown;
    with yours, what you may see.
    """
    access = access_to(Project.at(place), "tail", url=url, token=token, user_id=user_id, scopes=DEVELOPER)

    async def watch(parley: "AsyncParley") -> None:
        from server.cli.screen import as_record, printable

        async with parley.conversation(conversation) as chat:
            events = chat.events()
            await chat.ready()
            click.echo(f"Events of {printable(conversation)} from now on; Ctrl-C ends it.", err=True)
            async for event in events:
                record = as_record(event)
                text = json.dumps(record) if as_json else printable(_line(record))
                click.echo(text)
                sys.stdout.flush()

    run_client(access, WAIT_S, watch)
    return OK


def _line(record: Mapping[str, Any]) -> str:
    """Return an event as a line: its place, its type, where the flow stands, and what it says."""
    rest = {name: value for name, value in record.get("data", {}).items() if value not in (None, [], {})}
    if not rest:
        rest = {name: value for name, value in record.items() if name not in _HEAD and value is not None}
    offset = record.get("offset")
    step = f" [{record['step_id']}]" if record.get("step_id") else ""
    return f"{offset if offset is not None else '-':>6}  {record['type']}{step}  {json.dumps(rest)}"

"""``parley reset``."""

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from server.cli.access import DEVELOPER, WAIT_S, access_to, run_client, with_access
from server.cli.errors import OK
from server.cli.project import Project

if TYPE_CHECKING:
    from parley_client import AsyncParley


@click.command()
@click.argument("conversation")
@click.option("--project", "place", type=click.Path(path_type=Path), metavar="FOLDER", help="The project.")
@with_access
@click.option("--reason", default="manual_reset", show_default=True, metavar="TEXT", help="Why, for the log.")
def reset(
    conversation: str, place: Path | None, user_id: str, url: str | None, token: str | None, reason: str
) -> int:
    """Let a conversation begin afresh: what runs is cancelled, slots and variables are cleared."""
    access = access_to(Project.at(place), "reset", url=url, token=token, user_id=user_id, scopes=DEVELOPER)

    async def do(parley: "AsyncParley") -> None:
        await parley.conversation(conversation).reset(reason)

    run_client(access, WAIT_S, do)
    click.echo(f"{conversation} begins afresh.")
    return OK

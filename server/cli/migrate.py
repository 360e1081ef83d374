"""``parley migrate``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from server.cli.errors import OK
from server.cli.project import Project
from server.cli.stores import settings_of, with_store

if TYPE_CHECKING:
    from storage.base import Store


@click.command()
@click.option("--project", "place", type=click.Path(path_type=Path), metavar="FOLDER", help="The project.")
@click.option("--store", metavar="URL", help="The store. [default: PARLEY_STORE, else the project's]")
def migrate(place: Path | None, store: str | None) -> int:
    """Bring a store to this release: make the tables or indexes that are missing, and say which.

    A server does this by itself when it starts. Where a database is large, making an index takes a while:
    do it beforehand, then the new release starts at once. On MongoDB servers may run meanwhile; a SQLite
    file has to be free.
    """
    settings = settings_of(Project.at(place), store, makes=True)

    async def made(opened: "Store") -> Sequence[str]:
        return opened.migrated

    done = with_store(settings, made)
    for change in done:
        click.echo(f"made {change}")
    if not done:
        click.echo("nothing was missing")
    return OK

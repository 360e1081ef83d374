"""``parley import``."""

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from server.cli.errors import FAILED, OK, USAGE, CliError
from server.cli.project import Project
from server.cli.stores import settings_of, with_store

if TYPE_CHECKING:
    from server.transfer.importing import Imported
    from storage.base import Store


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--project", "place", type=click.Path(path_type=Path), metavar="FOLDER", help="The project.")
@click.option("--store", metavar="URL", help="The store. [default: PARLEY_STORE, else the project's]")
@click.option("--tenant", metavar="T", help="Whose they become. [default: as in the file]")
@click.option("--skip-existing", is_flag=True, help="Leave out what the store has already.")
def import_(
    file: Path, place: Path | None, store: str | None, tenant: str | None, skip_existing: bool
) -> int:
    """Read conversations of an export into a store, which is made if there is none.

    On a store that is a file, no server may run meanwhile. The file is looked through first: a broken one,
    and one with a conversation that the store has already, changes nothing. Ids stay; each conversation
    begins a new epoch, so that clients that knew it load it anew. What was deleted here stays deleted: its
    id is taken for 30 days.
    """
    from server.transfer.importing import BrokenFile, check

    try:
        contents = check(file)
    except BrokenFile as broken:
        raise CliError(f"{file} cannot be imported: {broken}. Nothing was changed.", FAILED) from None
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}.", USAGE) from None
    settings = settings_of(Project.at(place), store, makes=True)
    tenant_id = tenant or contents.tenant_id
    done = with_store(settings, lambda opened: _read_in(opened, file, tenant_id, skip_existing))
    skipped = f"; there already: {done.skipped}" if done.skipped else ""
    flows = f"; new versions of flows: {done.published}" if done.published else ""
    click.echo(f"imported into tenant {tenant_id}: {done.imported} conversations{skipped}{flows}", err=True)
    return OK


async def _read_in(store: "Store", file: Path, tenant_id: str, skip_existing: bool) -> "Imported":
    from server.transfer.importing import read_in, taken

    if not skip_existing and (there := await taken(store, file, tenant_id)):
        raise CliError(
            f"the store has {', '.join(there)} already, perhaps deleted. Nothing was changed; "
            "--skip-existing imports the others.",
            FAILED,
        )
    return await read_in(store, file, tenant_id)

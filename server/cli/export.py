"""``parley export``."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import rich_click as click

from server.cli.errors import FAILED, OK, USAGE, CliError
from server.cli.project import Project, shown
from server.cli.stores import settings_of, with_store

if TYPE_CHECKING:
    from server.transfer.exporting import Wanted
    from storage.base import Store


@click.command()
@click.argument("conversations", metavar="[CONVERSATION]...", nargs=-1)
@click.option("--project", "place", type=click.Path(path_type=Path), metavar="FOLDER", help="The project.")
@click.option("--store", metavar="URL", help="The store. [default: PARLEY_STORE, else the project's]")
@click.option("--tenant", metavar="T", help="Whose. [default: PARLEY_DEFAULT_TENANT, else that of `dev`]")
@click.option("--user", "user_id", metavar="U", help="Only conversations that this user owns.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to. [default: stdout]")
@click.option("--mask-pii", is_flag=True, help="Mask what flows mark as personal (pii: true).")
def export(
    conversations: tuple[str, ...],
    place: Path | None,
    store: str | None,
    tenant: str | None,
    user_id: str | None,
    out: Path | None,
    mask_pii: bool,
) -> int:
    """Write conversations to a file, to keep or to move them: those named, or all of a tenant.

    On a store that is a file, no server may run meanwhile; on MongoDB, one conversation at a time is read as
    it is at that moment. The file has all that was said, and the versions of flows that
    the conversations go on with; deleted conversations are not in it. What an effect was doing when the
    server ended is settled where the file is imported, as after a crash. Keep the file as you keep the
    store: it is readable by you alone.
    """
    if out is None and sys.stdout.isatty():
        raise CliError("name a file by --out FILE, or send the output into one.", USAGE)
    from server.transfer.exporting import NoSuchConversation, Wanted
    from server.transfer.masking import MaskUnknown

    settings = settings_of(Project.at(place), store, makes=False)
    tenant = tenant or settings.default_tenant
    if tenant is None:
        raise CliError("whose conversations? Give --tenant, or set PARLEY_DEFAULT_TENANT.", USAGE)
    wanted = Wanted(tenant, conversations, user_id, mask_pii)
    try:
        with _target(out) as file:
            count = with_store(settings, lambda opened: _write(opened, wanted, file))
            file.flush()
    except NoSuchConversation as missing:
        raise CliError(f"tenant {wanted.tenant_id} has no conversation {missing}.", FAILED) from None
    except MaskUnknown as unknown:
        raise CliError(f"what is personal cannot be told: {unknown}.", FAILED) from None
    click.echo(f"exported from tenant {wanted.tenant_id}: {count} conversations", err=True)
    return OK


async def _write(store: "Store", wanted: "Wanted", file: BinaryIO) -> int:
    from server.transfer.exporting import export as exported
    from server.transfer.lines import CONVERSATION

    count = 0
    async for line in exported(store, wanted):
        file.write(line)
        count += line.startswith(CONVERSATION)
    return count


@contextmanager
def _target(out: Path | None) -> Iterator[BinaryIO]:
    """Give the file that is written to; under its name it is there whole or not at all."""
    if out is None:
        yield sys.stdout.buffer
        return
    if out.exists() and not (out.is_file() or out.is_dir()):  # a device or a pipe is written to, not replaced
        with out.open("wb") as device:
            yield device
        return
    try:
        descriptor, name = tempfile.mkstemp(dir=out.absolute().parent, prefix=f".{out.name}-")
    except OSError as error:
        raise CliError(f"{shown(out.absolute())} cannot be written: {error.strerror}.", USAGE) from None
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    except OSError as error:
        raise CliError(f"{shown(out.absolute())} cannot be written: {error.strerror}.", FAILED) from None
    finally:
        part.unlink(missing_ok=True)

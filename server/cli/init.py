"""``parley init``."""

import shlex
from pathlib import Path
from typing import Final

import rich_click as click

from server.cli.errors import FAILED, OK, USAGE, CliError
from server.cli.project import FLOW_ENDINGS, shown
from server.cli.templates import PROJECT
from server.settings import TOML_NAME

_HARMLESS: Final = frozenset({"LICENSE", "README.md", "venv"})


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def init(folder: Path) -> int:
    """Make a new project that runs: settings, a flow, an action, a test.

    FOLDER must be new or empty, but for hidden files, a LICENSE and a README.md. Nothing is overwritten.
    """
    _must_be_free(folder)
    try:
        for name, text in PROJECT.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as new:
                new.write(text)
    except FileExistsError as error:
        raise CliError(f"{error.filename} is there already; nothing is overwritten.", USAGE) from None
    except OSError as error:
        raise CliError(f"{folder} cannot be written ({error.strerror}).", FAILED) from None
    place = shlex.quote(shown(folder.resolve()))
    click.echo(
        f"Made {place} with {', '.join(PROJECT)}.\n\n"
        f"    parley dev {place}      serves it, and reads its flow again whenever you change it\n"
        f"    parley chat {place}     talks to it, from another terminal\n"
        f"    parley check {place}    says what is wrong with its flows\n"
        f"    parley test {place}     holds its conversations against its tests"
    )
    return OK


def _must_be_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise CliError(f"{folder} is a file; name a folder.", USAGE)
    taken = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    for name in taken:
        if name in (TOML_NAME, "flows") or Path(name).suffix in FLOW_ENDINGS:
            raise CliError(
                f"{folder} holds a project already ({name}); `parley new flow NAME` adds a flow to one.",
                USAGE,
            )
    if any(not name.startswith(".") and name not in _HARMLESS for name in taken):
        raise CliError(f"{folder} is not empty; name a new folder.", USAGE)

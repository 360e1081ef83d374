"""``parley check``."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from server.cli.errors import FAILED, OK, USAGE, CliError
from server.cli.project import FLOW_ENDINGS, Project
from server.settings import TOML_NAME

if TYPE_CHECKING:
    from server.engine.flow.model import Problem


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Let warnings count as errors.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all problems.")
def check(paths: tuple[Path, ...], strict: bool, as_json: bool) -> int:
    """Check flow files, folders of them, or projects; without PATH the project in this folder.

    Each problem is a line `file:line:column: ...`. The exit code is 1 if there is an error. In a project
    (a folder with a parley.toml, or below one) the names of actions are checked too, so the modules of
    its `actions` are imported.
    """
    files = [file for path in paths or (Path(),) for file in _files(path)]
    problems: list[Problem] = []
    for file, names in files:
        problems += _problems(file, names)
    errors = sum(strict or problem.severity == "error" for problem in problems)
    if as_json:
        report: dict[str, Any] = {
            "ok": errors == 0,
            "files": [str(file) for file, _ in files],
            "problems": [dataclasses.asdict(problem) for problem in problems],
        }
        click.echo(json.dumps(report))
    else:
        for problem in problems:
            click.echo(str(problem))
        click.echo(_summary(len(files), errors, len(problems) - errors), err=True)
    return FAILED if errors else OK


def _files(path: Path) -> Iterator[tuple[Path, frozenset[str] | None]]:
    """Yield the flow files that an argument names, each with the actions that it may call."""
    if not path.exists():
        raise CliError(f"{path} does not exist.", USAGE)
    home = next((folder for folder in _upwards(path) if (folder / TOML_NAME).is_file()), None)
    project = Project(home or Path.cwd())
    settings = project.settings({})
    if path.is_file():
        files = [path]
    elif home == path.resolve() or (home is None and not paths_of(path)):
        folder = settings.flows if home else path.resolve() / "flows"
        if not folder.is_dir():
            raise CliError(f"there is no flows folder {_short(folder)}; name the files to check.", USAGE)
        files = paths_of(folder)
    else:
        files = paths_of(path)
    if not files:
        raise CliError(f"there are no flow files in {path}; they end in {', '.join(FLOW_ENDINGS)}.", USAGE)
    names = _action_names(project, settings.actions) if home or settings.actions else None
    yield from ((Path(_short(file)), names) for file in files)


def paths_of(folder: Path) -> list[Path]:
    """Return the flow files of a folder, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix in FLOW_ENDINGS)


def _upwards(path: Path) -> Iterator[Path]:
    resolved = path.resolve()
    yield from ((resolved,) if resolved.is_dir() else ())
    yield from resolved.parents


def _action_names(project: Project, modules: tuple[str, ...]) -> frozenset[str]:
    from server.engine.actions import Actions, ActionsInvalid

    try:
        return Actions.load(modules, project.folder).names
    except ActionsInvalid as error:
        raise CliError(f"the actions cannot be loaded: {error}", USAGE) from None


def _problems(file: Path, names: frozenset[str] | None) -> "tuple[Problem, ...]":
    from server.engine.flow.loader import check_flow

    try:
        source = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CliError(f"{file} is not UTF-8 text.", USAGE) from None
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}.", USAGE) from None
    return check_flow(source, str(file), names)


def _short(path: Path) -> str:
    """Return a path as somebody in the current folder would write it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _summary(files: int, errors: int, warnings: int) -> str:
    def many(number: int, thing: str) -> str:
        return f"{number} {thing}{'' if number == 1 else 's'}"

    return f"{many(files, 'file')}, {many(errors, 'error')}, {many(warnings, 'warning')}"

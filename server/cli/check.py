"""``parley check``."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import rich_click as click

from server.cli.colours import flow_problem
from server.cli.errors import FAILED, OK, USAGE, CliError
from server.cli.project import FLOW_ENDINGS, Project, shown
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
    targets = [_target(path) for path in paths or (Path(),)]
    problems = [problem for target in targets for problem in _problems(target)]
    files = sum(target.files for target in targets)
    errors = sum(strict or problem.severity == "error" for problem in problems)
    if as_json:
        report: dict[str, Any] = {
            "ok": errors == 0,
            "files": files,
            "problems": [dataclasses.asdict(problem) for problem in problems],
        }
        click.echo(json.dumps(report))
    else:
        for problem in problems:
            click.echo(flow_problem(str(problem)))
        click.echo(_summary(files, errors, len(problems) - errors), err=True)
    return FAILED if errors else OK


class _Target(NamedTuple):
    path: Path  # a flow file, or a folder of them
    files: int
    actions: frozenset[str] | None  # None: not known, so their names are not checked


def _target(path: Path) -> _Target:
    """Find out what an argument names."""
    if not path.exists():
        raise CliError(f"{path} does not exist.", USAGE)
    home = next((folder for folder in _upwards(path) if (folder / TOML_NAME).is_file()), None)
    project = Project(home or Path.cwd())
    settings = project.settings({})
    names = _action_names(project, settings.actions) if home or settings.actions else None
    if path.is_file():
        return _Target(path, 1, names)
    folder = path
    if not _flow_files(path) or home == path.resolve():
        folder = settings.flows if home == path.resolve() else path / "flows"
    if not folder.is_dir():
        raise CliError(
            f"there are no flows in {shown(folder)}; name the files or the folder to check.", USAGE
        )
    files = len(_flow_files(folder))
    if not files:
        raise CliError(f"there are no flow files ({', '.join(FLOW_ENDINGS)}) in {shown(folder)}.", USAGE)
    return _Target(Path(shown(folder)), files, names)


def _flow_files(folder: Path) -> Sequence[Path]:
    return [
        path for path in folder.iterdir() if path.suffix in FLOW_ENDINGS and not path.name.startswith(".")
    ]


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


def _problems(target: _Target) -> "Sequence[Problem]":
    from server.engine.flow.loader import compile_flow, load_folder
    from server.engine.flow.model import FlowInvalid

    if target.path.is_dir():
        return load_folder(target.path, target.actions).problems
    try:
        source = target.path.read_text(encoding="utf-8")
        return compile_flow(source, str(target.path), actions=target.actions).warnings
    except FlowInvalid as error:
        return error.problems
    except UnicodeDecodeError:
        raise CliError(f"{target.path} is not UTF-8 text.", USAGE) from None
    except OSError as error:
        raise CliError(f"{target.path} cannot be read: {error.strerror}.", USAGE) from None


def _summary(files: int, errors: int, warnings: int) -> str:
    def many(number: int, thing: str) -> str:
        return f"{number} {thing}{'' if number == 1 else 's'}"

    return f"{many(files, 'file')}, {many(errors, 'error')}, {many(warnings, 'warning')}"

"""``parley test``."""

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rich_click as click

from server.cli.errors import FAILED, OK, USAGE, CliError
from server.cli.project import FLOW_ENDINGS, Project, shown
from server.settings import TOML_NAME

if TYPE_CHECKING:
    from server.engine.actions import Actions
    from server.engine.flow.model import Flow
    from server.testing.coverage import FlowCoverage
    from server.testing.runner import Outcome, Surroundings
    from server.testing.suite import Suite

TESTS: Final = "tests"
SOURCES: Final = (*FLOW_ENDINGS, ".py", ".toml")


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "-k", "words", metavar="TEXT", multiple=True, help="Run only tests whose `file: name` has TEXT in it."
)
@click.option(
    "--coverage", "with_coverage", is_flag=True, help="Tell which steps and branches were not reached."
)
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Fail where less of the flows is covered; implies --coverage.",
)
@click.option(
    "--junit", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write JUnit XML."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with everything.")
@click.option("--watch", is_flag=True, help="Run again whenever a file of the project changes.")
def test(
    paths: tuple[Path, ...],
    words: tuple[str, ...],
    with_coverage: bool,
    fail_under: float | None,
    junit: Path | None,
    as_json: bool,
    watch: bool,
) -> int:
    """Run the tests of flows: conversations in YAML, with what is expected of them.

    PATH is a test file, a folder of them, or a project; without it the project in this folder, whose tests
    are in its folder tests. Nothing is served and no model is asked: the flows run in memory and in virtual
    time, and stubs stand for actions. The exit code is 0 if all went well, 1 if a test failed or too little
    is covered, and 2 if there is nothing to run or a file is broken: each mistake is a line
    `file:line:column: ...`.
    """
    if watch:
        return _watch(paths or (Path(),))
    found = _select([_load(path) for path in _files(paths or (Path(),))], words)
    outcomes, coverage = asyncio.run(_run(found))
    covered = coverage if with_coverage or fail_under is not None else None
    if junit is not None:
        _write(junit, outcomes)
    if as_json:
        from server.testing.report import as_json as json_of

        click.echo(json.dumps(json_of(outcomes, covered)))
    else:
        _tell(outcomes, covered)
    ok = all(outcome.ok for outcome in outcomes)
    return OK if _covers(coverage, fail_under) and ok else FAILED


@dataclass(frozen=True, slots=True)
class _Loaded:
    suite: "Suite"
    around: "Surroundings"


# --- finding and reading --------------------------------------------------------------------------


def _files(paths: Sequence[Path]) -> list[Path]:
    """Return the test files that the arguments name, each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise CliError(f"{path} does not exist.", USAGE)
        folder = path / TESTS if (path / TESTS).is_dir() else path
        inside = [path] if path.is_file() else sorted(_below(folder))
        if not inside or (folder == path and _is_project(path)):
            raise CliError(
                f"there are no tests in {shown(folder)}: name a test file or a folder of them, or write "
                f"tests into {shown(path / TESTS) if path.is_dir() else TESTS}/.",
                USAGE,
            )
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.suffix in FLOW_ENDINGS and path.is_file() and not path.name.startswith("."):
            yield path


def _is_project(folder: Path) -> bool:
    return folder.is_dir() and ((folder / TOML_NAME).is_file() or (folder / "flows").is_dir())


def _load(path: Path) -> _Loaded:
    from server.testing.reader import SuiteInvalid, read_suite
    from server.testing.runner import Surroundings, action_names

    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CliError(f"{path} is not UTF-8 text.", USAGE) from None
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}.", USAGE) from None
    project = Project(next((f for f in path.resolve().parents if _is_project(f)), Path.cwd()))
    settings = project.settings({})
    try:
        suite = read_suite(source, shown(path))
        flows = _flows(suite.flows if suite.flows is not None else settings.flows)
        read_suite(source, shown(path), actions=action_names(flows))
    except SuiteInvalid as invalid:
        for problem in invalid.problems:
            click.echo(str(problem))
        raise CliError(f"{shown(path)} cannot be run.", USAGE) from None
    session_ms = round(settings.session_hours * 3_600_000)
    return _Loaded(suite, Surroundings(flows, _real(project, settings.actions), session_ms))


@cache
def _flows(place: Path) -> "tuple[Flow, ...]":
    """Compile a folder of flows, or one file."""
    from server.engine.flow.loader import compile_flow, load_folder
    from server.engine.flow.model import FlowInvalid

    if place.is_file():
        try:
            return (compile_flow(place.read_text(encoding="utf-8"), shown(place)),)
        except FlowInvalid as invalid:
            problems = invalid.problems
        except (OSError, UnicodeDecodeError):
            raise CliError(f"{shown(place)} cannot be read.", USAGE) from None
    elif not place.is_dir():
        raise CliError(f"there are no flows in {shown(place)}: say `flows: ...` in the test file.", USAGE)
    else:
        report = load_folder(Path(shown(place)))
        if report.ok and report.flows:
            return tuple(loaded.flow for loaded in report.flows)
        problems = report.problems
    for problem in problems:
        if problem.severity == "error":
            click.echo(str(problem))
    raise CliError(f"the flows in {shown(place)} cannot be run.", USAGE)


def _real(project: Project, modules: tuple[str, ...]) -> "Callable[[], Actions]":
    @cache
    def load() -> "Actions":
        from server.engine.actions import Actions, ActionsInvalid

        try:
            return Actions.load(modules, project.folder)
        except ActionsInvalid as error:
            raise CliError(f"the actions cannot be loaded: {error}", USAGE) from None

    return load


def _select(loaded: Sequence[_Loaded], words: Sequence[str]) -> list[_Loaded]:
    """Keep the tests that ``-k`` names."""
    from dataclasses import replace

    kept = []
    for one in loaded:
        cases = tuple(
            case
            for case in one.suite.cases
            if not words or any(w.lower() in f"{one.suite.file}: {case.name}".lower() for w in words)
        )
        if cases:
            kept.append(replace(one, suite=replace(one.suite, cases=cases)))
    if not kept:
        raise CliError(f"no test has {' or '.join(map(repr, words))} in `file: name`.", USAGE)
    return kept


# --- running and telling --------------------------------------------------------------------------


async def _run(loaded: Sequence[_Loaded]) -> "tuple[list[Outcome], tuple[FlowCoverage, ...]]":
    from server.testing.coverage import Coverage
    from server.testing.runner import run_case

    log = logging.getLogger("parley")
    level = log.level
    log.setLevel(logging.CRITICAL)  # where a stub fails, or a flow, that is the test's to judge
    coverage = Coverage()
    try:
        outcomes = [
            await run_case(one.suite, case, one.around, coverage)
            for one in loaded
            for case in one.suite.cases
        ]
    finally:
        log.setLevel(level)
    return outcomes, coverage.report()


def _tell(outcomes: "Sequence[Outcome]", coverage: "Sequence[FlowCoverage] | None") -> None:
    from server.testing.report import coverage_lines, failure_lines, summary

    for outcome in outcomes:
        for failure in outcome.failures:
            click.echo("\n".join(failure_lines(outcome, failure)))
    if coverage is not None:
        click.echo("\n".join(coverage_lines(coverage)))
    click.echo(summary(outcomes), err=True)


def _covers(coverage: "Sequence[FlowCoverage]", fail_under: float | None) -> bool:
    from server.testing.coverage import percent

    found = percent(coverage)
    if fail_under is None or found >= fail_under:
        return True
    click.echo(f"only {found:.1f} % of the flows is covered; {fail_under:g} % is asked for", err=True)
    return False


def _write(file: Path, outcomes: "Sequence[Outcome]") -> None:
    from server.testing.report import junit

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(junit(outcomes))
    except OSError as error:
        raise CliError(f"{file} cannot be written: {error.strerror}.", USAGE) from None


# --- watching -------------------------------------------------------------------------------------


def _watch(paths: Sequence[Path]) -> int:
    """Run, and again at each change, in a process of its own, so that changed actions count too."""
    from watchfiles import watch

    command = [sys.executable, "-m", "server", *(word for word in _typed() if word != "--watch")]
    folders = {_watched(path) for path in paths}
    seen = _sources(folders)
    _run_apart(command)
    click.echo("Watching for changes; Ctrl-C ends it.", err=True)
    # The watcher is only a hint: what counts is that a source differs from what was run.
    for _ in watch(*folders, step=50, debounce=300, rust_timeout=1000, yield_on_timeout=True):
        found = _sources(folders)
        if found != seen:
            seen = found
            click.echo("", err=True)
            _run_apart(command)
    return OK


def _run_apart(command: Sequence[str]) -> None:
    child = subprocess.Popen(command)  # noqa: S603 - our own command line
    try:
        child.wait()
    except KeyboardInterrupt:
        child.wait()  # it was told as well, or is about to end
        raise


def _sources(folders: Iterable[Path]) -> frozenset[tuple[str, int, int]]:
    """Return what tells one state of the sources from another; what a run writes is none."""
    found = set()
    for path in (path for folder in folders for path in folder.rglob("*")):
        inside = path.parts[-3:]
        if path.suffix in SOURCES and not any(part.startswith((".", "__pycache__")) for part in inside):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.add((str(path), stat.st_mtime_ns, stat.st_size))
    return frozenset(found)


def _typed() -> list[str]:
    return sys.argv[1:]


def _watched(path: Path) -> Path:
    if not path.exists():
        raise CliError(f"{path} does not exist.", USAGE)
    resolved = path.resolve()
    folders = [resolved, *resolved.parents] if resolved.is_dir() else list(resolved.parents)
    return next((folder for folder in folders if _is_project(folder)), folders[0])

"""``parley doctor``: looks at everything a server here would need, and says how to mend what is wrong."""

import asyncio
import json
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final, NamedTuple

import rich_click as click

from server.cli.colours import mark
from server.cli.errors import FAILED, OK, USAGE, CliError
from server.cli.project import Project, shown
from server.cli.target import Target
from server.settings import Settings, SettingsInvalid, without_credentials
from storage.inspection import CLOCK_FIX, CLOCK_SKEW_S, Finding

OLDEST_PYTHON: Final = (3, 11)
LEAST_FREE_BYTES: Final = 1024**3
SPARE_FILES: Final = 200
"""Descriptors beside those of connections: database, log, listening sockets, what actions open."""
OLDEST_TIME_S: Final = 1_767_225_600  # 2026: a clock before this release is wrong
CALL_TIMEOUT_S: Final = 2.0


class _Answer(NamedTuple):
    status: int
    body: bytes
    date: str | None


@click.command()
@click.option("--project", "place", type=click.Path(path_type=Path), metavar="FOLDER", help="The project.")
@click.option("--dev", "is_dev", is_flag=True, help="Judge as for `dev`, which keeps a secret of its own.")
@click.option("--url", metavar="URL", help="Where clients reach the server: look at the proxy there, too.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of the findings.")
def doctor(place: Path | None, is_dev: bool, url: str | None, as_json: bool) -> int:
    """Look at all that a server here needs, and say how to mend what is wrong.

    Settings, flows, store, port, clock and limits of this machine; of MongoDB version, replica set, writes,
    indexes, clock, TLS and credentials; of Redis version, eviction, output buffers, clock, TLS and
    credentials; with --url whether the proxy there passes sockets on and keeps what is said to itself.

    Nothing is changed, and a server that runs is not disturbed. The exit code is 1 if `serve` would not
    start or not work; warnings leave it 0.
    """
    try:
        target = Target(url) if url else None
    except ValueError:
        raise CliError(f"{url} is no address of a server, e.g. https://chat.example.", USAGE) from None
    found = list(findings(Project.at(place), is_dev=is_dev))
    if target is not None:
        from server.cli import proxy

        found += proxy.findings(target)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found]))
    else:
        for finding in found:
            click.echo(_line(finding))
    return FAILED if any(finding.level == "problem" for finding in found) else OK


def findings(project: Project, *, is_dev: bool) -> Iterator[Finding]:
    """Yield what is found; after wrong settings nothing else can be looked at."""
    yield _python()
    try:
        settings = Settings.load(
            os.environ,
            {"flows": project.flows},
            project.folder,
            defaults={"store": f"sqlite:{project.state / 'parley.db'}"} if is_dev else None,
            needs_secret=not is_dev,
        )
    except SettingsInvalid as error:
        for problem in error.problems:
            yield Finding("problem", "settings", f"{problem.name} ({problem.source})", problem.message)
        return
    yield Finding("ok", "settings", "are read")
    yield from _flows(project, settings)
    if is_dev and not project.state.exists():
        yield _new_state(project)
    else:
        yield from _store(settings)
    yield from _bus(settings)
    for look in (_port, _clock, _files):
        yield look(settings)


def _new_state(project: Project) -> Finding:
    if os.access(project.folder, os.W_OK | os.X_OK):
        return Finding("ok", "store", f"`dev` makes {shown(project.state)}")
    fix = "Give yourself the permission, or copy the project."
    return Finding("problem", "store", f"`dev` cannot make {shown(project.state)}", fix)


def _line(finding: Finding) -> str:
    fix = f"\n           -> {finding.fix}" if finding.fix else ""
    return f"{mark(finding.level)}  {finding.subject}: {finding.message}{fix}"


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return Finding("problem", "python", f"{version} is too old", "Use Python 3.11 or newer.")
    return Finding("ok", "python", version)


def _flows(project: Project, settings: Settings) -> Iterator[Finding]:
    from server.engine.actions import Actions, ActionsInvalid
    from server.engine.flow.loader import load_folder

    names: frozenset[str] | None = None
    try:
        names = Actions.load(settings.actions, project.folder).names
        yield Finding("ok", "actions", f"{len(names)} in {', '.join(settings.actions) or 'no module'}")
    except ActionsInvalid as error:
        yield Finding("problem", "actions", str(error), "Mend the module, or PARLEY_ACTIONS.")
    if not settings.flows.is_dir():
        fix = "Go to the project's folder, or set PARLEY_FLOWS."
        yield Finding("problem", "flows", f"there is no folder {shown(settings.flows)}", fix)
        return
    report = load_folder(settings.flows, names)
    errors = sum(problem.severity == "error" for problem in report.problems)
    if errors:
        yield Finding("problem", "flows", f"{errors} errors", "`parley check` says where and what.")
    elif not report.flows:
        fix = "`parley new flow NAME` makes a first one."
        yield Finding("warning", "flows", f"there are none in {shown(settings.flows)}", fix)
    else:
        yield Finding("ok", "flows", ", ".join(sorted(loaded.flow.flow_id for loaded in report.flows)))


def _store(settings: Settings) -> Iterator[Finding]:
    url = settings.store
    if url.startswith("sqlite:"):
        path = Path(url.removeprefix("sqlite:")).expanduser().absolute()
        yield _file(path)
        yield _disk(path)
    elif url.startswith("mongodb"):
        from storage.mongo.inspect import inspect as inspect_mongo

        yield from asyncio.run(inspect_mongo(url, settings.mongo_driver))
    elif url.startswith("memory:"):
        fix = "Set PARLEY_STORE=sqlite:parley.db to keep conversations."
        yield Finding("warning", "store", "memory: forgets everything when the server ends", fix)
    else:
        yield Finding("ok", "store", f"{without_credentials(url)} (not looked at)")


def _bus(settings: Settings) -> Iterator[Finding]:
    if settings.bus.startswith("redis"):
        from storage.redis.inspect import inspect

        yield from asyncio.run(inspect(settings.bus))
    elif settings.bus == "memory:" and settings.store.startswith("mongodb"):
        fix = "Set PARLEY_BUS=redis://... before you start a second one."
        yield Finding("warning", "bus", "memory: serves one instance", fix)


def _file(path: Path) -> Finding:
    from storage.sqlite.inspect import inspect

    state = inspect(path)
    if state.problem:
        what, _, fix = state.problem.partition(": ")
        return Finding("problem", "store", what, f"{fix[:1].upper()}{fix[1:]}.")
    if state.server:
        return Finding("ok", "store", f"{shown(path)}, in use by the server with process {state.server}")
    return Finding("ok", "store", f"{shown(path)}, {state.size / 1e6:.1f} MB" if state.size else shown(path))


def _disk(path: Path) -> Finding:
    folder = next(parent for parent in path.parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        fix = "Free some space: a full disk stops every write."
        return Finding("warning", "disk", f"{free / 1e6:.0f} MB are free at {folder}", fix)
    return Finding("ok", "disk", f"{free / 1e9:.0f} GB are free")


def _port(settings: Settings) -> Finding:
    if not settings.port:
        return Finding("ok", "port", "a free one is taken")
    where = f"{settings.host}:{settings.port}"
    server = _health(settings)
    if server is not None and b'"service":"parley"' in server.body:
        return Finding("ok", "port", f"a Parley server answers on {where} (/health: {server.status})")
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((settings.host, settings.port))
    except OSError as error:
        fix = "Stop what listens there, or choose another by PARLEY_PORT or PARLEY_HOST."
        return Finding("problem", "port", f"{where} cannot be used ({error.strerror})", fix)
    return Finding("ok", "port", f"{where} is free")


def _clock(settings: Settings) -> Finding:
    now = time.time()
    if now < OLDEST_TIME_S:
        told = f"it says {time.strftime('%Y-%m-%d', time.gmtime(now))}"
        return Finding("problem", "clock", told, CLOCK_FIX)
    server = _health(settings) if settings.port else None
    if server is not None and server.date:
        skew = abs(parsedate_to_datetime(server.date).timestamp() - time.time())
        if skew > CLOCK_SKEW_S:
            return Finding(
                "warning", "clock", f"the server's is {skew:.0f} seconds away from this one", CLOCK_FIX
            )
    return Finding("ok", "clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


def _health(settings: Settings) -> _Answer | None:
    """Ask the server that may listen here for its health."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    connection = HTTPConnection(host, settings.port, timeout=CALL_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        return _Answer(response.status, response.read(4096), response.getheader("date"))
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _files(settings: Settings) -> Finding:
    import resource

    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.connections_per_instance + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        fix = f"`ulimit -n {wanted}`, LimitNOFILE={wanted} of systemd, or a lower CONNECTIONS_PER_INSTANCE."
        told = f"{soft} open files are allowed, {settings.connections_per_instance} connections are promised"
        return Finding("warning", "limits", told, fix)
    return Finding("ok", "limits", f"{'unlimited' if soft < 0 else soft} open files")

"""Running a server from the command line: what can go wrong at its start, as sentences."""

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import rich_click as click

from server.cli.errors import CANNOT_START, OK, CliError
from server.cli.interrupt import ended_by_ctrl_c
from server.cli.project import Project, shown
from server.cli.stores import unopened
from server.settings import Settings

if TYPE_CHECKING:
    from server.app import Application
    from server.workers import Place


AFTER_DRAIN_S: Final = 4.5
"""Beyond the time that running steps have (25 s unless it is set) a process is gone: within 30 s in all."""


def check_flows_folder(settings: Settings) -> None:
    """Refuse a flows folder that is not there.

    Raises:
        CliError: with what to do.
    """
    if not settings.flows.is_dir():
        raise CliError(
            f"there is no flows folder {shown(settings.flows)}: go to the project's folder, name it on the "
            "command line, or set PARLEY_FLOWS; `parley init FOLDER` makes a new project.",
            CANNOT_START,
        )


def run_workers(project: Project, settings: Settings, *, on_ready: Callable[[str], None]) -> int:
    """Serve by ``settings.workers`` processes until a signal ends it. Return the exit code.

    Raises:
        CliError: it cannot start.
    """
    with ended_by_ctrl_c():
        import server.app  # noqa: F401 - once, before it is shared with each worker
        from server.cli.supervisor import Supervisor

    settings = _named(settings)
    _configure_logging(settings, dev=False)
    try:
        found = Supervisor(settings, on_ready).run()
    except OSError as error:
        raise CliError(_why_not_listening(settings, error), CANNOT_START) from None
    if isinstance(found, int):
        return found
    named = settings.model_copy(update={"instance_id": f"{settings.instance_id}-{found.number}"})
    return run_server(project, named, dev=False, on_ready=lambda app: None, place=found)


def _named(settings: Settings) -> Settings:
    """Return the settings with an instance id: logs and leases tell the same one."""
    if settings.instance_id is not None:
        return settings
    return settings.model_copy(update={"instance_id": os.urandom(4).hex()})


def _configure_logging(settings: Settings, *, dev: bool) -> None:
    from server.telemetry.logs import configure_logging

    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else ""
    configure_logging(
        settings.log_level,
        settings.log_format,
        secrets=[secret],
        instance=None if dev else settings.instance_id,
    )


def run_server(
    project: Project,
    settings: Settings,
    *,
    dev: bool,
    on_ready: "Callable[[Application], None]",
    place: "Place | None" = None,
) -> int:
    """Serve until a signal ends it. Return the exit code.

    Raises:
        CliError: it cannot start.
    """
    with ended_by_ctrl_c():
        import uvloop

        from server.app import serve
        from server.engine.actions import ActionsInvalid
        from server.engine.flow.model import FlowInvalid
        from storage.base import StorageError

    settings = _named(settings)
    _configure_logging(settings, dev=dev)
    project.import_actions_from()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(
                serve(
                    settings,
                    dev=dev,
                    on_ready=on_ready,
                    place=place,
                    on_drain=lambda: _leave_in_time(settings.drain_seconds + AFTER_DRAIN_S),
                )
            )
    except StorageError as error:
        raise unopened(settings, error) from None
    except ActionsInvalid as error:
        raise CliError(f"the actions cannot be loaded: {error}", CANNOT_START) from None
    except FlowInvalid as error:
        problems = "".join(f"\n  {problem}" for problem in error.problems)
        raise CliError(
            f"there are broken flows; mend them, or serve others:{problems}", CANNOT_START
        ) from None
    except OSError as error:
        raise CliError(_why_not_listening(settings, error), CANNOT_START) from None


def _leave_in_time(seconds: float) -> None:
    """End the process then, whatever still runs: an action in a thread cannot be told to stop.

    Everything that was acknowledged is in the store, and what ran has been handed over by its lease.
    """
    leaving = threading.Timer(seconds, os._exit, [OK])
    leaving.daemon = True
    leaving.start()


def announce(text: str, *, err: bool = False) -> None:
    """Print; a server goes on where nobody reads its output any more."""
    with contextlib.suppress(OSError):
        click.echo(text, err=err)


def shown_url(url: str) -> str:
    """Return a server's URL as one can call it: one that listens on all addresses, on this machine's own."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _why_not_listening(settings: Settings, error: OSError) -> str:
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"port {settings.port} is taken: stop what listens on {where}, or choose another by --port."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"listening on {where} is not permitted: ports below 1024 need privileges, take a higher one."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return (
            f"{settings.host} is no address of this machine: set PARLEY_HOST to one, or to 0.0.0.0 for all."
        )
    return f"the server cannot listen on {where}: {error.strerror or 'unknown reason'}."

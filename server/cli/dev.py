"""``parley dev``."""

import asyncio
import contextlib
import ipaddress
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from server.cli.errors import USAGE, CliError
from server.cli.options import overrides_of, with_project, with_settings
from server.cli.project import DEV_TENANT, DEV_USER, Project, shown
from server.cli.serving import announce, check_flows_folder, run_server, shown_url
from server.settings import Settings

if TYPE_CHECKING:
    from server.app import Application
    from server.engine.flow.loader import FolderReport

TOKEN_TTL_S = 12 * 3600


@click.command()
@with_project
@click.option("--public", is_flag=True, help="Listen for other machines too; needs PARLEY_JWT_SECRET.")
@with_settings
def dev(place: Path | None, public: bool, **flags: Any) -> int:
    """Serve a project on this machine, and reload its flows as they change.

    PROJECT is a folder with a parley.toml or a flows folder, or a folder of flow files; without it, the
    current folder. What the server keeps is in PROJECT/.parley: conversations, and a secret that signs
    tokens, so that both outlive a restart. A flow that is broken is reported, and its last good version
    goes on being used.
    """
    project = Project.at(place)
    settings = _settings(project, overrides_of(flags), public)
    development = _Development(project, settings)
    try:
        return run_server(project, settings, dev=True, on_ready=development.on_ready)
    finally:
        project.forget_address()


def _settings(project: Project, overrides: dict[str, Any], public: bool) -> Settings:
    """Return the project's settings, with those of dev where nothing else was said."""
    defaults: dict[str, Any] = {
        "default_tenant": DEV_TENANT,
        "log_format": "console",
        "log_level": "warning",
        "store": f"sqlite:{project.state / 'parley.db'}",
        "host": "0.0.0.0" if public else "127.0.0.1",  # noqa: S104 - --public asks for it
        "drain_seconds": 5,
    }
    settings = project.settings(overrides, defaults=defaults)
    if public and settings.jwt_secret is None:
        raise CliError(
            "--public needs a secret of yours: set PARLEY_JWT_SECRET to at least 32 random bytes, e.g. by "
            '`export PARLEY_JWT_SECRET="$(openssl rand -hex 32)"`.',
            USAGE,
        )
    if not public and not _is_loopback(settings.host):
        raise CliError(
            f"`dev` serves this machine only, and {settings.host} can be reached from others: leave the host "
            "away, or add --public and set PARLEY_JWT_SECRET.",
            USAGE,
        )
    check_flows_folder(settings)
    project.make_state()
    if settings.jwt_secret is None:
        defaults["jwt_secret"] = project.make_secret()
    return project.settings(overrides, defaults=defaults)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Development:
    """What dev does beside serving: says hello, and reloads flows."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self._project = project
        self._settings = settings
        self._watching: asyncio.Task[None] | None = None
        self._loaded = _fingerprint(settings.flows)

    def on_ready(self, app: "Application") -> None:
        url = shown_url(app.url)
        self._project.write_address(url)
        _report(app.flows)
        announce(_welcome(self._project, self._settings, url, app.catalog.flow_ids()))
        self._watching = asyncio.create_task(self._watch(app))

    async def _watch(self, app: "Application") -> None:
        """Load the flows again whenever a file of their folder changes, until cancelled.

        The watcher is only a hint: what counts is that the folder differs from what was loaded. So a
        change before the watcher had begun is seen too, and one on a file system that reports nothing.
        """
        from watchfiles import awatch

        hints = awatch(
            self._settings.flows,
            step=50,
            debounce=300,
            rust_timeout=1000,
            yield_on_timeout=True,
            recursive=False,
        )
        try:
            async for _files in hints:
                found = _fingerprint(self._settings.flows)
                if found != self._loaded:
                    self._loaded = found
                    await self._reload(app)
        except OSError:  # of the watcher: the folder was taken away
            _say("The flows folder cannot be watched any more; start `dev` again to load changes.")

    async def _reload(self, app: "Application") -> None:
        from storage.base import StoreUnavailable

        try:
            report = await app.load_flows(again=True)
        except StoreUnavailable:
            _say("The store is not available, so the flows stay as they were; save a file to try again.")
            return
        _report(report)
        if report.ok:
            _say(f"Reloaded {_flows(app.catalog.flow_ids())}.")
        else:
            _say(f"What is broken stays as it was; there are {_flows(app.catalog.flow_ids())}.")


def _fingerprint(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Return what tells one state of a folder from another."""
    found = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            # an editor's file may be gone by now, and the lock of Emacs is a link to nowhere
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat()
                found.add((entry.name, stat.st_mtime_ns, stat.st_size))
    return frozenset(found)


def _report(report: "FolderReport") -> None:
    for problem in report.problems:
        _say(str(problem))


def _say(line: str) -> None:
    announce(line, err=True)


def _flows(flow_ids: tuple[str, ...]) -> str:
    return f"{len(flow_ids)} flow{'' if len(flow_ids) == 1 else 's'} ({', '.join(flow_ids) or 'none'})"


def _welcome(project: Project, settings: Settings, url: str, flow_ids: tuple[str, ...]) -> str:
    from server.auth.tokens import claim_names_of, issue_token, trust_of

    token = issue_token(
        trust_of(settings),
        user_id=DEV_USER,
        tenant_id=settings.default_tenant,
        ttl_s=TOKEN_TTL_S,
        now_s=time.time(),
        claims=claim_names_of(settings),
    )
    return f"""\
Parley serves {_flows(flow_ids)} on {url}

Talk to it:   {url}/ in a browser, or {project.command("chat")}
Token:        {token}
              (user "{DEV_USER}", 12 hours; another: {project.command("token")} --user U)

From Python:

    from parley_client import Parley

    with Parley("{url}", token="...") as parley:
        print(parley.conversation().ask("hello").text)

Flows are read from {shown(settings.flows)}, again whenever they change. Ctrl-C stops.
"""

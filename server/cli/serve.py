"""``parley serve``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from server.cli.options import overrides_of, with_project, with_settings
from server.cli.project import Project
from server.cli.serving import announce, check_flows_folder, run_server, run_workers, shown_url

if TYPE_CHECKING:
    from server.app import Application


@click.command()
@with_project
@with_settings
@click.option("--json", "as_json", is_flag=True, help="When ready, print a JSON object with the URL.")
def serve(place: Path | None, as_json: bool, **flags: Any) -> int:
    """Serve a project in production, until SIGTERM or Ctrl-C.

    It needs PARLEY_JWT_SECRET, and refuses to start with a broken flow. When it is ready it prints its
    URL, and /readyz answers 200. Told to stop, it lets running steps finish (PARLEY_DRAIN_SECONDS) and
    sends its clients elsewhere; the exit code is then 0.

    With --workers it is a parent of so many servers behind one port: it is ready when all of them are,
    starts one that died again, and passes on what it is told.
    """
    project = Project.at(place)
    settings = project.settings(overrides_of(flags), needs_secret=True)
    check_flows_folder(settings)

    def tell(url: str) -> None:
        shown = shown_url(url)
        announce(json.dumps({"url": shown}) if as_json else f"Parley serves on {shown}")

    def on_ready(app: "Application") -> None:
        tell(app.url)

    if settings.workers > 1:
        return run_workers(project, settings, on_ready=tell)
    return run_server(project, settings, dev=False, on_ready=on_ready)

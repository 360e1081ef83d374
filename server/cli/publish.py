"""``parley publish``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from server.cli.errors import CANNOT_START, FAILED, OK, USAGE, CliError
from server.cli.options import with_project
from server.cli.project import Project
from server.cli.serving import check_flows_folder
from server.cli.stores import with_store
from server.settings import Settings

if TYPE_CHECKING:
    from server.engine.releases import Release
    from storage.base import Store


@click.command()
@with_project
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: the release and its flows.")
def publish(place: Path | None, as_json: bool) -> int:
    """Have all instances start the flows of a project's folder from now on.

    Instances that share a store publish their folder when they start, unless it has been published before:
    one that is started anew does not turn back what a newer one brought. So a deployment needs no command.
    This one goes back to an older folder, or publishes ahead of a deployment. What runs keeps its version.
    """
    project = Project.at(place)
    settings = project.settings({})
    check_flows_folder(settings)
    if settings.store.startswith(("sqlite:", "memory:")):
        raise CliError(
            "a server with an embedded store reads its flows folder when it starts: start it again.", USAGE
        )
    release = _release(project, settings)
    flows = {flow_id: version for flow_id, (version, _) in release.flows.items()}
    if as_json:
        click.echo(json.dumps({"release": release.number, "flows": flows}))
    else:
        listed = ", ".join(f"{flow_id} {version}" for flow_id, version in flows.items())
        click.echo(f"Release {release.number} is what starts from now on: {listed}.")
    return OK


def _release(project: Project, settings: Settings) -> "Release":
    from server.delivery.bridge import FLOWS_CHANNEL, flows_payload
    from server.engine.actions import Actions, ActionsInvalid
    from server.engine.catalog import Catalog
    from server.engine.releases import Releases
    from server.telemetry.logs import configure_logging
    from storage.open import open_bus

    configure_logging("warning", "console")
    project.import_actions_from()
    try:
        actions = Actions.load(settings.actions).names
    except ActionsInvalid as error:
        raise CliError(f"the actions cannot be loaded: {error}", CANNOT_START) from None

    async def work(store: "Store") -> "Release":
        bus = open_bus(settings.bus)
        await bus.open()
        try:
            releases = Releases(
                store, Catalog(store, actions), actions, lambda: bus.publish(FLOWS_CHANNEL, flows_payload())
            )
            report = await releases.load_folder(settings.flows, again=True)
            if not report.ok or not report.flows:
                wrong = [str(problem) for problem in report.problems if problem.severity == "error"]
                told = "".join(f"\n  {problem}" for problem in wrong) or " there are none."
                raise CliError(f"nothing was published; mend the flows:{told}", FAILED)
            newest = await releases.newest()
        finally:
            await bus.close()
        assert newest is not None
        return newest

    return with_store(settings, work)

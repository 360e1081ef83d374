"""``parley chat``."""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rich_click as click

from server.cli.errors import UNREACHABLE, USAGE, CliError
from server.cli.lines import Lines
from server.cli.options import with_project
from server.cli.project import DEV_TENANT, DEV_USER, Project
from server.settings import Settings

if TYPE_CHECKING:
    from parley_client import ConnectionEvent, ParleyError

TOKEN_TTL_S: Final = 3600


@click.command()
@with_project
@click.option("--conversation", metavar="ID", help="The conversation to go on with. [default: a new one]")
@click.option(
    "--user",
    "user_id",
    metavar="U",
    default=DEV_USER,
    show_default=True,
    help="Who you are, where the token is made here.",
)
@click.option(
    "--flow", "flow_id", metavar="FLOW", help="The flow to start with. [default: the one that fits]"
)
@click.option(
    "--url",
    metavar="URL",
    envvar="PARLEY_URL",
    help="The server. [default: PARLEY_URL, else the project's `dev`]",
)
@click.option(
    "--token",
    metavar="TOKEN",
    envvar="PARLEY_TOKEN",
    help="Your token; better given as PARLEY_TOKEN. [default: made with the project's secret]",
)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0.1, 3600),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="How long to try to reach the server.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each event.")
def chat(
    place: Path | None,
    conversation: str | None,
    user_id: str,
    flow_id: str | None,
    url: str | None,
    token: str | None,
    wait_s: float,
    as_json: bool,
) -> int:
    """Talk to a server from the terminal.

    Beside `parley dev` it needs no option. It reconnects by itself and goes on where it was. Open questions
    are asked one after the other, with the time that is left; /accept and /reject decide what waits for
    a person; /help tells the rest. With a pipe as its input it takes each line, waits for the reply, and
    prints that; then the exit code is 1 if something was refused.
    """
    project = Project.at(place)
    settings, signer = _credentials(project, token, user_id)
    plan = _Plan(
        command=project.command("chat"),
        url=url or project.address() or _url_of(settings),
        token=signer,
        conversation_id=conversation,
        flow_id=flow_id,
        wait_s=wait_s,
        as_json=as_json,
    )
    return asyncio.run(_chat(plan))


@dataclass(frozen=True, slots=True)
class _Plan:
    command: str  # how to come back
    url: str
    token: str | Callable[[], str]
    conversation_id: str | None
    flow_id: str | None
    wait_s: float
    as_json: bool


def _credentials(
    project: Project, token: str | None, user_id: str
) -> tuple[Settings, str | Callable[[], str]]:
    """Return the settings, and the token or what makes fresh ones."""
    settings = project.settings({})
    if token:
        return settings, token
    if settings.jwt_secret is None:
        secret = project.secret()
        if secret is None:
            raise CliError(
                "there is no token: go to the folder in which `parley dev` runs (or name it: `parley chat "
                "PROJECT`), or set PARLEY_TOKEN.",
                USAGE,
            )
        settings = project.settings({"jwt_secret": secret}, defaults={"default_tenant": DEV_TENANT})
    if settings.default_tenant is None:
        raise CliError("there is no tenant to be in: set PARLEY_TOKEN to a token that names one.", USAGE)
    return settings, _signer(settings, user_id)


def _signer(settings: Settings, user_id: str) -> Callable[[], str]:
    from server.auth.tokens import claim_names_of, issue_token, trust_of

    trust, names, tenant_id = trust_of(settings), claim_names_of(settings), settings.default_tenant

    def sign() -> str:
        return issue_token(
            trust, user_id=user_id, tenant_id=tenant_id, ttl_s=TOKEN_TTL_S, now_s=time.time(), claims=names
        )

    return sign


def _url_of(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://{host}:{settings.port}"


async def _chat(plan: _Plan) -> int:
    from parley_client import AsyncParley, ParleyError

    from server.cli.screen import Screen
    from server.cli.talk import Talk

    lively = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty() and not plan.as_json
    screen = Screen(sys.stdout, sys.stderr, lively=lively, as_json=plan.as_json)
    lines = Lines()

    def on_connection(event: "ConnectionEvent") -> None:
        screen.on_connection(event)
        if event.state == "closed":
            lines.stop(event.error)

    try:
        parley = AsyncParley(plan.url, plan.token, on_connection=on_connection, open_timeout=plan.wait_s)
    except ValueError as error:
        raise CliError(f"{error}.", USAGE) from None
    try:
        async with parley:
            if lively:
                screen.notice(f"Connected to {plan.url}. /help tells what you can do here.")
            return await Talk(
                parley,
                screen,
                lines,
                lively=lively,
                as_json=plan.as_json,
                conversation_id=plan.conversation_id,
                flow_id=plan.flow_id,
                again=plan.command,
            ).run()
    except ParleyError as error:
        raise CliError(_why_ended(plan, error), UNREACHABLE) from None


def _why_ended(plan: _Plan, error: "ParleyError") -> str:
    from parley_client import ConnectionLost, Unauthorized

    if isinstance(error, ConnectionLost):
        return f"nothing answers at {plan.url}: start `parley dev`, or name another server by --url."
    hint = f" {error.suggestion}" if error.suggestion else ""
    if isinstance(error, Unauthorized):
        return f"the server at {plan.url} does not take the token: {error.message}{hint}"
    return f"{error.message}{hint}"

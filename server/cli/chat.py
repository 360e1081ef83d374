"""``parley chat``."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from server.cli.access import access_to, why_ended, with_access
from server.cli.errors import FAILED, UNREACHABLE, USAGE, CliError
from server.cli.lines import Lines
from server.cli.options import with_project
from server.cli.project import Project

if TYPE_CHECKING:
    from parley_client import ConnectionEvent

    from server.cli.recorder import Recorder


@click.command()
@with_project
@click.option("--conversation", metavar="ID", help="The conversation to go on with. [default: a new one]")
@click.option(
    "--flow", "flow_id", metavar="FLOW", help="The flow to start with. [default: the one that fits]"
)
@with_access
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
@click.option(
    "--record",
    "record_to",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a new conversation down as a test for `parley test`, with what is personal masked.",
)
def chat(
    place: Path | None,
    conversation: str | None,
    user_id: str,
    flow_id: str | None,
    url: str | None,
    token: str | None,
    wait_s: float,
    as_json: bool,
    record_to: Path | None,
) -> int:
    """Talk to a server from the terminal.

    Beside `parley dev` it needs no option. It reconnects by itself and goes on where it was. Open questions
    are asked one after the other, with the time that is left; /accept and /reject decide what waits for
    a person; /help tells the rest. With a pipe as its input it takes each line, waits for the reply, and
    prints that; then the exit code is 1 if something was refused.
    """
    project = Project.at(place)
    if record_to is not None and conversation is not None:
        raise CliError(
            "--record writes a conversation down from its beginning: leave --conversation away.", USAGE
        )
    recorder = _recorder(project, record_to)
    scopes = ("conversations:inspect",) if recorder is not None else ()  # stubs need what actions saved
    access = access_to(project, "chat", url=url, token=token, user_id=user_id, scopes=scopes)
    plan = _Plan(
        command=project.command("chat"),
        url=access.url,
        token=access.token,
        conversation_id=conversation,
        flow_id=flow_id,
        wait_s=wait_s,
        as_json=as_json,
        recorder=recorder,
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
    recorder: "Recorder | None"


def _recorder(project: Project, file: Path | None) -> "Recorder | None":
    from server.cli.recorder import Recorder

    return Recorder.of(project, file) if file is not None else None


async def _chat(plan: _Plan) -> int:
    from parley_client import AsyncParley, ParleyError, Refused, Unauthorized

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
            talk = Talk(
                parley,
                screen,
                lines,
                lively=lively,
                as_json=plan.as_json,
                conversation_id=plan.conversation_id,
                flow_id=plan.flow_id,
                again=plan.command,
                on_enter=plan.recorder.listen if plan.recorder is not None else None,
            )
            try:
                return await talk.run()
            finally:
                if plan.recorder is not None and await plan.recorder.finish():
                    screen.notice("The chat is written down; look through it before you keep it.")
    except ParleyError as error:
        is_refusal = isinstance(error, Refused) and not isinstance(error, Unauthorized)
        raise CliError(why_ended(plan.url, error), FAILED if is_refusal else UNREACHABLE) from None

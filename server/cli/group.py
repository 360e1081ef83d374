"""The group of all commands, and what becomes of their errors: a sentence and an exit code."""

import errno
import importlib
import keyword
import os
import sys
from collections.abc import Sequence
from typing import Final

import rich_click as click

from server.cli.errors import FAILED, INTERRUPTED, OK, USAGE, CliError
from server.cli.interrupt import ended_by_ctrl_c

COMMANDS: Final = {
    "dev": "Serve a project on this machine and reload its flows as they change.",
    "serve": "Serve a project in production.",
    "init": "Make a new project that runs.",
    "new": "Add a flow to a project.",
    "chat": "Talk to a server from the terminal.",
    "tail": "Show a conversation's events as they happen.",
    "state": "Show where a conversation stands.",
    "reset": "Let a conversation begin afresh.",
    "check": "Check flow files; say what is wrong, by line and column.",
    "graph": "Draw a flow as Mermaid or SVG.",
    "smoke": "Walk through what clients rely on, against a server that runs.",
    "bench": "Measure on this machine what turns of a project take.",
    "config": "Tell the settings, and where each comes from.",
    "doctor": "Look for what would keep a server here from working, and say how to mend it.",
    "export": "Write conversations to a file, to keep or to move them.",
    "import": "Read conversations of an export into a store.",
    "migrate": "Bring a store to this release: its tables or indexes.",
    "test": "Run the tests of flows, in memory and in virtual time.",
    "publish": "Have all instances start a project's flows from now on.",
    "token": "Print a token for a user.",
    "keys": "Make, list, rotate and revoke API keys.",
    "origins": "Tell which pages may connect, and let pages in.",
    "completion": "Print the script that completes commands in a shell.",
    "version": "Print the version.",
}


_UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
"""What a write to standard output fails with; errors of files name their file."""


class LazyGroup(click.RichGroup):
    """A group whose commands are imported when they run; until then stand-ins hold their summaries."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Put the real command in the place of its stand-in."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, command(name) if name else stand_in, rest


def command(name: str) -> click.Command:
    """Import and return the command ``name``."""
    python_name = f"{name}_" if keyword.iskeyword(name) else name
    with ended_by_ctrl_c():
        found = getattr(importlib.import_module(f"server.cli.{python_name}"), python_name)
    assert isinstance(found, click.Command)
    return found


def _print_version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.invoke(command("version"))
        ctx.exit()


@click.group(
    cls=LazyGroup,
    commands=[click.RichCommand(name=name, help=summary) for name, summary in COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Settings come from flags, PARLEY_* in the environment, .env and parley.toml, in this order.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version, as `parley version` does.",
)
def parley() -> None:
    """Parley: durable conversations over one WebSocket."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line. Return the exit code (``errors.EXIT_CODES``)."""
    try:
        result = parley.main(list(arguments), prog_name="parley", standalone_mode=False)
        sys.stdout.flush()
    except CliError as error:
        return _say(error.message, error.exit_code)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "parley"
        return _say(f"{_sentence(error)} `{path} --help` tells more.", USAGE)
    except click.ClickException as error:
        return _say(_sentence(error), USAGE)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to be said, not even at exit.
        _drop_output()
        return OK
    except OSError as error:
        if error.filename is not None:
            return _say(f"{error.filename} cannot be used ({error.strerror}).", FAILED)
        if error.errno not in _UNWRITABLE:
            raise
        _drop_output()
        return _say(f"the output cannot be written ({error.strerror}).", FAILED)
    return result if isinstance(result, int) else OK


def _sentence(error: click.ClickException) -> str:
    """Return what click says as one sentence: it lists choices one a line, and may end without a stop."""
    text = " ".join(error.format_message().split())
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _drop_output() -> None:
    """Let nothing more be written, not even what waits in a buffer when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, exit_code: int) -> int:
    sys.stderr.write(f"parley: {message}\n")
    return exit_code

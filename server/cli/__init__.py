"""The command ``parley``. A command's module is imported when that command runs, and not before."""

import os
import sys
from io import TextIOWrapper

from server.cli.interrupt import ended_by_ctrl_c


def main() -> None:
    """Run ``parley`` with the arguments of the process, and end the process with its exit code."""
    with ended_by_ctrl_c():
        from server.cli.group import run

    _make_output_safe()
    sys.exit(run(sys.argv[1:]))


def _make_output_safe() -> None:
    """Let no character of a reply, and no closed descriptor, end a command.

    A terminal that does not know a character shows ``?`` in its place. Standard error escapes by itself.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the whole process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the whole process
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")

"""The command ``parley``. A command's module is imported when that command runs, and not before."""

import sys


def main() -> None:
    """Run ``parley`` with the arguments of the process, and end the process with its exit code."""
    from server.cli.group import run

    sys.exit(run(sys.argv[1:]))

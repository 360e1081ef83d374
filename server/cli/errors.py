"""What ends a command early: one sentence for the person who typed it, and an exit code."""

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
CANNOT_START: Final = 3
UNREACHABLE: Final = 4
INTERRUPTED: Final = 130

EXIT_CODES: Final = {
    OK: "It worked; for `dev` and `serve`: it was told to stop and stopped in good order.",
    FAILED: "It ran; the answer is no: `check` found problems, a `test` failed, or something was refused.",
    USAGE: "The command line or the settings are wrong; for `test`: a file is, or there is nothing to run.",
    CANNOT_START: "`dev` or `serve` cannot start: port or store are taken, store or bus cannot be used, or "
    "flows are missing or broken.",
    UNREACHABLE: "The server cannot be reached, or turned the command away.",
    INTERRUPTED: "It was interrupted by Ctrl-C.",
}


class CliError(Exception):
    """A command cannot go on.

    Args:
        message: what is wrong and what to do about it.
        exit_code: see ``EXIT_CODES``.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code

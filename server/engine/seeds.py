"""Random seeds for reductions, 128 bits each, drawn from the system a few hundred at a time."""

import os
from typing import Final

SEED_BYTES: Final = 16
DRAWN: Final = 256


class Seeds:
    """One system call for 256 seeds: a call for each would be a twentieth of a turn."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0

    def next(self) -> str:
        """Return 32 hex digits that nobody has had before."""
        if self._at >= len(self._text):
            self._text, self._at = os.urandom(SEED_BYTES * DRAWN).hex(), 0
        begin = self._at
        self._at = end = begin + 2 * SEED_BYTES
        return self._text[begin:end]

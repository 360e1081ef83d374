"""``Prefer`` (RFC 7240): whether a request waits for its outcome, and how long."""

import re
from collections.abc import Iterable
from typing import Final

DEFAULT_WAIT_S: Final = 30
MAX_WAIT_S: Final = 60
_WAIT: Final = re.compile(r'wait="?([0-9]{1,6})"?')


def wait_s(prefer: Iterable[str]) -> tuple[int, str | None]:
    """Return how many seconds to wait, and what of the preferences was applied.

    ``respond-async`` alone does not wait at all; ``wait=N`` waits up to N seconds, 60 at most. What is not
    known, or not well-formed, is ignored, as RFC 7240 says.
    """
    asked = [part.partition(";")[0].strip().lower() for line in prefer for part in line.split(",")]
    waits = [found[1] for part in asked if (found := _WAIT.fullmatch(part))]
    if waits:
        seconds = min(int(waits[0]), MAX_WAIT_S)
        applied = f"wait={seconds}"
        return seconds, f"respond-async, {applied}" if "respond-async" in asked else applied
    if "respond-async" in asked:
        return 0, "respond-async"
    return DEFAULT_WAIT_S, None

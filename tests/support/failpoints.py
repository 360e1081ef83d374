"""Where this process ends by its own SIGKILL, if a test wants it to.

A failpoint is ``PLACE:COUNT`` or ``PLACE:COUNT:MICROSECONDS`` in ``PARLEY_TEST_KILL``: the process is dead
when the place is reached for the COUNT-th time, or that long after (whatever runs by then, in any thread).
Places are named by who reaches them: ``commit.before``, ``sql.COMMIT``, ``till.charge.between``, ...
"""

import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Final, Self

VARIABLE: Final = "PARLEY_TEST_KILL"


@dataclass(slots=True)
class Failpoint:
    """A place, how often it may still be reached, and how long the process outlives the last time."""

    place: str
    count: int
    delay_us: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        place, count, *delay = text.split(":")
        return cls(place, int(count), int(delay[0]) if delay else None)

    def __str__(self) -> str:
        return f"{self.place}:{self.count}" + (f":{self.delay_us}" if self.delay_us is not None else "")

    def reached(self) -> None:
        self.count -= 1
        if self.count != 0:
            return
        if self.delay_us is None:
            die()
        threading.Thread(target=_die_later, args=(self.delay_us,), daemon=True).start()


_armed: Failpoint | None = None


def arm(text: str | None) -> None:
    """Set the one failpoint of this process, or none."""
    global _armed
    _armed = Failpoint.parse(text) if text else None


def reach(place: str) -> None:
    """Tell that a place is reached."""
    if _armed is not None and _armed.place == place:
        _armed.reached()


def die() -> None:
    """End now, as the power would: no handler, no flush, no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _die_later(delay_us: int) -> None:
    time.sleep(delay_us / 1_000_000)
    die()


arm(os.environ.get(VARIABLE))

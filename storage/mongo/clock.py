"""The time of the database's primary, without asking for it each time.

``hello`` tells the server's time; half of the way there and back is taken for the way. Between two
measurements this machine's monotonic clock carries it on, so that ``now`` neither blocks nor follows a
system clock that was set. It never runs back: a primary that is behind is waited for.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from storage.models import TimeMs

MEASURE_EVERY_S: Final = 30.0


class StoreClock:
    """See the module. Until the first measurement it is this machine's time.

    Args:
        monotonic: seconds.
        wall: seconds since the Unix epoch.
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._monotonic = monotonic
        self._offset_ms = int((wall() - monotonic()) * 1000)
        self._latest = 0

    def __call__(self) -> TimeMs:
        """Return milliseconds since the Unix epoch."""
        self._latest = max(self._latest, int(self._monotonic() * 1000) + self._offset_ms)
        return self._latest

    def measured(self, server_time: datetime, asked_at: float, answered_at: float) -> None:
        """Take over the server's time, told between two readings of ``monotonic``."""
        there_ms = server_time.timestamp() * 1000
        self._offset_ms = int(there_ms - (asked_at + answered_at) * 500)

"""The time of the database's primary, without asking for it each time.

``hello`` tells the server's time; half of the way there and back is taken for the way. Between two
measurements this machine's monotonic clock carries it on, so that ``now`` neither blocks nor follows a
system clock that was set. Once measured it never runs back: a new primary that is behind is waited for, 5 s
after each measurement, so that deadlines come late rather than never. As each instance measures when it
does, they may differ by that much meanwhile, which is half of what is left of any lease that is renewed.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from storage.models import TimeMs

MEASURE_EVERY_S: Final = 30.0
SLEW_MS: Final = 5_000
_logger = logging.getLogger(__name__)


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
        self._is_measured = False

    def __call__(self) -> TimeMs:
        """Return milliseconds since the Unix epoch."""
        self._latest = max(self._latest, int(self._monotonic() * 1000) + self._offset_ms)
        return self._latest

    def measured(self, server_time: datetime, asked_at: float, answered_at: float) -> None:
        """Take over the server's time, told between two readings of ``monotonic``."""
        offset_ms = int(server_time.timestamp() * 1000 - (asked_at + answered_at) * 500)
        behind_ms = self._offset_ms - offset_ms
        if not self._is_measured:
            self._is_measured, self._latest = True, 0
        elif behind_ms > SLEW_MS:
            _logger.warning(
                "the clock of MongoDB's primary was set back, or another primary's is behind: "
                "synchronise the clocks of all members",
                extra={"behind_ms": behind_ms},
            )
            offset_ms = self._offset_ms - SLEW_MS
        self._offset_ms = offset_ms

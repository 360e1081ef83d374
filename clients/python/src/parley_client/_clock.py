"""The clock of this client, as a port, so that tests need not wait."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due; cancelling it late or twice does nothing."""

    def cancel(self) -> None:
        """Do not call."""


class Clock(Protocol):
    """Monotonic time, and calls that are due."""

    def now(self) -> float:
        """Return seconds since any fixed moment."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call back once, ``delay`` seconds from now, from the running event loop."""


class LoopClock:
    """The running event loop's own time."""

    def now(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """See ``Clock``."""
        return asyncio.get_running_loop().call_later(delay, callback)


async def sleep(clock: Clock, seconds: float) -> None:
    """Pause by this clock; cancelling leaves nothing behind."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.call_later(seconds, lambda: None if done.done() else done.set_result(None))
    try:
        await done
    finally:
        timer.cancel()

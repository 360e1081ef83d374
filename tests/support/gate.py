"""Actions for tests that decide themselves when an action ends."""

import asyncio
from typing import Any


class Gate:
    """``entered`` counts the calls that wait or have gone through; ``open`` lets all of them go.

    ``left`` is set once a call is over, be it that it was let go or that it was cancelled.
    """

    def __init__(self) -> None:
        self.entered = 0
        self.event = asyncio.Event()
        self.left = asyncio.Event()
        self._changed = asyncio.Event()

    def open(self) -> None:
        self.event.set()

    def enter(self) -> None:
        self.entered += 1
        self._changed.set()

    async def reached(self, calls: int = 1, timeout: float = 15) -> None:
        """Return once so many calls have come."""
        async with asyncio.timeout(timeout):
            while self.entered < calls:
                self._changed.clear()
                await self._changed.wait()


gates: dict[str, Gate] = {}


def gate_named(name: str) -> Gate:
    """Return the gate of that name; it is made on first use."""
    return gates.setdefault(name, Gate())


async def hold(context: Any, gate: str) -> str:
    """Wait until the gate of that name is opened."""
    found = gate_named(gate)
    found.enter()
    try:
        await found.event.wait()
    finally:
        found.left.set()
    return "open"

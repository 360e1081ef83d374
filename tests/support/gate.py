"""Actions for tests that decide themselves when an action ends."""

import asyncio
from typing import Any


class Gate:
    """``entered`` counts the calls that wait or have gone through; ``open`` lets all of them go."""

    def __init__(self) -> None:
        self.entered = 0
        self.event = asyncio.Event()

    def open(self) -> None:
        self.event.set()


gates: dict[str, Gate] = {}


async def hold(context: Any, gate: str) -> str:
    """Wait until the gate of that name is opened; it is made on first use."""
    found = gates.setdefault(gate, Gate())
    found.entered += 1
    await found.event.wait()
    return "open"

"""Waiting for what happens in the background of the code under test."""

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 20.0
POLL_S: Final = 0.01


async def eventually(holds: Callable[[], bool]) -> None:
    """Return once ``holds`` does; fail if it never does."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(POLL_S)

"""What has come in on one socket and waits for its one reader."""

import asyncio
from collections import deque
from typing import Any

Message = dict[str, Any]
"""As ASGI has it."""


class Mailbox:
    """What has come in and waits for its one reader. Stands where uvicorn has an ``asyncio.Queue``."""

    __slots__ = ("_items", "_loop", "_reader")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[bytes | Message] = deque()
        self._reader: asyncio.Future[None] | None = None

    def put_nowait(self, item: bytes | Message) -> None:
        """Put an item behind what waits, and wake the reader."""
        self._items.append(item)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def empty(self) -> bool:
        """Tell whether nothing waits, as far as a reader has not been woken for it yet."""
        return not self._items

    @property
    def has_reader(self) -> bool:
        """Whether somebody waits for what is put next, or has just been woken for it."""
        return self._reader is not None

    async def get(self) -> bytes | Message:
        """Return what was put first, once there is anything."""
        while not self._items:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._items.popleft()

"""A bounded queue with one reader, as an async iterator."""

import asyncio
from collections import deque
from typing import Generic, Self, TypeVar

from .errors import EventsOverflow, ParleyError

T = TypeVar("T")


class Stream(Generic[T]):
    """Yields what is pushed, in order, until it is finished.

    Pushing never waits: the connection serves everybody, so a slow reader must not hold it up. Beyond
    ``limit`` unread items the reader gets those and then ``EventsOverflow``; what comes later is not kept.
    It is read by one task; nothing has to be closed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._ended = False
        self._error: ParleyError | None = None
        self._reader: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will be pushed."""
        return self._ended

    def push(self, item: T) -> None:
        """Add an item; beyond the limit, end in ``EventsOverflow``."""
        if self._ended:
            return
        if len(self._items) >= self._limit:
            self.finish(EventsOverflow(f"more than {self._limit} events were not read in time"))
            return
        self._items.append(item)
        self._wake()

    def finish(self, error: ParleyError | None = None) -> None:
        """End behind what was pushed, with ``error`` if there is one. Only the first call counts."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()

    async def aclose(self) -> None:
        """Stop reading; what is unread is dropped."""
        self.finish()
        self._items.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._ended:
                if self._error is None:
                    raise StopAsyncIteration
                error, self._error = self._error, None
                raise error
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._items.popleft()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

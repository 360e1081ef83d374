"""A bounded queue with one reader, as an async iterator."""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from .errors import EventsOverflow, ParleyError, Timeout

T = TypeVar("T")


class _Nothing:
    """Nothing is there yet."""


NOTHING: Final = _Nothing()


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
        self._left: Callable[[], None] | None = None

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
            # in this order: another thread that sees the end sees its error too
            self._error = error
            self._ended = True
            self._wake()

    def on_leave(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when the reader closes this before its end."""
        self._left = callback

    async def aclose(self) -> None:
        """Stop reading; what is unread is dropped."""
        self.leave()

    def leave(self) -> None:
        """Do what ``aclose`` does."""
        left, self._left = self._left, None
        if left is not None and not self._ended:
            left()
        self.finish()
        self._items.clear()

    async def get(self, *, timeout: float | None = None) -> T:
        """Return the next one, waiting at most ``timeout`` seconds.

        Raises:
            Timeout: none came in time; reading can go on.
            StopAsyncIteration: there is none any more.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self.__anext__()
        except TimeoutError as late:
            if isinstance(late, ParleyError):
                raise
            raise Timeout(f"nothing came within {timeout:g} s") from None

    def poll(self) -> T | _Nothing:
        """Return the next one without waiting, or ``NOTHING``; may be called from another thread.

        Raises:
            StopAsyncIteration: there is none any more.
        """
        ended = self._ended  # read first: what is pushed before the end must not be missed
        try:
            return self._items.popleft()
        except IndexError:
            if not ended:
                return NOTHING
        error, self._error = self._error, None
        raise StopAsyncIteration if error is None else error

    async def arrival(self) -> None:
        """Wait until ``poll`` has something to tell."""
        while not self._items and not self._ended:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while isinstance(found := self.poll(), _Nothing):
            await self.arrival()
        return found

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

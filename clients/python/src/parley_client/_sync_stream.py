"""The streams of the synchronous client."""

import threading
import weakref
from types import TracebackType
from typing import Generic, Self, TypeVar

from ._conversation import TurnStream
from ._portal import Portal
from ._stream import Stream, _Nothing
from .events import AnyEvent
from .records import Turn

T = TypeVar("T")


class SyncStream(Generic[T]):
    """What ``Stream`` is, for a ``for`` loop. Breaking out of the loop leaves nothing behind."""

    def __init__(self, portal: Portal, stream: Stream[T]) -> None:
        self._portal = portal
        self._stream = stream
        self._reading = threading.Lock()
        weakref.finalize(self, portal.post, stream.leave).atexit = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will be pushed."""
        return self._stream.ended

    def close(self) -> None:
        """Stop reading; what is unread is dropped."""
        self._portal.peek(self._stream.leave)

    def get(self, *, timeout: float | None = None) -> T:
        """Return the next one, waiting at most ``timeout`` seconds.

        Raises:
            Timeout: none came in time; reading can go on.
            StopIteration: there is none any more.
        """
        if timeout is None:
            return self.__next__()
        with self._reading:
            try:
                return self._portal.call(lambda: self._stream.get(timeout=timeout))
            except StopAsyncIteration:
                raise StopIteration from None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._reading:
            try:
                while isinstance(found := self._stream.poll(), _Nothing):
                    self._portal.call(self._stream.arrival)
            except StopAsyncIteration:
                raise StopIteration from None
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class SyncTurnStream(SyncStream[AnyEvent]):
    """What ``TurnStream`` is, for a ``for`` loop: ends with its ``TurnCompleted`` or ``TurnFailed``.

    Attributes:
        command_id: the command's idempotency key; sending it again with the same content is safe.
    """

    _stream: TurnStream

    def __init__(self, portal: Portal, stream: TurnStream) -> None:
        super().__init__(portal, stream)
        self.command_id = stream.command_id

    @property
    def accepted(self) -> bool:
        """Whether the command is durable on the server."""
        return self._stream.accepted

    @property
    def duplicate(self) -> bool:
        """Whether the server knew the key: this is the outcome of an earlier sending."""
        return self._stream.duplicate

    @property
    def turn(self) -> Turn | None:
        """The turn, once it has ended well or badly."""
        return self._stream.turn

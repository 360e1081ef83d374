"""Writes that wait at the same moment, gathered into one command.

What a driver spends on a command (a connection, a session, a reply) and what a replica set spends on it
(a journal write, a majority) is spent once for a group. What somebody waits for does not wait for a group to
fill: what has come while another group was under way goes together.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from storage.base import StoreUnavailable

T = TypeVar("T")
R = TypeVar("R")
TOO_SLOW: Final = "MongoDB is too slow for what is asked of it: look at its load, and at the network to it"


def check(deadline: float) -> None:
    """Raise StoreUnavailable where ``deadline``, in the loop's time, has come."""
    if asyncio.get_running_loop().time() >= deadline:
        raise StoreUnavailable(TOO_SLOW)


@dataclass(slots=True)
class _Waiting(Generic[T, R]):
    item: T
    key: Hashable
    size: int
    deadline: float | None
    outcome: asyncio.Future[R] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Lane(Generic[T, R]):
    """Runs groups of items; each item's future gets its own outcome.

    Two items with the same key are never in one group. What a group raises, each of its items gets.

    Args:
        run: does a group and returns an outcome for each item, in order; an exception as an outcome is
            raised to that item's submitter.
        groups: how many may be under way.
        items: the most in a group.
        size: the most bytes in a group, unless its first item alone is larger.
        linger_s: how long the first item waits for others, and lets others have the event loop, unless
            somebody is in a hurry.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        groups: int,
        items: int,
        size: int,
        linger_s: float = 0,
    ) -> None:
        self._run = run
        self._groups = groups
        self._items = items
        self._size = size
        self._linger_s = linger_s
        self._queue: deque[_Waiting[T, R]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._called: asyncio.Handle | None = None
        self.queued_bytes = 0

    def submit(self, item: T, key: Hashable, size: int, deadline: float | None = None) -> asyncio.Future[R]:
        """Queue an item; the future has its outcome. A cancelled waiter changes nothing.

        What has not had its turn by ``deadline``, in the loop's time, is not run any more: StoreUnavailable.
        """
        waiting: _Waiting[T, R] = _Waiting(item, key, size, deadline)
        self._queue.append(waiting)
        self.queued_bytes += size
        if self._called is None and len(self._tasks) < self._groups:
            self._call(self._linger_s)
        return waiting.outcome

    def hurry(self) -> None:
        """Have what is queued done as soon as there is room for a group."""
        if self._called is not None:
            self._call(0)

    async def drained(self) -> None:
        """Wait until everything that was submitted has its outcome."""
        while self._called or self._queue or self._tasks:
            self.hurry()
            if self._tasks:
                await asyncio.wait(self._tasks)
            else:
                await asyncio.sleep(0)

    def _call(self, after_s: float) -> None:
        """Start what is queued, never at once: so that a burst goes together."""
        self._not_called()
        loop = asyncio.get_running_loop()
        self._called = loop.call_later(after_s, self._start) if after_s else loop.call_soon(self._start)

    def _not_called(self) -> None:
        if self._called is not None:
            self._called.cancel()
            self._called = None

    def _start(self) -> None:
        self._not_called()
        while self._queue and len(self._tasks) < self._groups:
            group = self._take()
            if not group:
                break
            task = asyncio.get_running_loop().create_task(self._do(group))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start()

    def _take(self) -> list[_Waiting[T, R]]:
        """Take the next group off the queue. What has a key of it stays, in its place."""
        taken: list[_Waiting[T, R]] = []
        left: list[_Waiting[T, R]] = []
        keys: set[Hashable] = set()
        size = 0
        now = asyncio.get_running_loop().time()
        while self._queue and len(taken) < self._items:
            waiting = self._queue.popleft()
            if waiting.deadline is not None and now >= waiting.deadline:
                self._give_up(waiting)
                continue
            if waiting.key in keys:
                left.append(waiting)
                continue
            if taken and size + waiting.size > self._size:
                left.append(waiting)
                break
            taken.append(waiting)
            keys.add(waiting.key)
            size += waiting.size
        self._queue.extendleft(reversed(left))
        self.queued_bytes -= size
        return taken

    def _give_up(self, waiting: _Waiting[T, R]) -> None:
        self.queued_bytes -= waiting.size
        if not waiting.outcome.done():
            waiting.outcome.set_exception(StoreUnavailable(TOO_SLOW))
            waiting.outcome.exception()  # somebody may have gone; that is no news

    async def _do(self, group: list[_Waiting[T, R]]) -> None:
        try:
            outcomes = await self._run([waiting.item for waiting in group])
        except BaseException as error:  # noqa: BLE001 - it is handed to those who wait
            outcomes = [error if isinstance(error, Exception) else asyncio.CancelledError()] * len(group)  # type: ignore[list-item]
        for waiting, outcome in zip(group, outcomes, strict=True):
            if waiting.outcome.done():
                continue
            if isinstance(outcome, BaseException):
                waiting.outcome.set_exception(outcome)
                waiting.outcome.exception()  # somebody may have gone; that is no news
            else:
                waiting.outcome.set_result(outcome)

"""Writes that wait at the same moment, gathered into one command.

What a driver spends on a command (a connection, a session, a reply) and what a replica set spends on it
(a journal write, a majority) is spent once for a group. Nothing waits for a group to fill: what has come
while another group was under way goes together.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class _Waiting(Generic[T, R]):
    item: T
    key: Hashable
    size: int
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
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        groups: int,
        items: int,
        size: int,
    ) -> None:
        self._run = run
        self._groups = groups
        self._items = items
        self._size = size
        self._queue: deque[_Waiting[T, R]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._called = False
        self.queued_bytes = 0

    def submit(self, item: T, key: Hashable, size: int) -> asyncio.Future[R]:
        """Queue an item; the future has its outcome. A cancelled waiter changes nothing."""
        waiting: _Waiting[T, R] = _Waiting(item, key, size)
        self._queue.append(waiting)
        self.queued_bytes += size
        if not self._called and len(self._tasks) < self._groups:
            self._called = True
            asyncio.get_running_loop().call_soon(self._start)  # so that a burst goes together
        return waiting.outcome

    async def drained(self) -> None:
        """Wait until everything that was submitted has its outcome."""
        while self._called or self._queue or self._tasks:
            if self._tasks:
                await asyncio.wait(self._tasks)
            else:
                await asyncio.sleep(0)

    def _start(self) -> None:
        self._called = False
        while self._queue and len(self._tasks) < self._groups:
            group = self._take()
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
        while self._queue and len(taken) < self._items:
            waiting = self._queue.popleft()
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

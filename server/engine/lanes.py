"""Lanes: of one conversation's inputs one at a time is worked on, first come, first served."""

import asyncio
import contextlib
from collections import deque

from protocol.errors import ErrorCode, Refused

Key = tuple[str, str]


class Lanes:
    """The lanes that are in use; one that nobody uses costs nothing.

    Args:
        limit: how many may wait for one lane, who holds it included, where the bound counts.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Nearly always nobody waits behind who holds a lane: then there is no queue.
        self._held: dict[Key, deque[asyncio.Future[None]] | None] = {}

    def hold(self, key: Key, *, bounded: bool = True) -> "Hold":
        """Return what holds the lane for the length of an ``async with``.

        Raises:
            Refused: ``overloaded``; it is bounded, and too many wait already.
        """
        if bounded and (queue := self._held.get(key)) is not None and len(queue) + 1 >= self._limit:
            raise Refused(
                ErrorCode.OVERLOADED, "Too many messages for this conversation at once.", retry_after_ms=500
            )
        return Hold(self._held, key)


class Hold:
    """One stay in a lane."""

    __slots__ = ("_held", "_key")

    def __init__(self, held: dict[Key, deque[asyncio.Future[None]] | None], key: Key) -> None:
        self._held = held
        self._key = key

    async def __aenter__(self) -> None:
        held, key = self._held, self._key
        if key not in held:
            held[key] = None
            return
        queue = held[key]
        if queue is None:
            queue = held[key] = deque()
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # who left just now has passed us over already
                    queue.remove(turn)
            else:  # it was our turn already
                self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        queue = self._held[self._key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._held[self._key]

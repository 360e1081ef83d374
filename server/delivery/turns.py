"""Who waits for the end of a turn: REST requests that answer it.

Like the inbox's, this feed only says *when* to look: how the turn has ended is in the store. What is lost
(what the bus did not bring of another instance) is found by looking every few seconds anyway.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from protocol.events import TURN_ENDS
from storage.models import EventBatch

_ENDS: Final = frozenset(event.value for event in TURN_ENDS)

Wake = Callable[[], None]
Turn = tuple[str, str, str]
"""Tenant, conversation, and the command's key."""


class TurnFeed:
    """The turns that are waited for on one instance; false while there are none."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], set[tuple[str, Wake]]] = {}
        self.closed = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def watch(self, turn: Turn, wake: Wake) -> Iterator[None]:
        """Have ``wake`` called, from the event loop, when the turn may have ended."""
        place, waiter = turn[:2], (turn[2], wake)
        waiting = self._waiting.setdefault(place, set())
        waiting.add(waiter)
        try:
            yield
        finally:
            waiting.discard(waiter)
            if not waiting and self._waiting.get(place) is waiting:
                del self._waiting[place]

    def committed(self, tenant_id: str, conversation_id: str, batch: EventBatch | None) -> None:
        """Wake who waits for a turn that this commit ends (None: the conversation is gone)."""
        for key, wake in list(self._waiting.get((tenant_id, conversation_id), ())):
            if batch is None or _ends(batch, key):
                wake()

    def wake_all(self) -> None:
        """Wake everybody: a commit may have been missed."""
        for waiting in list(self._waiting.values()):
            for _, wake in list(waiting):
                wake()

    def close(self) -> None:
        """Wake everybody for the last time: the server goes away."""
        self.closed = True
        self.wake_all()


def _ends(batch: EventBatch, key: str) -> bool:
    return any(event.command_id == key and event.type in _ENDS for event in batch.events)

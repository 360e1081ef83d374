"""Who wants to be told when something waits for people, or waits no more.

A feed only says *when* to look: what waits is in the store. So nothing here can be wrong for long, and what
is lost (what the bus did not bring of another instance) is found by looking every few seconds anyway.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from storage.models import EventBatch

CHANGING: Final = frozenset(
    {
        "acceptance.requested",
        "clarification.requested",
        "pending.resolved",
        "pending.expired",
        "handoff.requested",
        "execution.resumed",
        "execution.paused",
        "execution.completed",
        "execution.failed",
        "execution.cancelled",
        "execution.expired",
        "conversation.reset",
    }
)
"""The events that can change what waits for people."""

Wake = Callable[[], None]


def changes_inbox(batch: EventBatch | None) -> bool:
    """Tell whether a commit may have changed what waits (None: a deletion has)."""
    return batch is None or any(event.type in CHANGING for event in batch.events)


class InboxFeed:
    """The open inboxes of one instance, by tenant; false while there are none.

    A commit costs nothing where nobody of its tenant watches.
    """

    def __init__(self) -> None:
        self._watchers: dict[str, set[Wake]] = {}
        self.closed = False

    def __bool__(self) -> bool:
        return bool(self._watchers)

    @contextmanager
    def watch(self, tenant_id: str, wake: Wake) -> Iterator[None]:
        """Have ``wake`` called, from the event loop, whenever the tenant's inbox may have changed."""
        watchers = self._watchers.setdefault(tenant_id, set())
        watchers.add(wake)
        try:
            yield
        finally:
            watchers.discard(wake)
            if not watchers and self._watchers.get(tenant_id) is watchers:
                del self._watchers[tenant_id]

    def committed(self, tenant_id: str, batch: EventBatch | None) -> None:
        """Wake the tenant's watchers if a commit may have changed what waits (None: a deletion has)."""
        if tenant_id in self._watchers and changes_inbox(batch):
            self.wake(tenant_id)

    def wake(self, tenant_id: str) -> None:
        """Wake the tenant's watchers."""
        for wake in list(self._watchers.get(tenant_id, ())):
            wake()

    def wake_all(self) -> None:
        """Wake everybody."""
        for tenant_id in list(self._watchers):
            self.wake(tenant_id)

    def close(self) -> None:
        """Wake everybody for the last time: the server goes away."""
        self.closed = True
        self.wake_all()

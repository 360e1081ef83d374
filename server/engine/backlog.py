"""What is due and not yet taken in hand: each tenant has a turn, and each gets its earliest first."""

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from storage.base import Due

Key = tuple[str, str]


class Backlog:
    """The conversations that one look at the store has found.

    Tenants take turns, so a tenant with thousands of deadlines at once does not keep another's one waiting
    behind them.

    Args:
        scattered: begin at a random place of each tenant's, because other instances hold the same list and
            would all reach for the same conversation at once. Where no other writes, order is kept.
    """

    def __init__(self, *, scattered: bool) -> None:
        self.scattered: Final = scattered
        self._queues: dict[str, deque[Key]] = {}
        self._turns: deque[str] = deque()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def fill(self, found: Iterable[Due], wanted: Callable[[Key], bool]) -> None:
        """Replace what is here by what was found, in its order, as far as it is ``wanted``."""
        self._queues = {}
        for due in found:
            key = (due.tenant_id, due.conversation_id)
            if wanted(key):
                self._queues.setdefault(due.tenant_id, deque()).append(key)
        self._turns = deque(self._queues)
        self.scatter()

    def scatter(self) -> None:
        """Go on at a random place of each tenant's, where others hold the same list."""
        if self.scattered:
            random.shuffle(self._turns)
            for queue in self._queues.values():
                queue.rotate(random.randrange(len(queue)))  # noqa: S311 - no secret

    def take(self, count: int) -> list[Key]:
        """Remove and return the next ``count`` conversations, or what there is."""
        taken: list[Key] = []
        while self._turns and len(taken) < count:
            tenant_id = self._turns.popleft()
            queue = self._queues[tenant_id]
            taken.append(queue.popleft())
            if queue:
                self._turns.append(tenant_id)
            else:
                del self._queues[tenant_id]
        return taken

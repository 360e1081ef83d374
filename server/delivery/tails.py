"""Looking for lost tails: the last commits of a conversation, of which a bus that lost them leaves no gap.

Where others write the same store, what was delivered of each watched conversation is compared with what
the store has (invariant 3), 500 conversations a read. Each has its tick in a round of seven, so an instance
with thousands of sockets asks evenly. What is behind is healed by ``catchup``.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from server.delivery.catchup import CatchUp
from server.delivery.topic import Topic
from server.delivery.topics import Topics
from storage.base import ConversationStore

ROUND_TICKS: Final = 7
"""Ticks come once a second, and may come late: so each conversation is compared at least every 8 s."""
BATCH: Final = 500


class Tails:
    """The rounds of one instance.

    Args:
        topics: what is watched.
        store: the truth.
        catchup: heals what is behind.
    """

    def __init__(self, topics: Topics, store: ConversationStore, catchup: CatchUp) -> None:
        self._topics = topics
        self._store = store
        self._catchup = catchup
        self._ticks = random.randrange(ROUND_TICKS)  # noqa: S311 - so that instances do not ask together
        self._left: dict[Topic, None] = {}
        self._at_work = False

    def tick(self) -> None:
        """Compare those whose turn it is, and those that the store was away for."""
        self._ticks += 1
        phase = self._ticks % ROUND_TICKS
        self._compare(topic for key, topic in self._topics if hash(key) % ROUND_TICKS == phase)

    def check_all(self) -> None:
        """Compare all of them now, one read after the other: the bus is back, what it had to say is lost."""
        self._compare(topic for _, topic in self._topics)

    def _compare(self, topics: Iterable[Topic]) -> None:
        # Who is still being brought up is no concern of ours; while the store is away many come, and in vain.
        self._left.update(dict.fromkeys(topic for topic in topics if topic.live))
        if self._left and not self._at_work:
            self._at_work = True
            self._catchup.spawn(self._work_off())

    async def _work_off(self) -> None:
        try:
            while self._left:
                part = list(islice(self._left, BATCH))
                await self._compare_some(part)
                for topic in part:
                    self._left.pop(topic, None)
        finally:
            self._at_work = False

    async def _compare_some(self, part: Sequence[Topic]) -> None:
        live = [topic for topic in part if topic.live]
        if not live:
            return
        stored = await self._store.offsets([(topic.tenant_id, topic.conversation_id) for topic in live])
        for topic in live:
            epoch, offset = stored.get((topic.tenant_id, topic.conversation_id), (None, 0))
            if topic.live and not topic.healing and (epoch != topic.epoch or offset > topic.delivered):
                self._catchup.heal_soon(topic)

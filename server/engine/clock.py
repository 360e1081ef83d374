"""The clock that the engine runs on outside of tests."""

import asyncio

from storage.base import ConversationStore


class StoreClock:
    """The store's time, and the event loop's sleep."""

    def __init__(self, store: ConversationStore) -> None:
        self.now = store.now

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

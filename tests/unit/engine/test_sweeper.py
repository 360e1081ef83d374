"""What is due is found and done, whatever stands in the way."""

from dataclasses import replace

from server.engine.sweeper import PAGE, SET_ASIDE_MS, Sweeper
from storage.base import Commit, Expected
from storage.memory import MemoryStore
from storage.models import Conversation
from tests.support.world import VirtualClock

TENANT = "t"


class Waker:
    """An engine that cannot wake the conversations whose id begins with ``bad``."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.asked: list[str] = []

    async def wake(self, tenant_id: str, conversation_id: str) -> None:
        self.asked.append(conversation_id)
        if conversation_id.startswith("bad"):
            raise RuntimeError("a step of this flow is broken")
        record = await self._store.load(tenant_id, conversation_id)
        assert record is not None
        awake = replace(record, revision=2, commit_id="c2", wake_at=None)
        await self._store.commit(Commit(Expected(1, 0), awake, None))


async def put(store: MemoryStore, conversation_id: str, wake_at: int) -> None:
    record = Conversation(
        TENANT, conversation_id, "u", epoch="e", revision=1, commit_id="c1", wake_at=wake_at
    )
    await store.commit(Commit(Expected(None), record, None))


async def test_a_page_of_conversations_that_cannot_be_woken_does_not_starve_the_rest() -> None:
    clock = VirtualClock()
    store = MemoryStore(clock=clock.now)
    await store.open()
    for number in range(PAGE):
        await put(store, f"bad{number}", clock.now() - 1_000)
    await put(store, "good", clock.now() - 1)
    waker = Waker(store)
    sweeper = Sweeper(store, clock, waker)
    assert await sweeper.sweep() == PAGE
    assert "good" not in waker.asked
    assert await sweeper.sweep() == 1
    assert waker.asked[-1] == "good"
    assert await sweeper.sweep() == 0
    clock.advance(SET_ASIDE_MS)
    assert await sweeper.sweep() == PAGE

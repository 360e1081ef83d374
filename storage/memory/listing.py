"""Lists and inboxes in memory; shared by the adapters that keep everything there."""

from collections.abc import Callable, Sequence

from storage.listing import (
    IDLE,
    ExecutionFilter,
    Listed,
    Listing,
    ListPlace,
    Wait,
    Waiting,
    WaitPlace,
    is_same,
    listing_of,
    waits_of,
)
from storage.models import Conversation
from storage.sizes import record_bytes

Key = tuple[str, str]


class MemoryListing:
    """What lists and inboxes find, brought up to date with each commit.

    Args:
        record_of: the stored record of a conversation.
    """

    def __init__(self, record_of: Callable[[Key], Conversation]) -> None:
        self._record_of = record_of
        self._listings: dict[Key, Listing] = {}
        self._waits: dict[Key, tuple[Wait, ...]] = {}

    def note(self, record: Conversation) -> None:
        """Take a committed record over."""
        key = (record.tenant_id, record.conversation_id)
        listing, waits = listing_of(record), waits_of(record)
        if listing is None:
            self._listings.pop(key, None)
        elif not is_same(listing, self._listings.get(key)):
            self._listings[key] = listing
        if waits:
            self._waits[key] = waits
        else:
            self._waits.pop(key, None)

    def executions(
        self,
        tenant_id: str,
        wanted: ExecutionFilter,
        *,
        after: ListPlace | None,
        limit: int,
        max_bytes: int,
        idle: bool = False,
    ) -> list[Listed]:
        """See ``ConversationStore.executions``; with ``idle`` it is ``conversations``."""
        found: list[Listed] = []
        for place in sorted(self._places(tenant_id, wanted, idle=idle), reverse=True):
            if after is not None and place >= after:
                continue
            record = self._record_of((tenant_id, place.conversation_id))
            max_bytes -= record_bytes(record)
            if len(found) == limit or (found and max_bytes < 0):
                break
            found.append(Listed(place, record))
        return found

    def count(self, tenant_id: str, wanted: ExecutionFilter) -> int:
        """See ``ConversationStore.count_conversations``."""
        return len(self._places(tenant_id, wanted, idle=True))

    def _places(self, tenant_id: str, wanted: ExecutionFilter, *, idle: bool) -> list[ListPlace]:
        return [
            ListPlace(listing.active_at, key[1])
            for key, listing in self._listings.items()
            if key[0] == tenant_id and (idle or listing.status != IDLE) and wanted.takes(listing)
        ]

    def waiting(
        self, tenant_id: str, deciders: Sequence[str], *, after: WaitPlace | None, limit: int
    ) -> list[Waiting]:
        """See ``ConversationStore.waiting``."""
        asked = frozenset(deciders)
        found = [
            Waiting(WaitPlace(wait.since, wait.wait_id), wait.kind, key[1])
            for key, waits in self._waits.items()
            if key[0] == tenant_id
            for wait in waits
            if not asked.isdisjoint(wait.deciders)
        ]
        found.sort(key=lambda waiting: (waiting.place, waiting.conversation_id))
        return [waiting for waiting in found if after is None or waiting.place > after][:limit]

"""Who is connected to this process."""

from collections import defaultdict

from storage.base import Present

Key = tuple[str, str]


class Connected:
    """How many connections of whom watch what, by (tenant, conversation) and user."""

    def __init__(self) -> None:
        self._of: dict[Key, dict[str, int]] = {}

    def enter(self, key: Key, user_id: str) -> int:
        """Count one more; return how many the user has there now."""
        users = self._of.setdefault(key, {})
        users[user_id] = users.get(user_id, 0) + 1
        return users[user_id]

    def leave(self, key: Key, user_id: str) -> int:
        """Count one less; return how many the user has there now."""
        users = self._of.get(key, {})
        left = users.get(user_id, 0) - 1
        if left > 0:
            users[user_id] = left
            return left
        users.pop(user_id, None)
        if not users:
            self._of.pop(key, None)
        return 0

    def of(self, key: Key) -> dict[str, int]:
        """Return the connections to a conversation by user; not to be changed."""
        return self._of.get(key, {})

    def all(self) -> list[tuple[Key, str]]:
        """Return every (conversation, user) with a connection."""
        return [(key, user_id) for key, users in self._of.items() for user_id in users]


def added_up(*counts: dict[str, int]) -> list[Present]:
    """Return who is there, by user id."""
    total: defaultdict[str, int] = defaultdict(int)
    for users in counts:
        for user_id, connections in users.items():
            total[user_id] += connections
    return [Present(user_id, total[user_id]) for user_id in sorted(total)]


class MemoryPresence:
    """A ``Presence`` of this process."""

    def __init__(self) -> None:
        self._connected = Connected()

    def enter(self, tenant_id: str, conversation_id: str, user_id: str) -> None:
        """See ``Presence.enter``."""
        self._connected.enter((tenant_id, conversation_id), user_id)

    def leave(self, tenant_id: str, conversation_id: str, user_id: str) -> None:
        """See ``Presence.leave``."""
        self._connected.leave((tenant_id, conversation_id), user_id)

    async def present(self, tenant_id: str, conversation_id: str) -> list[Present]:
        """See ``Presence.present``."""
        return added_up(self._connected.of((tenant_id, conversation_id)))

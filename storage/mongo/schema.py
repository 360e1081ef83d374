"""The collections and their indexes, made at ``open`` and by ``parley migrate``.

Making an index that is there already does nothing, so every instance asks for all of them, and whoever is
first makes them. On a sharded cluster the hashed shard key is ``{tenant_id: 1, conversation_id: "hashed"}``
for ``conversations`` and ``events``; every unique index begins with those names.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple


class Index(NamedTuple):
    """One index: its collection, its name, its keys (1 or -1 each), and the options of ``createIndexes``."""

    collection: str
    name: str
    keys: tuple[tuple[str, int], ...]
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def __str__(self) -> str:
        return f"{self.collection}.{self.name}"


def _ascending(*names: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, 1) for name in names)


_CONVERSATION: Final = ("tenant_id", "conversation_id")

INDEXES: Final = (
    Index("conversations", "key", _ascending(*_CONVERSATION), {"unique": True}),
    Index("conversations", "wake", _ascending("wake_at"), {"sparse": True}),
    Index("conversations", "unflushed", _ascending("flush_at"), {"sparse": True}),
    Index("conversations", "time", _ascending("tenant_id", "active_at", "conversation_id")),
    Index("conversations", "status", _ascending("tenant_id", "status", "active_at", "conversation_id")),
    Index("conversations", "user", _ascending("tenant_id", "user_id", "active_at", "conversation_id")),
    Index("conversations", "execution", _ascending("tenant_id", "execution_id")),
    # A day behind the sweep, which also removes what came late of their logs.
    Index("conversations", "expiry", _ascending("expires_at"), {"expireAfterSeconds": 86_400}),
    Index("events", "offset", _ascending(*_CONVERSATION, "epoch", "first_offset"), {"unique": True}),
    Index(
        "events",
        "command",
        _ascending(*_CONVERSATION, "key"),
        # Strings only: a batch that accepts no command has a number there.
        {"unique": True, "partialFilterExpression": {"key": {"$gt": ""}}},
    ),
    Index("executions", "key", _ascending("tenant_id", "execution_id"), {"unique": True}),
    Index(
        "waiting",
        "place",
        _ascending("tenant_id", "decider", "since", "wait_id", "conversation_id"),
        {"unique": True},
    ),
    Index("waiting", "conversation", _ascending(*_CONVERSATION)),
    Index("flows", "key", _ascending("tenant_id", "flow_id"), {"unique": True}),
    Index("flow_versions", "key", _ascending("tenant_id", "flow_id", "version"), {"unique": True}),
    Index("api_keys", "key", _ascending("tenant_id", "key_id"), {"unique": True}),
    Index("api_keys", "hash", _ascending("sha256"), {"unique": True}),
    Index("api_keys", "time", _ascending("tenant_id", "created_at", "key_id")),
    Index("api_keys", "origin", _ascending("origins")),
)

COLLECTIONS: Final = tuple(dict.fromkeys(index.collection for index in INDEXES))


async def compare(database: Any) -> tuple[list[Index], list[Index]]:
    """Return the indexes that are not there, and those of whose names others are. Raises PyMongoError."""
    there = {name: await getattr(database, name).index_information() for name in COLLECTIONS}
    missing = [index for index in INDEXES if index.name not in there[index.collection]]
    return missing, [index for index in INDEXES if _is_other(index, there[index.collection])]


def _is_other(index: Index, there: Mapping[str, Any]) -> bool:
    """Tell whether one of its name sorts by other keys, or is unique where this one is not."""
    found = there.get(index.name)
    if found is None:
        return False
    keys = tuple((name, direction) for name, direction in found["key"])  # 1, 1.0, or a word such as hashed
    return keys != index.keys or bool(found.get("unique")) != bool(index.options.get("unique"))


async def make(database: Any, indexes: Sequence[Index]) -> list[str]:
    """Make indexes; return what they are called. That others make them at the same moment does no harm.

    Raises PyMongoError, also where an index of such keys is there with another name or options.
    """
    for index in indexes:
        collection = getattr(database, index.collection)
        await collection.create_index(list(index.keys), name=index.name, **index.options)
    return [f"index {index}" for index in indexes]

"""Keys of tenants, in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from storage.base import StorageError
from storage.models import ApiKey, KeyPlace, TimeMs


class MemoryAccounts:
    """The ``AccountStore`` part of a memory store."""

    def __init__(self) -> None:
        super().__init__()
        self._api_keys: dict[tuple[str, str], ApiKey] = {}
        self._key_ids: dict[str, tuple[str, str]] = {}
        self._origins: dict[str, set[tuple[str, str]]] = {}

    async def create_api_key(self, key: ApiKey) -> bool:
        """See ``AccountStore.create_api_key``."""
        if (key.tenant_id, key.key_id) in self._api_keys or key.sha256 in self._key_ids:
            return False
        self._enter(key)
        return True

    async def api_key_by_hash(self, sha256: str) -> ApiKey | None:
        """See ``AccountStore.api_key_by_hash``."""
        place = self._key_ids.get(sha256)
        return None if place is None else self._api_keys[place]

    async def api_keys_by_id(self, ids: Sequence[tuple[str, str]]) -> dict[tuple[str, str], ApiKey]:
        """See ``AccountStore.api_keys_by_id``."""
        return {place: self._api_keys[place] for place in ids if place in self._api_keys}

    async def api_keys(
        self, tenant_id: str, *, after: KeyPlace | None = None, limit: int = 50
    ) -> list[ApiKey]:
        """See ``AccountStore.api_keys``."""
        found = [
            key
            for key in self._api_keys.values()
            if key.tenant_id == tenant_id and (after is None or (key.created_at, key.key_id) < after)
        ]
        return sorted(found, key=lambda key: (key.created_at, key.key_id), reverse=True)[:limit]

    async def change_api_key(self, before: ApiKey, after: ApiKey) -> bool:
        """See ``AccountStore.change_api_key``."""
        stored = self._api_keys.get((before.tenant_id, before.key_id))
        if stored is None or _guarded(stored) != _guarded(before):
            return False
        if self._key_ids.get(after.sha256, (stored.tenant_id, stored.key_id)) != (
            stored.tenant_id,
            stored.key_id,
        ):
            raise StorageError("another key has this hash")
        del self._key_ids[stored.sha256]
        for origin in stored.origins:
            self._origins[origin].discard((stored.tenant_id, stored.key_id))
        self._enter(
            replace(
                after,
                key_id=stored.key_id,
                tenant_id=stored.tenant_id,
                prefix=stored.prefix,
                created_by=stored.created_by,
                created_at=stored.created_at,
                last_used_at=stored.last_used_at,
            )
        )
        return True

    async def touch_api_keys(self, used: Mapping[tuple[str, str], TimeMs]) -> None:
        """See ``AccountStore.touch_api_keys``."""
        for place, at in used.items():
            key = self._api_keys.get(place)
            if key is not None and (key.last_used_at is None or key.last_used_at < at):
                self._api_keys[place] = replace(key, last_used_at=at)

    async def has_origin(self, patterns: Sequence[str], now: TimeMs, *, tenant_id: str | None = None) -> bool:
        """See ``AccountStore.has_origin``."""
        keys = (self._api_keys[place] for pattern in patterns for place in self._origins.get(pattern, ()))
        return any(
            key.prefix == "pk_" and key.works_at(now) and tenant_id in (None, key.tenant_id) for key in keys
        )

    def _enter(self, key: ApiKey) -> None:
        place = (key.tenant_id, key.key_id)
        self._api_keys[place] = key
        self._key_ids[key.sha256] = place
        for origin in key.origins:
            self._origins.setdefault(origin, set()).add(place)


def _guarded(key: ApiKey) -> tuple[object, ...]:
    return key.sha256, key.is_active, key.origins

"""The cache over Redis."""

import contextlib

from storage.memory.cache import VALUE_MAX_BYTES
from storage.redis.client import Client
from storage.redis.server import Away


class RedisCache:
    """A ``Cache`` that all instances share; empty while the server is away.

    Args:
        client: where it is.
        prefix: of its keys.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = f"{prefix}parley:k:"

    async def get(self, key: str) -> bytes | None:
        """See ``Cache.get``."""
        name = self._name(key)
        try:
            value = await self._client.call(lambda redis: redis.get(name))
        except Away:
            return None
        return value if isinstance(value, bytes) else None

    async def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        """See ``Cache.set``."""
        if len(value) > VALUE_MAX_BYTES:
            await self.delete(key)
            return
        name = self._name(key)
        try:
            await self._client.call(lambda redis: redis.set(name, value, px=ttl_ms))
        except Away:
            return

    async def delete(self, *keys: str) -> None:
        """See ``Cache.delete``; what cannot be deleted now is gone with its time."""
        with contextlib.suppress(Away):
            await self._client.tell([("UNLINK", self._name(key)) for key in keys])

    def _name(self, key: str) -> bytes:
        return f"{self._prefix}{key}".encode()

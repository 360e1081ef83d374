"""What instances count and remember together, on one connection to Redis."""

import random
from collections.abc import Callable

from storage.base import Cache, Limiter, Presence
from storage.memory.limiter import MemoryLimiter
from storage.models import TimeMs
from storage.redis.address import Address
from storage.redis.cache import RedisCache
from storage.redis.client import Client
from storage.redis.limiter import RedisLimiter
from storage.redis.link import Pace
from storage.redis.presence import RedisPresence


class RedisShared:
    """A ``Shared`` over Redis.

    Args:
        address: one server, or any node of a cluster.
        pace: how patient it is.
        clock: of the limiter, instead of the server's (tests).
        random_: for the jitter of reconnecting.
    """

    def __init__(
        self,
        address: Address,
        *,
        pace: Pace | None = None,
        clock: Callable[[], TimeMs] | None = None,
        random_: random.Random | None = None,
    ) -> None:
        self._client = Client(address, pace=pace, random_=random_, tick=self._tick)
        self._presence = RedisPresence(self._client, address.prefix)
        self.limiter: Limiter = RedisLimiter(self._client, address.prefix, MemoryLimiter(clock), clock)
        self.presence: Presence = self._presence
        self.cache: Cache = RedisCache(self._client, address.prefix)

    async def open(self) -> None:
        """See ``Shared.open``."""
        await self._client.open()
        self._presence.tick()

    async def close(self) -> None:
        """See ``Shared.close``."""
        await self._presence.close()
        await self._client.close()

    def _tick(self) -> None:
        self._presence.tick()

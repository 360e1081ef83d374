"""The Redis adapters: the bus between instances, and what instances count and remember together.

Redis is a hint here and never the truth: whatever it loses is healed from the store.
"""

from storage.redis.address import Address
from storage.redis.bus import RedisBus
from storage.redis.shared import RedisShared

__all__ = ["Address", "RedisBus", "RedisShared"]

"""How many visitors may be made: by address, so that nobody tries keys out, and by key."""

import ipaddress
from typing import Final

from protocol.errors import ErrorCode, Refused
from server.limits.tiers import a_minute
from storage.base import Limiter, Verdict, Window
from storage.models import ApiKey

MINUTE_MS: Final = 60_000
NETWORK_BITS: Final = 64
"""An IPv6 site has 2^64 addresses to come from."""


class VisitorLimits:
    """Counts over all instances.

    Args:
        limiter: what counts.
        per_address: requests of one address a minute, also those that are refused.
        by_tier: whether a key without a rate of its own has that of its tier.
    """

    def __init__(self, limiter: Limiter, *, per_address: int, by_tier: bool) -> None:
        self._limiter = limiter
        self._per_address = per_address
        self._by_tier = by_tier

    async def take_address(self, address: str) -> Verdict:
        """Count a request of an address. Raises Refused: ``rate_limited``."""
        window = Window("minute", self._per_address, MINUTE_MS)
        return _checked(await self._limiter.take(f"visitors:address:{network_of(address)}", [window]))

    async def take_key(self, key: ApiKey) -> Verdict | None:
        """Count a visitor of a key; None where it has no limit. Raises Refused: ``rate_limited``."""
        rate = key.rate_limit_per_minute
        if rate is None:
            if not self._by_tier:
                return None
            rate = a_minute(key.tier)
        window = Window("minute", rate, MINUTE_MS)
        return _checked(await self._limiter.take(f"visitors:key:{key.tenant_id}:{key.key_id}", [window]))


def network_of(address: str) -> str:
    """Return whom an address is counted for: itself, or its IPv6 network."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, NETWORK_BITS), strict=False))


def _checked(verdict: Verdict) -> Verdict:
    if verdict.allowed:
        return verdict
    raise Refused(
        ErrorCode.RATE_LIMITED,
        "Too many visitors are asked for.",
        retry_after_ms=verdict.retry_after_ms,
        suggestion="Keep a visitor's token, and renew it when it ends.",
    )

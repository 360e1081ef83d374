"""Visitors are counted by key and by whom an address belongs to."""

import asyncio

import pytest

from protocol.errors import ErrorCode, Refused
from server.limits.visitors import VisitorLimits, network_of
from storage.memory import MemoryLimiter
from storage.models import ApiKey

NOW = 1_800_000_000_000


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_an_ipv6_network_counts_as_one(address: str, network: str) -> None:
    assert network_of(address) == network


def a_key(key_id: str = "k1", tier: str = "free", rate: int | None = None) -> ApiKey:
    return ApiKey(key_id, "t1", "pk_", key_id, "Shop", tier=tier, rate_limit_per_minute=rate)


async def taken(limits: VisitorLimits, key: ApiKey, tries: int) -> int:
    """Return how many of ``tries`` visitors a key gets."""
    answers = await asyncio.gather(*(limits.take_key(key) for _ in range(tries)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert {answer.code for answer in refused} <= {ErrorCode.RATE_LIMITED}
    assert all(answer.retry_after_ms for answer in refused)
    return tries - len(refused)


async def test_a_key_has_its_own_rate_or_that_of_its_tier() -> None:
    limits = VisitorLimits(MemoryLimiter(lambda: NOW), per_address=5, by_tier=True)
    assert await taken(limits, a_key("k1"), 20) == 10
    assert await taken(limits, a_key("k2", rate=3), 20) == 3
    assert await taken(limits, a_key("k3", "basic"), 120) == 100
    assert await taken(limits, a_key("k4", "nothing known"), 200) == 200


async def test_without_limits_of_tiers_its_own_rate_stays() -> None:
    limits = VisitorLimits(MemoryLimiter(lambda: NOW), per_address=5, by_tier=False)
    assert await taken(limits, a_key("k1"), 50) == 50
    assert await taken(limits, a_key("k2", rate=3), 20) == 3


async def test_a_network_shares_its_limit_and_gets_it_back() -> None:
    now = NOW
    limits = VisitorLimits(MemoryLimiter(lambda: now), per_address=2, by_tier=True)
    for address in ("2001:db8::1", "2001:db8::2"):
        await limits.take_address(address)
    with pytest.raises(Refused) as caught:
        await limits.take_address("2001:db8::3")
    await limits.take_address("2001:db8:0:1::3")
    assert caught.value.retry_after_ms is not None
    now += caught.value.retry_after_ms
    await limits.take_address("2001:db8::3")

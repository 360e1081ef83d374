"""What a tier allows a minute."""

from collections.abc import Mapping
from typing import Final

A_MINUTE: Final[Mapping[str, int]] = {
    "free": 10,
    "basic": 100,
    "standard": 1_000,
    "premium": 10_000,
    "enterprise": 100_000,
}


def a_minute(tier: str) -> int:
    """Return how much a tier allows a minute; one that is not known is ``standard``."""
    return A_MINUTE.get(tier, A_MINUTE["standard"])

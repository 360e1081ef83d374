"""A bus that loses, doubles and delays what comes over the real one, as ``EventBus`` allows it to.

``PARLEY_BUS=tests.support.lossy_bus:open_bus`` with ``PARLEY_TEST_BUS`` for the real one's URL, and
``PARLEY_TEST_BUS_FAULTS`` for the shares of lost, doubled and delayed messages and a seed: ``0.2:0.2:0.4:7``.
Each instance mistreats what it hears by itself, so what one has lost another may have twice.
"""

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from storage.base import BusHealth, EventBus
from storage.open import open_bus as open_real_bus

DELAY_S: Final = 0.4
"""The longest delay; it is enough for later messages to come first."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Which share of the messages is lost, doubled (one of the two late), delayed."""

    lost: float
    doubled: float
    delayed: float
    seed: str

    @classmethod
    def parse(cls, text: str) -> Self:
        lost, doubled, delayed, seed = text.split(":")
        return cls(float(lost), float(doubled), float(delayed), seed)


class LossyBus:
    """See the module. Its health is the real one's: nobody knows of what it does."""

    def __init__(self, bus: EventBus, shares: Shares) -> None:
        self._bus = bus
        self._shares = shares
        self._chance = random.Random(f"{shares.seed}:{os.getpid()}")

    @property
    def networked(self) -> bool:
        return self._bus.networked

    async def open(self, restored: Callable[[], None] | None = None) -> None:
        await self._bus.open(restored)

    async def close(self) -> None:
        await self._bus.close()

    def health(self) -> BusHealth:
        return self._bus.health()

    def publish(self, channel: str, payload: bytes) -> None:
        self._bus.publish(channel, payload)

    async def subscribe(self, channel: str, receive: Callable[[bytes], None]) -> None:
        await self._bus.subscribe(channel, lambda payload: self._mistreat(payload, receive))

    async def unsubscribe(self, channel: str) -> None:
        await self._bus.unsubscribe(channel)

    def _mistreat(self, payload: bytes, receive: Callable[[bytes], None]) -> None:
        shares, fate = self._shares, self._chance.random()
        if fate < shares.lost:
            return
        if fate < shares.lost + shares.doubled:
            self._late(payload, receive)
        elif fate < shares.lost + shares.doubled + shares.delayed:
            self._late(payload, receive)
            return
        receive(payload)

    def _late(self, payload: bytes, receive: Callable[[bytes], None]) -> None:
        asyncio.get_running_loop().call_later(self._chance.uniform(0, DELAY_S), receive, payload)


def open_bus() -> LossyBus:
    """The factory that ``PARLEY_BUS`` names."""
    shares = Shares.parse(os.environ["PARLEY_TEST_BUS_FAULTS"])
    return LossyBus(open_real_bus(os.environ["PARLEY_TEST_BUS"]), shares)

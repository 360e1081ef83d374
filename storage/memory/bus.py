"""The in-process bus: what one instance publishes, the others of this process hear."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from storage.base import BusHealth


class BusHub:
    """What several ``MemoryBus`` of one process share. Holds the receivers, nothing else."""

    def __init__(self) -> None:
        self.receivers: dict[str, dict[MemoryBus, Callable[[bytes], None]]] = {}


class MemoryBus:
    """An ``EventBus`` inside one process and event loop.

    Payloads arrive in order and none is lost, which the port does not promise; whoever needs to see that
    they cope with less wraps this one. A receiver runs in a later iteration of the loop, so publishing
    never re-enters the publisher.
    """

    networked: Final = False
    dropped: Final = 0

    def __init__(self, hub: BusHub | None = None) -> None:
        self._hub = hub or BusHub()
        self._closed = False
        self._health = BusHealth(up=True, reason=None, since_ms=time.time_ns() // 1_000_000)

    async def open(self, restored: Callable[[], None] | None = None) -> None:
        """See ``EventBus.open``; it is never away."""
        self._closed = False

    def health(self) -> BusHealth:
        """See ``EventBus.health``."""
        return self._health

    async def close(self) -> None:
        """See ``EventBus.close``."""
        self._closed = True
        for channel in [c for c, receivers in self._hub.receivers.items() if self in receivers]:
            self._leave(channel)

    def publish(self, channel: str, payload: bytes) -> None:
        """See ``EventBus.publish``. Needs a running event loop where somebody listens."""
        receivers = self._hub.receivers.get(channel)
        if self._closed or not receivers:
            return
        for bus in receivers:
            if bus is not self:
                asyncio.get_running_loop().call_soon(bus._receive, channel, payload)

    async def subscribe(self, channel: str, receive: Callable[[bytes], None]) -> None:
        """See ``EventBus.subscribe``."""
        self._hub.receivers.setdefault(channel, {})[self] = receive

    async def unsubscribe(self, channel: str) -> None:
        """See ``EventBus.unsubscribe``."""
        self._leave(channel)

    def _receive(self, channel: str, payload: bytes) -> None:
        """Hand a payload over, unless the subscription ended meanwhile."""
        receive = self._hub.receivers.get(channel, {}).get(self)
        if receive is not None:
            receive(payload)

    def _leave(self, channel: str) -> None:
        receivers = self._hub.receivers.get(channel)
        if receivers is not None:
            receivers.pop(self, None)
            if not receivers:
                del self._hub.receivers[channel]

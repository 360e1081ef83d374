"""Going away without losing anything (invariant 6): what happens between SIGTERM and the end.

1. Readiness answers 503 and new sockets are refused, at once.
2. The engine takes no new commands; running effects get their time. Meanwhile
3. clients are told ``disconnect`` 4001 in jittered batches, so that they do not all come back at once.
   Who waits for an answer gets it first.
4. Whatever still runs is handed over by its lease; uvicorn closes what is left.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from protocol.errors import CloseCode
from server.gateway.rest.health import Readiness
from server.gateway.websocket import Connection, Gateway

WINDOW_S: Final = 5.0
"""Clients are told over at most this long."""
BATCHES: Final = 25
ANSWER_S: Final = 2.0
"""How long a frame that is being handled may hold its connection open."""
GONE_S: Final = 2.0
"""How long closing handshakes may take; uvicorn ends what has not answered."""
SOONEST_MS: Final = 1_000
LATEST_MS: Final = 15_000

_log = structlog.get_logger(__name__)


def reconnect_within_ms(connections: int) -> int:
    """Return over how long clients that are sent away together spread their return.

    A millisecond for each, so that those who take them get a thousand handshakes a second: where they are few
    nobody waits for long.
    """
    return max(SOONEST_MS, min(connections, LATEST_MS))


class Drain:
    """Drains one instance, once.

    Args:
        gateway: its sockets.
        readiness: what its probes say.
        stop_engine: called with the seconds that running effects have (``Engine.stop``).
        end_streams: ends the event streams; their clients connect again elsewhere.
    """

    def __init__(
        self,
        gateway: Gateway,
        readiness: Readiness,
        stop_engine: Callable[[float], Awaitable[None]],
        end_streams: Callable[[], None] = lambda: None,
    ) -> None:
        self._gateway = gateway
        self._readiness = readiness
        self._stop_engine = stop_engine
        self._end_streams = end_streams

    def begin(self) -> None:
        """Take nothing new from now on."""
        self._readiness.draining = True
        self._gateway.draining = True
        self._end_streams()

    async def run(self, seconds: float) -> None:
        """Drain within about ``seconds``."""
        self.begin()
        _log.info("draining", connections=len(self._gateway.connections), seconds=seconds)
        await asyncio.gather(self._stop_engine(seconds), self._dismiss(min(WINDOW_S, seconds / 2)))
        _log.info("drained")

    async def _dismiss(self, window_s: float) -> None:
        connections = list(self._gateway.connections)
        random.shuffle(connections)
        within_ms = reconnect_within_ms(len(connections))
        size = max(1, -(-len(connections) // BATCHES))
        farewells: list[asyncio.Task[None]] = []
        for start in range(0, len(connections), size):
            if start:
                await asyncio.sleep(window_s / BATCHES * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            batch = connections[start : start + size]
            farewells += [asyncio.create_task(self._farewell(connection, within_ms)) for connection in batch]
        if farewells:
            await asyncio.wait(farewells)
        await self._gone()

    async def _farewell(self, connection: Connection, within_ms: int) -> None:
        for _ in range(round(ANSWER_S / 0.05)):
            if not connection.is_busy:
                break
            await asyncio.sleep(0.05)
        connection.announce(CloseCode.SHUTDOWN, "shutdown", within_ms)

    async def _gone(self) -> None:
        for _ in range(round(GONE_S / 0.05)):
            if not self._gateway.connections:
                return
            await asyncio.sleep(0.05)

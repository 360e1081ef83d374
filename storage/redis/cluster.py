"""Which server has which key or channel: one server for all, or the nodes of a cluster."""

import asyncio
import binascii
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from storage.base import BusRefused
from storage.redis.address import Address
from storage.redis.wire import CONNECT_TIMEOUT_S, Away, Wire, ask, connect

SLOTS: Final = 16_384
REFRESH_PAUSE_S: Final = 1.0

_log = structlog.get_logger(__name__)

Place = tuple[str, int]
"""Host and port."""


def slot_of(key: bytes) -> int:
    """Return the slot of a key or channel; only what stands in its first braces counts, if they hold any."""
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening + 1)
        if closing > opening + 1:
            key = key[opening + 1 : closing]
    return binascii.crc_hqx(key, 0) % SLOTS


class SlotMap:
    """Which node has which slot."""

    def __init__(self, ranges: list[tuple[int, int, Place]]) -> None:
        self._ranges = sorted(ranges)
        self._starts = [start for start, _, _ in self._ranges]

    @classmethod
    def read(cls, reply: Any, asked: Place) -> "SlotMap":
        """Read the reply of CLUSTER SLOTS. A node that does not know its own name is the one asked."""
        ranges = []
        for entry in reply:
            host, port = entry[2][0], int(entry[2][1])
            ranges.append((int(entry[0]), int(entry[1]), (host.decode() if host else asked[0], port)))
        return cls(ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlotMap) and other._ranges == self._ranges

    __hash__ = None  # type: ignore[assignment]

    @property
    def places(self) -> set[Place]:
        """The nodes that have slots."""
        return {place for _, _, place in self._ranges}

    def of(self, slot: int) -> Place | None:
        """Return the node of a slot, or None where no node has it now."""
        at = bisect_right(self._starts, slot) - 1
        if at < 0 or slot > self._ranges[at][1]:
            return None
        return self._ranges[at][2]


class Member(Protocol):
    """What is kept for each server."""

    async def open(self, away: str | None = None) -> None:
        """Connect; in the background if it is known to be ``away``, and why. Raises BusRefused."""

    async def close(self) -> None:
        """Disconnect."""


M = TypeVar("M", bound=Member)


class Servers(Generic[M]):
    """The servers that an address leads to, and what is kept for each.

    Args:
        address: one server, or any node of a cluster.
        make: makes what is kept for a server; ``mine`` tells of a key whether that server has it.
        routed: called when keys have got other servers.
    """

    def __init__(
        self,
        address: Address,
        make: Callable[[Place, Callable[[bytes], bool]], M],
        routed: Callable[[], None] = lambda: None,
    ) -> None:
        self._address = address
        self._make = make
        self._routed = routed
        self._seed: Place = (address.host, address.port)
        self._members: dict[Place, M] = {}
        self._map: SlotMap | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[M]:
        return iter(list(self._members.values()))

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over nodes."""
        return self._map is not None

    def of(self, key: bytes) -> M | None:
        """Return what is kept for the server that has ``key``; None where no node has it now."""
        if self._map is None:
            return self._members.get(self._seed)
        place = self._map.of(slot_of(key))
        return self._members.get(place) if place is not None else None

    async def open(self) -> None:
        """Find the servers and connect; where that fails for now, go on later. Raises BusRefused."""
        self._closed = False
        away = None
        try:
            self._map = await self._look(self._seed)
        except Away as error:
            self._map, away = None, str(error)
        await self._settle(away, is_start=True)

    async def close(self) -> None:
        """Disconnect from all."""
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        members, self._members = self._members, {}
        await asyncio.gather(*(member.close() for member in members.values()))

    def refresh_soon(self) -> None:
        """Look who has what: somebody was told that a key has moved."""
        if not self._closed and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    # ----------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        for place in [*self._members, self._seed]:
            try:
                found = await self._look(place)
            except (Away, BusRefused):
                continue
            if found is not None and found != self._map:
                self._map = found
                await self._settle()
                _log.info("redis_cluster_changed", nodes=len(self._members))
            break
        self._routed()
        await asyncio.sleep(REFRESH_PAUSE_S)  # a cluster that is being changed says MOVED many times

    async def _look(self, place: Place) -> SlotMap | None:
        """Ask a server who has what; None where it is alone. Raises Away, BusRefused."""
        wire, server = await connect(self._address, *place)
        try:
            if not server.cluster:
                return None
            return await self._slots(wire, place)
        finally:
            wire.abort("was asked")

    @staticmethod
    async def _slots(wire: Wire, place: Place) -> SlotMap:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                (reply,) = await ask(wire, [("CLUSTER", "SLOTS")])
        except TimeoutError as error:
            raise Away("does not answer") from error
        if not isinstance(reply, list) or not reply:
            raise Away("is a cluster in which no node has slots yet")
        return SlotMap.read(reply, place)

    async def _settle(self, away: str | None = None, *, is_start: bool = False) -> None:
        """Keep something for exactly the servers that there are. Raises BusRefused at the start."""
        wanted = self._map.places if self._map is not None else {self._seed}
        for place in wanted - self._members.keys():
            member = self._members[place] = self._make(place, self._has(place))
            try:
                await member.open(away)
            except BusRefused as error:
                if is_start:
                    raise
                # A node that has just joined may not be as the others are yet: it is looked for, too.
                _log.warning("redis_node_refuses", server=f"{place[0]}:{place[1]}", reason=str(error))
                await member.close()
                await member.open(str(error))
        gone = [self._members.pop(place) for place in self._members.keys() - wanted]
        if gone:
            self._routed()
            await asyncio.gather(*(member.close() for member in gone))

    def _has(self, place: Place) -> Callable[[bytes], bool]:
        return lambda key: self._map is None or self._map.of(slot_of(key)) == place

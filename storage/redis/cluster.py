"""Which server has which key or channel: one server for all, or the nodes of a cluster."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

import structlog
from redis.asyncio.cluster import ClusterNode, NodesManager
from redis.asyncio.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import RedisClusterException, RedisError

from storage.base import BusRefused
from storage.redis.address import Address
from storage.redis.link import Place
from storage.redis.server import CONNECT_TIMEOUT_S, Away, login, look, to_its_end

REFRESH_PAUSE_S: Final = 1.0

_log = structlog.get_logger(__name__)


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
        self._map: dict[int, Place] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._moved = False
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
        place = self._map.get(key_slot(key))
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
        """Look who has what: somebody was told that a key has moved. Where we do already, look again then."""
        self._moved = True
        if not self._closed and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    # ----------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        while self._moved:
            self._moved = False
            await self._look_about()
            self._routed()
            await asyncio.sleep(REFRESH_PAUSE_S)  # a cluster that is being changed says MOVED many times

    async def _look_about(self) -> None:
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

    async def _look(self, place: Place) -> dict[int, Place] | None:
        """Ask a server which node has which slot; None where it is alone. Raises Away, BusRefused."""
        server = await look(self._address, *place)
        return await _slots(self._address, place) if server.cluster else None

    async def _settle(self, away: str | None = None, *, is_start: bool = False) -> None:
        """Keep something for exactly the servers that there are. Raises BusRefused at the start."""
        wanted = set(self._map.values()) if self._map is not None else {self._seed}
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
        return lambda key: self._map is None or self._map.get(key_slot(key)) == place


async def _slots(address: Address, place: Place) -> dict[int, Place]:
    """Return what redis-py finds. Raises Away."""
    options = login(address) | {"socket_timeout": CONNECT_TIMEOUT_S, "connection_class": Connection}
    if address.tls is not None:
        options |= {"connection_class": SSLConnection, "ssl_password": address.tls.password}
    nodes = NodesManager([ClusterNode(*place, **options)], False, options)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await nodes.initialize()
    except (RedisClusterException, IndexError) as error:
        raise Away("is a cluster in which no node has slots yet") from error
    except (RedisError, OSError, TimeoutError) as error:
        raise Away("does not answer") from error
    finally:
        await to_its_end(_leave(nodes))
    return {slot: (owners[0].host, int(owners[0].port)) for slot, owners in nodes.slots_cache.items()}


async def _leave(nodes: NodesManager) -> None:
    await nodes.aclose()
    await nodes.aclose("startup_nodes")

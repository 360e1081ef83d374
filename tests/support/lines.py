"""TCP lines between programs, which a test cuts, holds and deafens while they are in use.

``fault_proxy`` mistreats each connection as a seed says; a ``Line`` leaves them all alone until it is told
otherwise. With several ports it is a load balancer without stickiness: each connection goes to the next.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, Self

CHUNK: Final = 65536


class Line:
    """Carries connections to one of several local servers. Use it as ``async with Line([port]) as line``.

    Attributes:
        port: where it listens.
        cut_off: how many connections were cut.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._next = 0
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.cut_off = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where HTTP clients go instead of to the servers."""
        return f"http://127.0.0.1:{self.port}"

    # --- what a test does to it -----------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection."""
        self.cut_off += len(self._connections)
        for connection in list(self._connections):
            connection.abort()

    def lose_answers(self) -> None:
        """Carry to the servers what is sent on the present connections, and nothing of what they answer."""
        for connection in self._connections:
            connection.is_deaf = True

    def hold(self) -> None:
        """Carry nothing, in neither direction; connections stay, and new ones are taken."""
        self._flows.clear()

    def let_go(self) -> None:
        """Carry on, beginning with what was held."""
        self._flows.set()

    # --------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there = await self._dial()
            if there is not None:
                await self._carry(_Connection(reader, writer, *there))
        except asyncio.CancelledError:
            pass  # the line is being closed
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect to the next server; where nobody listens, to the one behind it."""
        for _ in self._ports:
            port, self._next = self._ports[self._next], (self._next + 1) % len(self._ports)
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None

    async def _carry(self, connection: "_Connection") -> None:
        self._connections.add(connection)
        try:
            await connection.carry(self._flows)
        finally:
            self._connections.discard(connection)
            connection.close()


class Lines(list[Line]):
    """Several lines, to be mistreated at once."""

    @property
    def cut_off(self) -> int:
        """How many connections were cut."""
        return sum(line.cut_off for line in self)

    def cut(self) -> None:
        """Reset every connection."""
        for line in self:
            line.cut()

    def lose_answers(self) -> None:
        """Carry no answer on the present connections any more."""
        for line in self:
            line.lose_answers()


class _Connection:
    """One client's connection and the one that was made for it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        back: asyncio.StreamWriter,
    ) -> None:
        self._ways = ((reader, back), (there, writer))
        self.is_deaf = False

    def abort(self) -> None:
        for _, writer in self._ways:
            writer.transport.abort()

    def close(self) -> None:
        """End both, behind what is still to be written."""
        for _, writer in self._ways:
            writer.close()

    async def carry(self, flows: asyncio.Event) -> None:
        """Carry both ways, until one of them ends."""
        up, down = self._ways
        tasks = [
            asyncio.create_task(self._pump(*up, flows, heard=True)),
            asyncio.create_task(self._pump(*down, flows, heard=False)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event, *, heard: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await flows.wait()
                if heard or not self.is_deaf:
                    writer.write(data)
                    await writer.drain()
            await flows.wait()

"""A TCP proxy that mistreats connections, as a seed says; for every SDK's tests.

As a program it prints the port it listens on, and then one JSON line for each fault as it happens::

    python tests/support/fault_proxy.py --to 127.0.0.1:8765 --seed 7

What befalls connection number ``n`` of a seed follows from the two numbers alone; after ``--faults``
connections the rest are left alone, so that whatever is to get through does in the end. It works on bytes and
knows nothing of frames, so it cuts them in the middle; within one connection it keeps the order, as TCP does.

- ``refuse``: accepted and reset at once.
- ``cut``, ``end``: after some bytes of one direction, reset, or ended in good form.
- ``delay``, ``slow``: pieces wait; pieces are small and wait.
- ``deaf_up``, ``deaf_down``, ``deaf``: from some byte on, what goes to the server, to the client, or both is
  swallowed, and the connection stays open (half-open).
- ``late``: the client is cut off, and what it had sent reaches the server only when a later connection is at
  work: two connections in the wrong order.
- ``double``: all that the client sends reaches the server a second time, over a connection of its own.

``delay``, ``slow`` and ``double`` end in a ``cut``, so that the next connection gets its turn.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

KINDS: Final = (
    "refuse", "cut", "end", "delay", "slow", "deaf_up", "deaf_down", "deaf", "late", "double",
)  # fmt: skip
WEIGHTS: Final = (2, 5, 2, 2, 1, 1, 1, 1, 3, 3)
FAULTS: Final = 6
LATE_WAIT_S: Final = 2.0


@dataclass(frozen=True)
class Fault:
    """What befalls one connection.

    Attributes:
        kind: see the module; ``none`` leaves it alone.
        up: whether ``after_bytes`` counts what goes to the server; else what goes to the client.
        after_bytes: when it happens, counted from the first byte of the handshake.
        pause_s: how long pieces wait.
    """

    kind: str
    up: bool = True
    after_bytes: int = 0
    pause_s: float = 0.0


def fault(seed: int, number: int, faults: int = FAULTS) -> Fault:
    """Return what befalls the connection of this number, from 0."""
    if number >= faults:
        return Fault("none")
    chance = random.Random(f"{seed}:{number}")
    kind = chance.choices(KINDS, WEIGHTS)[0]
    up = chance.random() < 0.5
    # a handshake and a hello are some 700 bytes; most connections are to get beyond
    after_bytes = chance.randrange(600) if chance.random() < 0.2 else 600 + int(chance.expovariate(1 / 700))
    return Fault(kind, up, after_bytes, 0.002 + 0.02 * chance.random())


class FaultProxy:
    """Use it as ``async with FaultProxy(host, port, seed) as proxy``; it listens on ``proxy.port``."""

    def __init__(
        self,
        host: str,
        port: int,
        seed: int,
        *,
        faults: int = FAULTS,
        listen: int = 0,
        tell: Callable[[int, Fault], None] = lambda number, fault: None,
    ) -> None:
        self._target = (host, port)
        self._seed = seed
        self._faults = faults
        self._listen = listen
        self._tell = tell
        self._count = 0
        self._at_work = 0
        self._moved = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.happened: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._listen)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where clients go instead of to the server."""
        return f"http://127.0.0.1:{self.port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self._count = self._count, self._count + 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                await _Connection(self, number, fault(self._seed, number, self._faults)).serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy is being closed
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    def note(self, number: int, what: Fault) -> None:
        """A fault has happened."""
        self.happened.append(what.kind)
        self._tell(number, what)

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the server."""
        reader, writer = await asyncio.open_connection(*self._target)
        self._writers.add(writer)
        return reader, writer

    async def working(self, number: int) -> None:
        """Connection ``number`` carries what the server says."""
        if number > self._at_work:
            async with self._moved:
                self._at_work = number
                self._moved.notify_all()

    async def someone_behind(self, number: int) -> None:
        """Wait until a later connection is at work, or long enough."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATE_WAIT_S), self._moved:
                await self._moved.wait_for(lambda: self._at_work > number)


class _Connection:
    """One client's connection and its fault."""

    def __init__(self, proxy: FaultProxy, number: int, fault: Fault) -> None:
        self._proxy = proxy
        self._number = number
        self._fault = fault
        self._struck = asyncio.Event()
        self._held = bytearray()
        self._noted = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind = self._fault.kind
        if kind == "refuse":
            self._note()
            return
        there, back = await self._proxy.dial()
        try:
            ways = [self._carry(there, writer, up=False)]
            twice = kind == "double"
            ways.append(self._carry_twice(reader, back) if twice else self._carry(reader, back, up=True))
            if kind == "late":
                ways.append(self._cut_and_go_on(writer, back))
            done = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(done, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for way in done:
                    way.cancel()
                await asyncio.gather(*done, return_exceptions=True)
        finally:
            back.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        fault, carried = self._fault, 0
        strikes_here = fault.up is up or fault.kind == "late"
        while data := await reader.read(64 if fault.kind == "slow" else 65536):
            if not up:
                await self._proxy.working(self._number)
            if fault.kind in ("delay", "slow"):
                self._note()
                await asyncio.sleep(fault.pause_s)
                if up and carried > fault.after_bytes:
                    raise ConnectionAbortedError
            room = max(0, fault.after_bytes - carried)
            carried += len(data)
            if self._struck.is_set() and self._swallows(up):
                continue
            if strikes_here and carried > fault.after_bytes and fault.kind in _STRIKES:
                writer.write(data[:room])
                with contextlib.suppress(OSError):
                    await writer.drain()
                self._note()
                self._struck.set()
                if fault.kind == "late" and up:
                    self._held += data[room:]
                elif fault.kind == "cut":
                    raise ConnectionAbortedError
                elif fault.kind == "end":
                    break
                elif not self._swallows(up):
                    writer.write(data[room:])
                continue
            if self._struck.is_set() and fault.kind == "late" and up:
                self._held += data
                continue
            writer.write(data)
            await writer.drain()
        if not (up and fault.kind == "late" and self._struck.is_set()):
            writer.write_eof()

    def _swallows(self, up: bool) -> bool:
        return self._fault.kind == "deaf" or self._fault.kind == ("deaf_up" if up else "deaf_down")

    async def _carry_twice(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        heard, again = await self._proxy.dial()
        self._note()
        rest = asyncio.ensure_future(_drop(heard))
        carried = 0
        try:
            while data := await reader.read(65536):
                carried += len(data)
                for writer in (back, again) if self._fault.up else (again, back):
                    with contextlib.suppress(OSError):
                        writer.write(data)
                        await writer.drain()
                if carried > self._fault.after_bytes:
                    await asyncio.sleep(self._fault.pause_s)
                    raise ConnectionAbortedError
            back.write_eof()
        finally:
            rest.cancel()
            again.transport.abort()

    async def _cut_and_go_on(self, client: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        await self._struck.wait()
        await asyncio.sleep(self._fault.pause_s * 10)  # the client may send some more
        client.transport.abort()
        await self._proxy.someone_behind(self._number)
        back.write(bytes(self._held))
        await back.drain()
        await asyncio.sleep(self._fault.pause_s * 10)

    def _note(self) -> None:
        if not self._noted:
            self._noted = True
            self._proxy.note(self._number, self._fault)


_STRIKES: Final = frozenset({"cut", "end", "deaf_up", "deaf_down", "deaf", "late"})


async def _drop(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


async def run(arguments: argparse.Namespace) -> None:
    """Serve until the program is ended."""
    host, _, port = arguments.to.rpartition(":")

    def tell(number: int, what: Fault) -> None:
        print(json.dumps({"connection": number, "fault": what.kind}), flush=True)

    proxy = FaultProxy(
        host, int(port), arguments.seed, faults=arguments.faults, listen=arguments.listen, tell=tell
    )
    async with proxy:
        print(json.dumps({"port": proxy.port}), flush=True)
        await asyncio.Event().wait()


def main() -> int:
    """Run the proxy."""
    parser = argparse.ArgumentParser(description="A TCP proxy that mistreats connections.")
    parser.add_argument("--to", required=True, help="host:port of the server")
    parser.add_argument("--seed", type=int, default=0, help="what happens; the same seed, the same faults")
    parser.add_argument("--faults", type=int, default=FAULTS, help="how many connections are mistreated")
    parser.add_argument("--listen", type=int, default=0, help="port; 0 is any")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

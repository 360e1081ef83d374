"""One worker's place among several that share a port: what its parent has given it.

Also how the numbers of all of them are told by any of them: each answers on a socket of the file system, and
the one that is scraped asks the others. So a scrape sees the whole host, whichever worker the kernel chose.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from server.telemetry.metrics import Dump, Metrics

ASK_S: Final = 1.0
"""A sibling that does not answer within so long is left out of a scrape."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker stands.

    Attributes:
        number: from 1.
        count: how many there are.
        port: the one that they share, already chosen.
        folder: where their own sockets are.
        ready_fd: written to, and closed, when this worker serves.
        life_fd: at its end when the parent is gone.
    """

    number: int
    count: int
    port: int
    folder: Path
    ready_fd: int
    life_fd: int

    def tell_ready(self, url: str) -> None:
        """Tell the parent that this worker serves."""
        with contextlib.suppress(OSError):
            os.write(self.ready_fd, url.encode())
        with contextlib.suppress(OSError):
            os.close(self.ready_fd)

    def on_orphaned(self, stop: Callable[[], None]) -> None:
        """Have ``stop`` called when the parent is gone, from the event loop."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self.life_fd)
            stop()

        loop.add_reader(self.life_fd, ended)


class Siblings:
    """The numbers of all workers of a host, told by any of them."""

    def __init__(self, place: Place, metrics: Metrics) -> None:
        self._place = place
        self._metrics = metrics
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer the others. Raises OSError."""
        path = self._path(self._place.number)
        path.unlink(missing_ok=True)  # of the one that had this place before
        self._server = await asyncio.start_unix_server(self._answer, path)

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()

    async def render(self) -> bytes:
        """Return the numbers of all workers, each with the label ``worker``."""
        others = [n for n in range(1, self._place.count + 1) if n != self._place.number]
        told = await asyncio.gather(*(self._ask(number) for number in others))
        numbers = {self._place.number: self._metrics.dump()}
        numbers |= {number: dump for number, dump in zip(others, told, strict=True) if dump is not None}
        return Metrics.render_all({str(number): numbers[number] for number in sorted(numbers)})

    def _path(self, number: int) -> Path:
        return self._place.folder / f"{number}.sock"

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(orjson.dumps(self._metrics.dump()))
            await writer.drain()
        writer.close()

    async def _ask(self, number: int) -> Dump | None:
        """Return what a sibling counts; None: it is being started, or is gone."""
        try:
            async with asyncio.timeout(ASK_S):
                reader, writer = await asyncio.open_unix_connection(self._path(number))
                try:
                    found: Dump = orjson.loads(await reader.read())
                finally:
                    writer.close()
            return found
        except (OSError, TimeoutError, orjson.JSONDecodeError):
            return None

"""The threads that read, each with a connection of its own."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from storage.base import StoreUnavailable
from storage.sqlite.connection import Database, translate
from storage.sqlite.writer import settle

MAX_WAITING: Final = 10_000
THREADS: Final = 2
"""So that one long read (a page of a large log) does not hold up the short ones."""

P = ParamSpec("P")
T = TypeVar("T")
_Task = tuple["asyncio.Future[Any]", Callable[[sqlite3.Connection], Any]]


class Readers:
    """A few threads that take reads from one queue, in order.

    A read sees everything that was committed before it began: in WAL mode each statement reads the
    newest snapshot.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        self._closing = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Open the connections. Raises sqlite3.Error."""
        for number in range(THREADS):
            connection = self._database.connect_reader()
            thread = threading.Thread(
                target=self._run, args=(connection,), name=f"parley-reader-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    async def read(
        self, query: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query`` in a thread and return what it returns. Raises StoreUnavailable."""
        if self._closing:
            raise StoreUnavailable("the store is closed")
        if self._queue.qsize() >= MAX_WAITING:
            raise StoreUnavailable(f"{MAX_WAITING} reads are waiting")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((future, lambda connection: query(connection, *args, **kwargs)))
        return await future

    async def close(self) -> None:
        """Serve what was accepted, then end the threads. Idempotent."""
        if not self._closing:
            self._closing = True
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _run(self, connection: sqlite3.Connection) -> None:
        try:
            while (task := self._queue.get()) is not None:
                future, query = task
                result: Any = None
                failure: Exception | None = None
                try:
                    result = query(connection)
                except Exception as error:  # noqa: BLE001 - it goes to the one who asked
                    failure = translate(error, self._database.path)
                try:
                    self._loop.call_soon_threadsafe(settle, [(future, result, failure)])
                except RuntimeError:  # the loop is closed: nobody waits any more
                    return
        finally:
            connection.close()

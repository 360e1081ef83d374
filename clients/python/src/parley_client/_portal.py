"""The event loop of a synchronous client: one thread, begun by the first call, ended by ``close``.

A caller's thread hands it a coroutine and waits. The thread is a daemon and is closed at the interpreter's
exit, so that a program which forgets ``close`` ends as one that did not. It does not survive a fork.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from . import _wire
from .errors import ClientMisused, ConnectionClosed

T = TypeVar("T")

JOIN_TIMEOUT_S: Final = 5.0
"""How long closing waits for the thread, which then ends by itself."""


class Portal:
    """Runs coroutines and functions in its thread's loop, for callers in any other thread."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._faces: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what the coroutine returns; an interrupted caller (Ctrl-C) cancels it.

        Raises:
            ClientMisused: in a forked child, or in one of the client's own callbacks.
            ConnectionClosed: the client is closed.
        """
        loop = self._running()
        future = asyncio.run_coroutine_threadsafe(make(), loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise _closed() from None  # the loop has ended beneath this call
        finally:
            future.cancel()  # does nothing to one that is done

    def now(self, function: Callable[[], T]) -> T:
        """Return what the function returns; it is called in the loop, and does not wait there."""

        async def run() -> T:
            return function()

        return self.call(run)

    def peek(self, function: Callable[[], T]) -> T:
        """As ``now``, and without a thread where none runs: before the first call and behind ``close``."""
        self.check()
        with self._lock:
            if self._loop is None:
                return function()
        try:
            return self.now(function)
        except ConnectionClosed:
            with self._lock:
                return function()

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """Yield what the iterator yields; leaving the loop ends it."""
        found = make()
        end: Final = object()

        async def following() -> object:
            return await anext(found, end)

        async def leave() -> None:
            await found.aclose()  # type: ignore[attr-defined] # an async generator

        try:
            while (item := self.call(following)) is not end:
                yield item  # type: ignore[misc] # mypy cannot know that it is not ``end``
        finally:
            with contextlib.suppress(ClientMisused, ConnectionClosed):
                self.call(leave)

    def post(self, function: Callable[[], None]) -> None:
        """Have the function called in the loop, if it runs, without waiting; for finalizers."""
        loop = self._loop
        if loop is not None and self._pid == os.getpid():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(function)

    def face(self, inner: object, make: Callable[[], T]) -> T:
        """Return the one wrapper of ``inner``, made if there is none."""
        with self._lock:
            face: T | None = self._faces.get(id(inner))
            if face is None:
                face = self._faces[id(inner)] = make()
            return face

    def check(self) -> None:
        """Raise ``ClientMisused`` where no call can be served."""
        if self._pid != os.getpid():
            raise ClientMisused(
                "This client was made before the process forked; its thread and its connection are not here.",
                code="forked",
                suggestion="Make a client of its own in each process.",
            )
        if threading.current_thread() is self._thread:
            raise ClientMisused(
                "A callback runs in the client's own thread, which cannot wait for itself.",
                code="inside_callback",
                suggestion="Put what it was told into a queue, and call the client from another thread.",
            )

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Await ``last`` in the loop, then end the thread; may be called twice, and by several threads."""
        self.check()
        with self._lock:
            self._closed = True
            loop = self._loop
        try:
            if loop is not None and last is not None:
                future = asyncio.run_coroutine_threadsafe(last(), loop)
                with contextlib.suppress(concurrent.futures.CancelledError):
                    future.result()
        finally:
            self.end()
            if self._thread is not None:
                self._thread.join(JOIN_TIMEOUT_S)

    def end(self) -> None:
        """Let the thread end, without waiting for it."""
        self._closed = True
        if self._stop is not None:
            self.post(self._stop.set)

    def _running(self) -> asyncio.AbstractEventLoop:
        self.check()
        with self._lock:
            if self._closed:
                raise _closed()
            if self._loop is None:
                started = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(started,), name="parley-client", daemon=True
                )
                self._thread.start()
                started.wait()
                _open_portals.add(self)
            assert self._loop is not None
            return self._loop

    def _run(self, started: threading.Event) -> None:
        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            started.set()
            await self._stop.wait()

        try:
            asyncio.run(serve())
        finally:
            self._loop = None


def _closed() -> ConnectionClosed:
    return ConnectionClosed(_wire.CLOSE_NORMAL, "closed by this side")


_open_portals: Final[weakref.WeakSet[Portal]] = weakref.WeakSet()


@atexit.register
def _close_at_exit() -> None:
    for portal in list(_open_portals):
        with contextlib.suppress(ClientMisused):
            portal.close()

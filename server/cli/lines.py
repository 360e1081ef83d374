"""Standard input, line by line, beside an event loop."""

import asyncio
import codecs
import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

_CHUNK_BYTES: Final = 65536


class Lines:
    """The lines of standard input without their ends, as they come.

    It reads when the event loop says that there is something, and not in a thread: a thread that sits in a
    read of a terminal cannot be ended, and holds up the end of the process.
    """

    def __init__(self) -> None:
        self._read: deque[bytes] = deque()
        self._stopped = False
        self._error: Exception | None = None
        self._wakened = asyncio.Event()

    def stop(self, error: Exception | None) -> None:
        """End the iteration: there is nobody to say anything to."""
        self._stopped, self._error = True, error
        self._wakened.set()

    def check(self) -> None:
        """Raise what the iteration was ended for."""
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the lines; the last one may lack its end."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        async for data in self._chunks():
            *lines, rest = (rest + decoder.decode(data)).split("\n")
            for line in lines:
                yield line
        if rest and not self._stopped:
            yield rest

    async def _chunks(self) -> AsyncIterator[bytes]:
        if sys.stdin is None:
            return
        descriptor = sys.stdin.fileno()
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(descriptor, self._on_readable, descriptor)
        except PermissionError:  # epoll takes no regular files; they never block
            while (data := os.read(descriptor, _CHUNK_BYTES)) and not self._stopped:
                yield data
            return
        try:
            while not self._stopped:
                await self._wakened.wait()
                self._wakened.clear()
                while self._read:
                    data = self._read.popleft()
                    if not data:
                        return
                    yield data
        finally:
            loop.remove_reader(descriptor)

    def _on_readable(self, descriptor: int) -> None:
        """Read at once: readiness is only true now, and a second read would block."""
        data = os.read(descriptor, _CHUNK_BYTES)
        self._read.append(data)
        if not data:
            asyncio.get_running_loop().remove_reader(descriptor)
        self._wakened.set()

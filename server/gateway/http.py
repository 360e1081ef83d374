"""uvicorn's HTTP protocol with bounds on what it leaves to the peer.

httptools and uvicorn have none on a request's head, nor on what a peer may send that belongs to no request;
they wait for ever for who begins a request and does not go on, and for who does not read what was answered.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MAX_BYTES: Final = 32 * 1024
"""Of a head, and of all else that is no body: sizes and extensions of chunks, and trailers."""
HEAD_TIMEOUT_S: Final = 10.0
SEND_TIMEOUT_S: Final = 20.0
"""Who takes nothing of an answer for so long is dropped, as sockets and streams are."""
PIPELINED_MAX: Final = 32
"""Requests that wait behind one that is being served."""
ABORT: Final = "parley.abort"
"""What an application finds in its scope's extensions: drops the connection with all that it has not read."""

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)


class BoundedHttp(HttpToolsProtocol):
    """One HTTP connection, until it is upgraded or closed."""

    _head_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request's head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to no body, and wait for the request that begins with it, if one does."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self.parser is None or self.transport.is_closing():  # it is a WebSocket now, or was refused
            return
        if self._head_bytes > HEAD_MAX_BYTES:
            if self._is_serving:
                self.transport.abort()
            else:
                self.transport.write(_TOO_LARGE)
                self.transport.close()
        elif not self._is_serving and self._head_timer is None:
            # Between requests, too: line breaks, or the rest of a body that was answered already, have made
            # uvicorn forget how long it waits for the next one.
            self._await_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item] # not the spec's
        self._in_head = True
        if self._head_timer is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; not a trailer, which would be put among the headers of a request that is served."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINED_MAX:
            self.transport.abort()
            raise OverflowError("too many requests wait")  # so that the parser leaves the rest alone

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What follows is the next request."""
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request is answered; see to it that the answer is taken."""
        super().on_response_complete()
        self._await_reader()

    def handle_websocket_upgrade(self) -> None:
        """Hand the socket over, and let go of the parser, which holds this object as this holds it.

        Not while a request is being served: its answer would stand among the frames. It is the last one then.
        """
        if self._is_serving:
            self.cycle.keep_alive = False
            return
        self._stop_timers()
        super().handle_websocket_upgrade()
        self.parser = self.flow = self.scope = None  # type: ignore[assignment]

    @property
    def _is_serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def _give_up(self) -> None:
        self._head_timer = None
        self.transport.abort()

    def _await_reader(self) -> None:
        """Look again later whether the peer takes what was answered: a polite close, too, waits for that."""
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            self._send_timer = self.loop.call_later(SEND_TIMEOUT_S, self._look_at_reader, unsent)

    def _look_at_reader(self, unsent: int) -> None:
        self._send_timer = None
        if self.transport.get_write_buffer_size() == unsent:
            self.transport.abort()
        else:  # it was read on, or answered again
            self._await_reader()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._send_timer = None

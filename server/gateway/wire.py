"""uvicorn's WebSocket protocol with the few things that ASGI does not give an application.

What it adds to ``websockets-sansio``, and why:

* direct, synchronous writes and the transport's pause and resume, so that an outbox needs no task;
* a close that ends in an abort: uvicorn would wait for ever for a peer that reads nothing;
* no pong to a peer that reads nothing: their number has no other bound;
* no traceback in the log because a peer sent invalid UTF-8.

An application finds it in its scope as ``extensions["parley.wire"]``.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request

from protocol.errors import CloseCode
from server.delivery.outbox import Outbox

EXTENSION: Final = "parley.wire"
CLOSE_TIMEOUT_S: Final = 5.0
"""How long a peer has to answer a close frame before its socket is aborted."""
CORK_BYTES: Final = 64 * 1024
"""More than this is handed to the transport at once, so that its back-pressure is felt."""
CORKED_A_TURN: Final = 50
"""So many sockets are written to before others get the event loop: about a quarter of a millisecond."""
PONG_BACKLOG_BYTES: Final = 64 * 1024

_SHORT, _MIDDLE = 126, 65536
_TEXT: Final = 0x81
"""FIN and the opcode of text (RFC 6455, 5.2)."""
_BAD_HANDSHAKE: Final = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


_log = structlog.get_logger(__name__)


class Cork:
    """What one step of the event loop writes, on all sockets, until that step is over.

    So a commit's events and its ack leave in one system call, which costs more than all else about them; so
    do, under load, commits that came together. What hundreds watch leaves in parts, with room for others
    between them, and is framed once.
    """

    __slots__ = ("_frame", "_payload", "_wires")

    def __init__(self) -> None:
        self._wires: list[WebSocketWire] = []
        self._payload = self._frame = b""

    def frame(self, payload: bytes) -> bytes:
        """Return the text frame of ``payload``.

        It is made here: without compression a server's frame is a header and the payload, and the generic
        path costs as much as encoding the JSON.
        """
        if payload is self._payload:
            return self._frame
        size = len(payload)
        if size < _SHORT:
            header = bytes((_TEXT, size))
        elif size < _MIDDLE:
            header = b"\x81\x7e" + size.to_bytes(2, "big")
        else:
            header = b"\x81\x7f" + size.to_bytes(8, "big")
        self._payload, self._frame = payload, header + payload
        return self._frame

    def hold(self, wire: "WebSocketWire") -> None:
        """Have ``wire`` uncorked behind this step."""
        if not self._wires:
            asyncio.get_running_loop().call_soon(self._step_over)
        self._wires.append(wire)

    def _step_over(self) -> None:
        wires, self._wires = self._wires, []
        self._uncork(wires, 0)

    def _uncork(self, wires: "Sequence[WebSocketWire]", first: int) -> None:
        for wire in wires[first : first + CORKED_A_TURN]:
            try:
                wire.uncork()
            except Exception:  # noqa: BLE001 - one socket's end must not keep what is the others'
                _log.exception("socket_write_failed")
        if first + CORKED_A_TURN < len(wires):
            asyncio.get_running_loop().call_soon(self._uncork, wires, first + CORKED_A_TURN)


class WebSocketWire(WebSocketsSansIOProtocol):
    """One socket. Implements ``server.delivery.outbox.Wire``."""

    # What each frame needs lies in the object itself. Python shares the layout of up to 30 other attributes
    # between all sockets; uvicorn has 37, and a dict of its own for each costs a KiB and a cache miss a look.
    __slots__ = ("_corked", "_corked_bytes", "close_sent", "close_timer", "conn", "cork",
                 "curr_msg_data_type", "disconnected", "frames", "handshake_complete", "handshake_initiated",
                 "outbox", "queue", "read_paused", "transport", "writable")  # fmt: skip

    cork: Cork

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outbox: Outbox | None = None
        self._corked: list[bytes] | None = None
        self._corked_bytes = 0

    # --- for the outbox ---------------------------------------------------------------------------

    def write(self, payload: bytes) -> None:
        """Send one text frame; see ``Wire``."""
        frame = self.cork.frame(payload)
        if self._corked is None:
            self._corked = [frame]
            self._corked_bytes = len(frame)
            self.cork.hold(self)
        else:
            self._corked.append(frame)
            self._corked_bytes += len(frame)
        if self._corked_bytes > CORK_BYTES:
            self.uncork()

    def uncork(self) -> None:
        """Give the transport what was written, unless a close frame was there first, ours or the peer's."""
        corked, self._corked, self._corked_bytes = self._corked, None, 0
        if corked is not None and not self.close_sent and not self.transport.is_closing():
            self.transport.write(corked[0] if len(corked) == 1 else b"".join(corked))

    def unsent_bytes(self) -> int:
        """Return what the operating system has not taken; see ``Wire``."""
        return 0 if self.disconnected else self.transport.get_write_buffer_size() + self._corked_bytes

    def close(self, code: int, reason: str) -> None:
        """Close, and abort if the peer does not answer in time; see ``Wire``."""
        if self.close_sent or self.disconnected:
            return
        self.uncork()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        try:
            self.conn.send_close(code, reason)
        except InvalidState:
            return  # the peer was first
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._abort_later()

    def _abort_later(self) -> None:
        """See to it that the socket goes, and its memory: a closing transport waits for its reader."""
        if self.close_timer is not None:
            self.close_timer.cancel()
        if not self.disconnected:
            self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    # --- uvicorn's hooks --------------------------------------------------------------------------

    def handle_connect(self, event: Request) -> None:
        """Offer this object to the application; its task has not begun to run yet."""
        super().handle_connect(event)
        if not self.close_sent:
            extensions = cast("dict[str, Any]", self.scope["extensions"])
            extensions[EXTENSION] = self

    def reject(self, status: HTTPStatus, body: bytes) -> None:
        """Answer the handshake by an HTTP error with a JSON body. ASGI's own way logs an error here."""
        response = self.conn.reject(status, "")
        response.body = body
        del response.headers["Content-Length"], response.headers["Content-Type"]
        response.headers["Content-Length"] = str(len(body))
        response.headers["Content-Type"] = "application/json"
        self.conn.send_response(response)
        self.handshake_complete = self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    def forget_handshake(self) -> None:
        """Free what only the handshake needed; it would stay for the connection's life."""
        del self.request, self.response
        self.scope.clear()  # type: ignore[attr-defined]

    def pause_writing(self) -> None:
        """Called by the transport above its high water mark."""
        super().pause_writing()
        if self.outbox is not None:
            self.outbox.on_paused()

    def resume_writing(self) -> None:
        """Called by the transport below its low water mark."""
        super().resume_writing()
        if self.outbox is not None:
            self.outbox.on_resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: whoever waits for room need not."""
        super().connection_lost(exc)
        if self.outbox is not None:
            self.outbox.discard()

    def data_received(self, data: bytes) -> None:
        """Take bytes; a handshake that websockets cannot read would be left unanswered by uvicorn."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.handshake_initiated = self.close_sent = True
            self.transport.write(_BAD_HANDSHAKE)
            self.transport.close()

    def handle_close(self, event: Frame) -> None:
        """Answer a close frame, or end after the answer to ours."""
        super().handle_close(event)
        self._abort_later()

    def handle_parser_exception(self) -> None:
        """End after what is no WebSocket frame."""
        super().handle_parser_exception()
        self._abort_later()

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer lets the answers pile up."""
        if self.transport.get_write_buffer_size() > PONG_BACKLOG_BYTES:
            self.conn.data_to_send()
        else:
            super().handle_ping()

    def send_receive_event_to_app(self) -> None:
        """Check the encoding before uvicorn does, which would log a traceback."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                (self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)).decode()
            except UnicodeDecodeError:
                self.frames = []
                self._refuse_encoding()
                return
        super().send_receive_event_to_app()

    def _refuse_encoding(self) -> None:
        self.conn.send_close(CloseCode.INVALID_UTF8, "a text frame must be UTF-8")
        self.handle_parser_exception()

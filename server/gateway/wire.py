"""uvicorn's WebSocket protocol with the few things that ASGI does not give an application.

What it adds to ``websockets-sansio``, and why:

* direct, synchronous writes and the transport's pause and resume, so that an outbox needs no task;
* a short way in for what nearly everything is: one text frame, whole, in what one read has brought;
* a close that ends in an abort: uvicorn would wait for ever for a peer that reads nothing;
* no pong to a peer that reads nothing: their number has no other bound;
* no traceback in the log because a peer sent invalid UTF-8: the session looks at that.

An application finds it in its scope as ``extensions["parley.wire"]``.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame, apply_mask  # type: ignore[attr-defined] # in C where that is built
from websockets.http11 import Request
from websockets.streams import StreamReader

from server.delivery.outbox import Outbox
from server.gateway.mailbox import Mailbox, Message

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
_MASKED: Final = 0x80
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
    __slots__ = ("_between_frames", "_corked", "_corked_bytes", "close_sent", "close_timer", "conn", "cork",
                 "curr_msg_data_type", "disconnected", "frames", "handshake_complete", "handshake_initiated",
                 "outbox", "queue", "read_paused", "transport", "writable")  # fmt: skip

    cork: Cork
    queue: Mailbox  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outbox: Outbox | None = None
        self.queue = Mailbox(self.loop)
        self._corked: list[bytes] | None = None
        self._corked_bytes = 0
        self._between_frames = False  # whether websockets' parser waits for the first byte of a frame

    # --- for the connection -----------------------------------------------------------------------

    async def receive(self) -> Any:
        """Return what came next: of a text frame its payload as bytes, anything else as ASGI has it.

        Whether the bytes are UTF-8 is the session's to find out.
        """
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()
        return message

    def data_received(self, data: bytes) -> None:
        """Take bytes: a text frame at once, all else, handshake included, through websockets' parser."""
        if self._between_frames and not self.close_sent and (text := self._whole_text(data)) is not None:
            self._take(text)
            return
        super().data_received(data)
        if self.handshake_complete:
            self._between_frames = self.conn.current_size is None and _waits_for_a_frame(self.conn.parser)
        elif self.conn.handshake_exc is not None and not self.handshake_initiated:
            # A handshake that websockets cannot read would be left unanswered by uvicorn.
            self.handshake_initiated = self.close_sent = True
            self.transport.write(_BAD_HANDSHAKE)
            self.transport.close()

    def _whole_text(self, data: bytes) -> bytes | None:
        """Return the payload where ``data`` is one whole text frame of a client and nothing more."""
        if len(data) < 6 or data[0] != _TEXT or data[1] < _MASKED:
            return None
        size, start = data[1] - _MASKED, 6
        if size >= _SHORT:
            size, start = int.from_bytes(data[2:4], "big"), 8
            if data[1] != _MASKED + _SHORT:
                return None
        if len(data) != start + size or size > self.config.ws_max_size:
            return None
        return apply_mask(data[start:], data[start - 4 : start])

    def send_receive_event_to_app(self) -> None:
        """Hand on a message that websockets has read."""
        data, self.frames = b"".join(self.frames), []
        if not self.close_sent:
            is_text = self.curr_msg_data_type == "text"
            self._take(data if is_text else {"type": "websocket.receive", "bytes": data})

    def _take(self, item: bytes | Message) -> None:
        """Put an item into the mailbox; while its reader is at work, nothing more is read than that."""
        is_awaited = self.queue.has_reader and self.queue.empty()
        self.queue.put_nowait(item)
        if not is_awaited and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

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

    def handle_close(self, event: Frame) -> None:
        """Answer a close frame, or end after the answer to ours."""
        super().handle_close(event)
        self._abort_later()

    def handle_parser_exception(self) -> None:
        """End after what is no WebSocket frame."""
        if self.conn.close_sent is None:  # the handshake is not answered yet: frames cannot tell
            self.transport.abort()
            return
        super().handle_parser_exception()
        self._abort_later()

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer lets the answers pile up."""
        if self.transport.get_write_buffer_size() > PONG_BACKLOG_BYTES:
            self.conn.data_to_send()
        else:
            super().handle_ping()


def _waits_for_a_frame(parser: Any) -> bool:
    """Tell whether websockets' parser (``Protocol.parse`` inside ``ServerProtocol.parse``) is at no frame."""
    parse = parser.gi_yieldfrom
    waits = parse.gi_yieldfrom if parse is not None else None
    return waits is not None and waits.gi_code is StreamReader.at_eof.__code__

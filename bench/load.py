"""The load: clients in a closed loop, on a WebSocket library in Cython: the server is the bottleneck."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Final, NamedTuple

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.servers import Server, token

FORM: Final = ("book", "checkup", "2031-05-20", "ada@example.com")
READY_SECONDS: Final = 20.0


class Round(NamedTuple):
    """Messages a second, the latency of each in seconds, and the server's processor time for one in µs."""

    rate: float
    latencies: list[float]
    cpu_us: float


class Load:
    """Clients of one server, numbered from ``first``, each with one message under way at a time."""

    def __init__(self, server: Server, connections: int, *, first: int = 0) -> None:
        self._talker = TALKERS[server.name]
        self._server = server
        self._numbers = range(first, first + connections)
        self._talkers: list[Talker] = []
        self.latencies: list[float] = []
        self.is_running = False

    async def open(self) -> "Load":
        """Connect all clients and bring each to the point where it may speak."""
        url = f"ws://127.0.0.1:{self._server.port}{self._talker.path}"
        for number in self._numbers:
            talker = await self._connect(number, url)
            await asyncio.wait_for(talker.ready.wait(), READY_SECONDS)
            talker.check()
            self._talkers.append(talker)
        return self

    async def _connect(self, number: int, url: str) -> "Talker":
        headers = {"Sec-WebSocket-Protocol": self._talker.subprotocol} if self._talker.subprotocol else None
        _, talker = await ws_connect(lambda: self._talker(self, number), url, extra_headers=headers)
        assert isinstance(talker, Talker)
        return talker

    async def run(self, seconds: float) -> Round:
        """Keep all clients talking for some seconds."""
        self.begin()
        await asyncio.sleep(seconds / 5)  # warm-up
        taken = await self.measure(lambda: asyncio.sleep(seconds))
        await self.end()
        return taken

    def begin(self) -> None:
        """Have all clients talk until ``end``."""
        self.is_running = True
        for talker in self._talkers:
            talker.begin()

    async def measure(self, during: Callable[[], Awaitable[object]]) -> Round:
        """Return what the clients, who talk, get done meanwhile."""
        self.latencies = []
        began, cpu = time.perf_counter(), self._server.cpu_seconds()
        await during()
        took, cpu, latencies = time.perf_counter() - began, self._server.cpu_seconds() - cpu, self.latencies
        return Round(len(latencies) / took, latencies, cpu / max(1, len(latencies)) * 1e6)

    async def end(self) -> None:
        """Let all clients finish their message. Raises RuntimeError where one has failed."""
        self.is_running = False
        for talker in self._talkers:
            await asyncio.wait_for(talker.idle.wait(), READY_SECONDS)
            talker.check()

    def close(self) -> None:
        """Disconnect all clients."""
        for talker in self._talkers:
            talker.transport.disconnect()


class Talker(WSListener):
    """One client. Subclasses know how a server is greeted, spoken to, and what completes a message."""

    path = "/v1/ws"
    subprotocol: str | None = "parley.v1"

    def __init__(self, load: Load, number: int) -> None:
        self.transport: WSTransport
        self.ready = asyncio.Event()
        self.idle = asyncio.Event()
        self.failure: str | None = None
        self._load = load
        self._number = number
        self._turn = 0
        self._sent = 0.0
        self._texts = cycle(FORM)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.greet()

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        if self._load.is_running or not self.ready.is_set():
            self.fail("the connection was closed")

    def begin(self) -> None:
        """Send the next message."""
        self._turn += 1
        self.idle.clear()
        message = self.message(next(self._texts))
        self._sent = time.perf_counter()
        self.transport.send(WSMsgType.TEXT, message)

    def completed(self) -> None:
        """Count the message that was under way and send the next."""
        load = self._load
        load.latencies.append(time.perf_counter() - self._sent)
        if load.is_running:
            self.begin()
        else:
            self.idle.set()

    def fail(self, why: str) -> None:
        """End this client; the run it is in will fail."""
        self.failure = self.failure or why
        self.ready.set()
        self.idle.set()

    def check(self) -> None:
        """Raise if this client has failed."""
        if self.failure:
            raise RuntimeError(f"the server under load: {self.failure}")

    def greet(self) -> None:
        """Do what must come before the first message; then set ``ready``."""
        self.ready.set()

    def message(self, text: str) -> bytes:
        """Return the frame that says ``text``: the very same for Parley and the typed echo."""
        key = f"{self._number:08d}-{self._turn:012d}"
        return (
            f'{{"type":"process","id":"{self._turn}","conversation_id":"bench-{self._number}",'
            f'"idempotency_key":"{key}","content":{{"type":"text","text":"{text}"}}}}'
        ).encode()


class EchoTalker(Talker):
    """Every frame that comes back completes a message."""

    def on_ws_frame(self, _transport: WSTransport, _frame: WSFrame) -> None:
        self.completed()


class SocketioTalker(Talker):
    """Engine.IO 4 and Socket.IO 5 over the same socket client: packet types are the leading digits."""

    path = "/socket.io/?EIO=4&transport=websocket"
    subprotocol = None

    def greet(self) -> None:
        """Wait for the server to open."""

    def message(self, text: str) -> bytes:
        frame = super().message(text).decode()
        return f'42{self._turn}["process",{frame}]'.encode()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if payload.startswith(b"43"):
            self.completed()
        elif payload == b"2":
            transport.send(WSMsgType.TEXT, b"3")
        elif payload.startswith(b"40"):
            self.ready.set()
        elif payload.startswith(b"0"):
            transport.send(WSMsgType.TEXT, b"40")
        else:
            self.fail(payload[:300].decode(errors="replace"))


class ParleyTalker(Talker):
    """A turn is complete when both its ``ack`` and its ``turn.completed`` have arrived."""

    _waits_for = 0

    def greet(self) -> None:
        hello = (
            f'{{"type":"hello","id":"hello","token":"{token(f"user-{self._number}")}",'
            f'"conversation_id":"bench-{self._number}"}}'
        )
        self.transport.send(WSMsgType.TEXT, hello.encode())

    def begin(self) -> None:
        self._waits_for = 2
        super().begin()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if payload.startswith(b'{"type":"ack"'):
            self._one_of_two()
        elif payload.startswith(b'{"type":"events"'):
            if b'"turn.completed"' in payload:
                self._one_of_two()
            elif b'"turn.failed"' in payload:
                self.fail(payload[:2000].decode(errors="replace"))
        elif payload.startswith(b'{"type":"ping"'):
            transport.send(WSMsgType.TEXT, b'{"type":"pong"}')
        elif payload.startswith(b'{"type":"welcome"'):
            self.ready.set()
        elif not payload.startswith(b'{"type":"snapshot"'):
            self.fail(payload[:2000].decode(errors="replace"))

    def _one_of_two(self) -> None:
        self._waits_for -= 1
        if self._waits_for == 0:
            self.completed()


TALKERS: Final[dict[str, type[Talker]]] = {
    "echo": EchoTalker,
    "langgraph": EchoTalker,
    "socketio": SocketioTalker,
    "parley": ParleyTalker,
}

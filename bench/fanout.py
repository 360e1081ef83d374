"""One speaks at one instance, many listen at another: every message reaches all of them over the bus."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Final, NamedTuple

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.load import FORM, READY_SECONDS
from bench.servers import Server, token

CONVERSATION: Final = "bench-fanout"
SETTLE_SECONDS: Final = 20.0


class Flood(NamedTuple):
    """Deliveries a second, the latency of each in seconds, from the sending of its message, and the
    delivering server's processor time for one in µs."""

    rate: float
    latencies: list[float]
    cpu_us: float


class Fanout:
    """A speaker at ``speaks`` and ``watchers`` listeners at ``listens``, two instances of one deployment."""

    def __init__(self, speaks: Server, listens: Server, watchers: int) -> None:
        self._speaks, self._listens, self._count = speaks, listens, watchers
        self._kind = KINDS[speaks.name]
        self._people: list[Person] = []
        self._awaited = 0
        self._all_heard = asyncio.Event()
        self._heard = 0
        self._sent_at: list[float] = []
        self._latencies: list[float] = []

    async def open(self) -> "Fanout":
        """Connect everybody, and hear one message through."""
        await self._connect(self._speaks, 0)
        await self._speak()
        await asyncio.wait_for(self._speaker.answered.wait(), READY_SECONDS)
        for number in range(1, self._count + 1):
            await self._connect(self._listens, number)
        self._sent_at.clear()
        await self._speak()
        await self._heard_by_all(len(self._sent_at))
        return self

    async def flood(self, seconds: float, ahead: int) -> Flood:
        """Speak without a pause, ``ahead`` messages being under way at any time."""

        async def speak() -> None:
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                await self._heard_by_all(len(self._sent_at) - ahead)
                await self._speak()

        return await self._measure(speak)

    async def pace(self, seconds: float, a_second: float) -> Flood:
        """Speak evenly, so many messages a second."""

        async def speak() -> None:
            began = time.perf_counter()
            for number in range(max(1, int(seconds * a_second))):
                await asyncio.sleep(began + number / a_second - time.perf_counter())
                await self._speak()

        return await self._measure(speak)

    def close(self) -> None:
        """Disconnect everybody."""
        for person in self._people:
            person.transport.disconnect()

    async def _measure(self, speak: Callable[[], Awaitable[None]]) -> Flood:
        self._latencies = []
        began, cpu = time.perf_counter(), self._listens.cpu_seconds()
        await speak()
        await self._heard_by_all(len(self._sent_at))
        took, cpu = time.perf_counter() - began, self._listens.cpu_seconds() - cpu
        count = len(self._latencies)
        return Flood(count / took, self._latencies, cpu / max(1, count) * 1e6)

    @property
    def _speaker(self) -> "Person":
        return self._people[0]

    async def _connect(self, server: Server, number: int) -> None:
        kind = self._kind
        headers = {"Sec-WebSocket-Protocol": kind.subprotocol} if kind.subprotocol else None
        url = f"ws://127.0.0.1:{server.port}{kind.path}"
        _, person = await ws_connect(lambda: kind(self, number), url, extra_headers=headers)
        assert isinstance(person, Person)
        await asyncio.wait_for(person.ready.wait(), READY_SECONDS)
        self._people.append(person)

    async def _speak(self) -> None:
        self._sent_at.append(time.perf_counter())
        self._speaker.speak()
        await asyncio.sleep(0)

    async def _heard_by_all(self, messages: int) -> None:
        """Wait until everybody has heard so many messages. Raises TimeoutError."""
        self._awaited = messages * self._count
        if self._heard < self._awaited:
            self._all_heard.clear()
            await asyncio.wait_for(self._all_heard.wait(), SETTLE_SECONDS)

    def heard(self, number: int) -> None:
        """Count that a listener has heard the message of that number."""
        self._latencies.append(time.perf_counter() - self._sent_at[number])
        self._heard += 1
        if self._heard == self._awaited:
            self._all_heard.set()


class Person(WSListener):
    """One client: the speaker is number 0. Subclasses know how a server is greeted and spoken to."""

    path = "/v1/ws"
    subprotocol: str | None = "parley.v1"

    def __init__(self, fanout: Fanout, number: int) -> None:
        self.transport: WSTransport
        self.ready = asyncio.Event()
        self.answered = asyncio.Event()
        self.spoken = 0
        self._fanout = fanout
        self._number = number
        self._heard = 0
        self._texts = cycle(FORM)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.greet()

    def speak(self) -> None:
        """Say the next thing."""
        self.spoken += 1
        text = next(self._texts)
        frame = (
            f'{{"type":"process","id":"{self.spoken}","conversation_id":"{CONVERSATION}",'
            f'"idempotency_key":"fanout-{self.spoken:012d}","content":{{"type":"text","text":"{text}"}}}}'
        )
        self.transport.send(WSMsgType.TEXT, self.packet(frame).encode())

    def hear(self, messages: int) -> None:
        """Count what has come."""
        for _ in range(messages):
            self._fanout.heard(self._heard)
            self._heard += 1

    def greet(self) -> None:
        """Do what must come before the first message."""

    def packet(self, frame: str) -> str:
        """Return a frame as it is sent."""
        return frame


class ParleyPerson(Person):
    """The speaker watches nothing; everybody else is a service that may read the conversation."""

    def greet(self) -> None:
        if self._number:
            bearer = token(f"watcher-{self._number}", scope="conversations:read")
            hello = f'{{"type":"hello","id":"hello","token":"{bearer}","conversation_id":"{CONVERSATION}"}}'
        else:
            hello = f'{{"type":"hello","id":"hello","token":"{token("speaker")}"}}'
        self.transport.send(WSMsgType.TEXT, hello.encode())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if payload.startswith(b'{"type":"events"'):
            self.hear(payload.count(b'"turn.completed"'))
        elif payload.startswith(b'{"type":"ack"'):
            self.answered.set()
        elif payload.startswith(b'{"type":"ping"'):
            transport.send(WSMsgType.TEXT, b'{"type":"pong"}')
        elif (payload.startswith(b'{"type":"welcome"') and not self._number) or payload.startswith(
            b'{"type":"snapshot"'
        ):
            self.ready.set()
        elif payload.startswith(b'{"type":"error"'):
            raise RuntimeError(payload[:2000].decode(errors="replace"))


class SocketioPerson(Person):
    """Engine.IO 4 and Socket.IO 5; everybody but the speaker is in one room, which the server sees to."""

    path = "/socket.io/?EIO=4&transport=websocket"
    subprotocol = None

    def packet(self, frame: str) -> str:
        return f'42{self.spoken}["process",{frame}]'

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if payload.startswith(b"42"):
            self.hear(1)
        elif payload.startswith(b"43"):
            self.answered.set()
        elif payload == b"2":
            transport.send(WSMsgType.TEXT, b"3")
        elif payload.startswith(b"40"):
            self.ready.set()
        elif payload.startswith(b"0"):
            transport.send(WSMsgType.TEXT, b"40" if self._number else b'40{"speaks":true}')


KINDS: Final[dict[str, type[Person]]] = {"parley": ParleyPerson, "socketio-fanout": SocketioPerson}

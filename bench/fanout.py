"""One speaks at one instance, many listen at another: every message reaches all of them over the bus.

The listeners share a core with everything but the instance that delivers, so they do as little as proves
the point, and the same for both sides: one callback of the event loop reads all of their sockets. A message
is the same bytes for everybody: who is the first to hear it looks at it closely, the others compare. So each
is known to have heard every message, whole and once, and in order where that is promised: python-socketio
publishes what is said at once over several connections, in any order.
"""

import asyncio
import select
import socket
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle
from typing import Final, NamedTuple

from bench.load import FORM, READY_SECONDS
from bench.servers import Server, token
from bench.sockets import frame_size, text_frame, upgrade

CONVERSATION: Final = "bench-fanout"
"""What all of them speak and listen in."""
KEY: Final = "fanout-"
DIGITS: Final = 12
"""What is said bears its number: 0 is what is said before anybody listens."""
SETTLE_SECONDS: Final = 20.0
READ_BYTES: Final = 256 * 1024


class Flood(NamedTuple):
    """Deliveries a second, the latency of each in seconds, from the sending of its message, and the
    delivering server's processor time for one in µs."""

    rate: float
    latencies: Sequence[float]
    cpu_us: float


class Fanout:
    """A speaker at ``speaks`` and ``watchers`` listeners at ``listens``, two instances of one deployment.

    Attributes:
        told: the frame of each message, by its number, as who was first has heard it.
    """

    def __init__(self, speaks: Server, listens: Server, watchers: int) -> None:
        self._speaks, self._listens, self._count = speaks, listens, watchers
        self._kind = KINDS[speaks.name]
        self._people: dict[int, Person] = {}
        self._epoll = select.epoll()
        self._awaited = 0
        self._all_heard = asyncio.Event()
        self._heard = 0
        self._sent_at: list[float] = []
        self._latencies = array("d")
        self._wrong: str | None = None
        self.told: dict[int, bytes] = {}

    async def open(self) -> "Fanout":
        """Connect everybody, and hear one message through."""
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._read)
        self._speaker = await self._connect(self._speaks, 0)
        self._speaker.speak()  # so that there is something to watch
        await asyncio.wait_for(self._speaker.answered.wait(), READY_SECONDS)
        for number in range(1, self._count + 1):
            await self._connect(self._listens, number)
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
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()
        for person in self._people.values():
            person.socket.close()

    async def _measure(self, speak: Callable[[], Awaitable[None]]) -> Flood:
        self._latencies = array("d")
        began, cpu = time.perf_counter(), self._listens.cpu_seconds()
        await speak()
        await self._heard_by_all(len(self._sent_at))
        took, cpu = time.perf_counter() - began, self._listens.cpu_seconds() - cpu
        count = len(self._latencies)
        return Flood(count / took, self._latencies, cpu / max(1, count) * 1e6)

    async def _connect(self, server: Server, number: int) -> "Person":
        person = self._kind(self, number, server.port)
        self._people[person.socket.fileno()] = person
        self._epoll.register(person.socket, select.EPOLLIN)
        await asyncio.wait_for(person.ready.wait(), READY_SECONDS)
        self._check()
        return person

    def _read(self) -> None:
        """Read what has come, each socket once."""
        for fd, _ in self._epoll.poll(0):
            person = self._people[fd]
            data = person.socket.recv(READ_BYTES)
            if data:
                person.take(data)
            else:
                self._epoll.unregister(fd)
                person.fail(b"that this is the end")

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
        self._check()

    def _check(self) -> None:
        """Raise RuntimeError where somebody was told what should not have come."""
        if self._wrong is not None:
            raise RuntimeError(self._wrong)

    def heard(self, number: int) -> None:
        """Count that a listener has heard the message of that number."""
        self._latencies.append(time.perf_counter() - self._sent_at[number])
        self._heard += 1
        if self._heard == self._awaited:
            self._all_heard.set()

    def fail(self, why: str) -> None:
        """End the run: what is measured is not what should be."""
        self._wrong = why
        self._all_heard.set()


class Person(ABC):
    """One client: the speaker is number 0. Subclasses know how a server is greeted and spoken to."""

    path = "/v1/ws"
    subprotocol: str | None = "parley.v1"
    keeps_order = True

    def __init__(self, fanout: Fanout, number: int, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ready = asyncio.Event()
        self.answered = asyncio.Event()
        self._fanout = fanout
        self._number = number
        self._spoken = 0
        self._heard = 0
        self._early: set[int] = set()
        self._upgraded = False
        self._rest = b""
        self._texts = cycle(FORM)
        self.socket.sendall(upgrade(self.path, self.subprotocol))

    def take(self, data: bytes) -> None:
        """Take what has come: most often the very next message, and nothing else."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        if not self._upgraded:
            data = self._after_upgrade(data)
        told, fanout, at = self._fanout.told, self._fanout, 0
        while at < len(data):
            heard = self._heard
            frame = told.get(heard)
            if frame is not None and data.startswith(frame, at):
                at += len(frame)
                self._heard = heard + 1
                fanout.heard(heard)
                continue
            head, size = frame_size(data, at)
            if len(data) - at < size:
                self._rest = data[at:]
                return
            self.on_payload(data[at + head : at + size], data[at : at + size])
            at += size

    def _after_upgrade(self, data: bytes) -> bytes:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            self._rest = data
            return b""
        if b" 101 " not in head:
            self.fail(head)
        self._upgraded = True
        self.on_upgraded()
        return rest

    def speak(self) -> None:
        """Say the next thing."""
        text = next(self._texts)
        self.send(
            self.packet(
                f'{{"type":"process","id":"{self._spoken + 1}","conversation_id":"{CONVERSATION}",'
                f'"idempotency_key":"{KEY}{self._spoken:0{DIGITS}d}","content":{{"type":"text","text":"{text}"}}}}'
            )
        )
        self._spoken += 1

    def hear(self, frame: bytes) -> None:
        """Take a message that nobody has heard before, or not at its place."""
        key = frame.index(KEY.encode())
        number = int(frame[key + len(KEY) : key + len(KEY) + DIGITS]) - 1
        is_new = number >= self._heard and number not in self._early
        is_next = number == self._heard or not self.keeps_order
        if not (is_new and is_next and frame == self._fanout.told.setdefault(number, frame)):
            self.fail(frame)
            return
        self._early.add(number)
        while self._heard in self._early:
            self._early.remove(self._heard)
            self._heard += 1
        self._fanout.heard(number)

    def send(self, text: str) -> None:
        """Send a frame."""
        self.socket.sendall(text_frame(text.encode()))

    def fail(self, what: bytes) -> None:
        """End the run, in which ``what`` has come instead of something better."""
        self.ready.set()
        self._fanout.fail(f"number {self._number} was told {what[:2000].decode(errors='replace')}")

    @abstractmethod
    def on_upgraded(self) -> None:
        """Do what must come before the first message."""

    @abstractmethod
    def on_payload(self, payload: bytes, frame: bytes) -> None:
        """Take anything else than the message that others have heard before."""

    def packet(self, frame: str) -> str:
        """Return a frame as it is sent."""
        return frame


class ParleyPerson(Person):
    """The speaker watches nothing; everybody else is a service that may read the conversation."""

    def on_upgraded(self) -> None:
        if self._number:
            bearer = token(f"watcher-{self._number}", scope="conversations:read")
            self.send(
                f'{{"type":"hello","id":"hello","token":"{bearer}","conversation_id":"{CONVERSATION}"}}'
            )
        else:
            self.send(f'{{"type":"hello","id":"hello","token":"{token("speaker")}"}}')

    def on_payload(self, payload: bytes, frame: bytes) -> None:
        if payload.startswith(b'{"type":"events"') and b'"turn.completed"' in payload:
            self.hear(frame)
        elif payload.startswith(b'{"type":"ack"'):
            self.answered.set()
        elif payload.startswith(b'{"type":"ping"'):
            self.send('{"type":"pong"}')
        elif payload.startswith(b'{"type":"welcome"'):
            if not self._number:
                self.ready.set()
        elif payload.startswith(b'{"type":"snapshot"'):
            self.ready.set()
        else:
            self.fail(payload)


class SocketioPerson(Person):
    """Engine.IO 4 and Socket.IO 5; everybody but the speaker is in one room, which the server sees to."""

    path = "/socket.io/?EIO=4&transport=websocket"
    subprotocol = None
    keeps_order = False

    def on_upgraded(self) -> None:
        """The server speaks first."""

    def packet(self, frame: str) -> str:
        return f'42{self._spoken}["process",{frame}]'

    def on_payload(self, payload: bytes, frame: bytes) -> None:
        if payload.startswith(b"42"):
            self.hear(frame)
        elif payload.startswith(b"43"):
            self.answered.set()
        elif payload == b"2":
            self.send("3")
        elif payload.startswith(b"40"):
            self.ready.set()
        elif payload.startswith(b"0"):
            self.send("40" if self._number else '40{"speaks":true}')
        else:
            self.fail(payload)


class BarePerson(Person):
    """No more than a socket; what is said is what is heard."""

    path = "/"
    subprotocol = None

    def on_upgraded(self) -> None:
        self.ready.set()

    def on_payload(self, payload: bytes, frame: bytes) -> None:
        if self._number:
            self.hear(frame)
        else:
            self.answered.set()


KINDS: Final[dict[str, type[Person]]] = {
    "parley": ParleyPerson,
    "socketio-fanout": SocketioPerson,
    "bare-fanout": BarePerson,
}

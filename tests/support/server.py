"""A real server for tests: in this process on a free port, or as a process of its own.

``running_server`` serves in the test's event loop, so that a test can look inside. ``server_process``
starts ``python -m server serve`` and waits for ``/readyz``; fault tests kill it.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from protocol.frames import SUBPROTOCOL
from server.app import Application, Server, build, listen, uvicorn_config
from server.auth.tokens import Trust, issue_token
from server.settings import Settings
from storage.base import EventBus, Store
from storage.memory.store import MemoryStore
from tests.support.ports import free_port

SECRET = "test-secret-of-at-least-thirty-two-bytes"
TENANT = "t1"
ROOT = Path(__file__).parents[2]

FLOW = """
flow: greet
default: true
slots:
  name: {type: text}
  colour: {type: choice, options: [red, green, blue]}
steps:
  - id: ask
    collect: [name, colour]
    ask: {name: "What is your name?", colour: "Which colour?"}
  - {id: greet, say: "Hello ${slots.name}, you like ${slots.colour}."}
  - {id: done, end: completed}
"""


def token(
    user_id: str = "u1",
    *,
    tenant_id: str = TENANT,
    role: str = "user",
    scopes: tuple[str, ...] = (),
    ttl_s: int = 3600,
    secret: str = SECRET,
    issuer: str = "parley",
) -> str:
    """Return a token that the test servers take."""
    return issue_token(
        Trust(secret.encode(), issuer=issuer),
        user_id=user_id,
        tenant_id=tenant_id,
        role=role,
        scopes=scopes,
        ttl_s=ttl_s,
        now_s=time.time(),
    )


def write_flows(folder: Path, flows: Mapping[str, str] | None = None) -> Path:
    """Write flow files below ``folder``; without any, the one named ``greet``."""
    place = folder / "flows"
    place.mkdir(exist_ok=True)
    for name, text in (flows or {"greet": FLOW}).items():
        (place / f"{name}.yaml").write_text(text)
    return place


class Client:
    """One raw socket that speaks frames; an async context manager that closes it."""

    def __init__(self, socket_: ClientConnection) -> None:
        self.socket = socket_
        self.seen: list[dict[str, Any]] = []
        self.welcome: dict[str, Any] = {}
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.close()

    async def send(self, frame: Mapping[str, Any]) -> None:
        await self.socket.send(orjson.dumps(frame).decode())

    async def receive(self, timeout: float = 10) -> dict[str, Any]:
        """Return the next frame; raises ConnectionClosed, TimeoutError."""
        async with asyncio.timeout(timeout):
            text = await self.socket.recv()
        frame: dict[str, Any] = orjson.loads(text)
        self.seen.append(frame)
        return frame

    async def until(self, type_: str, timeout: float = 10, **fields: Any) -> dict[str, Any]:
        """Return the next frame of this type with these fields; what comes before stays in ``seen``."""
        while True:
            frame = await self.receive(timeout)
            if frame["type"] == type_ and all(frame.get(name) == value for name, value in fields.items()):
                return frame

    async def ask(self, type_: str, **fields: Any) -> dict[str, Any]:
        """Send a frame and return its ``welcome``, ``ack`` or ``error``."""
        frame_id = fields.pop("id", None) or f"f{next(self._ids)}"
        await self.send({"type": type_, "id": frame_id, **fields})
        while True:
            frame = await self.receive()
            if frame.get("id") == frame_id and frame["type"] in ("welcome", "ack", "error"):
                return frame

    async def say(self, conversation_id: str, text: str, **fields: Any) -> dict[str, Any]:
        """Send a text message; return its answer."""
        content = {"type": "text", "text": text}
        return await self.ask("process", conversation_id=conversation_id, content=content, **fields)

    async def nothing(self, seconds: float = 0.2) -> None:
        """Assert that nothing comes: a question asked now is answered before anything else."""
        answer = await self.ask("unsubscribe", conversation_id="nothing-is-here")
        assert self.seen[-1] is answer
        with contextlib.suppress(TimeoutError):
            frame = await self.receive(seconds)
            raise AssertionError(f"came unasked: {frame}")

    async def closed(self, timeout: float = 20) -> tuple[int, str]:
        """Wait for the end; return close code and reason. Frames before it are in ``seen``."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.receive(timeout)
        return self.socket.close_code or 0, self.socket.close_reason or ""


@dataclass
class RemoteServer:
    """A server somewhere, reached by its URL."""

    url: str
    sockets: list[ClientConnection] = field(default_factory=list, kw_only=True)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/v1/ws"

    async def open(self, *, subprotocol: str | None = SUBPROTOCOL, **options: Any) -> Client:
        """Open a socket without ``hello``."""
        origin = options.pop("origin", None)
        socket_ = await connect(
            options.pop("uri", self.ws_url),
            subprotocols=[Subprotocol(subprotocol)] if subprotocol else None,
            origin=Origin(origin) if origin else None,
            compression=None,
            ping_interval=None,
            proxy=None,
            max_size=None,
            **options,
        )
        self.sockets.append(socket_)
        return Client(socket_)

    async def connect(self, token_: str | None = None, **hello: Any) -> Client:
        """Open a socket and say ``hello``; the answer is ``client.welcome``."""
        client = await self.open()
        client.welcome = await client.ask("hello", token=token_ or token(), **hello)
        return client


@dataclass
class RunningServer(RemoteServer):
    """A server in this process."""

    application: Application


def test_settings(folder: Path, **settings: Any) -> Settings:
    """Return settings for a test: memory, a free port, no wait."""
    values: dict[str, Any] = {
        "port": 0,
        "store": "memory:",
        "jwt_secret": SECRET,
        "flows": folder / "flows",
        "drain_seconds": 1,
        "frames_per_second": 1000,
        **settings,
    }
    return Settings(**values)


test_settings.__test__ = False  # type: ignore[attr-defined] # a helper, whatever its name says


@contextlib.asynccontextmanager
async def running_server(
    folder: Path,
    *,
    flows: Mapping[str, str] | None = None,
    store: Store | None = None,
    bus: EventBus | str | None = None,
    dev: bool = False,
    **settings: Any,
) -> AsyncIterator[RunningServer]:
    """Serve in this event loop until the block ends. ``settings`` override those of tests.

    ``bus`` may be a URL; then ``store`` is one that several can share.
    """
    write_flows(folder, flows)
    if isinstance(bus, str):
        settings |= {"bus": bus, "store": "tests.support.cluster:own_store"}
        bus = None
    made = test_settings(folder, **settings)
    application = build(made, store=store or MemoryStore(), bus=bus, dev=dev)
    listener = listen(made.host, 0)
    listening = asyncio.Event()
    server = Server(uvicorn_config(application), listening.set)
    await application.startup()
    application.listens_at(*listener.getsockname()[:2])
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await listening.wait()
    running = RunningServer(application.url, application)
    try:
        yield running
    finally:
        await asyncio.gather(*(s.close() for s in running.sockets), return_exceptions=True)
        server.stop()
        await serving
        await application.shutdown()


# --- a process of its own -------------------------------------------------------------------------


@dataclass
class ServerProcess:
    """``python -m server serve`` in a process group of its own."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self, timeout: float = 30) -> int:
        """End it by SIGTERM; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextlib.contextmanager
def server_process(
    folder: Path,
    *,
    flows: Mapping[str, str] | None = None,
    port: int | None = None,
    command: str = "serve",
    wait_s: float = 60,
    prefix: tuple[str, ...] = (),
    **env: str,
) -> Iterator[ServerProcess]:
    """Run a server on the SQLite file in ``folder`` until the block ends (by SIGKILL, if it is left running).

    Args:
        folder: the project; ``flows`` are written there unless it has its own.
        flows: flow files by name.
        port: a free one if None.
        command: ``serve`` or ``dev``.
        wait_s: how long it may take to become ready; 0 does not wait.
        prefix: a program to run it under, e.g. strace with its options.
        env: further variables, e.g. ``PARLEY_DRAIN_SECONDS="2"``.
    """
    if flows is not None or not (folder / "flows").exists():
        write_flows(folder, flows)
    port = port or free_port()
    settings = {
        "PARLEY_PORT": str(port),
        "PARLEY_JWT_SECRET": SECRET,
        "PARLEY_FRAMES_PER_SECOND": "1000",
        "PYTHONPATH": str(ROOT),
        **env,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    log = folder / f"server-{port}-{time.monotonic_ns()}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "server", command, str(folder)],
            cwd=folder,
            env={**inherited, **settings},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    running = ServerProcess(process, f"http://127.0.0.1:{port}", log)
    try:
        if wait_s:
            wait_until_ready(running, wait_s)
        yield running
    finally:
        if process.poll() is None:
            running.kill()


def wait_until_ready(running: ServerProcess, wait_s: float) -> None:
    """Return once ``/readyz`` answers 200; fail with the log if the process ends or takes too long."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if running.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(running.url + "/readyz", timeout=1) as response:
                if response.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            time.sleep(0.02)
    raise AssertionError(f"the server did not get ready:\n{running.log.read_text()[-4000:]}")

"""The measured servers as processes of their own, each pinned to one core."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import jwt

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
JWT_SECRET: Final = secrets.token_urlsafe(48)
FLOWS: Final = Path(__file__).parent / "flows"
PEERS: Final = {
    "bare": "bare_socket",
    "bare-fanout": "bare_fanout",
    "echo": "typed_echo",
    "socketio": "socketio_echo",
    "socketio-fanout": "socketio_fanout",
    "langgraph": "langgraph_turns",
}
DATABASE: Final = "parley.db"
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0


@cache
def can_pin() -> bool:
    """Whether server and load can have a core each; asked before anything is pinned."""
    return hasattr(os, "sched_setaffinity") and {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0)


def pin_load() -> None:
    """Keep this process, which makes the load, off the server's core. Call it first."""
    if can_pin():
        os.sched_setaffinity(0, {LOAD_CORE})


@contextmanager
def anywhere() -> Iterator[None]:
    """Let what is started meanwhile run on either core."""
    if not can_pin():
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE, LOAD_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def token(user_id: str, *, scope: str = "") -> str:
    """Return a token of one user, with scopes or without, that outlives the run."""
    now = int(time.time())
    claims = {
        "sub": user_id,
        "tenant_id": "bench",
        "role": "user",
        "scope": scope,
        "iss": "parley",
        "aud": "parley",
        "iat": now,
        "exp": now + 7200,
    }
    return jwt.encode(claims, JWT_SECRET, algorithm="HS256")


class Server:
    """A running server.

    Args:
        name: a peer's, or ``parley``.
        directory: where it may keep files.
        store: the folder of a database that is there.
        environment: further settings.
        core: where it runs; None: wherever there is room.

    Attributes:
        port: where it listens on loopback.
        seconds_to_ready: from the start of the process to the first answered request.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        store: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        core: int | None = SERVER_CORE,
    ) -> None:
        self.name = name
        self._extra = environment
        self.port = _free_port()
        self._directory = store or directory / f"{name}-{self.port}"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._log = (self._directory / "log").open("wb")
        began = time.perf_counter()
        self._process = subprocess.Popen(
            self._command(),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=pinned(core),
        )
        self._wait_until_ready(began)
        self.seconds_to_ready = time.perf_counter() - began

    def _command(self) -> list[str]:
        if self.name == "parley":
            return [sys.executable, "-m", "server", "serve"]
        return [sys.executable, "-m", f"bench.peers.{PEERS[self.name]}", str(self.port), str(self._directory)]

    def _environment(self) -> Mapping[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PARLEY_")}
        if self.name != "parley":
            return {**inherited, **self._extra}
        return {
            **inherited,
            "PARLEY_PORT": str(self.port),
            "PARLEY_STORE": f"sqlite:{self._directory / DATABASE}",
            "PARLEY_FLOWS": str(FLOWS),
            "PARLEY_DEFAULT_TENANT": "bench",
            "PARLEY_JWT_SECRET": JWT_SECRET,
            "PARLEY_FRAMES_PER_SECOND": "100000",
            "PARLEY_LIMITS": "off",
            "PARLEY_LOG_LEVEL": "warning",
            **self._extra,
        }

    def _wait_until_ready(self, began: float) -> None:
        while not self._answers():
            if self._process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                self.stop()
                raise RuntimeError(f"{self.name} did not start:\n{self._tail_of_log()}")
            time.sleep(0.002)

    def _answers(self) -> bool:
        """Parley says itself when it is ready; of a peer any answer will do."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                status = connection.recv(64)
        except OSError:
            return False
        return status.startswith(b"HTTP/1.1 200") if self.name == "parley" else status.startswith(b"HTTP/1.1")

    def _tail_of_log(self) -> str:
        return "\n".join((self._directory / "log").read_text(errors="replace").splitlines()[-20:])

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def cpu_seconds(self) -> float:
        """Processor time that the process has used, its threads and the kernel's work for it included."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process, politely at first."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()


def pinned(core: int | None) -> Callable[[], None] | None:
    """Return what puts a new process on a core (None: on either), where that can be done."""
    cores = {SERVER_CORE, LOAD_CORE} if core is None else {core}
    return partial(os.sched_setaffinity, 0, cores) if can_pin() else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""``parley bench``: how fast a project's conversations are on this machine, in a few seconds."""

import asyncio
import ipaddress
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import rich_click as click

from protocol.frames import SUBPROTOCOL
from server.cli.access import access_to, with_access
from server.cli.errors import FAILED, OK, UNREACHABLE, USAGE, CliError
from server.cli.project import DEV_TENANT, DEV_USER, Project

OPEN_SECONDS: Final = 15.0
TURN_SECONDS: Final = 60.0
NO_LIMIT: Final = 100_000

CAVEAT: Final = (
    "clients and server share this machine: a look at your own flow, no comparison (`make bench` in the "
    "repository is one)"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured; ``cpu_ms_per_turn`` is the server's, None where it cannot be seen.

    ``held_back`` is how often the server's limits made a client wait, outside of any turn's time.
    """

    connections: int
    seconds: float
    turns: int
    failed: int
    held_back: int
    turns_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_turn: float | None
    note: str = CAVEAT


@click.command()
@click.option("--project", "place", type=click.Path(path_type=Path), metavar="FOLDER", help="The project.")
@with_access
@click.option("--say", "text", default="hello", show_default=True, metavar="TEXT", help="What clients say.")
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, help="How long.")
@click.option(
    "--connections", type=click.IntRange(1, 500), default=8, show_default=True, help="How many clients."
)
@click.option("--i-know", is_flag=True, help="Load a server that is not on this machine, too.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def bench(
    place: Path | None,
    user_id: str,
    url: str | None,
    token: str | None,
    text: str,
    seconds: float,
    connections: int,
    i_know: bool,
    as_json: bool,
) -> int:
    """Measure turns a second, their latency and the server's CPU time for each, with your own flows.

    A server of the project is started for it, on a store of its own that goes when it ends; or --url names
    one that runs, with its limits, and that keeps the conversations bench-... that this makes. Each client
    says its text and waits for the end of the turn before it says it again. The clients run on this
    machine, too, and take of it: this shows what a flow costs, and is no comparison of servers.
    """
    project = Project.at(place)
    if url is None:
        with _server(project) as (address, sign, process):
            measured = _measure(address, sign, text, seconds, connections, process)
    else:
        if not i_know and not _is_here(url):
            raise CliError(f"{url} is not on this machine; --i-know loads it all the same.", USAGE)
        access = access_to(project, "bench", url=url, token=token, user_id=user_id)
        measured = _measure(access.url, access.token_text, text, seconds, connections, None)
    click.echo(json.dumps(asdict(measured)) if as_json else _told(measured))
    return OK if measured.turns > measured.failed else FAILED


def _told(m: Measured) -> str:
    cpu = "" if m.cpu_ms_per_turn is None else f"{m.cpu_ms_per_turn:.2f} ms of the server's CPU time a turn\n"
    failed = f"{m.failed} turns failed\n" if m.failed else ""
    held = f"{m.held_back} times the server's limits made a client wait\n" if m.held_back else ""
    return (
        f"{m.turns_per_second:.0f} turns/s: {m.turns} of {m.connections} clients in {m.seconds:.1f} s\n"
        f"{m.p50_ms:.1f} ms a turn in the middle, {m.p99_ms:.1f} ms for the slowest hundredth\n"
        f"{cpu}{failed}{held}({m.note})"
    )


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- the server -----------------------------------------------------------------------------------


@contextmanager
def _server(project: Project) -> Iterator[tuple[str, Callable[[], str], int]]:
    """Run a server of the project; give its address, what makes a token, and its process."""
    secret = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        settings = {
            "JWT_SECRET": secret,
            "DEFAULT_TENANT": DEV_TENANT,
            "STORE": f"sqlite:{Path(folder) / 'parley.db'}",
            "HOST": "127.0.0.1",
            "PORT": "0",
            "LIMITS": "off",
            "FRAMES_PER_SECOND": str(NO_LIMIT),
            "LOG_LEVEL": "warning",
        }
        env = {**os.environ, **{f"PARLEY_{name}": value for name, value in settings.items()}}
        command = [sys.executable, "-m", "server", "serve", "--json", str(project.folder)]
        if project.flows is not None:
            command += ["--flows", str(project.flows)]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)  # noqa: S603
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise CliError("the server has not started; it says why above.", process.wait() or FAILED)
            yield str(json.loads(line)["url"]), _signer(project, secret), process.pid
        finally:
            process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _signer(project: Project, secret: str) -> Callable[[], str]:
    from server.auth.tokens import claim_names_of, issue_token, trust_of

    settings = project.settings({"jwt_secret": secret})
    return lambda: issue_token(
        trust_of(settings),
        user_id=DEV_USER,
        tenant_id=DEV_TENANT,
        role="user",
        scopes=(),
        ttl_s=3600,
        now_s=time.time(),
        claims=claim_names_of(settings),
    )


def _cpu_seconds(process: int | None) -> float | None:
    """Return the CPU time that a process has used; None where that is not to be seen."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- the clients ----------------------------------------------------------------------------------


def _measure(
    url: str, sign: Callable[[], str], text: str, seconds: float, connections: int, process: int | None
) -> Measured:
    from websockets.exceptions import WebSocketException

    try:
        return asyncio.run(_load(url, sign, text, seconds, connections, process))
    except TimeoutError:
        raise CliError(f"{url} does not answer in time.", UNREACHABLE) from None
    except (OSError, WebSocketException) as error:
        raise CliError(f"the connection to {url} failed: {error}.", UNREACHABLE) from None


async def _load(
    url: str, sign: Callable[[], str], text: str, seconds: float, connections: int, process: int | None
) -> Measured:
    clients = [_Client(url, sign(), text) for _ in range(connections)]
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await asyncio.gather(*(client.open() for client in clients))
        before, began = _cpu_seconds(process), time.perf_counter()
        await asyncio.gather(*(client.talk(began + seconds) for client in clients))
        lasted, after = time.perf_counter() - began, _cpu_seconds(process)
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    times = sorted(took for client in clients for took in client.times)
    cpu = None if before is None or after is None else 1000 * (after - before) / len(times)
    return Measured(
        connections,
        round(lasted, 3),
        len(times),
        sum(client.failed for client in clients),
        sum(client.held_back for client in clients),
        round(len(times) / lasted, 1),
        round(1000 * times[len(times) // 2], 3),
        round(1000 * times[min(len(times) - 1, len(times) * 99 // 100)], 3),
        None if cpu is None else round(cpu, 3),
    )


class _HeldBack(Exception):  # noqa: N818
    """The server's limits ask for a pause."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class _Client:
    """One socket with a conversation of its own; ``times`` are the seconds of its turns."""

    def __init__(self, url: str, token: str, text: str) -> None:
        parts = urlsplit(url)
        scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
        self._url = f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/v1/ws"
        self._token = token
        self._text = text
        self._conversation = f"bench-{secrets.token_hex(16)}"
        self._socket: Any = None
        self.times: list[float] = []
        self.failed = 0
        self.held_back = 0

    async def open(self) -> None:
        from websockets.asyncio.client import connect

        self._socket = await connect(self._url, subprotocols=[SUBPROTOCOL], close_timeout=2)  # type: ignore[list-item]
        await self._send(
            {"type": "hello", "id": "1", "token": self._token, "conversation_id": self._conversation}
        )
        while (await self._read())["type"] != "welcome":
            pass

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()

    async def talk(self, until: float) -> None:
        """Say the text, wait for the end of its turn, and again; at least once."""
        while not self.times or time.perf_counter() < until:
            began = time.perf_counter()
            try:
                async with asyncio.timeout(TURN_SECONDS):
                    self.failed += await self._turn() == "turn.failed"
            except _HeldBack as held:
                self.held_back += 1
                await asyncio.sleep(held.seconds)
                continue
            self.times.append(time.perf_counter() - began)

    async def _turn(self) -> str:
        key = secrets.token_hex(16)
        await self._send(
            {
                "type": "process",
                "id": "2",
                "conversation_id": self._conversation,
                "idempotency_key": key,
                "content": {"type": "text", "text": self._text},
            }
        )
        while True:
            for event in (await self._read()).get("events", ()):
                if event["command_id"] == key and event["type"] in ("turn.completed", "turn.failed"):
                    return str(event["type"])

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._socket.send(orjson.dumps(frame).decode())

    async def _read(self) -> dict[str, Any]:
        frame: dict[str, Any] = orjson.loads(await self._socket.recv())
        if frame["type"] == "ping":
            await self._socket.send('{"type":"pong"}')
        elif frame["type"] == "error":
            if frame["error"]["code"] == "rate_limited":
                raise _HeldBack((frame["error"].get("retry_after_ms") or 100) / 1000)
            raise CliError(f"the server refused: {frame['error']['message']}", FAILED)
        return frame

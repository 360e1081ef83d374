"""``parley smoke``: walks through what clients rely on, against a server that runs."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import rich_click as click

from protocol.frames import SUBPROTOCOL
from server.cli.access import access_to, with_access
from server.cli.colours import Level, mark
from server.cli.errors import FAILED, OK, UNREACHABLE, USAGE, CliError
from server.cli.project import Project
from server.cli.target import Reply, Target, Unanswered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.client import ClientConnection

STEP_SECONDS: Final = 15.0
TRIES_AN_INSTANCE: Final = 6
"""Connections for each instance that is looked for: a balancer may choose by chance."""
INSTANCE_HEADER: Final = "X-Parley-Instance"
"""In the answer to the handshake: who of several equal ones took the socket."""


@dataclass(frozen=True, slots=True)
class Result:
    """One step of the walk; ``problem`` says what was not as promised, None if all was."""

    step: str
    milliseconds: int
    problem: str | None


class NotAsPromised(Exception):  # noqa: N818 - what happened
    """The server did something else than the protocol promises."""


@click.command()
@click.argument("server", metavar="[URL]", required=False)
@click.option("--project", "place", type=click.Path(path_type=Path), metavar="FOLDER", help="The project.")
@with_access
@click.option("--say", "text", default="hello", show_default=True, metavar="TEXT", help="What is said there.")
@click.option(
    "--instances",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="How many instances have to be found behind URL.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of the steps.")
def smoke(
    server: str | None,
    place: Path | None,
    user_id: str,
    url: str | None,
    token: str | None,
    text: str,
    instances: int,
    as_json: bool,
) -> int:
    """Walk through what clients rely on, against the server at URL, in a new conversation.

    Probes, sign-in, a turn, the same message again, a lost connection, history, state, reset. Behind a load
    balancer it reconnects until other instances answer (N of them with --instances N): each has to tell the
    same events in the same order, and what is said to one has to be heard at another. Each step that is not
    as promised is said; the exit code is 1 if there is one.
    """
    access = access_to(Project.at(place), "smoke", url=server or url, token=token, user_id=user_id)
    try:
        target = Target(access.url)
    except ValueError:
        raise CliError(f"{access.url} is no address of a server, e.g. https://chat.example.", USAGE) from None
    results = asyncio.run(_walk(_Walk(target, access.token_text(), text, instances)))
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results]))
    else:
        for result in results:
            level: Level = "ok" if result.problem is None else "problem"
            told = f": {result.problem}" if result.problem else ""
            click.echo(f"{mark(level)}  {result.milliseconds:>5} ms  {result.step}{told}")
    if results[0].problem is not None:
        return UNREACHABLE
    return FAILED if any(result.problem for result in results) else OK


class _Client:
    """One open socket, and which instance has it (empty where it does not say)."""

    def __init__(self, socket: "ClientConnection") -> None:
        self._socket = socket
        self.instance = socket.response.headers.get(INSTANCE_HEADER, "") if socket.response else ""
        self._early: list[Mapping[str, Any]] = []
        self._count = 0

    async def request(self, kind: str, **fields: Any) -> Mapping[str, Any]:
        """Send a frame and return its answer; what comes before it is kept."""
        self._count += 1
        frame_id = str(self._count)
        await self._socket.send(orjson.dumps({"type": kind, "id": frame_id, **fields}).decode())
        while True:
            frame = await self._read()
            if frame.get("id") == frame_id:
                if frame["type"] == "error":
                    error = frame["error"]
                    raise NotAsPromised(f"{kind} was refused: {error['code']}: {error['message']}")
                return frame
            self._early.append(frame)

    async def until(self, wanted: Callable[[Mapping[str, Any]], bool]) -> list[Mapping[str, Any]]:
        """Return what came, up to the first frame that is ``wanted``."""
        seen: list[Mapping[str, Any]] = []
        while True:
            frame = self._early.pop(0) if self._early else await self._read()
            seen.append(frame)
            if wanted(frame):
                return seen

    async def _read(self) -> Mapping[str, Any]:
        frame: Mapping[str, Any] = orjson.loads(await self._socket.recv())
        if frame["type"] == "ping":
            await self._socket.send('{"type":"pong"}')
        return frame


@asynccontextmanager
async def _connected(target: Target) -> "AsyncIterator[_Client]":
    from websockets.asyncio.client import connect

    async with connect(target.socket, subprotocols=[SUBPROTOCOL], close_timeout=2) as socket:  # type: ignore[list-item]
        yield _Client(socket)


class _Walk:
    """The steps, and what one learns for the next."""

    def __init__(self, target: Target, token: str, text: str, instances: int) -> None:
        self._target = target
        self._token = token
        self._text = text
        self._wanted = instances
        self._conversation = f"smoke-{secrets.token_hex(16)}"
        self._key = secrets.token_hex(16)
        self._epoch: str | None = None
        self._offset = 0

    def steps(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return the steps by name, in their order."""
        return {
            "the probes answer": self._probes,
            "a wrong token is refused, and told so": self._wrong_token,
            "a message gets its turn": self._turn,
            "the same message again changes nothing": self._again,
            "what was missed comes after a lost connection": self._resume,
            "every instance tells the same": self._instances,
            "a second device hears what the first one says": self._devices,
            "history and state tell the same": self._memory,
            "a reset clears the conversation": self._reset,
        }

    async def _probes(self) -> None:
        for path in ("/livez", "/readyz"):
            status, body, _ = await self._get(path)
            _must(status == 200, f"{path} answers {status}: {body[:200].decode(errors='replace')}")
        status, body, _ = await self._get("/v1/status")
        _must(status == 200 and b'"parley"' in body, "/v1/status is not that of a Parley server")

    async def _get(self, path: str) -> Reply:
        try:
            return await asyncio.to_thread(self._target.get, path)
        except Unanswered as error:
            raise NotAsPromised(f"{self._target.address}{path} does not answer ({error})") from None

    async def _wrong_token(self) -> None:
        from websockets.exceptions import ConnectionClosed

        async with _connected(self._target) as client:
            try:
                await client.request("hello", token="no.such.token")  # noqa: S106 - wrong on purpose
            except NotAsPromised as refused:
                _must("unauthorized" in str(refused), str(refused))
            else:
                raise NotAsPromised("a wrong token was welcomed")
            try:
                await client.until(lambda _: False)
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else 1006
                _must(code == 4500, f"the socket was closed with {code}, not 4500")

    async def _hello(self, client: _Client, **resume: Any) -> Mapping[str, Any]:
        return await client.request("hello", token=self._token, conversation_id=self._conversation, **resume)

    async def _turn(self) -> None:
        async with _connected(self._target) as client:
            await self._hello(client)
            ack = await self._say(client)
            _must(not ack["duplicate"], "a new message was taken for an old one")
            frames = await client.until(_ends(self._key))
            first = next(frame for frame in frames if frame["type"] == "events")
            _must(first["from"] == 1, f"the first events begin at {first['from']}, not at 1")
            self._epoch, self._offset = first["epoch"], first["to"]

    async def _say(self, client: _Client) -> Mapping[str, Any]:
        return await client.request(
            "process",
            conversation_id=self._conversation,
            idempotency_key=self._key,
            content={"type": "text", "text": self._text},
        )

    async def _again(self) -> None:
        async with _connected(self._target) as client:
            await self._hello(client)
            before = await client.request("state", conversation_id=self._conversation)
            ack = await self._say(client)
            _must(ack["duplicate"], "it was taken for a new message")
            after = await client.request("state", conversation_id=self._conversation)
            _must(before["result"]["offset"] == after["result"]["offset"], "it wrote new events")

    async def _resume(self) -> None:
        async with _connected(self._target) as client:
            await self._hello(client)
            self._key = secrets.token_hex(16)
            await self._say(client)
            await client.until(_ends(self._key))
        async with _connected(self._target) as client:
            welcome = await self._hello(client, resume={"epoch": self._epoch, "offset": self._offset})
            _must(welcome["recovered"], "it sent a snapshot instead of what was missed")
            expected = self._offset + 1
            for frame in await client.until(_ends(self._key)):
                if frame["type"] == "events":
                    _must(frame["from"] == expected, f"events from {frame['from']} came, not {expected}")
                    expected = frame["to"] + 1

    async def _instances(self) -> None:
        """Reconnect until enough instances have answered; each has to tell everything from the beginning."""
        told: dict[str, list[Mapping[str, Any]]] = {}
        looked_for = max(self._wanted, 2)
        for _ in range(TRIES_AN_INSTANCE * looked_for):
            async with _connected(self._target) as client:
                if client.instance not in told:
                    told[client.instance] = await self._everything(client)
            if len(told) == looked_for:
                break
        first, *others = told.values()
        _must(all(other == first for other in others), "instances tell different events")
        _must(len(told) >= self._wanted, f"only {len(told)} of {self._wanted} instances answered")

    async def _everything(self, client: _Client) -> list[Mapping[str, Any]]:
        welcome = await self._hello(client, resume={"epoch": self._epoch, "offset": 0})
        _must(welcome["recovered"], f"instance {client.instance} sent a snapshot instead of what was missed")
        frames = await client.until(_ends(self._key))
        return [event for frame in frames if frame["type"] == "events" for event in frame["events"]]

    async def _devices(self) -> None:
        """On two instances where there are: a balancer gives the second socket to the other one."""
        async with _connected(self._target) as first, _connected(self._target) as second:
            await self._hello(first)
            await self._hello(second)
            self._key = secrets.token_hex(16)
            await self._say(first)
            heard = [await client.until(_ends(self._key)) for client in (first, second)]
            said, other = (
                [e for f in frames if f["type"] == "events" for e in f["events"]] for frames in heard
            )
            _must(said == other, "they heard different events")

    async def _memory(self) -> None:
        async with _connected(self._target) as client:
            await self._hello(client)
            history = await client.request("history", conversation_id=self._conversation, limit=100)
            texts = [message["text"] for message in history["result"]["messages"]]
            _must(texts.count(self._text) >= 2, "the history lacks what was said")
            state = await client.request("state", conversation_id=self._conversation)
            _must(state["result"]["message_count"] == len(texts), "history and state count differently")

    async def _reset(self) -> None:
        async with _connected(self._target) as client:
            await self._hello(client)
            await client.request("reset", conversation_id=self._conversation, reason="smoke test")
            state = await client.request("state", conversation_id=self._conversation)
            _must(state["result"]["status"] == "idle", f"it is {state['result']['status']} afterwards")


async def _walk(walk: "_Walk") -> list[Result]:
    """Take the steps; after the first one that cannot be taken, the rest make no sense."""
    results: list[Result] = []
    for name, step in walk.steps().items():
        began = time.perf_counter()
        problem = await _problem_of(step)
        results.append(Result(name, round((time.perf_counter() - began) * 1000), problem))
        if problem is not None:
            break
    return results


async def _problem_of(step: Callable[[], Awaitable[None]]) -> str | None:
    from websockets.exceptions import WebSocketException

    try:
        async with asyncio.timeout(STEP_SECONDS):
            await step()
    except NotAsPromised as problem:
        return str(problem)
    except TimeoutError:
        return f"there was no answer within {STEP_SECONDS:g} seconds"
    except (OSError, WebSocketException) as error:
        return f"the socket failed: {error}"
    return None


def _must(holds: bool, problem: str) -> None:
    if not holds:
        raise NotAsPromised(problem)


def _ends(key: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return what knows the frame in which the turn of ``key`` ends."""

    def ends(frame: Mapping[str, Any]) -> bool:
        return frame["type"] == "events" and any(
            event["command_id"] == key and event["type"] in ("turn.completed", "turn.failed")
            for event in frame["events"]
        )

    return ends

"""One connection to a Redis server: bytes of RESP out, replies in.

An own protocol over hiredis, because what redis-py does for each published and each received message
takes ten times as long (``docs/decisions/0035-...``). It is no client: who sends counts the replies.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import hiredis

from storage.base import BusRefused
from storage.redis.address import Address

CONNECT_TIMEOUT_S: Final = 3.0
REPLIES_A_TURN: Final = 256
"""So many replies are taken before others get the event loop; meanwhile nothing more is read."""
GIBBERISH: Final = "sends what is not its protocol"
LEAST_VERSION: Final = (6, 2)
LEAST_CLUSTER_VERSION: Final = (7, 0)

Arg = str | bytes | int

pack: Callable[[tuple[Arg, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub says: one
"""Return a command as it is sent."""

_NOTHING: Final = object()


class Away(Exception):  # noqa: N818 - reads as what happened
    """Redis cannot serve now; it may later. The message ends a sentence that begins with "Redis"."""


class Gibberish(Away):
    """Whatever answers is no Redis, or wants TLS."""

    def __init__(self) -> None:
        super().__init__(GIBBERISH)


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself; ``version`` is empty where it does not tell."""

    version: tuple[int, ...]
    cluster: bool


class Wire(asyncio.Protocol):
    """A connection. Its owner sets ``take`` (each reply), ``lost`` (once) and ``drained``.

    Attributes:
        paused: the socket takes nothing more; what is written waits in memory.
        heard_at: when the server last sent anything, in seconds of the loop's clock.
    """

    def __init__(self) -> None:
        self.take: Callable[[Any], None] = lambda reply: None
        self.lost: Callable[[str], None] = lambda reason: None
        self.drained: Callable[[], None] = lambda: None
        self.paused = False
        self.closed = False
        self._pumping = False
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None

    def write(self, data: bytes) -> None:
        """Send packed commands; dropped where the connection is gone."""
        if not self.closed and self._transport is not None:
            self._transport.write(data)

    def abort(self, reason: str) -> None:
        """Close at once, whatever the peer does; ``lost`` is called before this returns."""
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    # --- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        # uvloop's transports do not inherit from asyncio's
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self.heard_at = self._loop.time()
        self._reader.feed(data)
        if not self._pumping:
            self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._end("closed the connection")

    def pause_writing(self) -> None:
        """The socket takes nothing more."""
        self.paused = True

    def resume_writing(self) -> None:
        """The socket takes bytes again."""
        self.paused = False
        self.drained()

    # ----------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Take replies, some at a time."""
        transport = self._transport
        assert transport is not None
        try:
            for _ in range(REPLIES_A_TURN):
                reply = self._reader.gets()
                if reply is _NOTHING or self.closed:
                    if self._pumping:
                        self._pumping = False
                        transport.resume_reading()
                    return
                self.take(reply)
        except hiredis.ProtocolError:
            self.abort(GIBBERISH)
            return
        if not self._pumping:
            self._pumping = True
            transport.pause_reading()
        self._loop.call_soon(self._pump)

    def _end(self, reason: str) -> None:
        if not self.closed:
            self.closed = True
            self.lost(reason)


async def connect(address: Address, host: str, port: int) -> tuple[Wire, Server]:
    """Open a connection, log in and look at the server.

    Raises:
        Away: it cannot be reached or is not ready; later it may be.
        BusRefused: trying again would not help.
    """
    where = f"Redis at {host}:{port}"
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            context = _context(address, where)
            _, wire = await asyncio.get_running_loop().create_connection(
                Wire, host, port, ssl=context, ssl_handshake_timeout=CONNECT_TIMEOUT_S if context else None
            )
            try:
                return wire, await _log_in(wire, address, where)
            except BaseException:
                wire.abort("was left")
                raise
    except Gibberish as error:
        raise BusRefused(
            f"What listens at {host}:{port} does not speak Redis's protocol: correct PARLEY_BUS, or write "
            "rediss:// if it wants TLS"
        ) from error
    except TimeoutError as error:
        raise Away("does not answer") from error
    except ssl.SSLCertVerificationError as error:
        raise BusRefused(
            f"{where}: its certificate is not trusted ({error.verify_message}): name the CA's file in "
            "PARLEY_BUS, rediss://...?ssl_ca_certs=FILE"
        ) from error
    except ssl.SSLError as error:
        raise BusRefused(f"{where} does not speak TLS with us: write redis:// without TLS") from error
    except (OSError, UnicodeError) as error:  # the latter: no such name can exist
        raise Away("cannot be reached") from error


def _context(address: Address, where: str) -> ssl.SSLContext | None:
    if address.tls is None:
        return None
    try:
        return address.tls.context()
    except OSError as error:
        raise BusRefused(f"{where}: a file of its ssl_ options cannot be used: {error.strerror}") from error


async def _log_in(wire: Wire, address: Address, where: str) -> Server:
    commands: list[tuple[Arg, ...]] = []
    if address.password is not None:
        user = (address.username,) if address.username is not None else ()
        commands.append(("AUTH", *user, address.password))
    if address.db:
        commands.append(("SELECT", address.db))
    commands.append(("INFO",))
    replies = await ask(wire, commands)
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, hiredis.ReplyError):
            _judge(str(command[0]), str(reply), where)
    info = replies[-1]
    return _server(info if isinstance(info, bytes) else b"", address, where)


async def ask(wire: Wire, commands: list[tuple[Arg, ...]]) -> list[Any]:
    """Send ``commands`` over a wire that nobody else uses and return their replies, errors among them.

    Raises Away where the connection ends; bound it in time.
    """
    replies: list[Any] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(reply: Any) -> None:
        replies.append(reply)
        if len(replies) >= len(commands) and not done.done():
            done.set_result(None)

    def lost(reason: str) -> None:
        if not done.done():
            done.set_exception(Gibberish() if reason == GIBBERISH else Away(reason))

    wire.take, wire.lost = take, lost
    if wire.closed:
        raise Away("closed the connection")
    wire.write(b"".join(pack(command) for command in commands))
    await done
    return replies


def _judge(command: str, error: str, where: str) -> None:
    """Raise what a refused command of the handshake means; some mean nothing."""
    code = error.partition(" ")[0]
    if command == "AUTH" or code in ("NOAUTH", "WRONGPASS"):
        if code == "NOAUTH":
            raise BusRefused(
                f"{where} wants a password: set PARLEY_BUS=redis://:PASSWORD@HOST or USER:PASSWORD@HOST"
            )
        if code not in ("LOADING", "MASTERDOWN") and "max number of clients" not in error:
            raise BusRefused(f"{where} refuses the user and password of PARLEY_BUS: correct them")
    if code == "DENIED":
        raise BusRefused(f"{where} is in protected mode and takes local connections only: give it a password")
    if command == "SELECT" and code == "ERR" and "max number of clients" not in error:
        raise BusRefused(
            f"{where} has no such database: a cluster has only /0, else see its setting databases"
        )
    if code == "LOADING":
        raise Away("is loading its data")
    if code == "ERR" and "max number of clients" in error:
        raise Away("has too many clients")
    if code == "NOPERM":
        return  # it may not tell about itself: then we take it as it is
    raise Away("is not ready")


def _server(info: bytes, address: Address, where: str) -> Server:
    fields = dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)
    version = tuple(int(part) for part in fields.get("redis_version", "").split(".") if part.isdecimal())
    cluster = fields.get("cluster_enabled") == "1" if address.cluster is None else address.cluster
    least = LEAST_CLUSTER_VERSION if cluster else LEAST_VERSION
    if version and version < least:
        raise BusRefused(
            f"{where} is version {_dotted(version)}: Parley needs {_dotted(least)} or newer"
            f"{' for a cluster' if cluster else ''}; update it"
        )
    if fields.get("role") == "slave" and not cluster:
        raise Away("is a replica, which takes no writes")
    return Server(version, cluster)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))

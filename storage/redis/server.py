"""How redis-py reaches a server, and a look at it before it is used: what it is, and whether it serves us."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from storage.base import BusRefused
from storage.redis.address import Address

FAREWELL_S: Final = 1.0
"""So long each of what has to be done before the end may take."""
CONNECT_TIMEOUT_S: Final = 3.0
LEAST_VERSION: Final = (6, 2)
LEAST_CLUSTER_VERSION: Final = (7, 0)


class Away(Exception):  # noqa: N818 - reads as what happened
    """Redis cannot serve now; it may later. The message ends a sentence that begins with "Redis"."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself; ``version`` is empty where it does not tell."""

    version: tuple[int, ...]
    cluster: bool


def never_again() -> Retry:
    """Return redis-py's policy of trying nothing twice: what was tried may have been done."""
    return Retry(NoBackoff(), 0, supported_errors=())


def login(address: Address) -> dict[str, Any]:
    """Return how redis-py gets in, whatever it connects with.

    RESP 2, because a server of version 6.2 logs in with it as well, and says nothing unasked.
    """
    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "protocol": 2,
        "driver_info": None,
        "retry": never_again(),
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
    }
    if (tls := address.tls) is not None:
        options |= {
            "ssl_ca_certs": tls.ca_certs,
            "ssl_certfile": tls.certfile,
            "ssl_keyfile": tls.keyfile,
            "ssl_cert_reqs": "required" if tls.verify else "none",
            "ssl_check_hostname": tls.check_hostname,
        }
    return options


def pool(address: Address, host: str, port: int, **options: Any) -> ConnectionPool:
    """Return a pool of connections to one server; ``options`` are redis-py's."""
    if address.tls is not None:
        options["ssl_password"] = address.tls.password
    return ConnectionPool(
        connection_class=Connection if address.tls is None else SSLConnection,
        host=host,
        port=port,
        db=address.db,
        **login(address),
        **options,
    )


async def look(address: Address, host: str, port: int) -> Server:
    """Connect, log in and ask a server what it is.

    Raises:
        Away: it cannot be reached or is not ready; later it may be.
        BusRefused: trying again would not help.
    """
    async with visiting(address, host, port) as (_, server):
        return server


@contextlib.asynccontextmanager
async def visiting(
    address: Address, host: str, port: int
) -> AsyncIterator[tuple[AbstractConnection, Server]]:
    """Look, as ``look`` does, and have the connection for further questions."""
    visit = Visit(address, host, port)
    connections = visit.pool()
    connection: AbstractConnection = connections.make_connection()  # type: ignore[no-untyped-call]
    try:
        yield connection, await visit.begin(connection.connect())  # type: ignore[no-untyped-call]
    finally:
        await hang_up(connection)


async def to_its_end(farewell: Coroutine[Any, Any, None]) -> None:
    """Have all of ``farewell`` done, also where its caller is cancelled meanwhile.

    What redis-py closes in one go stays open, all of it, where that is interrupted.
    """
    parting = asyncio.get_running_loop().create_task(farewell)
    try:
        await asyncio.shield(parting)
    except asyncio.CancelledError:
        await asyncio.gather(parting, return_exceptions=True)
        raise


async def hang_up(connection: AbstractConnection) -> None:
    """Disconnect. Over TLS the peer has the last word, which is not waited for for long."""

    async def farewell() -> None:
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await connection.disconnect()

    await to_its_end(farewell())


async def ask(connection: AbstractConnection, *command: str) -> Any:
    """Send a command over a connection that nobody else uses; None where the server refuses it."""
    await connection.send_command(*command)
    try:
        return await connection.read_response()
    except ResponseError:
        return None


class Visit:
    """The first steps of one connection, and what it means where one of them fails."""

    def __init__(self, address: Address, host: str, port: int) -> None:
        self._address = address
        self._host, self._port = host, port
        self._place = f"{host}:{port}"
        self._where = f"Redis at {self._place}"
        self._reached = self._in = False
        self._info = b""

    def pool(self, **options: Any) -> ConnectionPool:
        """Return the pool of this one connection, which looks about when it is made. Raises BusRefused.

        It has no time-out of its own: redis-py's for writing is an ``asyncio.wait_for``, which may swallow
        a cancellation (before Python 3.12). Whoever waits bounds it.
        """
        if self._address.tls is not None:
            try:
                self._address.tls.context()
            except OSError as error:
                raise BusRefused(
                    f"{self._where}: a file of its ssl_ options cannot be used: {error.strerror}"
                ) from error
        return pool(
            self._address,
            self._host,
            self._port,
            socket_timeout=None,
            redis_connect_func=self._log_in,
            **options,
        )

    async def begin(self, connecting: Awaitable[Any]) -> Server:
        """Return what is there once ``connecting``, of the pool, is done. Raises Away, BusRefused."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await connecting
        except (RedisError, TimeoutError) as error:
            raise self.meaning(error) from error
        return self._server(self._info)

    async def _log_in(self, connection: AbstractConnection) -> None:
        if self._in:
            # Whoever uses the pool is to learn that a connection was lost, and what with it.
            raise RedisConnectionError("is made once")
        self._reached = True
        await connection.on_connect()
        self._in = True
        await connection.send_command("INFO")
        with contextlib.suppress(NoPermissionError):  # it may not tell about itself: we take it as it is
            self._info = await connection.read_response()

    def meaning(self, error: Exception) -> Away | BusRefused:
        """Return what to say of a failure."""
        refusal = self._refusal(error)
        return BusRefused(refusal) if refusal is not None else Away(self._reason(error))

    def _refusal(self, error: Exception) -> str | None:
        """Return what waiting does not mend, with what does."""
        where, text = self._where, str(error)
        if isinstance(error, AuthenticationError):
            if getattr(error, "status_code", None) == "NOAUTH":
                return (
                    f"{where} wants a password: set PARLEY_BUS=redis://:PASSWORD@HOST or USER:PASSWORD@HOST"
                )
            return f"{where} refuses the user and password of PARLEY_BUS: correct them"
        if isinstance(error, InvalidResponse):
            return (
                f"What listens at {self._place} does not speak Redis's protocol: correct PARLEY_BUS, or "
                "write rediss:// if it wants TLS"
            )
        if isinstance(error, ResponseError) and text.startswith("DENIED"):
            return f"{where} is in protected mode and takes local connections only: give it a password"
        if isinstance(error, ResponseError) and not isinstance(error, MasterDownError) and not self._in:
            return f"{where} has no such database: a cluster has only /0, else see its setting databases"
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return (
                    f"{where}: its certificate is not trusted ({cause.verify_message}): name the CA's file "
                    "in PARLEY_BUS, rediss://...?ssl_ca_certs=FILE"
                )
            if isinstance(cause, ssl.SSLError):
                return f"{where} does not speak TLS with us: write redis:// without TLS"
        return None

    def _reason(self, error: Exception) -> str:
        if isinstance(error, BusyLoadingError):
            return "is loading its data"
        if "max number of clients" in str(error):
            return "has too many clients"
        if isinstance(error, ResponseError):
            return "is not ready"
        if isinstance(error, (RedisTimeoutError, TimeoutError)):
            return "does not answer"
        return "closed the connection" if self._reached else "cannot be reached"

    def _server(self, info: bytes) -> Server:
        fields = told(info)
        version = tuple(int(part) for part in fields.get("redis_version", "").split(".") if part.isdecimal())
        declared = self._address.cluster
        cluster = fields.get("cluster_enabled") == "1" if declared is None else declared
        least = LEAST_CLUSTER_VERSION if cluster else LEAST_VERSION
        if version and version < least:
            raise BusRefused(
                f"{self._where} is version {_dotted(version)}: Parley needs {_dotted(least)} or newer"
                f"{' for a cluster' if cluster else ''}; update it"
            )
        if cluster and self._address.tls is not None and self._address.tls.password is not None:
            raise BusRefused(
                f"{self._where} is a cluster, for which ssl_password is not known: use a plain key"
            )
        if fields.get("role") == "slave" and not cluster:
            raise Away("is a replica, which takes no writes")
        return Server(version, cluster)


def told(info: bytes) -> dict[str, str]:
    """Return the fields of an INFO."""
    return dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)


def _causes(error: BaseException | None) -> list[BaseException]:
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))

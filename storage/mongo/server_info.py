"""What the server at the other end says of itself, and whether it will do."""

import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, Final, NamedTuple

from pymongo.errors import OperationFailure, PyMongoError, ServerSelectionTimeoutError

from storage.base import StorageError, StoreRefused
from storage.mongo.driver import uncut
from storage.mongo.failures import REFUSED_CREDENTIALS, translated

OLDEST: Final = (6, 0)
_NO_SUCH_COMMAND: Final = 59
_OTHER_INDEX: Final = frozenset({85, 86})
"""IndexOptionsConflict, IndexKeySpecsConflict."""
_ITS_NAME: Final = re.compile(r"different name: ([\w.-]+)")


class ServerInfo(NamedTuple):
    """What ``hello`` and ``buildInfo`` say.

    Attributes:
        version: the server's version, such as ``(8, 0, 4)``.
        set_name: the replica set; None for a standalone server or a router.
        is_router: whether it is the router of a sharded cluster.
        has_sessions: whether writes can be retried by the driver (with ``set_name`` or a router).
    """

    version: tuple[int, ...]
    set_name: str | None
    is_router: bool
    has_sessions: bool

    @property
    def retries_writes(self) -> bool:
        """Whether a write whose reply was lost is sent again by the driver, and done once."""
        return self.has_sessions and (self.set_name is not None or self.is_router)


async def hello(client: Any) -> Mapping[str, Any]:
    """Ask the primary how it is. Servers before ``hello`` know it by its older name."""
    try:
        answer: Mapping[str, Any] = await client.admin.command("hello")
    except OperationFailure as error:
        if error.code != _NO_SUCH_COMMAND:
            raise
        answer = await client.admin.command("isMaster")
    return answer


@uncut
async def inspect(client: Any) -> ServerInfo:
    """Return what the server is. Uncut, as who gives up closes the client, which takes the driver's locks.

    Raises:
        StoreRefused: it will not do, or does not take the credentials; the message mends it.
        StoreUnavailable: it cannot be reached now.
    """
    try:
        said = await hello(client)
        build = await client.admin.command("buildInfo")
    except PyMongoError as error:
        raise refusal(error) from None
    if not said.get("isWritablePrimary", said.get("ismaster", True)):
        raise StoreRefused(
            "PARLEY_STORE names a secondary of the replica set only: name the set and its members, mongodb://"
            f"HOST1,HOST2,HOST3/parley?replicaSet={said.get('setName', 'NAME')}, without directConnection"
        )
    version = tuple(int(part) for part in build.get("versionArray", ())[:3])
    if version < OLDEST:
        known = ".".join(map(str, version)) or "unknown"
        raise StoreRefused(
            f"MongoDB {known} is too old: Parley needs {'.'.join(map(str, OLDEST))} or newer; "
            "upgrade the server, or name another in PARLEY_STORE"
        )
    return ServerInfo(
        version,
        said.get("setName"),
        said.get("msg") == "isdbgrid",
        said.get("logicalSessionTimeoutMinutes") is not None,
    )


def refusal(error: PyMongoError) -> StorageError:
    """Return what is to be raised at start for a driver's error: some do not mend themselves."""
    text = str(error)
    if isinstance(error, OperationFailure) and error.code in REFUSED_CREDENTIALS:
        return StoreRefused(str(translated(error)))
    if "requires at least wire version" in text or "reports wire version" in text:
        return StoreRefused(
            "this MongoDB is too old: Parley needs 6.0 or newer; upgrade the server, or name another in "
            "PARLEY_STORE"
        )
    if isinstance(error, ServerSelectionTimeoutError) and "for replica set name" in text:
        return StoreRefused(
            "the servers of PARLEY_STORE are not of the replica set that it names: check replicaSet in the "
            "URL, and that the set is initiated (rs.initiate())"
        )
    if isinstance(error, OperationFailure) and error.code in _OTHER_INDEX:
        named = _ITS_NAME.search(text)
        which = f", {named[1]}," if named else ""
        return StoreRefused(
            f"MongoDB has an index{which} where Parley makes one of its own: drop it, and start again"
        )
    return translated(error)


@uncut
async def measure(
    client: Any,
    take: Callable[[datetime, float, float], None],
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Ask the primary for its time and hand it over, with the readings before and after.

    Uncut, as it waits for the pool with everybody else, and a store that closes gives it up.
    """
    asked_at = monotonic()
    said = await hello(client)
    told = said.get("localTime")
    if isinstance(told, datetime):
        aware = told if told.tzinfo is not None else told.replace(tzinfo=timezone.utc)  # noqa: UP017
        take(aware, asked_at, monotonic())

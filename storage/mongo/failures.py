"""What the driver's errors mean: what is wrong, what to do, and whether a write may have happened.

The driver's own texts are long, and for people who know it: they go into the log, at the level ``debug``.
"""

import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from storage.base import CommitUnknown, StorageError, StoreUnavailable

REFUSED_CREDENTIALS: Final = frozenset({13, 18, 8000})
"""Unauthorized, AuthenticationFailed, AtlasError (what Atlas says to wrong credentials)."""
_CREDENTIALS: Final = (
    "MongoDB refuses the credentials of PARLEY_STORE: check user, password and authSource in the URL, and "
    "that the user has the role readWrite on the database"
)
_LOOK: Final = "see that it runs, and that PARLEY_STORE names it"
_NO_PRIMARY: Final = "MongoDB has no primary at the moment: if that lasts, look at rs.status()"
NO_MAJORITY: Final = "no majority of MongoDB's members confirms writes: look at rs.status()"
_REASONS: Final[Mapping[int, str]] = {
    **dict.fromkeys((91, 189, 10058, 10107, 11600, 11602, 13435, 13436), _NO_PRIMARY),
    **dict.fromkeys((64, 79, 100), NO_MAJORITY),
    50: "MongoDB did not answer in time: look at its load",
    14031: "MongoDB has no room on its disk: make some",
}
"""By the codes of MongoDB's ``error_codes.yml``."""
_CAUSES: Final = (
    (
        r"certificate verify failed",
        "its certificate is not trusted: name the authority by tlsCAFile",
    ),
    (r"SSL|connection closed", "it hangs up: set tls in the URL as it has it, and look at its log"),
    (r"larger than server max message", "what answers there is no MongoDB: correct PARLEY_STORE"),
    (r"not known|nodename nor servname|No address", "no host has such a name: correct PARLEY_STORE"),
    (r"name resolution", "its hosts' names cannot be looked up now: see that the name service runs"),
    (r"Errno (111|61)\b|Connection refused", f"nothing listens there: {_LOOK}"),
    (r"No primary", "its members have elected none: if that lasts, look at rs.status()"),
    (r"No replica set members", f"no member of its replica set answers: {_LOOK}"),
    (r"timed out|unreachable|No route", "its hosts do not answer: look at them, and at the way to them"),
)
"""What the text of a failed search for a primary has in it, why none was found, and what to do."""
_logger = logging.getLogger(__name__)


@asynccontextmanager
async def reading() -> AsyncIterator[None]:
    """Translate the driver's errors of what may be done again: nothing has happened."""
    try:
        yield
    except PyMongoError as error:
        raise translated(error) from None


@asynccontextmanager
async def writing() -> AsyncIterator[None]:
    """Translate the driver's errors of a conditional write: it may have happened, unless it was not sent."""
    try:
        yield
    except PyMongoError as error:
        raise translated(error, sent=was_sent(error)) from None


def was_sent(error: PyMongoError) -> bool:
    """Tell whether what failed may have reached the server, and may have had its effect there."""
    if isinstance(error, ServerSelectionTimeoutError | ConfigurationError):
        return False  # of a second attempt, the driver raises what ended the first
    if isinstance(error, OperationFailure):
        return error.code not in REFUSED_CREDENTIALS
    return isinstance(error, ConnectionFailure)


def translated(error: PyMongoError, *, sent: bool = False) -> StorageError:
    """Return what the port says of a driver's error; with ``sent``, its outcome is unknown."""
    _logger.debug("MongoDB's driver has failed", extra={"reason": f"{type(error).__name__}: {error}"[:500]})
    return CommitUnknown(_sentence(error)) if sent else StoreUnavailable(_sentence(error))


def _sentence(error: PyMongoError) -> str:
    if isinstance(error, OperationFailure):
        if error.code in REFUSED_CREDENTIALS:
            return _CREDENTIALS
        unknown = f"MongoDB refuses what it is asked (code {error.code}): its log says why"
        return unknown if error.code is None else _REASONS.get(error.code, unknown)
    if isinstance(error, ServerSelectionTimeoutError):
        text = str(error).partition(", Timeout:")[0]
        cause = next(
            (cause for found, cause in _CAUSES if re.search(found, text)), f"none was found: {_LOOK}"
        )
        return f"no primary of MongoDB can be reached, as {cause}"
    if isinstance(error, NetworkTimeout) or getattr(error, "timeout", False):
        return "MongoDB did not answer in time: look at its load, and at the network to it"
    if isinstance(error, NotPrimaryError):
        return _NO_PRIMARY
    if isinstance(error, ConnectionFailure):
        return f"the connection to MongoDB was lost: {_LOOK}"
    return f"MongoDB's driver has failed ({type(error).__name__}): the log at the level debug says why"

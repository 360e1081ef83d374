"""The seam between the adapter and the driver: which one it is, and how it connects.

PyMongo's asyncio API is the default. Motor (``PARLEY_MONGO_DRIVER=motor``, extra ``[motor]``) has the same
calls; those that differ (closing a client, ``aggregate``) are here or not used.
"""

import asyncio
import inspect
import re
import warnings
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from types import SimpleNamespace
from typing import Any, Final, Literal, ParamSpec, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pymongo import ReadPreference, WriteConcern
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.read_concern import ReadConcern

from storage.base import StoreRefused
from storage.mongo.schema import COLLECTIONS

P = ParamSpec("P")
T = TypeVar("T")
Driver = Literal["pymongo", "motor"]
DATABASE: Final = "parley"
LONGEST_NAME: Final = 63
_NO_NAME: Final = frozenset('/\\. "$*<>:|?\0')
"""What stands in no name of a database, on some system at least."""
DEFAULTS: Final[Mapping[str, Any]] = {
    "maxPoolSize": 32,
    "serverSelectionTimeoutMS": 3_000,
    "connectTimeoutMS": 3_000,
    "socketTimeoutMS": 5_000,
    "waitQueueTimeoutMS": 3_000,
    "timeoutMS": 3_000,
    "appName": "parley",
}
"""What holds where the URL says nothing else: no call waits longer than ``timeoutMS``, all in all."""
UNHURRIED: Final[Mapping[str, Any]] = {"timeoutMS": None, "socketTimeoutMS": None}
"""The options of a client that may take its time: making an index may take minutes."""
DURABLE: Final = WriteConcern("majority", j=True)
_WRONG_OPTION: Final = re.compile(r"(?:Unknown option:|The value of) (\w+)")


def connect(url: str, driver: Driver, options: Mapping[str, Any]) -> Any:
    """Return a client, which connects with its first call. ``options`` yield to those of the URL.

    An option that is None is left to the driver.

    Raises:
        StoreRefused: the URL is wrong, or weakens what a commit promises; the driver is not installed.
    """
    asked = {name.lower() for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
    _check_promises(url, asked)
    chosen = {
        name: value
        for name, value in {**DEFAULTS, **options}.items()
        if name.lower() not in asked and value is not None
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # an unknown option
            client = _client_class(driver)(url, **chosen)
    except (UserWarning, InvalidURI, ConfigurationError, ValueError, TypeError) as error:
        # What the driver says may quote the URL, and so a password; the name of an option is none.
        named = _WRONG_OPTION.match(str(error)) if isinstance(error, UserWarning) else None
        if named:
            raise StoreRefused(
                f"PARLEY_STORE has an option {named[1]} that MongoDB does not take, or not with that value: "
                "correct or remove it"
            ) from None
        raise StoreRefused(
            "PARLEY_STORE is no URL of MongoDB, or has an option that is none: write "
            "mongodb://USER:PASSWORD@HOST:27017/parley?replicaSet=NAME, with special characters in the "
            "password percent-encoded"
        ) from None
    # The driver takes a.b for the database a, and leaves what else is wrong to the server.
    database = unquote(urlsplit(url).path.removeprefix("/"))
    if _NO_NAME.intersection(database) or len(database.encode()) > LONGEST_NAME:
        raise StoreRefused(
            f"PARLEY_STORE names a database that cannot be: use up to {LONGEST_NAME} letters, digits, - and _"
        )
    return client


def _check_promises(url: str, asked: set[str]) -> None:
    """Refuse a URL that asks for less than what an acknowledgement promises, instead of ignoring it."""
    given = {name.lower(): value for name, value in parse_qsl(url.partition("?")[2])}
    weak = [
        f"{name}={given[name]}"
        for name, right in (("w", "majority"), ("journal", "true"), ("readpreference", "primary"))
        if name in asked and given.get(name, "").lower() != right
    ]
    if weak:
        raise StoreRefused(
            f"PARLEY_STORE asks for {', '.join(weak)}: what was acknowledged could then be lost; "
            "remove it from the URL (Parley writes with w=majority and j=true, and reads from the primary)"
        )


def _client_class(driver: Driver) -> Any:
    if driver == "pymongo":
        from pymongo import AsyncMongoClient

        return AsyncMongoClient
    try:
        from motor.motor_asyncio import AsyncIOMotorClient
    except ImportError:
        raise StoreRefused(
            "PARLEY_MONGO_DRIVER=motor, but Motor is not installed: pip install 'parley-server[motor]', "
            "or set PARLEY_MONGO_DRIVER=pymongo"
        ) from None
    return AsyncIOMotorClient


async def disconnect(client: Any) -> None:
    """Close a client of either driver."""
    closing = client.close()
    if inspect.isawaitable(closing):
        await closing


def durable(client: Any) -> Any:
    """Return the collections of the URL's database: majority reads from the primary, durable writes.

    Each by its name, and made once: the driver makes one anew whenever it is mentioned.
    """
    database = client.get_default_database(DATABASE).with_options(
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("majority"),
        write_concern=DURABLE,
    )
    return SimpleNamespace(**{name: database[name] for name in COLLECTIONS})


def uncut(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Have calls go on to their end where their callers are cancelled, who then hear nothing of it.

    On Python 3.11 a call of PyMongo that is cancelled as it waits for the pool may leave the pool's lock
    taken for good, and each later call waits for ever. The driver's own time-outs end what goes on.
    """

    @wraps(call)
    async def until_the_end(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.ensure_future(call(*args, **kwargs))
        task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        return await asyncio.shield(task)

    return until_the_end

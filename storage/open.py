"""URL -> store or bus: the one place that knows which adapters there are.

| URL | what |
|---|---|
| ``sqlite:parley.db``, ``sqlite:/var/lib/parley.db`` | the embedded store in this file |
| ``mongodb://HOST/DATABASE``, ``mongodb+srv://...`` | the store for many instances, ``parley`` by default |
| ``redis://HOST``, ``rediss://HOST`` | the bus over Redis, with TLS where it has two s |
| ``memory:`` | everything is gone when the process ends; as a bus: in this process only |
| ``module:factory``, ``module.factory`` | what ``factory(clock=...)`` returns, for a bus ``factory()`` |

Nothing is opened here: the caller awaits ``open()``.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from storage.base import EventBus, Shared, StorageError, Store
from storage.memory import MemoryBus, MemoryShared, MemoryStore
from storage.models import TimeMs

if TYPE_CHECKING:
    from storage.redis import Address

STORE_FORMS: Final = "sqlite:PATH, mongodb://HOST/DATABASE, memory: or module:factory"
BUS_FORMS: Final = "memory:, redis://HOST, rediss://HOST (TLS) or module:factory"


class StorageUrlInvalid(StorageError):  # noqa: N818 - reads as what happened
    """A store or bus URL that names nothing we can open. The message says what would be right."""


@dataclass(frozen=True, slots=True)
class MongoSettings:
    """How MongoDB is talked to. Where the URL has an option for it, that one holds.

    Attributes:
        driver: ``pymongo``, or ``motor`` with the extra ``[motor]``.
        pool: the most connections that are open at a time.
        timeout_ms: the longest that one call waits, everything included.
    """

    driver: Literal["pymongo", "motor"] = "pymongo"
    pool: int = 32
    timeout_ms: int = 3_000


def open_store(
    url: str, clock: Callable[[], TimeMs] | None = None, *, mongo: MongoSettings | None = None
) -> Store:
    """Return the store of a URL, not yet opened. Raises StorageUrlInvalid."""
    scheme, _, rest = url.strip().partition(":")
    match scheme.lower():
        case "sqlite":
            return _sqlite(rest, clock)
        case "mongodb" | "mongodb+srv":
            return _mongo(url.strip(), clock, mongo or MongoSettings())
        case "memory":
            _expect_nothing(url, rest)
            return MemoryStore(clock)
        case _:
            return cast(Store, _factory(url, STORE_FORMS, "PARLEY_STORE")(clock=clock))


def open_bus(url: str) -> EventBus:
    """Return the bus of a URL, not yet opened. Raises StorageUrlInvalid."""
    scheme, _, rest = url.strip().partition(":")
    match scheme.lower():
        case "memory":
            _expect_nothing(url, rest)
            return MemoryBus()
        case "redis" | "rediss":
            from storage.redis import RedisBus  # not before it is asked for: a cold start counts

            return RedisBus(_address(url))
    return cast(EventBus, _factory(url, BUS_FORMS, "PARLEY_BUS")())


def open_shared(url: str) -> Shared:
    """Return what the instances of a bus count and remember together, not yet opened.

    That is kept beside a Redis bus; with any other bus each instance has its own. Raises StorageUrlInvalid.
    """
    if _scheme(url) not in ("redis", "rediss"):
        return MemoryShared()
    from storage.redis import RedisShared

    return RedisShared(_address(url))


def check_pair(store_url: str, bus_url: str) -> None:
    """Refuse an embedded store with a networked bus: it would promise instances that cannot be.

    Raises StorageUrlInvalid.
    """
    store, bus = _scheme(store_url), _scheme(bus_url)
    if store in ("sqlite", "memory") and bus in ("redis", "rediss"):
        raise StorageUrlInvalid(
            f"the store {store}: serves one process, a Redis bus is for several: "
            "set PARLEY_BUS=memory:, or PARLEY_STORE=mongodb://... for several instances"
        )


def _scheme(url: str) -> str:
    return url.strip().partition(":")[0].lower()


def _sqlite(path: str, clock: Callable[[], TimeMs] | None) -> Store:
    from storage.sqlite import SqliteStore  # not where sqlite3 is missing and another store is asked for

    if path.startswith("//"):
        raise StorageUrlInvalid(
            f"sqlite:{path}: write the path right behind the colon, sqlite:parley.db or sqlite:/srv/parley.db"
        )
    if path.strip() in ("", ":memory:"):
        raise StorageUrlInvalid(
            f"sqlite:{path} names no file: write sqlite:parley.db, or memory: to keep nothing"
        )
    return SqliteStore(path, clock=clock)


def _address(url: str) -> "Address":
    from storage.redis import Address

    try:
        return Address.parse(url)
    except ValueError as error:
        raise StorageUrlInvalid(f"PARLEY_BUS={_shown(url)} {error}") from error


def _mongo(url: str, clock: Callable[[], TimeMs] | None, settings: MongoSettings) -> Store:
    from storage.mongo import MongoStore  # its driver takes a tenth of a second to import

    options = {"maxPoolSize": settings.pool, "timeoutMS": settings.timeout_ms}
    return MongoStore(url, driver=settings.driver, clock=clock, options=options)


def _expect_nothing(url: str, rest: str) -> None:
    if rest:
        raise StorageUrlInvalid(f"{url}: nothing goes behind memory:")


def _factory(url: str, forms: str, setting: str) -> Callable[..., Any]:
    """Return what ``module:factory`` or ``module.factory`` names."""
    module_name, separator, name = url.strip().rpartition(":" if ":" in url else ".")
    if not separator or not name.isidentifier() or not all(p.isidentifier() for p in module_name.split(".")):
        raise StorageUrlInvalid(f"{setting}={_shown(url)} is not known: {forms} would be right")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise StorageUrlInvalid(f"{setting}={url}: cannot import {module_name}") from error
    except AttributeError as error:
        raise StorageUrlInvalid(f"{setting}={url}: {module_name} has no {name}") from error
    if not callable(factory):
        raise StorageUrlInvalid(f"{setting}={url}: {name} is not callable")
    return cast(Callable[..., Any], factory)


def _shown(url: str) -> str:
    """Return a URL without what may be a password."""
    scheme, separator, _ = url.partition("://")
    return f"{scheme}://..." if separator else url

"""The store that commands open while no server runs."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from server.cli.errors import CANNOT_START, FAILED, USAGE, CliError
from server.cli.options import overrides_of
from server.cli.project import DEV_TENANT, Project, shown
from server.settings import Settings

if TYPE_CHECKING:
    from storage.base import StorageError, Store

T = TypeVar("T")


class NoStoreError(CliError):
    """There is no file where the store should be."""


def settings_of(project: Project, store: str | None, *, makes: bool) -> Settings:
    """Return the settings with the store that is meant: the one that is named, else the one that is there.

    Args:
        project: whose.
        store: a URL from the command line.
        makes: whether a store is made where there is none; then it is that of ``dev``.

    Raises:
        NoStoreError: there is none.
        CliError: there are two and none is named, or a setting is wrong.
    """
    overrides = overrides_of({"store": store}) if store else {}
    of_dev = f"sqlite:{project.state / 'parley.db'}"
    settings = project.settings(overrides, defaults={"store": of_dev, "default_tenant": DEV_TENANT})
    if settings.store == of_dev and not store:
        of_serve = project.settings({}).store
        if of_serve != of_dev and _path(of_serve).exists():
            if _path(of_dev).exists():
                raise CliError(
                    f"there are two stores, {shown(_path(of_dev))} of `dev` and {shown(_path(of_serve))} of "
                    "`serve`: name one by --store sqlite:PATH.",
                    USAGE,
                )
            settings = project.settings({"store": of_serve}, defaults={"default_tenant": DEV_TENANT})
    if not settings.store.startswith(("sqlite:", "memory:")):
        settings = project.settings(overrides)  # the default of `dev` would be a tenant that nobody meant
    if settings.store.startswith("memory:"):
        raise CliError("memory: keeps nothing; name a store by --store sqlite:PATH.", USAGE)
    if settings.store.startswith("sqlite:"):
        path = _path(settings.store)
        if not makes and not path.exists():
            raise NoStoreError(
                f"there is no store {shown(path)}: go to the project's folder, or name one by "
                "--store sqlite:PATH.",
                USAGE,
            )
        if makes and settings.store == of_dev:
            project.make_state()
    return settings


def _path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:")).expanduser().absolute()


def unopened(settings: Settings, error: "StorageError") -> CliError:
    """Return what is said where the store, or the bus, cannot be opened."""
    from storage.base import StoreUnavailable

    is_away = isinstance(error, StoreUnavailable) and settings.store.startswith("mongodb")
    hint = "; `parley doctor` looks closer"
    return CliError(f"{error}{hint if is_away else ''}.", CANNOT_START)


def with_store(settings: Settings, use: "Callable[[Store], Awaitable[T]]") -> T:
    """Open the store, let ``use`` work, and close it; nobody else has it meanwhile.

    Raises:
        CliError: it cannot be opened, be it that a server runs on it, or it fails.
    """
    from storage.base import StorageError, StoreLocked
    from storage.open import MongoSettings, open_store

    async def work() -> T:
        mongo = MongoSettings(settings.mongo_driver, settings.mongo_pool, settings.mongo_timeout_ms)
        store = open_store(settings.store, mongo=mongo)
        try:
            await store.open()
        except StoreLocked as error:
            raise CliError(f"{error}; this needs the store for itself.", CANNOT_START) from None
        except StorageError as error:
            raise unopened(settings, error) from None
        try:
            return await use(store)
        finally:
            await store.close()

    try:
        return asyncio.run(work())
    except StorageError as error:
        raise CliError(f"the store has failed: {error}.", FAILED) from None

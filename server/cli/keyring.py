"""The keys of a tenant as commands reach them: through the server that runs, or in the store where none does.

A SQLite file has one owner. While a server has it, that server is asked, with a token that is signed with the
project's own secret; otherwise the file is opened for a moment, as a server would. A store that several may
open is opened beside the servers, which look up what they rely on every few seconds.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

import rich_click as click

from server.cli.access import access_to
from server.cli.errors import FAILED, UNREACHABLE, USAGE, CliError
from server.cli.project import DEV_TENANT, Project
from server.cli.stores import NoStoreError, settings_of, unopened
from server.cli.target import Reply, Target, Unanswered
from server.settings import Settings

if TYPE_CHECKING:
    from server.auth.keys import Keys
    from server.auth.principal import Principal

WHO: Final = "cli"
PAGE: Final = 100
HOW_TO: Final = "`parley keys create --publishable --origin ORIGIN` makes one."

Json = Any
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Place(NamedTuple):
    """What the options say about where the keys are."""

    project: Path | None
    store: str | None
    tenant: str | None
    url: str | None
    token: str | None


def with_place(command: _Command) -> _Command:
    """Add the options of ``Place``, and ``--json``."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--token",
            metavar="TOKEN",
            envvar="PARLEY_TOKEN",
            help="A token with keys:manage; better given as PARLEY_TOKEN. [default: made with the secret]",
        ),
        click.option(
            "--url",
            metavar="URL",
            envvar="PARLEY_URL",
            help="A server to ask. [default: PARLEY_URL, else the one that has the store]",
        ),
        click.option(
            "--tenant", metavar="T", help="Whose. [default: PARLEY_DEFAULT_TENANT, else that of `dev`]"
        ),
        click.option("--store", metavar="URL", help="The store. [default: PARLEY_STORE, else the project's]"),
        click.option("--project", type=click.Path(path_type=Path), metavar="FOLDER", help="The project."),
    ):
        command = option(command)
    return command


class _Held(Exception):  # noqa: N818
    """A server has the store."""


class Keyring:
    """The keys of one tenant. Every method asks once, and raises CliError."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._project = Project.at(place.project)

    def create(self, wanted: Mapping[str, Json]) -> Json:
        """Make a key (``NewKeyBody``); return its record with ``key``, its text."""

        async def make(keys: "Keys", who: "Principal") -> Json:
            from protocol.codec import validate_body
            from server.gateway.rest.bodies import NewKeyBody
            from server.gateway.rest.keys import wanted_of
            from server.handlers.keys import create_key, made_view

            return made_view(await create_key(keys, who, wanted_of(validate_body(dict(wanted), NewKeyBody))))

        return self._ask("POST", "/v1/keys", wanted, make, makes=True)

    def show(self, key_id: str) -> Json:
        """Return a key's record."""

        async def look(keys: "Keys", who: "Principal") -> Json:
            from server.handlers.keys import key_view, show_key

            return key_view(await show_key(keys, who, key_id))

        return self._ask("GET", _one(key_id), None, look)

    def change(self, key_id: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Json:
        """Add and remove origins; return the record."""

        async def alter(keys: "Keys", who: "Principal") -> Json:
            from server.handlers.keys import change_origins, key_view

            return key_view(await change_origins(keys, who, key_id, add=add, remove=remove))

        body = {"add_origins": list(add), "remove_origins": list(remove)}
        return self._ask("PATCH", _one(key_id), body, alter)

    def revoke(self, key_id: str) -> None:
        """Revoke a key."""

        async def end(keys: "Keys", who: "Principal") -> Json:
            from server.handlers.keys import revoke_key

            await revoke_key(keys, who, key_id)

        self._ask("DELETE", _one(key_id), None, end)

    def rotate(self, key_id: str) -> Json:
        """Give a key a new text; return its record with ``key``."""

        async def turn(keys: "Keys", who: "Principal") -> Json:
            from server.handlers.keys import made_view, rotate_key

            return made_view(await rotate_key(keys, who, key_id))

        return self._ask("POST", f"{_one(key_id)}/rotate", {}, turn)

    def all(self) -> list[Json]:
        """Return all keys, the newest first."""

        async def every(keys: "Keys", who: "Principal") -> Json:
            from server.handlers.keys import list_keys

            found, place = await list_keys(keys, who, after=None, limit=PAGE)
            while place is not None:
                more, place = await list_keys(keys, who, after=place, limit=PAGE)
                found += more
            return {"keys": found, "cursor": None}

        found: list[Json] = []
        cursor = ""
        while True:
            page = self._ask("GET", f"/v1/keys?limit={PAGE}{cursor}", None, every)
            found += page["keys"]
            if page["cursor"] is None:
                return found
            cursor = f"&cursor={page['cursor']}"

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Json] | None,
        use: Callable[["Keys", "Principal"], Awaitable[Json]],
        *,
        makes: bool = False,
    ) -> Json:
        """Send a request to the server, or do with the store what the server would do."""
        place = self._place
        if place.url is None and place.token is None:
            settings = self._settings(makes)
            tenant = place.tenant or settings.default_tenant
            if tenant is None:
                raise CliError("whose keys? Give --tenant, or set PARLEY_DEFAULT_TENANT.", USAGE)
            try:
                return asyncio.run(_in_store(settings, tenant, use))
            except _Held as held:
                return self._ask_server(self._owner(settings), tenant, method, path, body, held=str(held))
        return self._ask_server(place.url, place.tenant, method, path, body)

    def _settings(self, makes: bool) -> Settings:
        """Return the settings with the store. Only a new key makes one: named, or beside flows."""
        named = self._place.store
        has_flows = self._project.settings({}).flows.is_dir()
        try:
            return settings_of(self._project, named, makes=makes and (has_flows or named is not None))
        except NoStoreError:
            if named is not None or not has_flows:
                raise
            return self._project.settings({"store": "memory:"}, defaults={"default_tenant": DEV_TENANT})

    def _owner(self, settings: Settings) -> str | None:
        """Return where the server is that has the store; None: where the settings say."""
        of_dev = settings.store == f"sqlite:{self._project.state / 'parley.db'}"
        return self._project.address() if of_dev else None

    def _ask_server(
        self,
        url: str | None,
        tenant: str | None,
        method: str,
        path: str,
        body: Mapping[str, Json] | None,
        *,
        held: str | None = None,
    ) -> Json:
        """``held``: why the store cannot be used, which is said where no server answers either."""
        access = access_to(
            self._project,
            "keys",
            url=url,
            token=self._place.token,
            user_id=WHO,
            tenant_id=tenant,
            role="admin",
        )
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {access.token_text()}", "Content-Type": "application/json"}
        try:
            reply = Target(access.url).ask(method, path, data, headers)
        except ValueError:
            raise CliError(f"{access.url} is no URL such as https://chat.example.", USAGE) from None
        except Unanswered:
            said = f"nothing answers at {access.url}: name the server by --url"
            raise CliError(f"{held}; but {said}." if held else f"{said}.", UNREACHABLE) from None
        return _read(access.url, reply)


def _one(key_id: str) -> str:
    return f"/v1/keys/{quote(key_id, safe='')}"


def _read(url: str, reply: Reply) -> Json:
    if reply.status == HTTPStatus.NO_CONTENT:
        return None
    try:
        answer = json.loads(reply.body)
        if reply.status < HTTPStatus.BAD_REQUEST:
            return answer
        error = answer["error"]
        said = " ".join(filter(None, [error["message"], error["suggestion"]]))
    except (ValueError, KeyError, TypeError):
        raise CliError(f"what answers at {url} is no Parley server, or an older one.", UNREACHABLE) from None
    if reply.status == HTTPStatus.UNAUTHORIZED:
        raise CliError(f"the server at {url} does not take the token: {said}", UNREACHABLE)
    raise CliError(said, FAILED)


async def _in_store(
    settings: Settings, tenant: str, use: Callable[["Keys", "Principal"], Awaitable[Json]]
) -> Json:
    """Open the store, let ``use`` work with its keys, and close it. Raises _Held, CliError."""
    from protocol.errors import Refused
    from server.auth.keys import Keys
    from server.auth.principal import Principal
    from server.telemetry.logs import configure_logging
    from storage.base import StorageError, StoreLocked
    from storage.open import MongoSettings, open_bus, open_store

    configure_logging("warning", "console")  # standard output has the key alone
    mongo = MongoSettings(settings.mongo_driver, settings.mongo_pool, settings.mongo_timeout_ms)
    store = open_store(settings.store, mongo=mongo)
    bus = None if settings.bus == "memory:" else open_bus(settings.bus)
    who = Principal(WHO, tenant, "admin", frozenset({"admin"}))
    try:
        await store.open()
        if bus is not None:
            await bus.open()  # so that the servers hear of it at once
    except StoreLocked as locked:
        raise _Held(str(locked)) from None
    except StorageError as error:
        await store.close()
        raise unopened(settings, error) from None
    try:
        return await use(Keys(store, bus), who)
    except Refused as refused:
        raise CliError(" ".join(filter(None, [refused.message, refused.suggestion])), FAILED) from None
    except StorageError as error:
        raise CliError(f"the store has failed: {error}.", FAILED) from None
    finally:
        if bus is not None:
            await bus.close()
        await store.close()

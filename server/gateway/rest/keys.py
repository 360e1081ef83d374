"""``/v1/keys``: API keys of a tenant, for who has ``keys:manage``."""

import structlog
from starlette.responses import Response
from starlette.routing import Route

from server.gateway.rest.api import Api, Asked
from server.gateway.rest.bodies import KeyChangeBody, NewKeyBody, RotateKeyBody
from server.gateway.rest.envelope import json_response
from server.gateway.rest.pages import PAGE_PARAMETERS, cursor_of, read_cursor, read_limit, time_of
from server.handlers import keys
from storage.models import ApiKey, KeyPlace

_log = structlog.get_logger(__name__)


class KeyRoutes:
    """The routes of this module."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._keys = api.services.credentials.keys

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/v1/keys/{key_id}"
        return [
            self._api.route("/v1/keys", GET=self.list_, POST=self.create),
            self._api.route(one, GET=self.show, PATCH=self.change, DELETE=self.revoke),
            self._api.route(f"{one}/rotate", POST=self.rotate),
        ]

    async def create(self, asked: Asked) -> Response:
        """Make a key: 201, the record and ``key``, its text, which is shown this once."""
        wanted = wanted_of(await asked.body(NewKeyBody))
        made = await keys.create_key(self._keys, asked.principal, wanted)
        _tell("api_key_created", asked, made.key)
        return json_response(keys.made_view(made), 201, {"location": f"/v1/keys/{made.key.key_id}"})

    async def list_(self, asked: Asked) -> Response:
        """List keys, the newest first: ``{keys, cursor}``."""
        query = asked.query(PAGE_PARAMETERS)
        place, limit = read_cursor(query), read_limit(query)
        after = None if place is None else KeyPlace(*place)
        views, behind = await keys.list_keys(self._keys, asked.principal, after=after, limit=limit)
        return json_response({"keys": views, "cursor": cursor_of(behind)})

    async def show(self, asked: Asked) -> Response:
        """Show one key."""
        asked.query(frozenset())
        key = await keys.show_key(self._keys, asked.principal, asked.path("key_id"))
        return json_response(keys.key_view(key))

    async def change(self, asked: Asked) -> Response:
        """Add and remove origins."""
        body = await asked.body(KeyChangeBody)
        key = await keys.change_origins(
            self._keys,
            asked.principal,
            asked.path("key_id"),
            add=body.add_origins,
            remove=body.remove_origins,
        )
        _tell("api_key_origins_changed", asked, key)
        return json_response(keys.key_view(key))

    async def revoke(self, asked: Asked) -> Response:
        """Revoke a key: 204. Its record stays."""
        asked.query(frozenset())
        key = await keys.revoke_key(self._keys, asked.principal, asked.path("key_id"))
        _tell("api_key_revoked", asked, key)
        return Response(None, 204)

    async def rotate(self, asked: Asked) -> Response:
        """Give a key a new text."""
        await asked.body(RotateKeyBody)
        made = await keys.rotate_key(self._keys, asked.principal, asked.path("key_id"))
        _tell("api_key_rotated", asked, made.key)
        return json_response(keys.made_view(made))


def _tell(event: str, asked: Asked, key: ApiKey) -> None:
    _log.info(event, tenant_id=key.tenant_id, key_id=key.key_id, user_id=asked.principal.user_id)


def wanted_of(body: NewKeyBody) -> keys.Wanted:
    """Return the key that a body asks for. Raises Refused: ``expires_at`` is no time."""
    return keys.Wanted(
        publishable=body.publishable,
        name=body.name,
        description=body.description,
        origins=body.origins,
        tier=body.tier,
        rate_limit_per_minute=body.rate_limit_per_minute,
        expires_at=time_of(body.expires_at, "expires_at"),
        user_id=body.user_id,
        role=body.role,
        scopes=body.scopes,
    )

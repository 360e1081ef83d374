"""``/v1/keys``: API keys of a tenant, for who has ``keys:manage``."""

from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from server.gateway.rest.api import Api, Asked
from server.gateway.rest.bodies import KeyChangeBody, NewKeyBody, RotateKeyBody
from server.gateway.rest.envelope import json_response
from server.gateway.rest.pages import PAGE_PARAMETERS, cursor_of, read_cursor, read_limit, time_of
from server.handlers import keys
from storage.models import KeyPlace


class KeyRoutes:
    """The routes of this module."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._services = api.services

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
        body = await asked.body(NewKeyBody)
        wanted = keys.Wanted(
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
        made = await keys.create_key(self._services, asked.principal, wanted)
        return json_response(_shown(made), 201, {"location": f"/v1/keys/{made.key.key_id}"})

    async def list_(self, asked: Asked) -> Response:
        """List keys, the newest first: ``{keys, cursor}``."""
        query = asked.query(PAGE_PARAMETERS)
        place, limit = read_cursor(query), read_limit(query)
        after = None if place is None else KeyPlace(*place)
        views, behind = await keys.list_keys(self._services, asked.principal, after=after, limit=limit)
        return json_response({"keys": views, "cursor": cursor_of(behind)})

    async def show(self, asked: Asked) -> Response:
        """Show one key."""
        asked.query(frozenset())
        key = await keys.show_key(self._services, asked.principal, asked.path("key_id"))
        return json_response(keys.key_view(key))

    async def change(self, asked: Asked) -> Response:
        """Add and remove origins."""
        body = await asked.body(KeyChangeBody)
        key = await keys.change_origins(
            self._services,
            asked.principal,
            asked.path("key_id"),
            add=body.add_origins,
            remove=body.remove_origins,
        )
        return json_response(keys.key_view(key))

    async def revoke(self, asked: Asked) -> Response:
        """Revoke a key: 204. Its record stays."""
        asked.query(frozenset())
        await keys.revoke_key(self._services, asked.principal, asked.path("key_id"))
        return Response(None, 204)

    async def rotate(self, asked: Asked) -> Response:
        """Give a key a new text."""
        await asked.body(RotateKeyBody)
        made = await keys.rotate_key(self._services, asked.principal, asked.path("key_id"))
        return json_response(_shown(made))


def _shown(made: keys.Made) -> dict[str, Any]:
    return {"key": made.text, **keys.key_view(made.key)}

"""``/v1/openapi.json``, ``/v1/asyncapi.json`` and ``/docs``: what this server serves, from itself alone.

The pages are plain HTML under a policy that allows no script and no other host.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol import asyncapi
from server.gateway.rest import markup
from server.gateway.rest.openapi import document
from server.gateway.rest.operations import CSS, HTML, JSON

CACHE_S: Final = 300
PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ReferenceRoutes:
    """The routes of this module.

    Args:
        version: of the server.
        others: the routes that are described beside these.
    """

    def __init__(self, version: str, others: Iterable[Route]) -> None:
        self._version = version
        self._others = list(others)
        self._openapi = cache(self._describe)
        self._asyncapi = cache(lambda: asyncapi.document(version))

    def routes(self) -> list[Route]:
        """Return the routes."""
        made: list[tuple[str, Callable[[], bytes], str]] = [
            ("/v1/openapi.json", lambda: orjson.dumps(self._openapi()), JSON),
            ("/v1/asyncapi.json", lambda: orjson.dumps(self._asyncapi()), JSON),
            ("/docs", lambda: markup.rest_page(self._openapi()).encode(), HTML),
            ("/docs/socket", lambda: markup.socket_page(self._asyncapi()).encode(), HTML),
            ("/docs/style.css", lambda: markup.STYLE.encode(), CSS),
        ]
        self._mine = [_route(path, cache(make), media) for path, make, media in made]
        return self._mine

    def _describe(self) -> dict[str, object]:
        there = {
            (method, route.path) for route in (*self._others, *self._mine) for method in route.methods or ()
        }
        return document(self._version, there)


def _route(path: str, make: Callable[[], bytes], media: str) -> Route:
    headers = {
        "content-type": media,
        "content-security-policy": PAGE_POLICY,
        "cache-control": f"public, max-age={CACHE_S}",
    }

    async def serve(_request: Request) -> Response:
        return Response(make(), headers=headers)

    return Route(path, serve, methods=["GET"])

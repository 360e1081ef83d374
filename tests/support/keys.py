"""Keys and visitors for tests, over REST."""

from collections.abc import Mapping
from typing import Any

import orjson

from tests.support.rest import Answer, ask, call
from tests.support.server import RemoteServer, token

SHOP = "https://shop.example"


def manager(**claims: Any) -> str:
    """Return the token of somebody who may manage keys."""
    return token("boss", scopes=("keys:manage",), **claims)


async def make_key(server: RemoteServer, *, who: str | None = None, **fields: Any) -> dict[str, Any]:
    """Make a key, a publishable one of the shop where nothing else is said; return it with its text."""
    body = {"publishable": True, "origins": [SHOP], **fields}
    answer = await call(server, "POST", "/keys", body, who=who or manager())
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json
    return made


async def visit(
    server: RemoteServer, body: Mapping[str, Any] | None = None, *, origin: str | None = SHOP, **headers: str
) -> Answer:
    """Ask for a visitor's token as a page would."""
    if origin is not None:
        headers["Origin"] = origin
    return await ask(
        server, "POST", "/v1/visitors", orjson.dumps(body or {}), Content_Type="application/json", **headers
    )


async def visitor(server: RemoteServer, key: str, *, origin: str = SHOP) -> dict[str, Any]:
    """Return a visitor's token and who they are."""
    answer = await visit(server, {"key": key}, origin=origin)
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json
    return made

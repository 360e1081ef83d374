"""HTTP requests to a test server: one connection each, in a thread."""

import asyncio
import http.client
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from tests.support.server import RemoteServer, token


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


def _ask(server: RemoteServer, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection(*server.address, timeout=10)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


async def ask(
    server: RemoteServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> Answer:
    """One request; header names take ``_`` for ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await asyncio.to_thread(_ask, server, method, path, body, named)


async def call(
    server: RemoteServer,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    who: str | None = None,
    **headers: str,
) -> Answer:
    """One authenticated JSON request below ``/v1``; ``who`` is a token, the plain user's where left out."""
    headers = {"Authorization": f"Bearer {who or token()}", **headers}
    if body is None:
        return await ask(server, method, f"/v1{path}", None, **headers)
    headers.setdefault("Content_Type", "application/json")
    return await ask(server, method, f"/v1{path}", orjson.dumps(body), **headers)

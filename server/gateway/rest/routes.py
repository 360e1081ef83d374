"""The table of HTTP routes."""

from collections.abc import Iterable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Router

from server.gateway.rest.envelope import App, Envelope, Receive, Scope, Send
from server.telemetry.metrics import Metrics


def rest_app(routes: Iterable[BaseRoute], metrics: Metrics) -> App:
    """Return the ASGI application of ``routes``, in their envelope."""
    router = Router(list(routes), redirect_slashes=False, default=_nothing_here)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = _MARK  # makes starlette raise its 405 instead of answering in plain text
        await router(scope, receive, send)

    return Envelope(app, metrics)


_MARK: Any = object()


async def _nothing_here(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise HTTPException(404)

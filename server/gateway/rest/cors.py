"""Pages of other origins: which of them may ask, and what a browser is told about it."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from protocol.errors import ErrorCode, Refused
from server.auth.credentials import BLOCKED
from server.gateway.rest.envelope import exchange_of

MAX_AGE_S: Final = 600
_ASKED: Final = (
    "authorization, content-type, idempotency-key, last-event-id, prefer, x-api-key, x-request-id, "
    "x-correlation-id"
)
_EXPOSED: Final = (
    b"x-request-id, x-correlation-id, idempotency-key, location, preference-applied, retry-after, "
    b"ratelimit-limit, ratelimit-remaining, ratelimit-reset, "
    b"x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset"
)


class Cors:
    """The same rule as for sockets: an exact list of origins, and no ``Origin`` is no browser.

    Args:
        may_ask: whether a page of this origin may ask (``Credentials.may_ask``).
        methods: what they may ask by, e.g. ``"GET, POST"``.
    """

    def __init__(self, may_ask: Callable[[str], Awaitable[bool]], methods: str) -> None:
        self._may_ask = may_ask
        self._methods = methods

    async def admit(self, request: Request) -> str | None:
        """Let the page read the answer, refusals included; return its origin, None: no browser.

        Raises:
            Refused: ``origin_not_allowed``.
            StoreUnavailable: it cannot be told.
        """
        origins = request.headers.getlist("origin")
        if not origins:
            return None
        if len(origins) > 1 or not await self._may_ask(origins[0]):
            raise Refused(
                ErrorCode.ORIGIN_NOT_ALLOWED, "This page's origin may not ask here.", suggestion=BLOCKED
            )
        exchange_of(request).headers += [
            (b"access-control-allow-origin", origins[0].encode("latin-1")),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        ]
        return origins[0]

    def preflight(self) -> Response:
        """Answer a browser's question ahead of a request from another origin."""
        asked = {
            "access-control-allow-methods": self._methods,
            "access-control-allow-headers": _ASKED,
            "access-control-max-age": str(MAX_AGE_S),
        }
        return Response(None, 204, asked)

"""Pages of other origins: which of them may ask, and what a browser is told about it."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from protocol.errors import ErrorCode, Refused
from server.auth.origins import OriginPolicy
from server.gateway.rest.envelope import exchange_of

MAX_AGE_S: Final = 600
_ASKED: Final = (
    "authorization, content-type, idempotency-key, last-event-id, prefer, x-request-id, x-correlation-id"
)
_EXPOSED: Final = (
    b"x-request-id, x-correlation-id, idempotency-key, location, preference-applied, retry-after"
)


class Cors:
    """The same rule as for sockets: an exact list of origins, and no ``Origin`` is no browser.

    Args:
        origins: which pages may ask.
        methods: what they may ask by, e.g. ``"GET, POST"``.
    """

    def __init__(self, origins: OriginPolicy, methods: str) -> None:
        self._origins = origins
        self._methods = methods

    def admit(self, request: Request) -> None:
        """Let the page read the answer, refusals included. Raises Refused: ``origin_not_allowed``."""
        origins = request.headers.getlist("origin")
        if not origins:
            return
        if len(origins) > 1 or not self._origins.allows(origins[0]):
            raise Refused(
                ErrorCode.ORIGIN_NOT_ALLOWED,
                "This page's origin may not ask here.",
                suggestion="Add it to PARLEY_ORIGINS.",
            )
        exchange_of(request).headers += [
            (b"access-control-allow-origin", origins[0].encode("latin-1")),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        ]

    def preflight(self) -> Response:
        """Answer a browser's question ahead of a request from another origin."""
        asked = {
            "access-control-allow-methods": self._methods,
            "access-control-allow-headers": _ASKED,
            "access-control-max-age": str(MAX_AGE_S),
        }
        return Response(None, 204, asked)

"""``POST /v1/visitors``: a token for somebody without an account.

A page brings its publishable key, and its ``Origin`` must be one of the key's. In development whoever sits at
this machine needs no key; three locks guard that form, because a page anywhere can make a browser post to
localhost: the peer is on the loopback interface, ``Host`` is one of this server's own names with its port
(DNS rebinding), and an ``Origin``, where there is one, is allowed exactly.
"""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.codec import validate_body
from protocol.errors import ErrorCode, Refused
from server.auth.credentials import Credentials
from server.auth.keys import PUBLISHABLE, admits, wrong_page
from server.auth.visitors import Terms, Visitors
from server.gateway.rest.api import API_KEY_HEADER
from server.gateway.rest.bodies import VisitorBody
from server.gateway.rest.cors import Cors
from server.gateway.rest.envelope import exchange_of, json_response, read_json
from server.gateway.rest.local import is_local, port_of
from server.limits.visitors import VisitorLimits
from storage.base import Verdict

PATH: Final = "/v1/visitors"


class VisitorRoutes:
    """The route of this module.

    Args:
        visitors: makes the tokens.
        credentials: knows keys and pages.
        limits: how many visitors there may be.
        local_tenant: whose visitors those are who sit at this machine; None: nobody is one without a key.
        wall_s: seconds since the epoch.
        max_bytes: largest body.
    """

    def __init__(
        self,
        *,
        visitors: Visitors,
        credentials: Credentials,
        limits: VisitorLimits,
        local_tenant: str | None,
        wall_s: Callable[[], float],
        max_bytes: int,
    ) -> None:
        self._visitors = visitors
        self._credentials = credentials
        self._limits = limits
        self._local_tenant = local_tenant
        self._cors = Cors(credentials.may_ask, "POST")
        self._wall_s = wall_s
        self._max_bytes = max_bytes

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route(PATH, self.serve, methods=["POST", "OPTIONS"])]

    async def serve(self, request: Request) -> Response:
        """Answer whoever may ask at all."""
        origin = await self._cors.admit(request)
        return self._cors.preflight() if request.method == "OPTIONS" else await self.create(request, origin)

    async def create(self, request: Request, origin: str | None) -> Response:
        """Make a visitor, or with ``{"token": ...}`` renew one: ``{token, user_id, expires_in}``."""
        body = validate_body(await read_json(request, self._max_bytes), VisitorBody)
        text = _key_of(request, body)
        terms = self._local_terms(request) if text is None else await self._terms(request, text, origin)
        now_s = self._wall_s()
        token = body.token
        visitor = self._visitors.renew(terms, token, now_s) if token else self._visitors.make(terms, now_s)
        return json_response(
            {"token": visitor.token, "user_id": visitor.user_id, "expires_in": visitor.expires_in},
            201,
        )

    async def _terms(self, request: Request, text: str, origin: str | None) -> Terms:
        """Return what a publishable key allows. Raises Refused.

        The address is counted before the key is looked at, so that keys cannot be tried out.
        """
        await self._limits.take_address(request.client.host if request.client else "")
        key = await self._credentials.keys.by_text(text) if text.startswith(PUBLISHABLE) else None
        if key is None:
            raise Refused(
                ErrorCode.UNAUTHORIZED,
                "There is no such publishable key, or it was revoked or has expired.",
                field="key",
                suggestion="`parley keys create --publishable --origin ORIGIN` makes one (pk_...).",
            )
        if origin is None or not admits(key, origin):
            raise wrong_page(key, origin)
        verdict = await self._limits.take_key(key)
        if verdict is not None:
            exchange_of(request).headers += limit_headers(verdict, self._wall_s())
        return Terms.of_key(key)

    def _local_terms(self, request: Request) -> Terms:
        if self._local_tenant is None:
            raise Refused(
                ErrorCode.UNAUTHORIZED,
                "The request brings no publishable key.",
                field="key",
                suggestion='{"key": "pk_..."}; `parley keys create --publishable --origin ORIGIN` makes one.',
            )
        if not is_local(request):
            raise Refused(
                ErrorCode.PERMISSION_DENIED,
                "Visitors without a key are for this machine only, by its local name.",
                suggestion=f"Use http://127.0.0.1:{port_of(request)}{PATH}.",
            )
        return Terms(self._local_tenant)


def limit_headers(verdict: Verdict, now_s: float) -> list[tuple[bytes, bytes]]:
    """Return what an answer says of its limit; the reset in seconds from now."""
    window = verdict.windows[0]
    values = {
        "limit": window.limit,
        "remaining": window.remaining,
        "reset": max(0, -(-window.reset_at // 1000) - int(now_s)),
    }
    return [
        (f"{prefix}{name}".encode(), str(value).encode())
        for prefix in ("ratelimit-", "x-ratelimit-")
        for name, value in values.items()
    ]


def _key_of(request: Request, body: VisitorBody) -> str | None:
    headers = request.headers.getlist(API_KEY_HEADER)
    found = {*headers, *([body.key] if body.key is not None else ())}
    if len(found) > 1:
        raise Refused(ErrorCode.BAD_REQUEST, "The request brings two keys.", field="key")
    return next(iter(found), None)

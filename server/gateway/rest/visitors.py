"""``POST /v1/visitors`` in its development form: a token for whoever sits at this machine.

Three locks, because a page anywhere can make a browser post to localhost: the peer is on the loopback
interface, ``Host`` is one of this server's own names with its port (DNS rebinding), and an ``Origin``,
where there is one, is allowed exactly. Outside development the route does not exist.
"""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.codec import validate_body
from protocol.errors import ErrorCode, Refused
from server.auth.origins import OriginPolicy
from server.auth.visitors import Visitors
from server.gateway.rest.bodies import VisitorBody
from server.gateway.rest.cors import Cors
from server.gateway.rest.envelope import json_response, read_json
from server.gateway.rest.local import is_local, port_of

PATH: Final = "/v1/visitors"


class VisitorRoutes:
    """The route of this module.

    Args:
        visitors: makes the tokens.
        origins: which pages may ask.
        wall_s: seconds since the epoch.
        max_bytes: largest body.
    """

    def __init__(
        self, *, visitors: Visitors, origins: OriginPolicy, wall_s: Callable[[], float], max_bytes: int
    ) -> None:
        self._visitors = visitors
        self._cors = Cors(origins, "POST")
        self._wall_s = wall_s
        self._max_bytes = max_bytes

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route(PATH, self.serve, methods=["POST", "OPTIONS"])]

    async def serve(self, request: Request) -> Response:
        """Answer whoever may ask at all."""
        self._check(request)
        self._cors.admit(request)
        return await self.create(request) if request.method == "POST" else self._cors.preflight()

    async def create(self, request: Request) -> Response:
        """Make a visitor, or with ``{"token": ...}`` renew one: ``{token, user_id, expires_in}``."""
        token = validate_body(await read_json(request, self._max_bytes), VisitorBody).token
        now_s = self._wall_s()
        visitor = self._visitors.renew(token, now_s) if token else self._visitors.make(now_s)
        return json_response(
            {"token": visitor.token, "user_id": visitor.user_id, "expires_in": visitor.expires_in},
            201,
        )

    def _check(self, request: Request) -> None:
        if not is_local(request):
            raise Refused(
                ErrorCode.PERMISSION_DENIED,
                "Visitors without a key are for this machine only, by its local name.",
                suggestion=f"Use http://127.0.0.1:{port_of(request)}{PATH}.",
            )

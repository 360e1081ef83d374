"""What all authenticated REST routes share: who asks, from which page, under which key, with which body."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.codec import validate_body
from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.gateway.rest.cors import Cors
from server.gateway.rest.envelope import exchange_of, read_json
from server.handlers.executions import Origin
from server.handlers.services import Services

KEY_HEADER: Final = "idempotency-key"
API_KEY_HEADER: Final = "x-api-key"
_KEY: Final = re.compile(r"[\x21-\x7e][\x20-\x7e]{6,126}[\x21-\x7e]")

M = TypeVar("M", bound=BaseModel)
Endpoint = Callable[["Asked"], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One authenticated request."""

    request: Request
    principal: Principal
    origin_header: str | None
    max_bytes: int

    async def body(self, model: type[M]) -> M:
        """Return the request's body. Raises Refused: what is wrong with it, by field."""
        return validate_body(await read_json(self.request, self.max_bytes), model)

    def origin(self) -> Origin:
        """Return the request's ids and its idempotency key, which the answer repeats."""
        exchange = exchange_of(self.request)
        key = _idempotency_key(self.request)
        if key is not None:
            exchange.headers.append((KEY_HEADER.encode(), key.encode()))
        return Origin(exchange.correlation_id, exchange.request_id, key)

    def query(self, known: frozenset[str]) -> dict[str, str]:
        """Return the query's parameters. Raises Refused for an unknown one and for one that comes twice."""
        found: dict[str, str] = {}
        for name, value in self.request.query_params.multi_items():
            if name not in known:
                shown = "".join(c if c.isprintable() else "?" for c in name[:64])
                raise Refused(
                    ErrorCode.BAD_REQUEST,
                    f'There is no parameter "{shown}" here.',
                    field=shown,
                    suggestion=f"Its parameters: {', '.join(sorted(known))}.",
                )
            if name in found:
                raise Refused(ErrorCode.BAD_REQUEST, f"{name} comes twice.", field=name)
            found[name] = value
        return found

    @property
    def wants_events(self) -> bool:
        """Whether the client asks for server-sent events before anything else (``HEAD`` never does)."""
        accept = self.request.headers.getlist("accept")
        kinds = (part.partition(";")[0].strip().lower() for line in accept for part in line.split(","))
        return self.request.method != "HEAD" and next(kinds, None) == "text/event-stream"

    def path(self, name: str) -> str:
        """Return a part of the address."""
        part: str = self.request.path_params[name]
        return part


class Api:
    """Makes routes that authenticate by ``Authorization: Bearer`` and answer pages of allowed origins.

    A secret key may come as ``X-API-Key`` instead.

    Args:
        services: what the endpoints use.
        max_bytes: largest body.
    """

    def __init__(self, services: Services, max_bytes: int) -> None:
        self.services = services
        self._max_bytes = max_bytes

    def route(self, path: str, **endpoints: Endpoint) -> Route:
        """Return the route of a path; ``endpoints`` are by method."""
        credentials = self.services.credentials
        cors = Cors(credentials.may_ask, ", ".join(endpoints))

        async def serve(request: Request) -> Response:
            origin = await cors.admit(request)
            if request.method == "OPTIONS":
                return cors.preflight()
            principal = await credentials.principal(_credential(request), origin)
            method = "GET" if request.method == "HEAD" else request.method
            return await endpoints[method](Asked(request, principal, origin, self._max_bytes))

        return Route(path, serve, methods=[*endpoints, "OPTIONS"])


def _credential(request: Request) -> str:
    given = request.headers.getlist("authorization")
    keys = request.headers.getlist(API_KEY_HEADER)
    if not given and len(keys) == 1 and keys[0].strip():
        return keys[0].strip()
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refused(
            ErrorCode.UNAUTHORIZED,
            "The request brings no token.",
            suggestion="Authorization: Bearer ...; `parley token` makes one.",
        )
    return token.strip()


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.getlist(KEY_HEADER)
    if not given:
        return None
    if len(given) > 1 or _KEY.fullmatch(given[0]) is None:
        raise Refused(
            ErrorCode.BAD_REQUEST,
            "Idempotency-Key must be 8 to 128 printable ASCII characters, once.",
            field="Idempotency-Key",
            suggestion="128 random bits, as hexadecimal digits, are a good one.",
        )
    return given[0]


def text_query(query: Mapping[str, str], name: str, max_chars: int = 128) -> str | None:
    """Return a parameter of up to ``max_chars`` characters, or None. Raises Refused."""
    value = query.get(name)
    if value is not None and not 1 <= len(value) <= max_chars:
        message = f"{name} must have 1 to {max_chars} characters."
        raise Refused(ErrorCode.BAD_REQUEST, message, field=name)
    return value


def arguments(model: BaseModel) -> dict[str, Any]:
    """Return a body as plain JSON, defaults written out."""
    return dict(model.__dict__)

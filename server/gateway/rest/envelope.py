"""What every HTTP request gets: ids, security headers, a bounded body, and typed errors.

Errors are the wire's error object and ``request_id``, with the same codes; a status that the table of
codes does not know (405) keeps its status and takes the nearest code. No traceback leaves.
"""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from protocol.codec import parse_object
from protocol.errors import ErrorCode, InvalidFrame, Refused
from server.dispatch import refusal_of
from server.telemetry.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
BODY_TIMEOUT_S: Final = 5.0
_EXCHANGE: Final = "parley.exchange"
_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


@dataclass(slots=True)
class Exchange:
    """One request and its answer: the ids that both carry, and headers that the answer gets, error or not."""

    request_id: str
    correlation_id: str
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """Return what every answer has: the ids, what was asked for, and security's."""
        ids = [
            (b"x-request-id", self.request_id.encode()),
            (b"x-correlation-id", self.correlation_id.encode()),
        ]
        return [*ids, *self.headers, *SECURITY_HEADERS]


def exchange_of(request: Request) -> Exchange:
    """Return the exchange that a request belongs to."""
    exchange: Exchange = request.scope[_EXCHANGE]
    return exchange


class Envelope:
    """ASGI middleware around all HTTP routes.

    Args:
        app: the routes.
        metrics: counts refusals.
    """

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        exchange = scope[_EXCHANGE] = Exchange(
            _given_or_made(scope, b"x-request-id"), _given_or_made(scope, b"x-correlation-id")
        )
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = {name for name, _ in message["headers"]}
                extra = [header for header in exchange.all_headers() if header[0] not in own]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - the ladder's HTTP side
            if started:
                _log.error("response_broken", exc_info=error, request_id=exchange.request_id)
                return
            response = self._refuse(error, exchange)
            await response(scope, receive, send_with_headers)

    def _refuse(self, error: Exception, exchange: Exchange) -> Response:
        request_id = exchange.request_id
        if isinstance(error, HTTPException):
            refused, status, headers = _of_status(error), error.status_code, dict(error.headers or {})
        else:
            refused = refusal_of(error, request_id=request_id, correlation_id=exchange.correlation_id)
            status, headers = refused.http_status, {}
        self._metrics.errors[refused.code.value] += 1
        if status == 401:
            headers["www-authenticate"] = 'Bearer realm="parley"'
        if refused.retry_after_ms is not None:
            headers["retry-after"] = str(max(1, -(-refused.retry_after_ms // 1000)))
        return json_response({"error": refused.to_wire(), "request_id": request_id}, status, headers)


_log = structlog.get_logger(__name__)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(orjson.dumps(body), status, headers, "application/json")


async def read_json(request: Request, max_bytes: int) -> dict[str, Any]:
    """Return the request's JSON object; ``{}`` where there is no body.

    Raises:
        Refused: ``payload_too_large``, ``unsupported_media_type``, ``invalid_frame``.
    """
    body = bytearray()
    if _declared_bytes(request) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise Refused(ErrorCode.BAD_REQUEST, "The body did not come in time.") from None
    if not body:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            "The body must be JSON.",
            suggestion="Send it with Content-Type: application/json.",
        )
    try:
        return parse_object(bytes(body), max_bytes)
    except InvalidFrame as invalid:
        raise Refused(invalid.code, invalid.message.replace("frame", "body"), field=invalid.field) from None


def _given_or_made(scope: Scope, wanted: bytes) -> str:
    """Return a well-formed id of the request, or a new one."""
    for name, value in scope["headers"]:
        if name == wanted and _ID.fullmatch(value):
            return bytes(value).decode()
    return secrets.token_hex(16)


def _declared_bytes(request: Request) -> int:
    declared = request.headers.get("content-length", "0")
    return int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 20 else 0


def _too_large(max_bytes: int) -> Refused:
    return Refused(ErrorCode.PAYLOAD_TOO_LARGE, f"The body may have at most {max_bytes} bytes.")


def _of_status(error: HTTPException) -> Refused:
    if error.status_code == 404:
        return Refused(ErrorCode.NOT_FOUND, "There is nothing at this address.")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return Refused(
            ErrorCode.BAD_REQUEST,
            "This address does not take this method.",
            suggestion=f"Allowed: {allowed}.",
        )
    return Refused(ErrorCode.BAD_REQUEST, "The request cannot be served.")

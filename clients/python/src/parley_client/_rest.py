"""The server's REST side: one request, its retries, and the typed error of a refusal.

Its HTTP client is the standard library's, in a thread for each request: these calls are few, and a client
that installs with one dependency is worth more than a pool of connections.
"""

import asyncio
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from . import _wire
from ._clock import Clock, sleep
from ._connection import PASSING_STATUSES, full_jitter
from ._session import MAX_RETRY_MS, MAX_TRIES
from .errors import ConnectionLost, ParleyError, Refused, Timeout, error_from_wire

Json = Any

ATTEMPT_TIMEOUT_S: Final = 15.0
"""How long one attempt may be silent, in connecting and in each read."""
MAX_REPLY_BYTES: Final = 16 * 1024 * 1024


class _Reply(NamedTuple):
    status: int
    body: bytes


class Rest:
    """Sends requests to one server.

    Args:
        url: the client's WebSocket URL; REST is beside it.
        get_token: called for the first request, and again when the server does not take the token any more.
        fresh: whether calling ``get_token`` again may give another token.
        connect_options: ``ssl`` and ``proxy`` as the socket takes them.
        clock: for the pauses between attempts.
        random: uniform in [0, 1), for the same.
    """

    def __init__(
        self,
        url: str,
        get_token: Callable[[], Awaitable[str | None]],
        *,
        fresh: bool,
        connect_options: Mapping[str, Any],
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self.url = _wire.rest_url(url)
        self._get_token = get_token
        self._fresh = fresh
        self._clock = clock
        self._random = random
        self._token: str | None = None
        self._opener = _opener(connect_options)

    async def get(
        self, path: str, query: Mapping[str, Json] | None = None, *, timeout: float | None
    ) -> Mapping[str, Json]:
        """Return what the server has at ``path`` (relative to ``/v1``); raises as ``post``."""
        return await self._ask("GET", path + _query(query or {}), None, {}, timeout)

    async def post(
        self, path: str, body: Mapping[str, Json], *, key: str, timeout: float | None
    ) -> Mapping[str, Json]:
        """Post a command; every attempt carries the same ``key``, so that it takes effect once.

        Temporary refusals and a network that fails are tried again, up to six times.

        Raises:
            Refused: the server refused it.
            ConnectionLost: no answer at the last attempt; it may have taken effect.
            Timeout: no answer within ``timeout`` seconds; the same.
        """
        return await self._ask("POST", path, _body(body), {"Idempotency-Key": key}, timeout)

    async def _ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout: float | None
    ) -> Mapping[str, Json]:
        try:
            async with asyncio.timeout(timeout):
                return await self._insist(method, path, body, headers)
        except TimeoutError as late:
            if isinstance(late, ParleyError):
                raise
            raise Timeout(f"no answer to {method} {path} in time; it may have taken effect") from None

    async def _insist(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Mapping[str, Json]:
        """Try until there is an answer that stays."""
        tries, renewed = 0, False
        while True:
            tries += 1
            try:
                return await self._try(method, path, body, headers)
            except ParleyError as error:
                if error.code in ("unauthorized", "token_expired") and self._fresh and not renewed:
                    self._token, renewed = None, True
                    continue
                wait = _wait_ms(error)
                if not error.temporary or tries >= MAX_TRIES or wait > MAX_RETRY_MS:
                    raise
                pause = wait / 1000 if wait else full_jitter(tries, self._random)
            await sleep(self._clock, pause)

    async def _try(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Mapping[str, Json]:
        if self._token is None:
            self._token = await self._get_token()
        all_headers = {"Accept": "application/json", "User-Agent": f"{_wire.CLIENT_NAME}/{_wire.VERSION}"}
        if self._token is not None:
            all_headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            all_headers["Content-Type"] = "application/json"
        request = urllib.request.Request(  # noqa: S310 - the scheme is http or https, see rest_url
            f"{self.url}{path}", body, all_headers | headers, method=method
        )
        try:
            reply = await asyncio.to_thread(self._exchange, request)
        except (OSError, http.client.HTTPException) as error:
            lost = ConnectionLost(f"no answer from {self.url}: {error}")
            raise lost from error
        return self._read(reply)

    def _exchange(self, request: urllib.request.Request) -> _Reply:
        """Send one request and read the reply; in a thread."""
        try:
            with self._opener.open(request, timeout=ATTEMPT_TIMEOUT_S) as response:
                return _Reply(response.status, response.read(MAX_REPLY_BYTES))
        except urllib.error.HTTPError as refusal:
            with refusal:
                return _Reply(refusal.code, refusal.read(MAX_REPLY_BYTES))

    def _read(self, reply: _Reply) -> Mapping[str, Json]:
        try:
            body = json.loads(reply.body)
        except ValueError:
            body = None
        if isinstance(body, dict):
            if 200 <= reply.status < 300:
                return body
            if isinstance(body.get("error"), dict):
                raise error_from_wire(body["error"])
        raise Refused(
            f"{self.url} answered {reply.status}, and not as a Parley server does",
            code=f"http_{reply.status}",
            temporary=reply.status >= 500 or reply.status in PASSING_STATUSES,
            suggestion="Check the address, and what stands between here and there.",
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        """Do not follow."""


def _opener(connect_options: Mapping[str, Any]) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    context = connect_options.get("ssl")
    if context is not None and context is not True:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    proxy = connect_options.get("proxy", True)
    if proxy is not True:
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else {}))
    return urllib.request.build_opener(*handlers)


def _query(query: Mapping[str, Json]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return "?" + urllib.parse.urlencode(given, doseq=True) if given else ""


def _body(body: Mapping[str, Json]) -> bytes:
    given = {name: value for name, value in body.items() if value is not None}
    _wire.check_json(given, "body", 1)
    return _wire.encode(given).encode()


def _wait_ms(error: ParleyError) -> int:
    return max(0, error.retry_after_ms or 0)

"""The server's REST side: one request, its retries, and the typed error of a refusal.

Its HTTP client is the standard library's, in a thread for each request: these calls are few, and a client
that installs with one dependency is worth more than a pool of connections. A caller who leaves has the
request's socket shut down, so its thread ends too.
"""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from . import _wire
from ._clock import Clock, sleep
from ._connection import PASSING_STATUSES, full_jitter
from ._session import MAX_RETRY_MS, MAX_TRIES
from ._threads import in_thread
from .errors import ConnectionLost, ParleyError, Refused, Timeout, error_from_wire

Json = Any

ATTEMPT_TIMEOUT_S: Final = 15.0
"""How long one attempt may be silent, in connecting and in each read."""
STREAM_SILENCE_S: Final = 30.0
"""The server says something on a stream every few seconds."""
STREAM_BUFFER: Final = 100
MAX_REPLY_BYTES: Final = 16 * 1024 * 1024


class _Reply(NamedTuple):
    status: int
    body: bytes


class _Attempt:
    """One request's socket, to be shut down from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def connect(
        self, address: tuple[str, int], timeout: float | None = None, source: tuple[str, int] | None = None
    ) -> socket.socket:
        """Do what ``socket.create_connection`` does, and be ready to end it at any time."""
        failed: OSError = ConnectionRefusedError("the name has no address")
        for family, kind, protocol, _, place in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
            one = socket.socket(family, kind, protocol)
            try:
                self._hold(one)
                one.settimeout(timeout)
                if source:
                    one.bind(source)
                one.connect(place)
            except OSError as error:
                one.close()
                failed = error
            else:
                return one
        raise failed

    def abort(self) -> None:
        """End it: whoever connects or reads is woken with an error."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Nothing is to be aborted any more."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _hold(self, one: socket.socket) -> None:
        self.close()
        with self._lock:
            if self._aborted:
                raise ConnectionAbortedError("the caller has left")
            self._socket = one.dup()  # TLS takes the original over


class _Request(urllib.request.Request):
    attempt: _Attempt


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
                if not renewed and self.renew(error):
                    renewed = True
                    continue
                wait = _wait_ms(error)
                if not error.temporary or tries >= MAX_TRIES or wait > MAX_RETRY_MS:
                    raise
                pause = wait / 1000 if wait else full_jitter(tries, self._random)
            await sleep(self._clock, pause)

    async def _try(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Mapping[str, Json]:
        request = await self._request(method, path, body, headers)
        try:
            reply = await in_thread(lambda: self._exchange(request), request.attempt.abort)
        except (OSError, http.client.HTTPException) as error:
            lost = ConnectionLost(f"no answer from {self.url}: {error}")
            raise lost from error
        return self._read(reply)

    async def stream(self, path: str) -> AsyncIterator[tuple[str, Json]]:
        """Yield (name, data) of the server-sent events at ``path``, until the server ends them.

        Raises:
            Refused: the server refused it.
            ConnectionLost: the connection broke, or was silent for too long.
        """
        request = await self._request("GET", path, None, {"Accept": "text/event-stream"})
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[tuple[str, Json] | None] = asyncio.Queue()
        room, left = threading.Semaphore(STREAM_BUFFER), threading.Event()

        def read() -> _Reply | None:
            try:
                with self._opener.open(request, timeout=STREAM_SILENCE_S) as response:
                    for event in _server_sent(response):
                        room.acquire()
                        if left.is_set():
                            break
                        loop.call_soon_threadsafe(found.put_nowait, event)
                return None
            except urllib.error.HTTPError as refusal:
                with refusal:
                    return _Reply(refusal.code, refusal.read(MAX_REPLY_BYTES))
            finally:
                request.attempt.close()

        reading = asyncio.ensure_future(in_thread(read, request.attempt.abort))

        def ended(task: asyncio.Future[_Reply | None]) -> None:
            if not task.cancelled():
                task.exception()  # seen, if nobody should read so far
            found.put_nowait(None)

        reading.add_done_callback(ended)
        try:
            while (event := await found.get()) is not None:
                room.release()
                yield event
            try:
                refusal = await reading
            except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
                raise ConnectionLost(f"no more from {self.url}: {error}") from error
            if refusal is not None:
                self._read(refusal)
        finally:
            left.set()
            room.release()
            reading.cancel()

    def renew(self, error: ParleyError) -> bool:
        """Whether a fresh token may help against this error; the next request asks for one then."""
        if error.code in ("unauthorized", "token_expired") and self._fresh:
            self._token = None
            return True
        return False

    async def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> _Request:
        if self._token is None:
            self._token = await self._get_token()
        all_headers = {"Accept": "application/json", "User-Agent": f"{_wire.CLIENT_NAME}/{_wire.VERSION}"}
        if self._token is not None:
            all_headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            all_headers["Content-Type"] = "application/json"
        request = _Request(f"{self.url}{path}", body, all_headers | headers, method=method)
        request.attempt = _Attempt()
        return request

    def _exchange(self, request: _Request) -> _Reply:
        """Send one request and read the reply; in a thread."""
        try:
            with self._opener.open(request, timeout=ATTEMPT_TIMEOUT_S) as response:
                return _Reply(response.status, response.read(MAX_REPLY_BYTES))
        except urllib.error.HTTPError as refusal:
            with refusal:
                return _Reply(refusal.code, refusal.read(MAX_REPLY_BYTES))
        finally:
            request.attempt.close()

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


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, request: Any) -> Any:
        return self.do_open(_connecting(http.client.HTTPConnection, request), request)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, context: Any) -> None:
        super().__init__(context=context)
        self._trust = context

    def https_open(self, request: Any) -> Any:
        made = _connecting(http.client.HTTPSConnection, request)
        return self.do_open(made, request, context=self._trust)


def _connecting(kind: Callable[..., Any], request: _Request) -> Any:
    """Return what makes an HTTP connection whose socket the request's caller can shut down."""

    def make(host: str, **options: Any) -> Any:
        connection = kind(host, **options)
        connection._create_connection = request.attempt.connect
        return connection

    return make


def _server_sent(lines: Iterable[bytes]) -> Iterator[tuple[str, Json]]:
    """Yield (name, data) of each event; comments and ids are of no use here."""
    name, data = "message", list[str]()
    for raw in lines:
        line = raw.decode().rstrip("\r\n")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line:
            if data:
                yield name, json.loads("\n".join(data))
            name, data = "message", []


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        """Do not follow."""


def _opener(connect_options: Mapping[str, Any]) -> urllib.request.OpenerDirector:
    context = connect_options.get("ssl")
    secure = _Secure(None if context is True else context)
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects(), _Plain(), secure]
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

"""The addresses of a server that is looked at from outside: by `smoke URL`, `doctor --url URL` and `keys`."""

from collections.abc import Mapping
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final, NamedTuple
from urllib.parse import urlsplit

ANSWER_S: Final = 15.0


class Unanswered(Exception):  # noqa: N818 - what happened
    """Nobody answers there, or not in HTTP; the message is the reason."""


class Reply(NamedTuple):
    """An answer."""

    status: int
    body: bytes
    headers: Message


class Target:
    """A server by its URL. Raises ValueError: ``url`` is none.

    Attributes:
        is_secure: TLS is spoken with it.
        host: its name or address.
        socket: the URL of its WebSocket.
        address: its URL for people: over HTTP, without credentials.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname:
            raise ValueError(url)
        self.is_secure = parts.scheme in ("https", "wss")
        self.host = parts.hostname or ""
        self._port = parts.port
        self._prefix = parts.path.rstrip("/")
        place = parts.netloc + self._prefix
        shown = place.rpartition("@")[2]
        self.address = f"{'https' if self.is_secure else 'http'}://{shown}"
        self.socket = f"{'wss' if self.is_secure else 'ws'}://{place}/v1/ws"

    def get(self, path: str, *, timeout_s: float = ANSWER_S) -> Reply:
        """Ask for ``path``. Raises Unanswered."""
        return self.ask("GET", path, timeout_s=timeout_s)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = ANSWER_S,
    ) -> Reply:
        """Send a request. Raises Unanswered."""
        kind = HTTPSConnection if self.is_secure else HTTPConnection
        connection = kind(self.host, self._port, timeout=timeout_s)
        try:
            connection.request(method, self._prefix + path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, response.read(), response.headers)
        except (OSError, HTTPException) as error:
            raise Unanswered(str(error)) from error
        finally:
            connection.close()
